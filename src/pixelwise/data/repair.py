"""A repaired copy of a data set, with a log of each change. The original is never touched.

    OUT/images/[train/]name.png    copied byte for byte, or saved again without a loss where something was wrong
    OUT/masks/[train/]name.png     class numbers with a palette; objects as numbers of 16 bits, from 256
    OUT/classes.toml               the classes, their colours, and which values of the old masks became them
    OUT/changes.json, CHANGES.md   what was changed in which file, and what was left out and why

What can be meant in two ways is not guessed: such a file is left out and named. The copy is written to a temporary
folder beside OUT, opened as a training would, and renamed, so that OUT is complete or not there.

H rows, W columns, C channels.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from pixelwise.data.checkup import Record
from pixelwise.data.dataset import Dataset, open_dataset
from pixelwise.data.file_form import read_cmyk
from pixelwise.data.images import read_image
from pixelwise.data.mask_codes import run_unique
from pixelwise.data.mask_meaning import Meaning
from pixelwise.data.mask_values import read_values
from pixelwise.data.masks import read_objects
from pixelwise.data.pictures import write_instances, write_mask, write_picture
from pixelwise.data.repair_log import write_log
from pixelwise.data.repair_plan import Entry, RepairPlan, image_suffix, is_saved_again
from pixelwise.data.stored import upright
from pixelwise.errors import DataError, UsageError, printable
from pixelwise.files import TEMPORARY_PREFIX, name_hash, system_refusals, write_bytes
from pixelwise.task import VOID

FIRST_OBJECT = 256  # no number of an object can then be taken for a class
OBJECT_VOID = 2**16 - 1
Watch = Callable[[Iterable[Entry], int], Iterable[Entry]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The copy: how it opens, with which options, and what was done.

    options  for `open_dataset` and, as `data.<option>`, for training; empty where none is needed
    """

    dataset: Dataset
    options: Mapping[str, Any]
    changed: int
    left_out: tuple[tuple[Path, str], ...]


