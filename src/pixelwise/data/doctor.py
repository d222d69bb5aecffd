"""Checks of a data set. Each is a function from the evidence to findings; none changes a file.

Errors stop a training before it starts; warnings and notes are shown. The checks here are those that need no image
pixels, so they always run: `CHECKS` lists them by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pixelwise.data.layouts import Sample
from pixelwise.data.mask_counts import MaskCount
from pixelwise.data.masks import Coding
from pixelwise.data.stored import ImageHeader
from pixelwise.errors import Finding
from pixelwise.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a pair after reading its mask and the header of its image.

    classes  pixels per class index; -1 is void
    """

    sample: Sample
    header: ImageHeader
    mask: MaskCount
    classes: dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A finding with what a doctor says beyond it.

    kind   what is wrong, in a few words that are the same for every file that has it
    mends  what `doctor --fix` does about it; empty: nothing, it is for a person to decide
    whole  it is wrong with the set, such as a copy of an image in another part; the file alone is good
    """

    finding: Finding
    kind: str
    mends: str = ""
    whole: bool = False


def same_for(files: Iterable[Path], finding: Finding, *, kind: str, mends: str = "") -> list[Diagnosis]:
    """The same finding for every file."""
    return [Diagnosis(finding=replace(finding, file=file), kind=kind, mends=mends) for file in files]


def gather(sample: Sample, header: ImageHeader, mask: MaskCount, coding: Coding) -> Evidence:
    """The evidence of one pair, with the pixels of its mask counted per class."""
    classes = coding.count_classes(coding.classes_in(list(mask.counts)), mask.counts.values())
    return Evidence(sample=sample, header=header, mask=mask, classes=dict(classes))


def check_sizes(pairs: Sequence[Evidence], _: Task) -> list[Finding]:
    """An image and its mask have the same height and width; an error where they do not."""
    return [
        _size_finding(pair)
        for pair in pairs
        if (pair.mask.height, pair.mask.width) != (pair.header.height, pair.header.width)
    ]


def check_channels(pairs: Sequence[Evidence], _: Task) -> list[Finding]:
    """All images have the same number of channels; an error for each in the minority."""
    numbers = Counter(pair.header.channels for pair in pairs)
    usual = numbers.most_common(1)[0][0] if numbers else 0
    return [
        channels_finding(pair.sample.image.path, pair.header.channels, usual=usual, images=numbers[usual])
        for pair in pairs
        if pair.header.channels != usual
    ]


def channels_finding(file: Path, channels: int, *, usual: int, images: int) -> Finding:
    """What to say of an image with another number of channels than the usual one, that of so many images."""
    return Finding(
        file=file,
        found=f"{channels} channels",
        rule=f"all images of a data set have the same channels (here {usual}, in {images} images)",
        fix=f"save the image with {usual} channels",
    )


def check_dtypes(pairs: Sequence[Evidence], _: Task) -> list[Finding]:
    """Images of 8 bits beside images of 16 bits or real numbers have other scales; one warning."""
    types = Counter(pair.header.dtype for pair in pairs)
    if len(types) < 2:
        return []
    rare = types.most_common()[-1][0]
    file = next(pair.sample.image.path for pair in pairs if pair.header.dtype == rare)
    found = "images of several types: " + ", ".join(f"{count} of {name}" for name, count in types.most_common())
    rule = "one scale of brightness for all images"
    return [Finding(file=file, found=found, rule=rule, fix="save all images in one type", severity="warning")]


def check_single_class(pairs: Sequence[Evidence], task: Task) -> list[Finding]:
    """A mask of one class is often an empty or failed annotation; a note, or a warning where it is void only."""
    findings = []
    for pair in pairs:
        if task.kind == "overlapping" and pair.classes.keys() - {-1}:
            continue  # beside what is there lies what is of no class
        if len(pair.classes) > 1:
            continue
        index = next(iter(pair.classes), None)
        found = "no class at all" if index is None else "nothing but " + ("void" if index == -1 else task.names[index])
        rule = "most masks show several classes"
        finding = Finding(
            file=pair.mask.path, found=found, rule=rule, fix="look whether that is true", severity="warning"
        )
        findings.append(finding)
    return findings


def check_absent_classes(pairs: Sequence[Evidence], task: Task) -> list[Finding]:
    """A class that no mask shows cannot be learned; one warning per class."""
    seen: set[int] = set().union(*(pair.classes for pair in pairs))
    rule = "a class needs pixels to learn from"
    return [
        Finding(
            file=pairs[0].mask.path.parent,
            found=f"no pixel of class {name}",
            rule=rule,
            fix="add masks that show it, or remove it from data.classes",
            severity="warning",
        )
        for index, name in enumerate(task.names)
        if index not in seen
    ]


def check_full_classes(pairs: Sequence[Evidence], task: Task) -> list[Finding]:
    """An overlapping class that is in every pixel is often an alpha channel; one warning per class."""
    if task.kind != "overlapping" or not pairs:
        return []
    total: Counter[int] = Counter()
    for pair in pairs:
        total.update(pair.classes)
    counted = sum(pair.mask.height * pair.mask.width for pair in pairs) - total[-1]
    return [
        Finding(
            file=pairs[0].mask.path.parent,
            found=f"class {name} in every pixel",
            rule="a class is learned from where it is and where it is not",
            fix="leave it out; if it is an alpha channel, save the masks without it",
            severity="warning",
        )
        for index, name in enumerate(task.names)
        if 0 < counted == total[index]
    ]


CHECKS: dict[str, Callable[[Sequence[Evidence], Task], list[Finding]]] = {
    "sizes": check_sizes,
    "channels": check_channels,
    "types": check_dtypes,
    "single class": check_single_class,
    "absent classes": check_absent_classes,
    "full classes": check_full_classes,
}


def examine(pairs: Sequence[Evidence], task: Task) -> list[Finding]:
    """The findings of all checks, errors first."""
    findings = [finding for check in CHECKS.values() for finding in check(pairs, task)]
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _size_finding(pair: Evidence) -> Finding:
    image, mask = pair.header, pair.mask
    transposed = (mask.height, mask.width) == (image.width, image.height)
    hint = "; it looks transposed, as by an EXIF orientation that only one of them has" if transposed else ""
    found = f"{mask.width} x {mask.height} pixels, but its image {pair.sample.image} has {image.width} x {image.height}"
    rule = "an image and its mask have the same size (after EXIF orientation)"
    fix = "turn the mask" if transposed else "give the image the mask that was drawn on it"
    return Finding(file=mask.path, found=found + hint, rule=rule, fix=fix)
