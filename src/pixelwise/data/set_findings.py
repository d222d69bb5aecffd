"""Checks of a data set as a whole: copies, leaks between its parts, names that collide, and what is too rare or small.

They work on a few numbers per image (`Member`) and read no file. A leak, an image or a patient on both sides of a
split, is an error: the scores would be those of images that the model has seen.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pixelwise.data.folder_words import Split
from pixelwise.data.likeness import alike_groups
from pixelwise.errors import Finding, printable
from pixelwise.task import Task

SHOWN = 4
RARE, VERY_RARE = 0.01, 0.001
FEW_IMAGES = 10
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What is known of one image of a data set and of its mask.

    name             of the sample; split: the part that it belongs to, None where the folder has no parts
    sha256           of the image's file, empty where unknown; the slices of a stack share a file, and are no copies
    perceptual_hash  see `likeness`; None where the image shows too little
    pixels           per class index, -1 for void; of overlapping classes a pixel may count for several
    smallest_object  pixels of the smallest object, median_object: of the median; None: unknown, or no object
    group            the patient, slide or film that the image is of, None where nobody said it
    """

    name: str
    path: Path
    split: Split | None = None
    sha256: str = ""
    perceptual_hash: int | None = None
    height: int = 0
    width: int = 0
    pixels: Mapping[int, int] = field(default_factory=dict)
    smallest_object: int | None = None
    median_object: float | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What the checks look at. `stride` is that of the network's deepest map, pixels; 0 where no network is chosen."""

    members: Sequence[Member]
    task: Task
    stride: int = 0

    def seen_in(self, *splits: Split | None) -> set[int]:
        """The classes that any mask of these parts shows."""
        return {i for m in self.members if m.split in splits for i, pixels in m.pixels.items() if i >= 0 < pixels}


def find_in_set(members: Sequence[Member], task: Task, *, stride: int = 0) -> list[Finding]:
    """The findings of all SET_CHECKS, errors first.

    `stride` is how many pixels one cell of the network's deepest map covers along a side; 0: not known.

    >>> copies = [Member(name=n, path=Path(n), split=s, sha256="f0") for n, s in (("a", "train"), ("b", "test"))]
    >>> [(f.severity, f.found) for f in find_in_set(copies, Task.of(["sky", "road"]))][0]
    ('error', 'the same image in train (a) and test (b)')
    """
    facts = SetFacts(members, task, stride)
    findings = [finding for check in SET_CHECKS.values() for finding in check(facts)] if members else []
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


# Copies and leaks


def check_copies(facts: SetFacts) -> list[Finding]:
    """The same file under several names: an error across the parts of a split, a warning within one."""
    findings = []
    for same in _by(facts.members, lambda member: member.sha256):
        files = list({member.path: member for member in reversed(same)}.values())[::-1]
        if len(files) > 1:
            findings.append(_copies(files, "the same image", "each image is in a data set once"))
        if len({tuple(sorted(member.pixels.items())) for member in files if member.pixels}) > 1:
            findings.append(_contradiction(files))
    return findings


def check_alike(facts: SetFacts) -> list[Finding]:
    """Different images that look alike, such as a copy in another format or size: as for copies.

    Of equal files in one part the first stands for all. Blank images have no hash and are never alike.
    """
    first: dict[tuple[str, str], Path] = {}
    for member in facts.members:
        first.setdefault((_identity(member), _side(member)), member.path)
    hashed = [m for m in facts.members if m.perceptual_hash is not None and first[_identity(m), _side(m)] == m.path]
    findings = []
    for positions in alike_groups([member.perceptual_hash or 0 for member in hashed]):
        alike = [hashed[position] for position in positions]
        slices_of_one = len({member.path for member in alike}) == 1
        if slices_of_one or len({_identity(member) for member in alike}) > 1:
            rule = "copies, and neighbours in a film, say nothing new"
            findings.append(_copies(alike, "images that look alike", rule))
    return findings


