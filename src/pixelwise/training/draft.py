"""A data set, opened as its plan says, with the plan that the rules make for it; and the plan with its length fixed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pixelwise.config import RunConfig
from pixelwise.data.dataset import Dataset, open_dataset
from pixelwise.data.groups import find_groups
from pixelwise.data.splits import SplitResult, SplitRule, make_split
from pixelwise.errors import Finding
from pixelwise.training.estimate import Probe
from pixelwise.training.fingerprint import MOST_READ, Fingerprint, take_fingerprint
from pixelwise.training.plan import Plan, fix_length, make_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A data set opened as its plan says, and the plan; its length may still be minutes."""

    dataset: Dataset
    split: SplitResult
    facts: Fingerprint
    plan: Plan

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found in the data and in the split that is no reason to refuse them."""
        return *self.dataset.findings, *self.split.findings


def open_data(asked: RunConfig) -> tuple[Dataset, SplitResult]:
    """The data set of a run, and which of its images train and validate."""
    data = asked.data
    dataset = open_dataset(
        Path(data.path),
        classes=data.classes,
        ignore_index=data.ignore_index,
        masks=data.masks,
        border=data.border_width,
        form=data.border_form,
        place=data.border_place,
    )
    return dataset, choose_split(dataset, asked)


def choose_split(dataset: Dataset, asked: RunConfig) -> SplitResult:
    """The samples to train on and to validate on, as the settings say."""
    data = asked.data
    grouping = find_groups(dataset.samples, data.groups)
    found = make_split(
        dataset.samples,
        split_rule(asked),
        groups=grouping.by_name,
        pixels=dataset.pixels if data.stratify else None,
        names=dataset.task.names,
    )
    return replace(found, findings=(*grouping.findings, *found.findings))


def split_rule(asked: RunConfig) -> SplitRule:
    """How many samples validate; raises UsageError for a fold that is not there."""
    data = asked.data
    return SplitRule(validation=data.validation, folds=data.folds, fold=data.fold, seed=asked.training.seed)


def draft_plan(asked: RunConfig, *, device: str, most: int = MOST_READ) -> Draft:
    """Open the data, take its fingerprint from at most `most` images, and ask the rules.

    Where these choose borders, the data is opened once more, now with them.
    """
    dataset, split = open_data(asked)
    facts = take_fingerprint(dataset, split.train, most=most)
    plan = make_plan(asked, facts, device=device)
    if plan.config.data.border_width != dataset.coding.border:
        dataset, split = open_data(plan.config)
    return Draft(dataset=dataset, split=split, facts=facts, plan=plan)


def timed_plan(plan: Plan, probe: Probe, *, used: float) -> Plan:
    """The plan with as many steps as fit into its minutes, of which some seconds are used already."""
    minutes = plan.config.training.minutes
    assert minutes is not None, "a plan without steps has a time budget"
    config = fix_length(plan.config, budget=60 * minutes, used=used, step=probe.step, validation=probe.validation)
    measured = f"a step takes {probe.step:.2g} s and a validation {probe.validation:.2g} s on this machine"
    return plan.with_config(config, {"training.steps": f"as many as fit into {minutes:g} minutes: {measured}"})
