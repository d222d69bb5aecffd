"""Connected pieces of a mask that lies across cores: found core by core, joined over the faces where cores meet.

A piece that lies on a side of its window beyond which the image goes on is open: it may go on there, and even if it
does not, what lies beside it is not seen. All others are closed, and with them all is as in the whole image.

Open pieces are numbered from 1 in each core, in the order in which a walk along the sides (top, left, bottom, right)
meets them; over all cores the numbers go on from core to core. Joining takes memory for the open pieces and for the
faces of one row of cores, whatever the image.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.postprocess.instances import FOREGROUND, InstanceSettings, objects_of
from pixelwise.postprocess.morphology import Connectivity, Labels, connected_components
from pixelwise.tiles import TileGrid, Window

Array = NDArray[Any]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sides:
    """The four outer lines of a core, corners included: what lies on them is seen from the neighbours."""

    top: Array
    left: Array
    bottom: Array
    right: Array

    @classmethod
    def of(cls, map_HW: Array) -> Sides:
        """The sides of a map."""
        return cls(map_HW[0], map_HW[:, 0], map_HW[-1], map_HW[:, -1])

    @classmethod
    def read(cls, part: Mapping[str, Array]) -> Sides:
        """The sides that a part holds by their names."""
        return cls(part["top"], part["left"], part["bottom"], part["right"])

    def moved(self, by: int) -> Sides:
        """The same with numbers above 0 that are higher by so much, in 64 bits."""
        return Sides(*(np.where(line > 0, line + np.int64(by), line) for line in self.lines.values()))

    @property
    def lines(self) -> dict[str, Array]:
        """The sides by name, always in the same order."""
        return {"top": self.top, "left": self.left, "bottom": self.bottom, "right": self.right}


def outer_lines(map_HW: Array, window: Window, shape: tuple[int, int], *, cut: bool = True) -> list[Array]:
    """The sides of a map of a window beyond which the image goes on, or (not `cut`) those at the image's edge."""
    goes_on = (window.top > 0, window.left > 0, window.bottom < shape[0], window.right < shape[1])
    return [line for line, more in zip(Sides.of(map_HW).lines.values(), goes_on, strict=True) if more == cut]


def number_open(labels_HW: Labels, window: Window, shape: tuple[int, int]) -> Labels:
    """A table from the labels of a window to the numbers of open pieces from 1; 0 for closed pieces and no piece.

    >>> number_open(np.array([[1, 0, 2], [0, 0, 2]]), Window(0, 0, 2, 3), (2, 9)).tolist()
    [0, 0, 1]
    """
    met = np.concatenate([np.zeros(1, labels_HW.dtype), *outer_lines(labels_HW, window, shape)])
    labels, at = np.unique(met, return_index=True)
    table = np.zeros(int(labels_HW.max()) + 1, np.int32)
    table[labels[np.argsort(at)]] = np.arange(labels.size)  # 0 was met first and stays 0
    return table


def whole_objects(
    evidence_2HW: NDArray[np.uint8], window: Window, shape: tuple[int, int], settings: InstanceSettings
) -> tuple[Labels, Labels]:
    """The objects of the closed pieces of a window, as in the whole image, and the connected pieces of the foreground.

    A hole that an object encloses lies within the box of its piece, and so do pieces that are in it: they are closed.
    """
    pieces_HW = connected_components(evidence_2HW[0] & FOREGROUND, connectivity=settings.connectivity)
    closed_HW = (number_open(pieces_HW, window, shape) == 0)[pieces_HW]
    return objects_of(evidence_2HW * closed_HW, settings), pieces_HW


def numbers_before(counts: Iterable[int]) -> Numbers:
    """How many numbers the cores before each have taken, and at the end all.

    >>> numbers_before([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    return np.cumsum([0, *counts], dtype=np.int64)


def facing_lines(grid: TileGrid, sides: Iterator[Sides]) -> Iterator[tuple[Array, Array]]:
    """Lines that lie side by side where cores meet: between neighbours in a row, then all along two rows of cores.

    `sides` are those of all cores in order. The lines along two rows hold the corners where four cores meet.
    """
    above: Array | None = None
    for _ in range(grid.rows):
        row = list(islice(sides, grid.columns))
        yield from ((one.right, other.left) for one, other in pairwise(row))
        if above is not None:
            yield above, np.concatenate([one.top for one in row])
        above = np.concatenate([one.bottom for one in row])


def touching(one: Array, other: Array, connectivity: Connectivity) -> tuple[Array, Array]:
    """The numbers above 0 that touch across two lines that lie side by side, as pairs; runs of equal pairs once.

    >>> [part.tolist() for part in touching(np.array([1, 1, 0]), np.array([2, 2, 3]), 8)]
    [[1, 1, 1, 1], [2, 2, 3, 2]]
    """
    found = []
    for shift in (0,) if connectivity == 4 else (0, 1, -1):
        here, there = one[max(0, -shift) : one.size - max(0, shift)], other[max(0, shift) : other.size + min(0, shift)]
        both = (here > 0) & (there > 0)
        here, there = here[both], there[both]
        fresh = np.ones(here.size, bool)
        fresh[1:] = (here[1:] != here[:-1]) | (there[1:] != there[:-1])
        found.append((here[fresh], there[fresh]))
    first, second = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first, second


class DisjointSets:
    """Numbers that are joined pair by pair: which are together in the end? Many pairs at a time, 8 bytes per number.

    >>> sets = DisjointSets(5)
    >>> sets.join(np.array([4, 1]), np.array([2, 4]))
    >>> sets.lowest().tolist()
    [0, 1, 1, 3, 1]
    """

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int64)

    def join(self, some: Array, others: Array) -> None:
        """Join each number to the other of its pair."""
        while some.size:
            some, others = self._roots(some), self._roots(others)
            low, high = np.minimum(some, others)[some != others], np.maximum(some, others)[some != others]
            # A root of several pairs goes to the lowest; each root finds another in two rounds, so rounds are few.
            np.minimum.at(self._parent, high, low)
            some, others = low, high

    def lowest(self) -> Numbers:
        """For every number, the lowest of those that it is together with."""
        while True:
            above = self._parent[self._parent]
            if np.array_equal(above, self._parent):
                return above
            self._parent = above

    def _roots(self, numbers: Array) -> Numbers:
        """The lowest numbers that these are known to be together with; the ways to them are halved."""
        while True:
            above = self._parent[numbers]
            further = self._parent[above]
            if np.array_equal(above, further):
                return above
            self._parent[numbers] = further
            numbers = further
