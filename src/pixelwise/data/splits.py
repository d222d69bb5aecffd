"""Which samples train the network and which choose the best one; test samples do neither.

Without more knowledge the names alone decide. With groups (patients, slides, films) none is on both sides. With the
classes of each image, the sides get like shares of each class: by the iterative stratification of K. Sechidis,
G. Tsoumakas and I. Vlahavas, On the stratification of multi-label data, ECML PKDD 2011, LNCS 6913, pp. 145-158,
algorithm 1, which deals out the rarest class first, here by whole groups and with the presence of classes in images.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pixelwise.data.groups import stack_of
from pixelwise.data.layouts import Sample
from pixelwise.data.listing import natural_key
from pixelwise.errors import DataError, Finding, UsageError, printable

ANY = -1
FEW = 3
FAR_FROM_WANTED = 0.1
ATTEMPTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How many samples validate: a share of them, or one of several folds. Raises UsageError on values out of range.

    validation  share from 0 to 1, both excluded; not used with folds
    folds       0, or into how many parts the samples are dealt out, each of which validates once
    fold        which of these parts validates, from 0
    """

    validation: float = 0.15
    folds: int = 0
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise UsageError(f"validation {self.validation}: give a share between 0 and 1, such as 0.2")
        if self.folds < 0 or self.folds == 1:
            raise UsageError(f"folds {self.folds}: give 2 or more, or 0 for a single split by the share of validation")
        if not 0 <= self.fold < max(1, self.folds):
            text = f"0 to {self.folds - 1}" if self.folds else "0, since there are no folds; give folds too, such as 5"
            raise UsageError(f"fold {self.fold}: give {text}")


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Samples to train on and to validate on, in natural order of their names, and what could not be had."""

    train: list[Sample]
    validation: list[Sample]
    findings: tuple[Finding, ...] = ()


def split_samples(samples: Sequence[Sample], *, validation: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on and samples to validate on, both in natural order of their names.

    A folder with a validation part of its own keeps it, and `validation` is not used. Otherwise that share of the
    others is kept out: at least one, never all, chosen by `seed` and by the names alone, whatever the order of the
    files. Of the slices of a stack those kept out lie evenly spread. Test samples are in neither list.

    With one single sample both lists hold it: its validation score then says nothing about other images.
    Raises DataError where no sample is left to train on.

    >>> from pathlib import Path
    >>> from pixelwise.data.layouts import Source
    >>> stack = [Sample(name=f"s_{i:03d}", image=Source(Path("s.tif"), i)) for i in range(10)]
    >>> [sample.image.page for sample in split_samples(stack, validation=0.2, seed=0)[1]]
    [0, 5]
    """
    result = make_split(samples, SplitRule(validation=validation, seed=seed))
    return result.train, result.validation


