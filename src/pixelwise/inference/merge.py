"""The objects of an image of any size, made core by core, exactly equal to those of the whole image.

Every step from evidence to objects is decided within one connected piece of the foreground. So each core makes the
objects of the pieces that lie within it, and only pieces that lie across cores are put together first:

    pieces   each core   the connected pieces that are open at its sides
    join     once        which of them are one piece: union-find over the faces; its region, and its owner, the first
                         core that has a part of it
    divide   each core   the objects of its closed pieces, and of the joined pieces that it owns
    number   once        the number of an object: the rank of its first pixel, reading the image row by row
    write    each core   the objects of the core

A joined piece is divided as a whole (divide.py), so its box must fit into memory. In a plain form without necks each
piece is one object; there is nothing to divide, and pieces may be of any size (plain_objects.py; there the stages
`label` and `gather` are in the place of `divide`).

A stage may run for the cores in any order, by any number of workers, and again: it depends on earlier stages alone.
Of the parts, the table of objects (regions.py) needs those named `regions`; the others stay for repairs. Memory is
set by the core and the largest box, but for `join` (about 150 bytes per piece that is open at a side), `gather` (the
same, per gap) and `number` (16 bytes per object).

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pixelwise.errors import DataError
from pixelwise.inference.divide import MEMORY_PER_PIXEL, divide_pieces, write_crops
from pixelwise.inference.parts import Merge
from pixelwise.inference.pieces import (
    DisjointSets,
    Numbers,
    Sides,
    facing_lines,
    number_open,
    numbers_before,
    touching,
)
from pixelwise.inference.plain_objects import gather_regions, label_pieces, one_object_per_piece, write_labels
from pixelwise.inference.regions import (
    Regions,
    add_regions,
    box_of,
    no_regions,
    pack_regions,
    regions_of,
    unpack_regions,
)
from pixelwise.postprocess.instances import FOREGROUND
from pixelwise.postprocess.morphology import connected_components
from pixelwise.tiles import TileGrid


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of merging: `run(merge, index)` for each core, or `run(merge)` once, where not `by_core`."""

    name: str
    run: Callable[..., None]
    by_core: bool


def stages_of(merge: Merge) -> tuple[Stage, ...]:
    """What has to be run, one after another."""
    first = (Stage("pieces", find_pieces, by_core=True), Stage("join", join_pieces, by_core=False))
    number = Stage("number", number_objects, by_core=False)
    if one_object_per_piece(merge.settings):
        label = Stage("label", label_pieces, by_core=True)
        gather = Stage("gather", gather_regions, by_core=False)
        return (*first, label, gather, number, Stage("write", write_labels, by_core=True))
    divide = Stage("divide", divide_pieces, by_core=True)
    return (*first, divide, number, Stage("write", write_crops, by_core=True))


def find_pieces(merge: Merge, index: int) -> None:
    """Keep the open pieces of a core: their numbers along its sides, and what region each has there."""
    window, shape = merge.grid.window(index), merge.grid.shape
    foreground_HW = merge.store.read_evidence(window)[0] & FOREGROUND
    pieces_HW = connected_components(foreground_HW, connectivity=merge.settings.connectivity)
    open_HW = number_open(pieces_HW, window, shape)[pieces_HW]
    regions = regions_of(open_HW, window, shape[1])
    merge.save("pieces", index, {**Sides.of(open_HW).lines, "regions": pack_regions(regions)})


