"""From what the user asked for and the facts of the data to a complete plan: nothing left open, fit to be run again.

The rules are in `rules.py`; here they are asked, and the length is fixed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pixelwise.config import REASON, RunConfig
from pixelwise.data.dataset import Dataset
from pixelwise.errors import UsageError
from pixelwise.models.registry import model_options
from pixelwise.training.fingerprint import Fingerprint, take_fingerprint
from pixelwise.training.rules import MODEL_RULES, NOTES, RULES, Choice, Question
from pixelwise.training.weights import pin_weights

DEFAULT_MINUTES = 10.0
MOST_VALIDATIONS = 20
VALIDATION_SHARE = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings with the reasons for those that a rule chose, by section.key.

    notes  what no setting says, by name
    """

    config: RunConfig
    reasons: Mapping[str, str]
    notes: Mapping[str, Choice]

    def to_toml(self) -> str:
        """The settings as TOML, each chosen value under its reason."""
        return self.config.to_toml(self.reasons)

    def with_config(self, config: RunConfig, reasons: Mapping[str, str] | None = None) -> Plan:
        """The plan with other settings, and further reasons."""
        return replace(self, config=config, reasons={**self.reasons, **(reasons or {})})


def make_plan(asked: RunConfig, facts: Fingerprint, *, device: str) -> Plan:
    """Fill in whatever the user left open, except a length given in minutes (see `fix_length`).

    How the masks are read stays as asked: it is found again from the same data, and stored in the model. `device` is
    the kind that trains: cpu, cuda or mps. Where the target becomes borders, the data must be opened again with them.
    """
    plan, reasons = asked, dict[str, str]()
    for key, rule in RULES.items():
        if is_open(asked, key):
            choice = rule(Question(facts=facts, plan=plan, device=device))
            plan, reasons[key] = with_value(plan, key, choice.value), choice.reason
    options: dict[str, Any] = model_options(plan.model.name)
    for name, rule in MODEL_RULES.get(plan.model.name, {}).items():
        if name not in asked.model.options:
            choice = rule(Question(facts=facts, plan=plan, device=device))
            options[name], reasons[f"model.{name}"] = choice.value, choice.reason
    plan = plan.with_values({"model": options | asked.model.options | pin_weights(plan.model)})
    plan, length = _with_length(plan, facts.images)
    question = Question(facts=facts, plan=plan, device=device)
    return Plan(config=plan, reasons=reasons | length, notes={name: rule(question) for name, rule in NOTES.items()})


def complete_plan(asked: RunConfig, dataset: Dataset, *, training_images: int, device: str) -> RunConfig:
    """The settings of `make_plan` from what is known without reading an image: the classes stay the target."""
    facts = replace(take_fingerprint(dataset, (), most=0), images=training_images)
    return make_plan(asked, facts, device=device).config


def is_open(asked: RunConfig, key: str) -> bool:
    """Whether the user left a setting to the rules.

    >>> asked = RunConfig().with_values({"training": {"batch": 8}})
    >>> is_open(asked, "training.batch"), is_open(asked, "training.crop")
    (False, True)
    """
    section, _, name = key.partition(".")
    return name not in getattr(asked, section).model_fields_set or value_of(asked, key) is None


def value_of(plan: RunConfig, key: str) -> Any:
    """The value of a setting, by section.key; None for an argument that the network has not."""
    section, _, name = key.partition(".")
    return getattr(getattr(plan, section), name, None)


def with_value(plan: RunConfig, key: str, value: Any) -> RunConfig:
    """The settings with one of them changed, by section.key."""
    section, _, name = key.partition(".")
    return plan.with_values({section: {name: value}})


def reasons_that_hold(stored: Mapping[str, str], plan: Plan, facts: Fingerprint, *, device: str) -> dict[str, str]:
    """Of the reasons of a stored plan those whose values the rules give for this data; a changed value has none."""
    ruled = make_plan(RunConfig(), facts, device=device).config
    return {key: why for key, why in stored.items() if value_of(plan.config, key) == value_of(ruled, key)}


def stored_reasons(text: str) -> dict[str, str]:
    """The reasons that stand in a plan.toml, by section.key, so that a plan that is run again keeps them.

    >>> stored_reasons("[training]\\n# crops per step\\n# why: it is steadier\\nbatch = 8\\n")
    {'training.batch': 'it is steadier'}
    """
    found, section, reason = dict[str, str](), "", ""
    for line in text.splitlines():
        if head := re.fullmatch(r"\[(\w+)\]", line.strip()):
            section = head[1]
        elif line.startswith(f"# {REASON}"):
            reason = line.removeprefix(f"# {REASON}")
        elif reason and (key := re.match(r"(\w+) = ", line)):
            found[f"{section}.{key[1]}"] = reason
            reason = ""
    return found


# The length


def _with_length(plan: RunConfig, training_images: int) -> tuple[RunConfig, dict[str, str]]:
    """The plan with its steps, where steps or epochs are given, else with minutes; and why."""
    settings = plan.training
    if settings.steps is not None:
        return with_steps(plan, settings.steps), {}
    if settings.epochs is not None and settings.minutes is not None:
        raise UsageError("training.epochs and training.minutes are both set; give one length")
    if settings.epochs is not None:
        steps = max(1, math.ceil(settings.epochs * training_images / settings.batch))
        why = f"{settings.epochs:g} passes over {training_images} images, {settings.batch} a step"
        return with_steps(plan, steps), {"training.steps": why}
    if settings.minutes is not None:
        return plan, {}
    return with_value(plan, "training.minutes", DEFAULT_MINUTES), {"training.minutes": "no length was given"}


def with_steps(plan: RunConfig, steps: int, validations: int = MOST_VALIDATIONS) -> RunConfig:
    """The plan with its number of steps fixed, and the steps between validations where they were open."""
    every = plan.training.validate_every or max(1, math.ceil(steps / validations))
    return plan.with_values({"training": {"steps": steps, "validate_every": min(every, steps)}})


def fix_length(plan: RunConfig, *, budget: float, used: float, step: float, validation: float) -> RunConfig:
    """The plan with as many steps as fit into the seconds of a budget of which some are used already.

    `step` and `validation` are the seconds that one takes. There are up to 20 validations, fewer where they would take
    more than 15 % of the time, but at least 2; one more is kept free for the final scores.
    """
    left = budget - used
    validations = max(2, min(MOST_VALIDATIONS, int(VALIDATION_SHARE * left / max(validation, 1e-6))))
    steps = int((left - (validations + 1) * validation) / step)
    if steps < 1:
        needed = (used + 3 * validation + step) / 60
        raise UsageError(
            f"{budget / 60:.2g} minutes are too few: {used:.0f} seconds are used already, a step takes {step:.1f} and "
            f"a validation {validation:.1f} seconds; give at least --minutes {math.ceil(10 * needed) / 10:g}"
        )
    return with_steps(plan, steps, validations)