def make_split(
    samples: Sequence[Sample],
    rule: SplitRule,
    *,
    groups: Mapping[str, str] | None = None,
    pixels: Mapping[str, Mapping[int, int]] | None = None,
    names: Sequence[str] = (),
) -> SplitResult:
    """Part the samples by the rule, in whole groups and with every class on both sides where that can be.

    `groups` is the group of each sample and `pixels` its pixels per class (-1, void, does not count), both by name;
    none of one sort: not known; `names` are those of the classes, for the findings. Without both, and where slices of
    stacks have no groups, it is the rule of `split_samples`; each fold then takes every n-th sample of the same line.
    With either of them, a share is reached as nearly as the groups allow, and exceeded, up to twofold, for the sake of
    rare classes. A class of one group only is in training. A validation part of the folder's own is kept, but not with
    folds: they deal out all samples that are not for testing. What could not be had is in the findings.

    Raises DataError where nobody could train or validate: no samples, one group, fewer groups than folds, a sample
    without group, a group in both parts of the folder's own.

    >>> from pathlib import Path
    >>> from pixelwise.data.layouts import Source
    >>> samples = [Sample(name=name, image=Source(Path(name))) for name in ("a1", "a2", "b1", "b2", "c1", "c2")]
    >>> groups = {sample.name: sample.name[0] for sample in samples}
    >>> [s.name for s in make_split(samples, SplitRule(folds=3, fold=1), groups=groups).validation]
    ['a1', 'a2']
    """
    ordered = sorted(samples, key=lambda sample: natural_key(sample.name))
    train = [sample for sample in ordered if sample.split in ("train", None)]
    own = [sample for sample in ordered if sample.split == "val"]
    if not train:
        raise DataError(f"none of {len(samples)} samples is for training; put images and masks into a train folder")
    if own and not rule.folds:
        _check_parts_apart(train, own, groups or {})
        return SplitResult(train, own)
    pooled = sorted((*train, *own), key=lambda sample: natural_key(sample.name))
    if len(pooled) == 1 and not rule.folds:
        return SplitResult(train, train)
    units = _units(pooled, groups or {}, pixels or {})
    _check_enough(units, rule, "groups" if groups else "images")
    by_line = not groups and (not pixels or _has_stacks(pooled))
    kept_out = _choose(pooled, rule) if by_line else _choose_evenly(units, rule)
    result = SplitResult(
        [sample for sample in pooled if sample.name not in kept_out],
        [sample for sample in pooled if sample.name in kept_out],
    )
    findings = [*_pooling(own), *_parted_stacks(result), *_lacking_classes(result, units, names), *_size(result, rule)]
    return replace(result, findings=tuple(findings))


# By names alone


