"""What a repaired copy of a data set would hold: each sample with its changes, and what is left out and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelwise.data.checkup import Record
from pixelwise.data.examination import Examination
from pixelwise.data.file_form import SUFFIXES_OF
from pixelwise.data.image_findings import usual_channels
from pixelwise.data.mask_meaning import Meaning
from pixelwise.data.turns import UPRIGHT
from pixelwise.errors import DataError, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A sample that goes into the copy.

    mask_from      the record whose mask it gets; None where it has none
    image_changes  what is done to the image beyond copying, in words; mask_changes: what to the mask beyond its coding
    """

    record: Record
    mask_from: Record | None
    turn: int = UPRIGHT
    image_changes: tuple[str, ...] = ()
    mask_changes: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        """The path in `images/` and in `masks/`, without suffix."""
        name = Path(self.record.name)
        split = self.record.split
        return name if split is None or name.parts[0] == split else Path(split) / name


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What goes into the copy, and what is left out, with the reason."""

    examination: Examination
    meaning: Meaning
    entries: tuple[Entry, ...]
    left_out: tuple[tuple[Path, str], ...]
    channels: int


def plan_repair(examination: Examination) -> RepairPlan:
    """What a repaired copy would hold; raises DataError where that is nothing, or the masks are not understood."""
    meaning = examination.meaning
    if meaning is None:
        raise DataError("nothing was written: what the masks mean is not clear, see the errors")
    errors = [error for error in examination.of_severity("error") if not error.mends and not error.whole]
    wrong = {error.finding.file: error.finding.found for error in errors}
    known = {path for record in examination.records for path in _files(record)}
    left_out = {file: found for file, found in wrong.items() if file not in known and not file.is_dir()}
    masked_splits = {record.split for record in examination.records if record.mask is not None}
    entries: list[Entry] = []
    for entry in _all_entries(examination, meaning):
        reason = _reason_to_leave_out(entry, wrong, masked_splits)
        if reason:
            left_out.setdefault(entry.record.path, reason)
        else:
            entries.append(entry)
    if not any(entry.mask_from is not None for entry in entries):
        raise DataError("nothing was written: no pair of image and mask can be used, see the errors")
    return RepairPlan(
        examination=examination,
        meaning=meaning,
        entries=tuple(entries),
        left_out=tuple(left_out.items()),
        channels=usual_channels(examination.records),
    )


def image_suffix(entry: Entry) -> str:
    """The suffix of the image in the copy: its own where it is copied and fits its format."""
    header, form = entry.record.image.header, entry.record.image.form
    assert header is not None
    if not is_saved_again(entry):
        return entry.record.path.suffix if form.fits_name(entry.record.path) else SUFFIXES_OF[form.kind][0]
    return ".png" if header.dtype in ("uint8", "bool", "uint16") and header.channels in (1, 3) else ".tif"


def is_saved_again(entry: Entry) -> bool:
    """Whether the image is not copied byte for byte."""
    return any(not words.startswith("named after") for words in entry.image_changes)


def _all_entries(examination: Examination, meaning: Meaning) -> Iterator[Entry]:
    """Every sample with its changes, those that cannot be used too."""
    by_name = {record.name: record for record in examination.records}
    mends: dict[Path, list[str]] = defaultdict(list)
    for diagnosis in examination.diagnoses:
        if diagnosis.mends and diagnosis.kind != meaning.undone:
            mends[diagnosis.finding.file].append(f"{diagnosis.kind}: {diagnosis.mends}")
    shifted = ["numbered from 1: 1 taken from every value"] if meaning.undone == "numbered from 1" else []
    channels = usual_channels(examination.records)
    for record in examination.records:
        place = examination.places.get(record.name)
        mask_from = by_name.get(place.mask_of) if place else None
        yield Entry(
            record=record,
            mask_from=mask_from,
            turn=place.turn if place else UPRIGHT,
            image_changes=_image_changes(record, channels),
            mask_changes=tuple(dict.fromkeys(shifted + mends[mask_from.mask.path]))
            if mask_from and mask_from.mask
            else (),
        )


def _reason_to_leave_out(entry: Entry, wrong: Mapping[Path, str], masked_splits: set[Any]) -> str:
    record, mask_from = entry.record, entry.mask_from
    if record.image.header is None or record.path in wrong:
        return wrong.get(record.path, "the image cannot be read")
    if record.mask is None:
        return "" if record.split == "test" and "test" not in masked_splits else "an image without mask"
    if mask_from is None or mask_from.mask is None:
        return f"its mask {printable(record.mask.path.name)}: {wrong.get(record.mask.path, 'of another size')}"
    masks = [source.path for source in mask_from.sample.masks]
    return next((f"its mask {printable(file.name)}: {wrong[file]}" for file in masks if file in wrong), "")


def _files(record: Record) -> list[Path]:
    return [record.path, *(source.path for source in record.sample.masks)]


def _image_changes(record: Record, channels: int) -> tuple[str, ...]:
    image = record.image
    if image.header is None:
        return ()
    return tuple(
        words
        for words, applies in (
            ("turned as its EXIF orientation says", image.form.orientation != UPRIGHT),
            ("converted from CMYK to RGB", image.form.cmyk),
            (f"saved with {channels} channels", image.header.channels != channels),
            ("taken out of its stack", record.sample.image.page is not None),
            (f"named after its format, {image.form.kind}", not image.form.fits_name(record.path)),
        )
        if applies
    )