def check_parted_groups(facts: SetFacts) -> list[Finding]:
    """A patient, slide or film whose images are in several parts: an error."""
    return [
        Finding(
            file=_last_part(same).path,
            found=f"images of group {printable(same[0].group)} in {_by_parts(same)}",
            rule="a group is in one part, or its images are known before they are scored",
            fix="move all images of the group into one part",
        )
        for same in _by(facts.members, lambda member: member.group or "")
        if len({_side(member) for member in same}) > 1
    ]


def _copies(alike: Sequence[Member], what: str, rule: str) -> Finding:
    if len({_side(member) for member in alike}) == 1:
        fix = "look at them and remove all but one, or keep them on one side of the split with data.groups"
        found = f"{what}, {len(alike)} times: {_names(alike)}"
        return Finding(file=alike[1].path, found=found, rule=rule, fix=fix, severity="warning")
    return Finding(
        file=_last_part(alike).path,
        found=f"{what} in {_by_parts(alike)}",
        rule="an image is in one part of a split, or its score is that of an image the model knows",
        fix="look at them and remove all but those of one part",
    )


def _contradiction(files: Sequence[Member]) -> Finding:
    return Finding(
        file=files[1].path,
        found=f"the same image has different masks as {_names(files)}",
        rule="an image has one truth",
        fix="keep the image with the better mask",
        severity="warning",
    )


# Names


def check_stems(facts: SetFacts) -> list[Finding]:
    """One file name in several folders, which is easily taken for another; one note for all of them."""
    same = [group for group in _by(facts.members, lambda member: member.name.rpartition("/")[2]) if len(group) > 1]
    if not same:
        return []
    return [
        Finding(
            file=same[0][1].path,
            found=f"{len(same)} file names in several folders, such as {_names(same[0])}",
            rule="pixelwise tells them apart by their folders, other programs may not",
            fix="nothing, or put the folder into the name",
            severity="note",
        )
    ]


def check_colliding_names(facts: SetFacts) -> list[Finding]:
    """Names that differ in case or in the Unicode form of a letter only: one file on many systems; a warning."""
    findings = []
    for same in _by(facts.members, lambda member: _folded(member.name)):
        names = {member.name for member in same}
        if len(names) > 1:
            forms = len({unicodedata.normalize("NFC", name) for name in names}) < len(names)
            what = "the Unicode form (composed or not) of a letter" if forms else "case"
            shown = ", ".join(ascii(printable(m.name)) if forms else printable(m.name) for m in same[:SHOWN])
            findings.append(
                Finding(
                    file=same[1].path,
                    found=f"names that differ in {what} only: {shown}",
                    rule="on Windows and macOS they are one file, and results overwrite each other",
                    fix="rename one of them",
                    severity="warning",
                )
            )
    return findings


# Amounts


def check_imbalance(facts: SetFacts) -> list[Finding]:
    """Classes with less than 1 % of the pixels that train: a note, and a warning below 0.1 %."""
    total: Counter[int] = Counter()
    for member in facts.members:
        if _side(member) == "train":
            total.update({index: pixels for index, pixels in member.pixels.items() if index >= 0})
    area = sum(m.height * m.width - m.pixels.get(-1, 0) for m in facts.members if _side(m) == "train" and m.pixels)
    area = max(area, sum(total.values())) if facts.task.kind == "exclusive" else area
    shares = sorted((pixels / area, index) for index, pixels in total.items() if area and 0 < pixels < RARE * area)
    if not shares:
        return []
    shown = ", ".join(f"{_class_name(facts.task, index)} {100 * share:.2g} %" for share, index in shares[:SHOWN])
    more = f" and {len(shares) - SHOWN} more" if len(shares) > SHOWN else ""
    return [
        Finding(
            file=_common_folder(facts.members),
            found=f"rare classes, by their share of the pixels to train on: {shown}{more}",
            rule=f"below {100 * RARE:g} % a class may be left out by a network without loss",
            fix="training.class_weights=median, or training.loss=ce+dice, ce+tversky or focal; keep augment.balance",
            severity="warning" if shares[0][0] < VERY_RARE else "note",
        )
    ]


