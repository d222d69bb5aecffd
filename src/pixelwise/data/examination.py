"""A data set examined: every file read once, and all that is wrong or worth knowing, errors first.

This is what `pixelwise doctor` shows and what `repair` mends. Training makes the cheap half of these checks itself
(`doctor.examine`), in the same words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pixelwise.data.checkup import MaskRecord, Record, read_records
from pixelwise.data.doctor import CHECKS, Diagnosis
from pixelwise.data.image_findings import IMAGE_CHECKS
from pixelwise.data.layouts import Folder, Sample, find_tolerantly
from pixelwise.data.mask_coding import MaskOptions
from pixelwise.data.mask_findings import MASK_CHECKS, Case, class_counts, record_evidence
from pixelwise.data.mask_meaning import Meaning, declarations, summary_finding, understand
from pixelwise.data.mask_places import MaskPlace, find_places
from pixelwise.data.masks import MaskKind
from pixelwise.data.overlapping_masks import in_class_order
from pixelwise.data.set_findings import SET_CHECKS, Member, SetFacts
from pixelwise.errors import DataError, Finding
from pixelwise.task import Task

SEVERITIES = ("error", "warning", "note")
# The checks that training makes too, of which nothing more specific is said elsewhere.
SHARED_CHECKS = {
    "types": "several types of image",
    "single class": "masks of one class",
    "absent classes": "absent classes",
    "full classes": "classes that are everywhere",
}
SKIPPED_WARNINGS = ("not a regular file", "folder")
Watch = Callable[[Iterable[Record], int], Iterable[Record]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """All that was found.

    records    of every sample, those without mask too
    meaning    of the masks; None where it cannot be known
    places     of the masks, by name of the sample
    diagnoses  errors first
    declarable kinds that the masks can be declared to be, where their meaning is not known
    """

    folder: Folder
    options: MaskOptions
    records: tuple[Record, ...]
    meaning: Meaning | None
    places: Mapping[str, MaskPlace]
    diagnoses: tuple[Diagnosis, ...]
    declarable: tuple[MaskKind, ...] = ()

    def of_severity(self, severity: str) -> list[Diagnosis]:
        """The diagnoses that are errors, warnings or notes."""
        return [diagnosis for diagnosis in self.diagnoses if diagnosis.finding.severity == severity]

    @property
    def mendable(self) -> bool:
        """Whether every error can be mended by `doctor --fix`."""
        return all(diagnosis.mends for diagnosis in self.of_severity("error"))


def examine_folder(
    path: Path, options: MaskOptions, watch: Watch = lambda records, _: records, *, stride: int = 0
) -> Examination:
    """Read every file under `path` and say all that is wrong with it.

    `watch(records, total)` is given the records as they are read, for a progress bar. `stride` is that of the network's
    deepest map, against which the objects are measured; 0: they are not. Raises UsageError or DataError
    where there is nothing to examine.
    """
    folder, unpaired = find_tolerantly(path)
    options = replace(options, layout=folder.layout)
    samples: Sequence[Sample] = folder.samples
    if options.masks == "overlapping":
        samples, lacking = in_class_order(samples, options.classes)
        unpaired += lacking
    records = list(watch(read_records(samples, options.masks), len(samples)))

    # What the masks mean, and where they belong.
    masked = [record for record in records if record.mask is not None]
    meaning, refused = _understood([record.mask for record in masked if record.mask is not None], options)
    if meaning is not None:
        records = [_counted(record, meaning) for record in records]
        masked = [record for record in records if record.mask is not None]
    places = find_places(masked)

    # All that is wrong.
    case = Case(records=masked, places=places, meaning=meaning, refused=refused)
    diagnoses = [Diagnosis(finding=finding, kind="files that cannot be paired") for finding in unpaired]
    diagnoses += [diagnosis for check in IMAGE_CHECKS.values() for diagnosis in check(records)]
    diagnoses += [diagnosis for mask_check in MASK_CHECKS.values() for diagnosis in mask_check(case)]
    diagnoses += [*_shared(case), *_of_set(case, stride), *_skipped(folder), *_no_masks(path, masked, unpaired)]
    return Examination(
        folder=folder,
        options=options,
        records=tuple(records),
        meaning=meaning,
        places=places,
        declarable=tuple(declarations(case.masks(), options)) if refused else (),
        diagnoses=tuple(sorted(diagnoses, key=lambda diagnosis: SEVERITIES.index(diagnosis.finding.severity))),
    )


def _understood(masks: Sequence[MaskRecord], options: MaskOptions) -> tuple[Meaning | None, tuple[Finding, ...]]:
    """The meaning of the masks, and what training says against them."""
    known = [mask for mask in masks if len(mask.codes)]
    if not known:
        return None, ()
    try:
        meaning = understand(known, options)
    except DataError as error:
        return None, tuple(summary_finding(error, known))
    return meaning, meaning.refused


def _counted(record: Record, meaning: Meaning) -> Record:
    if record.mask is None or not len(record.mask.codes):
        return record
    return replace(record, pixels=class_counts(record.mask, meaning))


def _shared(case: Case) -> Iterator[Diagnosis]:
    """What the checks of training say that have no pixels to look at."""
    if case.meaning is None:
        return
    pairs = [record_evidence(record) for record in case.records if record.image.header is not None and record.pixels]
    for name, kind in SHARED_CHECKS.items():
        if pairs:
            yield from (Diagnosis(finding=finding, kind=kind) for finding in CHECKS[name](pairs, case.meaning.task))


def _of_set(case: Case, stride: int) -> Iterator[Diagnosis]:
    """What is wrong with the set as a whole: copies, leaks, rare classes."""
    task = Task.of(["background", "foreground"]) if case.meaning is None else case.meaning.task
    members = [
        Member(
            name=record.name,
            path=record.path,
            split=record.split,
            sha256=record.sha256,
            perceptual_hash=record.perceptual_hash,
            height=record.height,
            width=record.width,
            pixels=record.pixels,
            smallest_object=areas[0] if areas else None,
            median_object=areas[1] if areas else None,
        )
        for record in case.records
        if record.image.header is not None
        for areas in [record.mask.objects if record.mask is not None and not record.mask.quirk else None]
    ]
    facts = SetFacts(members, task, stride=stride)
    for name, check in SET_CHECKS.items() if members else ():
        yield from (Diagnosis(finding=finding, kind=f"data set, {name}", whole=True) for finding in check(facts))


def _skipped(folder: Folder) -> Iterator[Diagnosis]:
    """Files that were left out, by reason: a warning where they are no files, else a note."""
    by_reason: dict[str, list[Path]] = defaultdict(list)
    for path, reason in folder.skipped:
        by_reason[reason].append(path)
    for reason, paths in by_reason.items():
        odd = reason.startswith(SKIPPED_WARNINGS)
        for path in paths:
            yield Diagnosis(
                finding=Finding(
                    file=path,
                    found="left out and not read",
                    rule="images and masks are regular files with the suffix of a picture",
                    fix="remove it, or correct it if it is one of the data set",
                    severity="warning" if odd else "note",
                ),
                kind=f"left out: {reason}",
            )


def _no_masks(path: Path, masked: Sequence[Record], unpaired: Sequence[Finding]) -> list[Diagnosis]:
    """A folder without a single mask: an error, as there is nothing to learn from."""
    if masked or unpaired:
        return []
    finding = Finding(
        file=path,
        found="images but no masks",
        rule="a data set has masks",
        fix="put the masks into a folder masks beside images, or name them <image>_mask",
    )
    return [Diagnosis(finding=finding, kind="no masks")]


def class_shares(records: Sequence[Record], task: Task) -> list[float]:
    """The share of each class in the pixels of the masks, and that of void, from 0 to 1."""
    total: Counter[int] = Counter()
    everything = 0
    for record in records:
        if record.mask is None:
            continue
        total.update(record.pixels)
        everything += sum(record.pixels.values()) if task.kind == "exclusive" else record.height * record.width
    everything = max(1, everything)
    return [total.get(index, 0) / everything for index in [*range(task.outputs), -1]]
