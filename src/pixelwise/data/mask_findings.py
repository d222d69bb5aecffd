"""What is wrong, or worth knowing, with the masks of a data set: small functions from a case to diagnoses.

`MASK_CHECKS` lists them by name. What training refuses is said in the words of training; what it would take without a
word, such as a mask that lies turned on its image, is said here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pixelwise.data.checkup import MaskRecord, Record
from pixelwise.data.doctor import Diagnosis, Evidence, check_sizes, same_for
from pixelwise.data.file_form import LOSSY
from pixelwise.data.image_findings import kind_of_refusal
from pixelwise.data.mask_codes import Codes
from pixelwise.data.mask_meaning import Meaning
from pixelwise.data.mask_places import MaskPlace, is_swap
from pixelwise.data.masks import code_text, unknown_codes
from pixelwise.data.survey import mapping_text
from pixelwise.data.turns import UPRIGHT
from pixelwise.errors import Finding, printable
from pixelwise.task import Task

CLASSES_SHOWN = 3
FEWEST_MASKS = 4
ANY_TASK = Task.of(["background", "foreground"])
TURNS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "transposed (rows and columns exchanged)",
    6: "turned by 90 degrees clockwise",
    7: "transposed and turned by 180 degrees",
    8: "turned by 90 degrees anticlockwise",
}
QUIRKS = {
    "fractions": ("fractions", "taken as shares of 255, or rounded"),
    "alpha": ("masks in the alpha channel", "taken from the alpha channel"),
}
UNDONE = {
    "numbered from 1": ("numbered from 1", "1 taken from every value"),
    "palettes": ("palettes that differ", "read by their colours"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the checks of masks look at.

    records  those of samples with masks
    meaning  of the masks; None where it cannot be known, and `refused` says why
    places   of the masks, by the name of the sample
    """

    records: Sequence[Record]
    places: Mapping[str, MaskPlace]
    meaning: Meaning | None = None
    refused: tuple[Finding, ...] = ()

    def masks(self) -> list[MaskRecord]:
        """The masks whose codes are known."""
        return [record.mask for record in self.records if record.mask is not None and len(record.mask.codes)]


def normal_codes(mask: MaskRecord, meaning: Meaning) -> Codes:
    """The codes of a mask, in the order of its record, as the coding has them."""
    return meaning.normal(mask.codes, colours=mask.colours, palette=mask.palette)


def class_counts(mask: MaskRecord, meaning: Meaning) -> dict[int, int]:
    """The pixels of each class index, -1 for void, with strays taken for the nearest class where that is meant."""
    classes = meaning.nearest(normal_codes(mask, meaning)).tolist()
    counts = meaning.coding.count_classes(classes, mask.pixels.tolist())
    counts.pop(-2, None)
    if meaning.coding.kind == "instances":  # of very many objects the record keeps the largest
        counts[1] += mask.height * mask.width - int(mask.pixels.sum())
    return {index: pixels for index, pixels in counts.items() if pixels}


def record_evidence(record: Record) -> Evidence:
    """The evidence of a pair whose image and mask can be read, for the checks that training makes."""
    assert record.mask is not None
    assert record.image.header is not None
    return Evidence(
        sample=record.sample, header=record.image.header, mask=record.mask.as_count(), classes=record.pixels
    )


# The checks


def check_unreadable_masks(case: Case) -> list[Diagnosis]:
    """Masks that training cannot read: an error each."""
    found = []
    for record in case.records:
        if record.mask is None or record.mask.refused is None:
            continue
        kind, mends = QUIRKS.get(record.mask.quirk, (kind_of_refusal(record.mask.refused), ""))
        found.append(Diagnosis(finding=record.mask.refused, kind=kind, mends=mends if case.meaning else ""))
    return found


def check_meaning(case: Case) -> list[Diagnosis]:
    """Masks whose values cannot be understood, or only because an accident of all of them is undone: errors."""
    if case.meaning is None:
        return [Diagnosis(finding=finding, kind="masks that are not understood") for finding in case.refused]
    if case.meaning.undone:
        kind, mends = UNDONE[case.meaning.undone]
        return [Diagnosis(finding=finding, kind=kind, mends=mends) for finding in case.refused]
    return []


def check_values(case: Case) -> list[Diagnosis]:
    """Values that are no class: an error each. Those around the values that are meant can be mended, with the count."""
    if case.meaning is None:
        return []
    return [diagnosis for mask in case.masks() if (diagnosis := _stray_values(mask, case.meaning)) is not None]


