"""The table of objects: where each is and how large, one row per object, for any number of objects.

A region says of an object, or of a part of one, what can be added up over parts: so objects may lie across cores.

    first         row * width of the image + column of its first pixel, reading row by row: also what numbers objects
    area          pixels
    rows, columns sums over its pixels, so that sum / area is the centroid
    top, left, bottom, right     the box around it, the ends excluded

H rows, W columns.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.files import write_atomically
from pixelwise.inference.parts import Merge
from pixelwise.tiles import Window

Array = NDArray[Any]
Regions = NDArray[Any]
SUMS, LOWEST, HIGHEST = ("area", "rows", "columns"), ("first", "top", "left"), ("bottom", "right")
FIELDS = (*LOWEST, *SUMS, *HIGHEST)
REGION = np.dtype([(name, np.int64) for name in FIELDS])
FURTHEST = np.iinfo(np.int64).max
TABLE_HEAD = ("id", "class", "area", "centroid_row", "centroid_column", "top", "left", "bottom", "right")
BAND_PIXELS = 1 << 20
ROWS_AT_ONCE = 1 << 16


def no_regions(count: int) -> Regions:
    """Regions without a pixel, to be added to."""
    regions = np.zeros(count, REGION)
    for name in LOWEST:
        regions[name] = FURTHEST
    return regions


def add_regions(totals: Regions, index: Array, parts: Regions) -> None:
    """Add every part to the region that `index` says; several may go to one."""
    for names, add in ((SUMS, np.add), (LOWEST, np.minimum), (HIGHEST, np.maximum)):
        for name in names:
            add.at(totals[name], index, parts[name])


def regions_of(labels_HW: Array, window: Window, width: int) -> Regions:
    """The regions of the labels 1 to the highest in a window of an image of `width` columns.

    >>> regions = regions_of(np.array([[0, 1], [1, 1]]), Window(10, 20, 12, 22), width=100)
    >>> regions[["first", "area", "rows", "columns"]].tolist(), box_of(regions[0])
    ([(1021, 3, 32, 62)], Window(top=10, left=20, bottom=12, right=22))
    """
    regions = no_regions(int(labels_HW.max()))
    band = max(1, BAND_PIXELS // labels_HW.shape[1])
    for top in range(0, labels_HW.shape[0], band):
        labels, runs = _runs(labels_HW[top : top + band], window.top + top, window.left, width)
        add_regions(regions, labels - 1, runs)
    return regions


def pack_regions(regions: Regions) -> NDArray[np.int64]:
    """Regions as a plain table of whole numbers (N, 8)."""
    return regions.view(np.int64).reshape(-1, len(FIELDS))


def unpack_regions(table: NDArray[np.int64]) -> Regions:
    """The regions that `pack_regions` packed."""
    return np.ascontiguousarray(table).reshape(-1).view(REGION)


def box_of(region: Any) -> Window:
    """The box around a region."""
    return Window(*(int(region[name]) for name in ("top", "left", "bottom", "right")))


def ordered_regions(merge: Merge) -> Iterator[Regions]:
    """The regions of all objects in the order of their numbers, a row of cores at a time.

    An object may begin further down than the core that has its region, never further up; those wait.
    """
    height, width = merge.grid.shape
    waiting = no_regions(0)
    for row in range(merge.grid.rows):
        tiles = range(row * merge.grid.columns, (row + 1) * merge.grid.columns)
        found = [waiting, *(unpack_regions(merge.load("regions", index)["regions"]) for index in tiles)]
        regions = np.concatenate(found)
        due = regions["first"] < min((row + 1) * merge.grid.core, height) * width
        waiting = regions[~due]
        yield np.sort(regions[due], order="first")


def write_regions(path: Path, merge: Merge, *, class_name: str) -> int:
    """Write the table of objects as CSV, in the order of their numbers, after the stage that divides or gathers them.

    Row and column of centroid and box are in pixels of the image; the centroid is the mean of the pixels' middles,
    which are whole numbers; the ends of the box are excluded. Returns the number of objects. Raises OutputError where
    the disk refuses.
    """
    written: list[int] = []
    write_atomically(path, lambda temporary: written.append(_write_table(temporary, merge, class_name)))
    return written[0]


def _write_table(path: Path, merge: Merge, class_name: str) -> int:
    number = 1
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TABLE_HEAD)
        for regions in ordered_regions(merge):
            for begin in range(0, regions.size, ROWS_AT_ONCE):
                some = regions[begin : begin + ROWS_AT_ONCE]
                writer.writerows(_lines(some, number, class_name))
                number += some.size
    return number - 1


def _lines(regions: Regions, number: int, class_name: str) -> Iterator[tuple[Any, ...]]:
    columns = (regions[name].tolist() for name in (*SUMS, "top", "left", "bottom", "right"))
    for area, rows, across, *box in zip(*columns, strict=True):
        yield number, class_name, area, f"{rows / area:.3f}", f"{across / area:.3f}", *box
        number += 1


def _runs(labels_HW: Array, top: int, left: int, width: int) -> tuple[Array, Regions]:
    """The runs of equal labels along the rows, as the parts of objects: their labels and regions."""
    changes_HW = np.ones(labels_HW.shape, bool)
    np.not_equal(labels_HW[:, 1:], labels_HW[:, :-1], out=changes_HW[:, 1:])
    begins = np.flatnonzero(changes_HW)
    labels, lengths = labels_HW.ravel()[begins], np.diff(begins, append=labels_HW.size)
    begins, lengths, labels = (part[labels > 0] for part in (begins, lengths, labels))
    rows, columns = np.divmod(begins, labels_HW.shape[1])

    runs = np.empty(begins.size, REGION)
    runs["top"], runs["left"] = rows + top, columns + left
    runs["bottom"], runs["right"] = runs["top"] + 1, runs["left"] + lengths
    runs["first"] = runs["top"] * width + runs["left"]
    runs["area"], runs["rows"] = lengths, runs["top"] * lengths
    runs["columns"] = lengths * (runs["left"] + runs["right"] - 1) // 2
    return labels.astype(np.intp), runs