def _choose(samples: list[Sample], rule: SplitRule) -> set[str]:
    """Every n-th of a line in which the slices of a stack stay together, and all else is shuffled."""
    stacks = [list(stack) for _, stack in itertools.groupby(samples, key=stack_of)]
    stacks.sort(key=lambda stack: _rank(stack_of(stack[0]), rule.seed))
    line = [sample.name for stack in stacks for sample in stack]
    if rule.folds:
        return set(line[rule.fold :: rule.folds])
    count = _wanted(len(line), rule)
    offset = _rank("offset", rule.seed) % max(1, len(line) // count)
    return {line[(offset + index * len(line) // count) % len(line)] for index in range(count)}


def _has_stacks(samples: Sequence[Sample]) -> bool:
    return any(sample.image.page is not None for sample in samples)


def _wanted(count: int, rule: SplitRule) -> int:
    """How many of `count` samples validate, at least one and not all."""
    return min(max(1, round(count * (1 / rule.folds if rule.folds else rule.validation))), count - 1)


def _rank(name: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


# By groups and classes


@dataclass(frozen=True, slots=True)
class _Unit:
    """Samples that are not to be parted, and in how many of them each class is seen; ANY in all."""

    name: str
    samples: tuple[Sample, ...]
    presence: Counter[int]


@dataclass(slots=True)
class _Part:
    """What one side or fold was given so far, and how many samples of each class it should get.

    trains  whether it is the one side that trains; of folds all do
    """

    wanted: dict[int, float]
    trains: bool
    units: list[_Unit] = field(default_factory=list)
    presence: Counter[int] = field(default_factory=Counter)

    def need(self, index: int) -> float:
        """How many more samples of a class it should get."""
        return self.wanted[index] - self.presence[index]

    def take(self, unit: _Unit) -> None:
        """Give it a unit."""
        self.units.append(unit)
        self.presence.update(unit.presence)

    def has_room_for(self, unit: _Unit) -> bool:
        """Whether it does not become more than twice as large as wanted; the part that trains never does."""
        return self.trains or self.presence[ANY] + unit.presence[ANY] <= 2 * self.wanted[ANY]


def _units(
    samples: Sequence[Sample], groups: Mapping[str, str], pixels: Mapping[str, Mapping[int, int]]
) -> list[_Unit]:
    """The groups, or single samples without groups, in the order of their first sample."""
    lone = [sample.name for sample in samples if sample.name not in groups]
    if groups and lone:
        raise DataError(
            f"{len(lone)} of {len(samples)} samples have no group, such as {printable(lone[0])}; give each one"
        )
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        members[groups.get(sample.name, sample.name)].append(sample)
    units = []
    for name, own in members.items():
        seen = [index for sample in own for index, count in pixels.get(sample.name, {}).items() if index >= 0 < count]
        units.append(_Unit(name, tuple(own), Counter({**Counter(seen), ANY: len(own)})))
    return units


def _choose_evenly(units: Sequence[_Unit], rule: SplitRule) -> set[str]:
    """The names of the samples that validate, after dealing out whole units to both sides, or to all folds."""
    total: Counter[int] = Counter()
    for unit in units:
        total.update(unit.presence)
    share = _wanted(total[ANY], rule) / total[ANY]
    shares = [1 / rule.folds] * rule.folds if rule.folds else [1 - share, share]
    attempts = []
    for attempt in range(ATTEMPTS):
        wanted = [{index: count * share for index, count in total.items()} for share in shares]
        parts = [_Part(wanted[k], trains=k == 0 and not rule.folds) for k in range(len(shares))]
        _deal_out(units, parts, rule.seed if attempt == 0 else _rank(f"attempt {attempt}", rule.seed))
        attempts.append((_losses(units, parts), attempt, parts))
        if attempts[-1][0] == (0, 0):
            break
    parts = min(attempts)[2]
    chosen = parts[rule.fold] if rule.folds else parts[1]
    return {sample.name for unit in chosen.units for sample in unit.samples}


def _losses(units: Sequence[_Unit], parts: Sequence[_Part]) -> tuple[int, int]:
    """How many classes the part that trains lacks, and how often any part lacks one that all parts could have."""
    holders = Counter(index for unit in units for index in unit.presence)
    untrained = sum(not part.presence[index] for part in parts if part.trains for index in holders)
    enough = [index for index, count in holders.items() if count >= len(parts)]
    return untrained, sum(not part.presence[index] for part in parts for index in enough)


def _deal_out(units: Sequence[_Unit], parts: Sequence[_Part], seed: int) -> None:
    """Give every unit to a part: those of the rarest class first, each to the part that needs most of that class."""
    left = {unit.name: unit for unit in sorted(units, key=lambda unit: (-unit.presence[ANY], _rank(unit.name, seed)))}
    holders = Counter(index for unit in units for index in unit.presence)
    while left:
        rarest = min(+holders, key=lambda index: (index == ANY, holders[index], _rank(str(index), seed)))
        for unit in sorted(left.values(), key=lambda unit: -unit.presence[rarest])[: holders[rarest]]:
            ranked = [
                (
                    *_urgency(unit, part, parts, holders),
                    part.need(rarest),
                    part.need(ANY),
                    _rank(f"{unit.name} {k}", seed),
                )
                for k, part in enumerate(parts)
            ]
            parts[ranked.index(max(ranked))].take(unit)
            holders.subtract(unit.presence.keys())
            del left[unit.name]


def _urgency(unit: _Unit, part: _Part, parts: Sequence[_Part], holders: Counter[int]) -> tuple[bool, bool, int]:
    """Whether the part would stay empty without this unit, has room for it, and would lose how many classes without.

    A class is at stake where no more units with it are left, `holders`, than parts without it. Training comes first.
    """
    at_stake = [
        index
        for index in unit.presence
        if not part.presence[index] and holders[index] <= sum(not other.presence[index] for other in parts)
    ]
    weight = len(holders) if part.trains else 1
    return ANY in at_stake, part.has_room_for(unit), weight * len(at_stake)


# What is impossible, and what could not be had


def _check_enough(units: Sequence[_Unit], rule: SplitRule, what: str) -> None:
    if len(units) < max(2, rule.folds):
        wanted = f"{rule.folds} folds" if rule.folds else "a part for training and one for validation"
        images = sum(unit.presence[ANY] for unit in units)
        raise DataError(
            f"{wanted} cannot be made of {len(units)} {what} ({images} images): each needs one; "
            f"ask for fewer folds, or change what belongs together (data.groups)"
        )


def _check_parts_apart(train: Sequence[Sample], own: Sequence[Sample], groups: Mapping[str, str]) -> None:
    """Refuse a folder whose own parts share a group."""
    trained, validated = (
        {groups[sample.name]: sample for sample in reversed(side) if sample.name in groups} for side in (train, own)
    )
    problems = [
        Finding(
            file=sample.image.path,
            found=f"for validation, and of group {printable(group)} as {trained[group].image}, which is for training",
            rule="no group is in training and in validation",
            fix="move the group to one part, leave out data.groups, or have all images dealt out with data.folds",
        )
        for group, sample in validated.items()
        if group in trained
    ]
    if problems:
        raise DataError(f"training and validation parts of the folder share {len(problems)} groups", problems)


def _pooling(own: Sequence[Sample]) -> Iterator[Finding]:
    if own:
        yield Finding(
            file=_place(own),
            found=f"{len(own)} images that the folder keeps for validation are dealt out with the others",
            rule="folds use all images that are not for testing",
            fix="leave out data.folds to keep the folder's own parts",
            severity="note",
        )


def _parted_stacks(result: SplitResult) -> Iterator[Finding]:
    trained = {stack_of(sample) for sample in result.train if sample.image.page is not None}
    shared = [sample for sample in result.validation if sample.image.page is not None and stack_of(sample) in trained]
    if shared:
        yield Finding(
            file=shared[0].image.path,
            found=f"slices of {len({*map(stack_of, shared)})} stacks train, and others of the same stacks validate",
            rule="neighbouring slices look alike, so scores are higher than they would be on another stack",
            fix="with several stacks, keep each on one side with data.groups=stacks",
            severity="note",
        )


def _lacking_classes(result: SplitResult, units: Sequence[_Unit], names: Sequence[str]) -> Iterator[Finding]:
    """A warning for each class that one side lacks."""
    trained = {sample.name for sample in result.train}
    for index in sorted({index for unit in units for index in unit.presence} - {ANY}):
        holders = [unit for unit in units if unit.presence[index]]
        sides = {unit.samples[0].name in trained for unit in holders}
        if len(sides) == 1:
            side, effect = (
                ("validation", "its score is unknown") if True in sides else ("training", "it is not learned")
            )
            name = printable(names[index]) if index < len(names) else str(index)
            where = f"only in {_shown(holders)}" if len(holders) == 1 else f"in {_shown(holders)}"
            yield Finding(
                file=_place(holders[0].samples),
                found=f"no image for {side} shows class {name}, which is {where}",
                rule=f"a class is in training and in validation; without it in {side}, {effect}",
                fix="add images that show it, from another group where there are groups; or try another training.seed",
                severity="warning",
            )


def _size(result: SplitResult, rule: SplitRule) -> Iterator[Finding]:
    """A note where groups or rare classes made the share of validation another one than that asked for."""
    wanted = 1 / rule.folds if rule.folds else rule.validation
    count = len(result.validation)
    total = count + len(result.train)
    if abs(count - wanted * total) > max(1, FAR_FROM_WANTED * total):
        yield Finding(
            file=_place(result.validation),
            found=f"{count} of {total} images validate, where {100 * wanted:.3g} % were asked for",
            rule="groups are kept whole, and rare classes go to both sides",
            fix="nothing, or divide large groups further",
            severity="note",
        )


def _shown(units: Sequence[_Unit]) -> str:
    shown = ", ".join(printable(unit.name) for unit in units[:FEW])
    return shown + (f" and {len(units) - FEW} more" if len(units) > FEW else "")


def _place(samples: Sequence[Sample]) -> Path:
    """The image, or the folder of several."""
    return samples[0].image.path if len(samples) == 1 else samples[0].image.path.parent
