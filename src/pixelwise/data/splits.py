"""Which samples train the network and which choose the best one; test samples do neither."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence

from pixelwise.data.layouts import Sample
from pixelwise.data.listing import natural_key
from pixelwise.errors import DataError, UsageError


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
    if not 0 < validation < 1:
        raise UsageError(f"validation {validation}: give a share between 0 and 1, such as 0.2")
    ordered = sorted(samples, key=lambda sample: natural_key(sample.name))
    train = [sample for sample in ordered if sample.split in ("train", None)]
    own = [sample for sample in ordered if sample.split == "val"]
    if not train:
        raise DataError(f"none of {len(samples)} samples is for training; put images and masks into a train folder")
    if own:
        return train, own
    if len(train) == 1:
        return train, train
    kept_out = {sample.name for sample in _choose(train, validation, seed)}
    return (
        [sample for sample in train if sample.name not in kept_out],
        [sample for sample in train if sample.name in kept_out],
    )


def _choose(samples: list[Sample], share: float, seed: int) -> list[Sample]:
    """Every n-th of a line in which the slices of a stack stay together, and all else is shuffled."""
    count = min(max(1, round(len(samples) * share)), len(samples) - 1)
    groups = [list(group) for _, group in itertools.groupby(samples, key=_stack)]
    groups.sort(key=lambda group: _rank(_stack(group[0]), seed))
    line = [sample for group in groups for sample in group]
    offset = _rank("offset", seed) % max(1, len(line) // count)
    return [line[(offset + index * len(line) // count) % len(line)] for index in range(count)]


def _stack(sample: Sample) -> str:
    """What the slices of one stack have in common; the name itself for other samples."""
    return re.sub(r"_[0-9]{3,}$", "", sample.name) if sample.image.page is not None else sample.name


def _rank(name: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")