def join_pieces(merge: Merge) -> None:
    """Find which open pieces are one, and tell each core what it needs of the joined pieces.

    Raises DataError for a joined piece that is too large to be divided.
    """
    grid = merge.grid
    before = numbers_before(len(merge.load("pieces", index)["regions"]) for index in range(len(grid)))
    joined, lowest = _joined(merge, before)
    totals = no_regions(lowest.size)
    for index in range(len(grid)):
        regions = unpack_regions(merge.load("pieces", index)["regions"])
        add_regions(totals, joined[before[index] + 1 : before[index + 1] + 1], regions)
    _check_boxes(totals, merge)

    # The owner of a joined piece is the core of its lowest number: the first core that has a part of it.
    owners = np.searchsorted(before, lowest) - 1
    begins = np.searchsorted(owners, np.arange(len(grid) + 1))
    for index, touched in enumerate(_owners_touching(grid, owners, totals)):
        own = joined[before[index] + 1 : before[index + 1] + 1]
        owned = totals[begins[index] : begins[index + 1]]
        part = {"joined": own, "areas": totals["area"][own], "owned": pack_regions(owned), "owners": touched}
        merge.save("join", index, part | {"first_owned": begins[index : index + 1]})


def number_objects(merge: Merge) -> None:
    """Number the objects from 1 in the order of their first pixels, over the whole image."""
    cores = range(len(merge.grid))
    regions = (unpack_regions(merge.load("regions", index)["regions"]) for index in cores)
    first = np.concatenate([some["first"].copy() for some in regions])  # a view would keep the whole regions
    first.sort()
    for index in cores:
        wanted = merge.load("regions", index)["first"]
        numbers = np.searchsorted(first, wanted) + 1
        merge.save("number", index, {"numbers": np.where(wanted < 0, 0, numbers).astype(np.uint64)})


def _joined(merge: Merge, before: Numbers) -> tuple[Numbers, Numbers]:
    """The joined piece of every open piece, both numbered from 1 over the image, and the lowest number of each."""
    sets = DisjointSets(int(before[-1]) + 1)
    sides = (Sides.read(merge.load("pieces", index)).moved(before[index]) for index in range(len(merge.grid)))
    for one, other in facing_lines(merge.grid, sides):
        sets.join(*touching(one, other, merge.settings.connectivity))
    lowest = sets.lowest()
    is_lowest = lowest == np.arange(lowest.size)
    return (np.cumsum(is_lowest) - 1)[lowest], np.flatnonzero(is_lowest)


def _owners_touching(grid: TileGrid, owners: Numbers, joined: Regions) -> Iterator[Numbers]:
    """For each core in order: the owners of the joined pieces whose boxes have a pixel in it, each once."""
    first_row, last_row = owners // grid.columns, (joined["bottom"] - 1) // grid.core
    active = np.zeros(0, np.int64)
    for row in range(grid.rows):
        fresh = np.arange(*np.searchsorted(first_row, [row, row + 1]))
        active = np.concatenate([active[last_row[active] >= row], fresh])

        # One pair of column and owner for each column that a box has pixels in.
        columns = joined["left"][active] // grid.core
        spans = (joined["right"][active] - 1) // grid.core - columns + 1
        steps = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
        pairs = np.unique((np.repeat(columns, spans) + steps) * len(grid) + np.repeat(owners[active], spans))
        column, owner = np.divmod(pairs, len(grid))
        yield from np.split(owner, np.searchsorted(column, np.arange(1, grid.columns)))


def _check_boxes(joined: Regions, merge: Merge) -> None:
    """Refuse pieces whose boxes do not fit into memory, unless they need not be divided."""
    if one_object_per_piece(merge.settings):
        return
    pixels = (joined["bottom"] - joined["top"] + 2.0) * (joined["right"] - joined["left"] + 2.0)
    pixels[0] = 0  # no piece
    too_large = np.flatnonzero(pixels > merge.largest)
    if not too_large.size:
        return
    worst, others = too_large[np.argsort(pixels[too_large])[-1]], too_large.size - 1
    box = box_of(joined[worst])
    raise DataError(
        f"objects that touch one another cover rows {box.top} to {box.bottom} and columns {box.left} to {box.right} "
        f"without a gap{f' (and {others} other pieces are too large)' if others else ''}; a box of "
        f"{int(pixels[worst]):,} pixels is divided at once, and {merge.largest:,} are allowed; allow more memory "
        f"({MEMORY_PER_PIXEL} bytes per pixel), or raise the threshold foreground = {merge.settings.foreground}, so "
        "that the piece falls apart"
    )
