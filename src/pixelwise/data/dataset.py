"""A folder opened for training or evaluation: its samples, what the masks mean, and the proof that all of it fits.

Every mask and the header of every image are read once, before anything else happens, so that a long training never
ends at a file that was wrong from the start.

H rows, W columns, C channels.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.doctor import Evidence, examine, gather
from pixelwise.data.images import read_header, read_image
from pixelwise.data.layouts import Folder, Sample, find_samples
from pixelwise.data.mask_coding import MaskOptions, check_codes, check_same_meaning, infer_coding
from pixelwise.data.mask_counts import MaskCount, count_mask
from pixelwise.data.masks import Coding, MaskKind, class_pixels, read_mask, read_objects
from pixelwise.data.overlapping_masks import check_parts, in_class_order
from pixelwise.data.stored import ImageHeader
from pixelwise.data.survey import Survey, make_survey
from pixelwise.data.targets import BorderPlace, TargetForm
from pixelwise.errors import DataError, Finding, ImageFileError, UsageError, printable
from pixelwise.task import Task

Pair = tuple[NDArray[Any], NDArray[np.uint8]]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Samples whose masks were all read and found to fit.

    samples   those of `folder` that have a mask
    findings  warnings and notes of the checks; errors would have refused the folder
    pixels    pixels per class index (-1: void) of each sample, by its name
    """

    folder: Folder
    samples: tuple[Sample, ...]
    task: Task
    coding: Coding
    survey: Survey
    findings: tuple[Finding, ...] = ()
    pixels: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def read(self, sample: Sample) -> Pair:
        """The image (H, W, C) of a sample and its mask (H, W) of class indices."""
        return read_pair(sample, self.coding, self.task)

    def read_instances(self, sample: Sample) -> NDArray[np.int32]:
        """The objects (H, W) of a sample: 0 background and void, else the number of an object, from 1.

        They are what the masks number, or the 4-connected pieces of each class but the first (see `read_objects`).
        """
        instances_HW: NDArray[np.int32] = np.maximum(read_objects(sample.masks, self.coding, self.task), 0)
        return instances_HW


def open_dataset(
    path: Path,
    *,
    classes: Sequence[str] = (),
    ignore_index: int | None = None,
    masks: str = "auto",
    border: int = 0,
    form: TargetForm = "softmax3",
    place: BorderPlace = "between",
) -> Dataset:
    """Find images and masks under `path`, read all masks, and infer what their values mean.

    `classes` names the classes in the order of their values, `ignore_index` is the value that counts nowhere, `masks`
    is one of auto, index, binary, colours, instances and overlapping. With a `border` above 0, masks of single objects
    are read as background, inside and border of objects, with borders of that width in pixels, in one of the forms of
    `data/targets.py`; `classes` then names background and object. Raises DataError with a Finding for everything that
    is wrong.
    """
    known: dict[str, MaskKind] = {kind: kind for kind in get_args(MaskKind)}
    if masks != "auto" and masks not in known:
        raise UsageError(f"unknown kind of masks {masks!r}; choose auto or one of {', '.join(known)}")
    folder, samples = _with_masks(path, classes if masks == "overlapping" else None)
    options = MaskOptions(
        classes=tuple(classes),
        ignore_index=ignore_index,
        masks=known.get(masks, "auto"),
        layout=folder.layout,
        border=border,
        form=form,
        place=place,
    )
    headers, counts = _read_all(path, samples, options.counted)
    coding, task = infer_coding(counts, options)
    return _checked(folder, headers, counts, coding, task)


def open_like(path: Path, *, task: Task, coding: Coding) -> Dataset:
    """Open a folder whose masks must follow the coding and the classes of a model.

    Raises DataError naming every mask with other values, for masks that cannot be meant so, and for everything that
    `open_dataset` refuses.
    """
    folder, samples = _with_masks(path, task.names if coding.kind == "overlapping" else None)
    headers, counts = _read_all(path, samples, coding.kind)
    check_parts(counts, task)
    check_codes(counts, coding)
    check_same_meaning(counts, coding)
    return _checked(folder, headers, counts, coding, task)


