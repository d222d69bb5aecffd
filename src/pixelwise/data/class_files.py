"""Masks with a file per class: which class a file shows, and that no image lacks one.

A file says its class by the end of its name (`img1_nucleus.png` beside `img1_cell.png`), by its folder
(`masks/nucleus/img1.png`), or by its whole name where the folder is that of one image (`img1/masks/nucleus.png`).
Files that are numbered are objects, not classes; so are, unless told otherwise, several files in a folder of one image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pixelwise.data.layouts import Sample
from pixelwise.errors import Finding, printable


def in_class_order(samples: Sequence[Sample], classes: Sequence[str]) -> tuple[list[Sample], list[Finding]]:
    """The samples with their masks in the order of the classes, and a finding for each that lacks a class.

    The order is that of `classes`, which must be the words of the files; without any, that of the words. Samples of one
    mask are left as they are where no sample has several, and those with a finding are left out. An image where a class
    is absent has an empty mask of it: a file that is missing is as often forgotten.
    """
    if all(len(sample.masks) < 2 for sample in samples):
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


def _other_names(samples: Sequence[Sample], classes: Sequence[str], usual: Sequence[str]) -> Finding:
    found = f"files of {', '.join(map(printable, usual))} for the classes {', '.join(map(printable, classes))}"
    rule = "where each class has a file, the classes are named as the files are, in any order"
    fix = "leave data.classes out, or give it these names in the order that you want; else rename the files"
    sample = next(sample for sample in samples if len(sample.masks) > 1)
    return Finding(file=sample.masks[0].path, found=found, rule=rule, fix=fix)


def _words(sample: Sample) -> tuple[str, ...]:
    return tuple(sorted(source.label for source in sample.masks))


def _other_classes(sample: Sample, usual: Sequence[str]) -> Finding:
    found = f"masks of {', '.join(map(printable, _words(sample))) or 'no class'}"
    rule = f"a file for each class in every image, here of {', '.join(map(printable, usual))}"
    fix = "add an empty mask where a class is absent, and remove or rename files that are of no class"
    return Finding(file=sample.image.path, found=found, rule=rule, fix=fix)