def check_tiny_objects(facts: SetFacts) -> list[Finding]:
    """Objects smaller than one cell of the deepest map: a warning where most are, a note where some are."""
    medians = [member.median_object for member in facts.members if member.median_object is not None]
    smallest = [member.smallest_object for member in facts.members if member.smallest_object is not None]
    cell = facts.stride**2
    typical = median(medians) if medians else float(cell)
    least = min(smallest, default=cell)
    if typical >= cell and least >= cell:
        return []
    is_typical = typical < cell
    found = f"the median object has {typical:g} pixels" if is_typical else f"the smallest object has {least:g} pixels"
    return [
        Finding(
            file=_common_folder(facts.members),
            found=f"{found}, and a cell of the deepest map {cell} ({facts.stride} x {facts.stride})",
            rule="an object below a cell is lost in the deepest map, and rests on the shallow ones",
            fix="a network of smaller stride (such as model.depth), or larger images",
            severity="warning" if is_typical else "note",
        )
    ]


def check_few_images(facts: SetFacts) -> list[Finding]:
    """Fewer than ten images to learn from: a note on what to expect; a warning where none is left to validate."""
    count = sum(member.split != "test" for member in facts.members)
    if count >= FEW_IMAGES:
        return []
    alone = count < 2
    images = "1 image" if count == 1 else f"{count} images"
    rule = "validation needs an image that does not train" if alone else "a score of few images says little of others"
    fix = "cut a large image into several, or add images"
    if not alone:
        fix = "let each image validate once with data.folds, and expect scores that differ much between folds"
    return [
        Finding(
            file=_common_folder(facts.members),
            found=f"{images} to train on and to validate",
            rule=rule,
            fix=fix,
            severity="warning" if alone else "note",
        )
    ]


def check_parts_show_classes(facts: SetFacts) -> list[Finding]:
    """A class that training or the folder's own validation part lacks: a warning for each."""
    trained, validated = facts.seen_in("train", None), facts.seen_in("val")
    if not trained or not validated:
        return []
    folder = _common_folder([member for member in facts.members if member.split == "val"])
    return [
        Finding(
            file=folder,
            found=f"class {_class_name(facts.task, index)} is in masks for {there}, and in none for {lacking}",
            rule=f"a class is in both; {effect}",
            fix="move images that show it from one part to the other",
            severity="warning",
        )
        for classes, there, lacking, effect in (
            (trained - validated, "training", "validation", "otherwise its score is unknown"),
            (validated - trained, "validation", "training", "otherwise it is not learned"),
        )
        for index in sorted(classes)
    ]


SET_CHECKS: dict[str, Callable[[SetFacts], list[Finding]]] = {
    "copies": check_copies,
    "alike": check_alike,
    "groups": check_parted_groups,
    "stems": check_stems,
    "colliding names": check_colliding_names,
    "imbalance": check_imbalance,
    "tiny objects": check_tiny_objects,
    "few images": check_few_images,
    "classes of parts": check_parts_show_classes,
}


def _by(members: Iterable[Member], key: Callable[[Member], str]) -> list[list[Member]]:
    """Members of equal key, in their order; those with an empty key are in none."""
    groups: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        groups[key(member)].append(member)
    groups.pop("", None)
    return list(groups.values())


def _side(member: Member) -> str:
    """The part, where an image without part is one to train on, as in `splits`."""
    return member.split or "train"


def _identity(member: Member) -> str:
    return member.sha256 or str(member.path)


def _last_part(members: Sequence[Member]) -> Member:
    """The first of the part that is scored, not trained on."""
    return max(members, key=lambda member: ("train", "val", "test").index(_side(member)))


def _by_parts(members: Sequence[Member]) -> str:
    parts = ((part, [m for m in members if _side(m) == part]) for part in ("train", "val", "test"))
    return " and ".join(f"{part} ({_names(own)})" for part, own in parts if own)


def _names(members: Sequence[Member]) -> str:
    shown = ", ".join(printable(member.name) for member in members[:SHOWN])
    return shown + (f" and {len(members) - SHOWN} more" if len(members) > SHOWN else "")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _class_name(task: Task, index: int) -> str:
    return printable(task.names[index])


def _common_folder(members: Sequence[Member]) -> Path:
    try:
        return Path(os.path.commonpath([member.path.parent for member in members]))
    except ValueError:
        return members[0].path.parent