def check_minus_ones(case: Case) -> list[Diagnosis]:
    """-1, with or without its sign, which is void: an error each."""
    if case.meaning is None or not case.meaning.void:
        return []
    found = []
    for mask in case.masks():
        pixels = {code: int(mask.pixels[mask.codes == code].sum()) for code in case.meaning.void}
        words = ", ".join(f"value {code} in {count} pixels" for code, count in pixels.items() if count)
        finding = Finding(
            file=mask.path, found=words, rule="void is 255, or declared", fix="save -1 as 255, or set data.ignore_index"
        )
        if words:
            found.append(Diagnosis(finding=finding, kind="-1 for void", mends="saved as void"))
    return found


def check_places(case: Case) -> list[Diagnosis]:
    """Masks that do not lie on their image as they should: turned, mirrored, swapped, of another size: errors."""
    found = []
    for record in case.records:
        place = case.places.get(record.name)
        if place is None:
            continue
        if place != MaskPlace(mask_of=record.name):
            found.append(_misplaced(record, place, case))
    return found


def check_lossy(case: Case) -> list[Diagnosis]:
    """Masks without strays in a format that changes values: a warning: saved once more, they have some."""
    finding = Finding(
        file=Path(),
        found="saved in a format that changes values (JPEG or lossy WebP)",
        rule="a mask is saved losslessly",
        fix="save it as PNG",
        severity="warning",
    )
    clean = [mask.path for mask in case.masks() if mask.form.kind in LOSSY and not _has_strays(mask, case.meaning)]
    return same_for(clean, finding, kind="masks in a lossy format", mends="saved as PNG")


def check_thin_classes(case: Case) -> list[Diagnosis]:
    """Classes that nowhere fill an area while lying between two others: smooth edges of a few values; one warning."""
    meaning = case.meaning
    if meaning is None or meaning.coding.kind != "index" or len(meaning.coding.values) < 4:
        return []
    solid: Counter[int] = Counter()
    pixels: Counter[int] = Counter()
    for mask in case.masks():
        for index, count, inside in zip(
            meaning.exact(normal_codes(mask, meaning)).tolist(), mask.pixels.tolist(), mask.solid.tolist(), strict=True
        ):
            pixels[index] += count
            solid[index] += inside
    inner = range(1, len(meaning.coding.values) - 1)
    thin = [index for index in inner if pixels[index] and solid[index] < 0.02 * pixels[index]]
    if len(thin) < 2:
        return []
    names = ", ".join(printable(meaning.task.names[index]) for index in thin)
    finding = Finding(
        file=case.masks()[0].path.parent,
        found=f"{names} only in thin lines, with values between those of areas",
        rule="a class fills areas; values between two classes are smoothed edges",
        fix="if these are no classes, make the masks again without smoothing (resize them by nearest neighbour)",
        severity="warning",
    )
    return [Diagnosis(finding=finding, kind="classes that may be smooth edges")]


def check_lone_classes(case: Case) -> list[Diagnosis]:
    """Classes that one mask alone shows, of four or more: a note, as they can be learned or scored, not both."""
    meaning = case.meaning
    if meaning is None or len(case.masks()) < FEWEST_MASKS:
        return []
    shown_by: dict[int, list[MaskRecord]] = defaultdict(list)
    for mask in case.masks():
        for index in class_counts(mask, meaning):
            shown_by[index].append(mask)
    return [
        Diagnosis(
            finding=Finding(
                file=masks[0].path,
                found=f"the only mask with class {printable(meaning.task.names[index])}",
                rule="a class that one image shows can be learned or scored, not both",
                fix="look whether it is a mistake; else add images that show it",
                severity="note",
            ),
            kind="classes in one mask only",
        )
        for index, masks in sorted(shown_by.items())
        if index >= 0 and len(masks) == 1
    ]


def check_understanding(case: Case) -> list[Diagnosis]:
    """How masks other than plain numbers were understood: a note."""
    meaning = case.meaning
    if meaning is None or meaning.coding.kind == "index" or not case.masks():
        return []
    words = {
        "binary": "masks of 0 and the largest value",
        "colours": "masks in colours",
        "instances": "masks that number objects",
        "overlapping": "masks of classes that overlap",
    }[meaning.coding.kind]
    finding = Finding(
        file=case.masks()[0].path.parent,
        found=words,
        rule=mapping_text(meaning.coding, meaning.task),
        fix="nothing to do, if that is right; else declare it with data.masks or data.classes",
        severity="note",
    )
    return [Diagnosis(finding=finding, kind=f"understood as {meaning.coding.kind}")]


