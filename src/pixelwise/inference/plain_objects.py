"""Plain forms without necks: each connected piece is one object, of any size, and no box of it is ever in memory.

A piece is small or not by its area over all cores. A hole is a gap: a connected piece of what is no kept object. One
that lies within a core is filled at once. One that lies across cores is joined over the faces, as the pieces are, and
is filled where a single object, the same everywhere, lies beside all its parts and none is at the image's edge.

    label    each core   its closed pieces, its parts of joined pieces and of open gaps
    gather   once        which gaps are filled by which piece; the regions of the joined objects, with their filled gaps
    write    each core   the objects of the core

H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.inference.parts import Merge
from pixelwise.inference.pieces import (
    DisjointSets,
    Numbers,
    Sides,
    facing_lines,
    number_open,
    numbers_before,
    outer_lines,
    touching,
)
from pixelwise.inference.regions import (
    FURTHEST,
    add_regions,
    no_regions,
    pack_regions,
    regions_of,
    unpack_regions,
)
from pixelwise.postprocess.instances import FOREGROUND, InstanceSettings
from pixelwise.postprocess.morphology import Connectivity, Labels, connected_components
from pixelwise.tiles import Window

Array = NDArray[Any]
NOTHING, MANY = 0, -1
"""What lies beside a gap, where it is not the number of one joined piece: nothing so far, or too much to fill it."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The kept pieces of a core: labels 1 to `closed` are whole, those that follow are parts of `joined` pieces."""

    labels_HW: Labels
    closed: int
    joined: Numbers


@dataclass(frozen=True, slots=True)
class Gaps:
    """The gaps of a core: `fill` is the label that each gap gets (0: none), `beside` what lies beside each open one.

    Open gaps are numbered by `opened`, a table like that of `number_open`.
    """

    gaps_HW: Labels
    opened: Labels
    fill: Array
    beside: Numbers


def one_object_per_piece(settings: InstanceSettings) -> bool:
    """Whether pieces need not be divided."""
    return settings.form == "plain" and not settings.neck


def label_pieces(merge: Merge, index: int) -> None:
    """Label the objects of a core, and the gaps of which only other cores know whether they are filled."""
    window, shape = merge.grid.window(index), merge.grid.shape
    kept = _label_kept(merge, index)
    gaps = _find_gaps(kept, window, shape, merge.settings)
    objects = kept.closed + kept.joined.size
    table = np.where(gaps.opened > 0, gaps.opened + objects, gaps.fill)
    labels_HW = kept.labels_HW + table[gaps.gaps_HW]

    # What the neighbours see: the numbers of open gaps, and those of joined pieces below 0.
    codes = np.concatenate([np.zeros(kept.closed + 1, np.int64), -kept.joined, np.arange(1, gaps.beside.size + 1)])
    regions = pack_regions(regions_of(labels_HW, window, shape[1]))
    part = {"joined": kept.joined, "beside": gaps.beside, "regions": regions[kept.closed :]}
    merge.save("gaps", index, part | Sides.of(codes[labels_HW]).lines)
    merge.save("closed", index, {"regions": regions[: kept.closed]})
    merge.save("objects", index, {"objects": labels_HW.astype(np.uint32)})


def gather_regions(merge: Merge) -> None:
    """Decide on the open gaps, add up the regions of joined pieces, and tell each core the objects of its labels."""
    cores = range(len(merge.grid))
    before = numbers_before(merge.load("gaps", index)["beside"].size for index in cores)
    fillers = _fillers(merge, before)
    last = merge.load("join", cores[-1])
    totals = no_regions(int(last["first_owned"][0]) + len(last["owned"]))
    for index in cores:
        part = merge.load("gaps", index)
        pieces = np.append(part["joined"], fillers[before[index] + 1 : before[index + 1] + 1])
        add_regions(totals, pieces[pieces > 0], unpack_regions(part["regions"])[pieces > 0])
    for index in cores:
        closed, join = unpack_regions(merge.load("closed", index)["regions"]), merge.load("join", index)
        pieces = np.append(merge.load("gaps", index)["joined"], fillers[before[index] + 1 : before[index + 1] + 1])
        owned = totals[join["first_owned"][0] :][: len(join["owned"])]
        regions = np.concatenate([closed, owned[owned["area"] > 0]])
        first = np.append(closed["first"], np.where(pieces > 0, totals["first"][pieces], -1))
        merge.save("regions", index, {"regions": pack_regions(regions), "first": first})


def write_labels(merge: Merge, index: int) -> None:
    """Write the objects of a core by the numbers of its labels."""
    numbers = np.append(np.uint64(0), merge.load("number", index)["numbers"])
    merge.store.write_objects(index, numbers[merge.load("objects", index)["objects"]])