def write_repaired(plan: RepairPlan, out: Path, watch: Watch = lambda entries, _: entries) -> Written:
    """Write the copy to a new folder `out`, and open it as training would.

    Raises UsageError where `out` is there already, OutputError where it cannot be written, DataError where a file
    changed meanwhile or the copy does not open; then nothing is left of it.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{printable(out)} is there already; choose another folder with --fix, or remove it")
    if _is_inside(out, plan.examination.folder.path):
        raise UsageError(f"{printable(out)} lies in the data set itself; choose a folder beside it with --fix")
    with _temporary_folder(out) as folder:
        _write_entries(folder, plan, watch)
        dataset, options = _opened(folder, plan)
        write_log(folder, plan, options)
        with system_refusals(out):
            os.sync()  # before the name says that all of it is there
            folder.rename(out)
    changed = sum(bool(entry.image_changes or entry.mask_changes) for entry in plan.entries)
    return Written(dataset=dataset, options=options, changed=changed, left_out=plan.left_out)


# Writing


@contextlib.contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    folder = out.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{name_hash(out.name)}"
    with system_refusals(out):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_inside(out: Path, folder: Path) -> bool:
    return folder.is_dir() and out.resolve().is_relative_to(folder.resolve())


def _write_entries(folder: Path, plan: RepairPlan, watch: Watch) -> None:
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        for _ in watch(pool.map(lambda entry: _write_entry(folder, entry, plan), plan.entries), len(plan.entries)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _write_entry(folder: Path, entry: Entry, plan: RepairPlan) -> Entry:
    with system_refusals(folder / "images" / entry.place):
        (folder / "images" / entry.place).parent.mkdir(parents=True, exist_ok=True)
        _write_image(folder / "images" / entry.place, entry, plan.channels)
    if entry.mask_from is not None:
        _write_mask((folder / "masks" / entry.place).with_name(f"{entry.place.name}.png"), entry, plan)
    return entry


def _write_image(place: Path, entry: Entry, channels: int) -> None:
    path = place.with_name(place.name + image_suffix(entry))
    source = entry.record.sample.image
    if not is_saved_again(entry):
        shutil.copyfile(source.path, path)
        return
    refused = entry.record.image.refused is not None
    image_HWC = read_cmyk(source.path) if refused else read_image(source.path, page=source.page)
    if image_HWC is None:
        raise DataError(f"{printable(source.path)} was changed while it was being repaired; run the repair again")
    if image_HWC.shape[2] != channels:
        image_HWC = image_HWC[..., :1] if channels == 1 else np.repeat(image_HWC, channels, axis=2)
    write_lossless(path, image_HWC)


def write_lossless(path: Path, image_HWC: NDArray[Any]) -> None:
    """Write an image so that `read_image` gives the same array: as PNG, or as TIFF where PNG cannot hold it."""
    if path.suffix == ".tif":
        flat, planes = (image_HWC[..., 0], None) if image_HWC.shape[2] == 1 else (image_HWC, "contig")
        tifffile.imwrite(path, flat, photometric="minisblack", planarconfig=planes, compression="zlib", metadata=None)
    elif image_HWC.dtype == np.uint16:
        flat = image_HWC[..., 0] if image_HWC.shape[2] == 1 else image_HWC
        write_bytes(path, bytes(imagecodecs.png_encode(np.ascontiguousarray(flat))))
    else:
        write_picture(path, np.asarray(image_HWC, np.uint8))


def _write_mask(path: Path, entry: Entry, plan: RepairPlan) -> None:
    assert entry.mask_from is not None
    if plan.meaning.coding.kind == "instances":
        write_instances(path, _turned(_objects(entry.mask_from, plan.meaning), entry.turn))
    else:
        write_mask(path, _turned(_classes(entry.mask_from, plan), entry.turn), plan.meaning.task)


def _classes(record: Record, plan: RepairPlan) -> NDArray[Any]:
    values = read_values(record.sample.masks, plan.examination.options.masks)
    distinct, (inverse, lengths), _ = run_unique(values.codes_HW)
    codes = plan.meaning.normal(distinct, colours=values.colours, palette=values.palette)
    classes = plan.meaning.nearest(codes)
    if (classes == -2).any():
        raise DataError(f"{record.sample.masks[0]} was changed while it was being repaired; run the repair again")
    numbers = np.where(classes == -1, VOID, classes).astype(np.uint8)
    return np.repeat(numbers[inverse], lengths).reshape(values.codes_HW.shape)


def _objects(record: Record, meaning: Meaning) -> NDArray[Any]:
    objects_HW = read_objects(record.sample.masks, meaning.coding, meaning.task)
    if int(objects_HW.max()) > OBJECT_VOID - FIRST_OBJECT:
        raise DataError(f"{printable(record.sample.masks[0].path)} has more objects than 16 bits can number")
    numbered_HW = np.where(objects_HW > 0, objects_HW + (FIRST_OBJECT - 1), 0)
    return np.where(objects_HW < 0, OBJECT_VOID, numbered_HW).astype(np.int64)


def _turned(values_HW: NDArray[Any], turn: int) -> NDArray[Any]:
    return upright(values_HW[..., None], turn)[..., 0]


# Opening


def _opened(folder: Path, plan: RepairPlan) -> tuple[Dataset, dict[str, Any]]:
    """The copy, opened with as few options as give the classes that are meant."""
    instances = plan.meaning.coding.kind == "instances"
    names = plan.meaning.task.names
    declared: dict[str, Any] = {"classes": names}
    if plan.meaning.coding.kind == "overlapping":
        declared = {"classes": names, "masks": "overlapping"}
        return open_dataset(folder, **declared), declared
    if instances:
        void = {"ignore_index": OBJECT_VOID} if plan.meaning.coding.void else {}
        declared = {"masks": "instances", **void}
    try:
        dataset = open_dataset(folder)
    except DataError:
        return open_dataset(folder, **declared), declared
    if dataset.task.names == names and (dataset.coding.kind == "instances") == instances:
        return dataset, {}
    return open_dataset(folder, **declared), declared