def check_mask_alpha(case: Case) -> list[Diagnosis]:
    """Masks with alpha, which is left out: a note."""
    finding = Finding(
        file=Path(),
        found="an alpha channel",
        rule="understood: alpha is left out, the values count",
        fix="nothing to do",
        severity="note",
    )
    files = [mask.path for mask in case.masks() if mask.form.alpha and mask.quirk != "alpha"]
    return same_for(files, finding, kind="transparent masks", mends="saved without alpha")


def check_mask_orientation(case: Case) -> list[Diagnosis]:
    """Masks that are stored turned: a note, as the orientation is applied to them like to images."""
    finding = Finding(
        file=Path(),
        found="stored turned, with an EXIF orientation",
        rule="understood: the mask is turned as displayed",
        fix="nothing to do",
        severity="note",
    )
    files = [mask.path for mask in case.masks() if mask.form.orientation != UPRIGHT]
    return same_for(files, finding, kind="masks with an EXIF orientation", mends="saved upright")


MASK_CHECKS: dict[str, Callable[[Case], list[Diagnosis]]] = {
    "unreadable": check_unreadable_masks,
    "meaning": check_meaning,
    "values": check_values,
    "minus one": check_minus_ones,
    "places": check_places,
    "lossy": check_lossy,
    "thin classes": check_thin_classes,
    "lone classes": check_lone_classes,
    "understanding": check_understanding,
    "alpha": check_mask_alpha,
    "orientation": check_mask_orientation,
}


# Words


def _has_strays(mask: MaskRecord, meaning: Meaning | None) -> bool:
    return meaning is None or bool((meaning.exact(normal_codes(mask, meaning)) == -2).any())


def _stray_values(mask: MaskRecord, meaning: Meaning) -> Diagnosis | None:
    codes = normal_codes(mask, meaning)
    finding = unknown_codes(mask.path, meaning.coding, dict(zip(codes.tolist(), mask.pixels.tolist(), strict=True)))
    if finding is None:
        return None
    if meaning.is_foreign(codes, mask.solid):
        return Diagnosis(finding=finding, kind="values that are no class")
    strays = meaning.exact(codes) == -2
    if mask.distinct > len(codes):
        most = f"{mask.distinct} different values; of the {len(codes)} most frequent, "
        finding = replace(finding, found=most + finding.found)
    near = near_text(meaning, meaning.nearest(codes)[strays], mask.pixels[strays])
    kind = "noise of JPEG in masks" if mask.form.kind in LOSSY else "smooth edges or noise in masks"
    finding = replace(finding, found=f"{finding.found}, {near}")
    return Diagnosis(finding=finding, kind=kind, mends="each taken for the nearest class")


def near_text(meaning: Meaning, classes: Codes, pixels: Codes) -> str:
    """Which classes stray values lie near, with the pixels of each."""
    counts = {int(index): int(pixels[classes == index].sum()) for index in np.unique(classes)}
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    words = [f"{count} near {_class_text(meaning, index)}" for index, count in ordered[:CLASSES_SHOWN]]
    return ", ".join(words) + (
        f" and {len(ordered) - CLASSES_SHOWN} other classes" if len(ordered) > CLASSES_SHOWN else ""
    )


def _class_text(meaning: Meaning, index: int) -> str:
    if index < 0:
        return "void"
    code = code_text(meaning.coding.value_codes()[index], meaning.coding.kind)
    return f"{code} ({printable(meaning.task.names[index])})"


def _misplaced(record: Record, place: MaskPlace, case: Case) -> Diagnosis:
    assert record.mask is not None
    if (record.mask.height, record.mask.width) == (record.height, record.width):
        own, turned = record.turns[0], record.turns[place.turn - 1]
        finding = Finding(
            file=record.mask.path,
            found=f"its borders fit the image when it is {TURNS[place.turn]} (agreement {turned:.2f}, now {own:.2f})",
            rule="the borders of a mask lie where the image changes (agreement 0 is chance, 0.5 the most)",
            fix="turn the mask so, or look whether it belongs to another image",
        )
        return Diagnosis(finding=finding, kind="turned masks", mends=TURNS[place.turn])
    (finding,) = check_sizes([record_evidence(record)], ANY_TASK)
    if place.mask_of == record.name:
        by = "as its image's EXIF orientation says" if place.exif else "as its borders fit the image"
        return Diagnosis(finding=finding, kind="turned masks", mends=f"{TURNS[place.turn]}, {by}")
    if not place.mask_of:
        return Diagnosis(finding=finding, kind="masks of another size")
    kind = "swapped masks" if is_swap(dict(case.places), record.name) else "masks of other images"
    mends = f"its image gets the mask of {printable(place.mask_of)}, the only one of its size"
    return Diagnosis(finding=finding, kind=kind, mends=mends)