def read_pair(sample: Sample, coding: Coding, task: Task) -> Pair:
    """The image (H, W, C) of a sample and its mask (H, W); raises DataError where they do not fit each other."""
    image_HWC = read_image(sample.image.path, page=sample.image.page)
    mask_HW = read_mask(sample.masks, coding, task)
    if image_HWC.shape[:2] != mask_HW.shape:
        found = f"image of {image_HWC.shape[:2]} and mask of {mask_HW.shape} (height, width)"
        raise DataError(f"{sample.image}: {found}; both must have one size; were the files changed after opening?")
    return image_HWC, mask_HW


def _with_masks(path: Path, overlapping: Sequence[str] | None) -> tuple[Folder, list[Sample]]:
    """A folder and its samples with masks; the files of `overlapping` classes are in their order (none: by name)."""
    folder = find_samples(path)
    if overlapping is not None:
        ordered, problems = in_class_order(folder.samples, overlapping)
        if problems:
            raise DataError(f"{printable(path)}: the masks are not one for each class of each image", problems)
        folder = replace(folder, samples=tuple(ordered))
    samples = [sample for sample in folder.samples if sample.masks]
    if not samples:
        raise DataError(
            f"{printable(path)} holds {len(folder.samples)} images but no masks; "
            "put the masks into a folder masks beside images, or name them <image>_mask"
        )
    return folder, samples


def _read_all(path: Path, samples: Sequence[Sample], kind: str) -> tuple[list[ImageHeader], list[MaskCount]]:
    """All image headers and mask counts, by threads; every file that cannot be read is named."""
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        headers = list(pool.map(_attempt(lambda s: read_header(s.image.path, page=s.image.page)), samples))
        counts = list(pool.map(_attempt(lambda s: count_mask(s.masks, kind)), samples))
    problems = [result for result in (*headers, *counts) if isinstance(result, Finding)]
    if problems:
        raise DataError(f"{printable(path)}: {len(problems)} files cannot be used", problems)
    return (
        [header for header in headers if not isinstance(header, Finding)],
        [count for count in counts if not isinstance(count, Finding)],
    )


def _attempt(read: Callable[[Sample], Result]) -> Callable[[Sample], Result | Finding]:
    """The same function, with the finding in place of the error."""

    def attempt(sample: Sample) -> Result | Finding:
        try:
            return read(sample)
        except ImageFileError as error:
            return error.findings[0]

    return attempt


def _checked(
    folder: Folder, headers: Sequence[ImageHeader], counts: Sequence[MaskCount], coding: Coding, task: Task
) -> Dataset:
    samples = tuple(sample for sample in folder.samples if sample.masks)
    pairs: list[Evidence] = [
        gather(sample, header, count, coding) for sample, header, count in zip(samples, headers, counts, strict=True)
    ]
    if coding.border:
        pairs = _recounted(pairs, coding, task)
    findings = examine(pairs, task)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError(f"{printable(folder.path)}: images and masks do not fit", errors)
    total: Counter[int] = Counter()
    for pair in pairs:
        total.update(pair.classes)
    survey = make_survey(folder, headers, counts=dict(total), coding=coding, task=task)
    return Dataset(
        folder=folder,
        samples=samples,
        task=task,
        coding=coding,
        survey=survey,
        findings=tuple(findings),
        pixels={pair.sample.name: pair.classes for pair in pairs},
    )


def _recounted(pairs: Sequence[Evidence], coding: Coding, task: Task) -> list[Evidence]:
    """The same evidence with the pixels of borders, which do not follow from the codes alone."""

    def recount(pair: Evidence) -> Evidence:
        *pixels, void = class_pixels(read_mask(pair.sample.masks, coding, task), task).tolist()
        return replace(pair, classes={k: found for k, found in [*enumerate(pixels), (-1, void)] if found})

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(recount, pairs))
