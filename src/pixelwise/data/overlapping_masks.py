"""Masks of classes that overlap: as sums, as channels, as a file for each class; what they mean, and in which order.

A number is the sum of 2**k over the classes k that are there. A channel holds a class where it is not 0, and so does a
file. A file says its class by the end of its name (`img1_nucleus.png` beside `img1_cell.png`), by its folder
(`masks/nucleus/img1.png`), or by its whole name where the folder is that of one image (`img1/masks/nucleus.png`).
Files that are numbered are objects, not classes; so are, unless told otherwise, several files in a folder of one image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pixelwise.data.layouts import Sample
from pixelwise.data.mask_counts import MaskCount
from pixelwise.data.masks import Coding
from pixelwise.data.stored import refusal
from pixelwise.errors import Finding, UsageError, printable
from pixelwise.task import MOST_OVERLAPPING, VOID, Task


def overlapping_coding(
    masks: Sequence[MaskCount], classes: Sequence[str], ignore_index: int | None
) -> tuple[Coding, Task]:
    """A bit for each class: of the names that are given, else of the files or channels, else of the largest number.

    Raises DataError, or UsageError where names or `ignore_index` cannot be of these masks. Whether all codes are known
    is not looked at here.
    """
    void = VOID if ignore_index is None else ignore_index
    parts, largest = _common_parts(masks), max(set().union(*(mask.counts for mask in masks)) - {void})
    names = tuple(classes) or parts or tuple(f"class {k}" for k in range(max(1, largest.bit_length())))
    if parts and ignore_index is not None:
        raise UsageError(
            f"data.ignore_index={ignore_index}: masks with a file or a channel for each class have no void; "
            "leave it out, or give masks of numbers"
        )
    if parts and len(names) > len(parts):
        raise UsageError(f"{len(names)} classes are named, but each image has {len(parts)} masks: {', '.join(parts)}")
    if len(names) > MOST_OVERLAPPING:
        found = f"{len(parts)} files or channels" if parts else f"value {largest}"
        rule = f"a number is the sum of 1, 2, 4 ... over its classes, at most {MOST_OVERLAPPING}"
        fix = "set data.masks=index for classes that exclude one another, or leave classes out"
        raise refusal(masks[0].path, found=found, rule=rule, fix=fix)
    if 0 < void < 2 ** len(names):
        raise UsageError(
            f"data.ignore_index={void} is also the number of classes that overlap; choose 0, or one from "
            f"{2 ** len(names)} on"
        )
    values = tuple(2**k for k in range(len(names)))
    return Coding(kind="overlapping", values=values, void=(void,)), Task.of(names, kind="overlapping")


def check_parts(masks: Sequence[MaskCount], task: Task) -> None:
    """Refuse masks of overlapping classes in files or channels that are not those of a model.

    Files have the names of the classes and are in their order already (`in_class_order`); there must be a channel for
    each class, and no pixel in further channels (`check_codes`). Raises DataError.
    """
    for mask in masks:
        if mask.parts and len(mask.parts) < task.outputs:
            found = f"{len(mask.parts)} masks: {', '.join(mask.parts)}"
            rule = f"one for each class: {', '.join(task.names)}"
            raise refusal(mask.path, found=found, rule=rule, fix="add empty masks")


def in_class_order(samples: Sequence[Sample], classes: Sequence[str]) -> tuple[list[Sample], list[Finding]]:
    """The samples with their masks in the order of the classes, and a finding for each that lacks a class.

    The order is that of `classes`, which must be the words of the files; without any, that of the words. Samples of one
    mask are left as they are where no sample has several and none has the word of a class, and those with a finding are
    left out. An image where a class is absent has an empty mask of it: a file that is missing is as often forgotten.
    """
    if not any(len(sample.masks) > 1 or (set(_words(sample)) & set(classes)) for sample in samples):
        return list(samples), []
    usual = Counter(_words(sample) for sample in samples if sample.masks).most_common(1)[0][0]
    order = tuple(classes or usual)
    if sorted(order) != list(usual):
        return [], [_other_names(samples, order, usual)]
    ordered, problems = [], []
    for sample in samples:
        if sample.masks and _words(sample) != usual:
            problems.append(_other_classes(sample, usual))
            continue
        by_word = {source.label: source for source in sample.masks}
        ordered.append(replace(sample, masks=tuple(by_word[word] for word in order)) if sample.masks else sample)
    return ordered, problems


def _common_parts(masks: Sequence[MaskCount]) -> tuple[str, ...]:
    """The files or channels that hold a class each, in all masks alike; none where these are numbers."""
    usual = Counter(mask.parts for mask in masks).most_common(1)[0][0]
    others = [mask for mask in masks if mask.parts != usual]
    if others:
        own, common = (", ".join(parts) or "numbers" for parts in (others[0].parts, usual))
        found = f"classes in {own} where others have them in {common}"
        fix = "save all masks in one way: numbers, channels or files"
        raise refusal(others[0].path, found=found, rule="all masks of a folder are alike", fix=fix)
    return usual


def _other_names(samples: Sequence[Sample], classes: Sequence[str], usual: Sequence[str]) -> Finding:
    found = f"files of {', '.join(map(printable, usual))} for the classes {', '.join(map(printable, classes))}"
    rule = "where each class has a file, the classes are named as the files are, in any order"
    fix = "give data.classes the names of the files, in the order that you want, and a file for each; or rename them"
    sample = next(sample for sample in samples if sample.masks)
    return Finding(file=sample.masks[0].path, found=found, rule=rule, fix=fix)


def _words(sample: Sample) -> tuple[str, ...]:
    return tuple(sorted(source.label for source in sample.masks))


def _other_classes(sample: Sample, usual: Sequence[str]) -> Finding:
    found = f"masks of {', '.join(map(printable, _words(sample))) or 'no class'}"
    rule = f"a file for each class in every image, here of {', '.join(map(printable, usual))}"
    fix = "add an empty mask where a class is absent, and remove or rename files that are of no class"
    return Finding(file=sample.image.path, found=found, rule=rule, fix=fix)