def _label_kept(merge: Merge, index: int) -> Labelled:
    """Label the pieces of a core that are large enough, parts of one joined piece alike."""
    settings, join = merge.settings, merge.load("join", index)
    window = merge.grid.window(index)
    foreground_HW = merge.store.read_evidence(window)[0] & FOREGROUND
    pieces_HW = connected_components(foreground_HW, connectivity=settings.connectivity)
    opened = number_open(pieces_HW, window, merge.grid.shape)

    table = np.zeros(opened.size, np.int32)
    closed = (opened == 0) & (np.bincount(pieces_HW.ravel()) >= settings.smallest)
    closed[0] = False
    table[closed] = np.arange(1, closed.sum() + 1)
    large = np.append(False, join["areas"] >= settings.smallest)[opened]
    joined, labels = np.unique(np.append(0, join["joined"])[opened[large]], return_inverse=True)
    table[large] = labels + closed.sum() + 1
    return Labelled(table[pieces_HW], int(closed.sum()), joined)


def _find_gaps(kept: Labelled, window: Window, shape: tuple[int, int], settings: InstanceSettings) -> Gaps:
    """Find the gaps of a core, and what lies beside them."""
    free_HW = (kept.labels_HW == 0) & settings.fill_holes
    gaps_HW = connected_components(free_HW, connectivity=_dual(settings.connectivity))
    opened = number_open(gaps_HW, window, shape)
    lowest, highest = _labels_beside(gaps_HW, kept.labels_HW)
    for line in outer_lines(gaps_HW, window, shape, cut=False):
        lowest[line] = MANY

    # A closed object has no open gap: it would have to reach the side.
    single = np.where(lowest == highest, lowest, 0)
    beside = np.full(opened.size, MANY, np.int64)
    of_joined = single > kept.closed
    beside[of_joined] = kept.joined[single[of_joined] - kept.closed - 1]
    beside[lowest > highest] = NOTHING
    in_order = np.argsort(opened)[np.count_nonzero(opened == 0) :]
    return Gaps(gaps_HW, opened, np.where(opened > 0, 0, single), beside[in_order])


def _labels_beside(gaps_HW: Labels, labels_HW: Labels) -> tuple[Array, Array]:
    """The lowest and the highest label beside each gap; the lowest is above the highest where there is none."""
    lowest = np.full(int(gaps_HW.max()) + 1, np.iinfo(np.int32).max, np.int32)
    highest = np.zeros(lowest.size, np.int32)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        for here, there in ((one, other), (other, one)):
            meet = (gaps_HW[here] > 0) & (labels_HW[there] > 0)
            np.minimum.at(lowest, gaps_HW[here][meet], labels_HW[there][meet])
            np.maximum.at(highest, gaps_HW[here][meet], labels_HW[there][meet])
    lowest[0] = highest[0] = 0  # no gap
    return lowest, highest


def _fillers(merge: Merge, before: Numbers) -> Numbers:
    """The joined piece that fills each open gap, both numbered from 1 over the image; 0: it stays background."""
    sets = DisjointSets(int(before[-1]) + 1)
    lowest, highest = np.full(int(before[-1]) + 1, FURTHEST), np.zeros(int(before[-1]) + 1, np.int64)
    sides = (Sides.read(merge.load("gaps", index)).moved(before[index]) for index in range(len(merge.grid)))
    for one, other in facing_lines(merge.grid, sides):
        sets.join(*touching(one, other, _dual(merge.settings.connectivity)))
        for gap, piece in (touching(one, -other, 4), touching(other, -one, 4)):
            np.minimum.at(lowest, gap, piece)
            np.maximum.at(highest, gap, piece)
    beside = [merge.load("gaps", index)["beside"] for index in range(len(merge.grid))]
    codes = np.append(NOTHING, np.concatenate(beside))
    lowest = np.minimum(lowest, np.where(codes == NOTHING, FURTHEST, codes))
    highest = np.maximum(highest, codes)

    # What lies beside a part of a joined gap lies beside the gap.
    together = sets.lowest()
    lowest_of, highest_of = np.full(together.size, FURTHEST), np.zeros(together.size, np.int64)
    np.minimum.at(lowest_of, together, lowest)
    np.maximum.at(highest_of, together, highest)
    fillers: Numbers = np.where(lowest_of == highest_of, lowest_of, 0)[together]
    return fillers


def _dual(connectivity: Connectivity) -> Connectivity:
    """The connectivity of the background."""
    return 4 if connectivity == 8 else 8
