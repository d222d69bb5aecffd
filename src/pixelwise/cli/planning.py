"""From what the user asked for to a plan for the data that is there, and what it takes; nothing is written here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pixelwise.cli.screen import Screen, counted
from pixelwise.cli.showing import show_findings
from pixelwise.cli.tables import fitted_facts
from pixelwise.cli.tiling import warn_of_disk
from pixelwise.cli.training import SECONDS_FOR_PICTURES, Order, check_settings, stored_plan
from pixelwise.config import RunConfig
from pixelwise.models.registry import model_options
from pixelwise.runtime import Runtime, memory_limit, prepare
from pixelwise.training.distributed import Ranks
from pixelwise.training.draft import Draft, draft_plan, timed_plan
from pixelwise.training.estimate import (
    TrainingEstimate,
    estimate_training,
    fit_memory,
    probe_training,
)
from pixelwise.training.fingerprint import MOST_READ, evenly
from pixelwise.training.journal import read_journal
from pixelwise.training.plan import Plan, make_plan, value_of
from pixelwise.training.rules import PAYS, RULES
from pixelwise.training.run import LOG
from pixelwise.training.setup import Parts, make_parts

FILES = (
    "plan.toml",
    "model.safetensors",
    "last.safetensors",
    "checkpoint.safetensors",
    "checkpoint.previous.safetensors",
    "log.jsonl",
    "curves.png",
    "scores.json",
    "predictions/",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """A plan with nothing left open, and what it takes."""

    draft: Draft
    runtime: Runtime
    estimate: TrainingEstimate
    lowered: Mapping[str, str]

    @property
    def config(self) -> RunConfig:
        """The settings of the plan."""
        return self.draft.plan.config

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "fingerprint": self.draft.facts.to_dict(),
            "plan": self.config.model_dump(mode="json"),
            "reasons": dict(self.draft.plan.reasons),
            "notes": {name: {"value": one.value, "reason": one.reason} for name, one in self.draft.plan.notes.items()},
            "estimate": self.estimate.to_dict(),
            "lowered": dict(self.lowered),
        }


def preflight(asked: RunConfig, *, memory: int | None, screen: Screen) -> Preflight:
    """Plan a run and measure what it takes, in about ten seconds beyond the reading of the data.

    `memory` is what it may take, in bytes; None: what is free. Raises what a run would, and LackOfMemoryError where
    even the least does not fit.
    """
    # The data and the rules.
    began = time.monotonic()
    check_settings(asked, resumed=False)
    runtime = prepare(asked.runtime)
    draft = draft_plan(asked, device=runtime.device.type)

    # A plan that fits into memory, and what was measured of it.
    screen.say("measuring a step on this machine")
    fitted = fit_memory(
        asked,
        plan=lambda settled: make_plan(settled, draft.facts, device=runtime.device.type),
        measure=lambda config, limit: probe_training(probed_parts(draft, config, runtime), limit=limit),
        limit=memory or memory_limit(runtime.device),
    )

    # Its length.
    plan, probe = fitted.plan, fitted.probe
    if plan.config.training.steps is None:
        plan = timed_plan(plan, probe, used=time.monotonic() - began + SECONDS_FOR_PICTURES)
    return Preflight(
        draft=replace(draft, plan=plan),
        runtime=runtime,
        estimate=estimate_training(plan.config, probe),
        lowered=fitted.lowered,
    )


def probed_parts(draft: Draft, config: RunConfig, runtime: Runtime) -> Parts:
    """The parts of a run of which a few images are enough to measure a step; their number stays that of all."""
    training = draft.split.train
    few = evenly(training, MOST_READ), draft.split.validation
    return replace(make_parts(config, draft.dataset, few, runtime=runtime, ranks=Ranks()), training=training)


def show_preflight(found: Preflight, screen: Screen) -> None:
    """Say what was found in the data, what was chosen and why, and what it takes."""
    show_findings(found.draft.findings, screen)
    screen.say("", *found.draft.facts.describe(), "", *plan_table(found.draft.plan), "", found.runtime.describe())
    screen.say(*found.estimate.describe())
    for key, why in found.lowered.items():
        screen.warn(f"{key}: {why}")


def dry_run(order: Order, screen: Screen) -> None:
    """Say what a training would read, write and take; write nothing."""
    stored = stored_plan(order, screen)
    resumed = stored is not None
    found = preflight(stored or order.asked, memory=None, screen=screen)
    show_preflight(found, screen)
    split = found.draft.split
    read = f"{counted(len(split.train), 'image')} to train on, {counted(len(split.validation), 'image')} to validate"
    screen.say("", f"would read: {read}, in {found.config.data.path}")
    screen.say(f"would write, to {order.folder}/: {', '.join(FILES)}")
    if resumed:
        done = sum("loss" in row for row in read_journal(order.folder / LOG))
        screen.say(f"would go on after about step {done} of {found.config.training.steps}")
    warn_of_disk(order.folder, sum(found.estimate.disk.values()), screen)
    screen.result({**found.to_dict(), "folder": str(order.folder)})


def plan_table(plan: Plan) -> list[str]:
    """The settings that a rule is for, each with its value and the reason for it; and what no setting says."""
    options = model_options(plan.config.model.name)
    changed = [f"model.{name}" for name, value in plan.config.model.options.items() if value != options[name]]
    ruled = [key for key in plan.reasons if key.startswith("model.")]
    keys = list(dict.fromkeys([*RULES, *ruled, *changed, "training.steps"]))
    shown = {key: (_text(value_of(plan.config, key)), plan.reasons.get(key, "as you set it")) for key in keys}
    shown |= {name: (_text(choice.value), choice.reason) for name, choice in plan.notes.items()}
    widths = [max(map(len, column)) for column in (shown, [value for value, _ in shown.values()])]
    facts = {
        f"{key:<{widths[0]}}  {value:<{widths[1]}}": reason.replace(f"({PAYS})", "(measured)")
        for key, (value, reason) in shown.items()
    }
    return [*fitted_facts(facts), f"measured: see {PAYS}"]


def _text(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
