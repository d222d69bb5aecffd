"""Pieces that hold several objects: those of a core, and those that lie across cores, divided as the whole image is.

    divide   each core   its closed pieces, and the joined pieces that it owns
    write    each core   the objects of the core

A joined piece is divided with all the background around it, so the box around it must fit into memory, with a pixel
more on each side. Boxes that reach at most a quarter of a core over the side are divided together with the core.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.inference.parts import Merge
from pixelwise.inference.pieces import outer_lines, whole_objects
from pixelwise.inference.regions import Regions, box_of, pack_regions, regions_of, unpack_regions
from pixelwise.postprocess.morphology import Labels
from pixelwise.tiles import Window

Array = NDArray[Any]
MEMORY_PER_PIXEL = 64
"""Bytes that dividing takes per pixel of a window, measured; noise that is cut at its necks may take 220."""


@dataclass(frozen=True, slots=True)
class Divided:
    """The objects, from 1, of the closed pieces of a window of an image of `shape`."""

    window: Window
    shape: tuple[int, int]
    objects_HW: Labels
    pieces_HW: Labels
    regions: Regions

    def closed_within(self, core: Window) -> NDArray[np.bool_]:
        """Which objects are of pieces that are closed in a core, too."""
        rows, columns = np.divmod(self.regions["first"], self.shape[1])
        inside = (rows >= core.top) & (rows < core.bottom) & (columns >= core.left) & (columns < core.right)
        lines = outer_lines(self.pieces_HW[core.within(self.window).slices], core, self.shape)
        return inside & ~np.isin(self._pieces_at(self.regions["first"]), np.concatenate([*lines, [0]]))

    def of_pieces(self, pieces: Regions) -> NDArray[np.bool_]:
        """Which objects are of these pieces of foreground."""
        return np.isin(self._pieces_at(self.regions["first"]), self._pieces_at(pieces["first"]))

    def drawn(self, chosen: NDArray[np.bool_], after: int = 0) -> NDArray[np.uint32]:
        """A map of the chosen objects alone, numbered from `after` + 1."""
        numbers = np.where(chosen, after + np.cumsum(chosen), 0)
        drawn_HW: NDArray[np.uint32] = np.append(0, numbers).astype(np.uint32)[self.objects_HW]
        return drawn_HW

    def _pieces_at(self, first: Array) -> Array:
        """The pieces at pixels of the image. The first pixel of an object is its own, never one of its holes."""
        rows, columns = np.divmod(first, self.shape[1])
        pieces: Array = self.pieces_HW[rows - self.window.top, columns - self.window.left]
        return pieces


def divide_pieces(merge: Merge, index: int) -> None:
    """Divide the closed pieces of a core, and the joined pieces that it owns, into objects."""
    core, owned = merge.grid.window(index), unpack_regions(merge.load("join", index)["owned"])
    near, far = _near_and_far(owned, core.grown(-(-merge.grid.core // 4), merge.grid.shape))

    # The closed pieces.
    divided = _divide(merge, [core, *map(box_of, near)])
    closed = divided.closed_within(core)
    merge.save("objects", index, {"objects": divided.drawn(closed)[core.within(divided.window).slices]})
    regions = [divided.regions[closed]]

    # The joined pieces, each cut out with its box.
    boxes, crops = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.uint32)]
    for pieces in (near, *far.reshape(-1, 1)):
        if pieces is not near:
            divided = _divide(merge, [box_of(piece) for piece in pieces])
        joined = divided.of_pieces(pieces)
        drawn_HW = divided.drawn(joined, after=sum(map(len, regions)))
        crops += [drawn_HW[box_of(piece).within(divided.window).slices].ravel() for piece in pieces]
        boxes += [np.array([astuple(box_of(piece))]) for piece in pieces]
        regions.append(divided.regions[joined])
    merge.save("crops", index, {"boxes": np.concatenate(boxes), "pixels": np.concatenate(crops)})
    everything = np.concatenate(regions)
    merge.save("regions", index, {"regions": pack_regions(everything), "first": everything["first"]})


def write_crops(merge: Merge, index: int) -> None:
    """Write the objects of a core: those of its own pieces, and of the joined pieces that lie in it."""
    window = merge.grid.window(index)
    labels_HW = merge.load("objects", index)["objects"]
    objects_HW = _numbers_from_0(merge, index)[labels_HW]
    for owner in merge.load("join", index)["owners"].tolist():
        numbers = _numbers_from_0(merge, owner)
        for box, crop_HW in _crops(merge, owner):
            shared = box.overlap(window)
            if shared is not None:
                seen_HW = numbers[crop_HW[shared.within(box).slices]]
                here_HW = objects_HW[shared.within(window).slices]
                np.copyto(here_HW, seen_HW, where=seen_HW > 0)
    merge.store.write_objects(index, objects_HW)


def _near_and_far(owned: Regions, reach: Window) -> tuple[Regions, Regions]:
    """The pieces whose boxes lie within reach, and the others."""
    down = (owned["top"] >= reach.top) & (owned["bottom"] <= reach.bottom)
    across = (owned["left"] >= reach.left) & (owned["right"] <= reach.right)
    return owned[down & across], owned[~(down & across)]


def _divide(merge: Merge, boxes: list[Window]) -> Divided:
    """The objects of the pieces within some boxes, and of others that are seen whole beside them."""
    shape = merge.grid.shape
    tops, lefts, bottoms, rights = zip(*map(astuple, boxes), strict=True)
    window = Window(min(tops), min(lefts), max(bottoms), max(rights)).grown(1, shape)
    objects_HW, pieces_HW = whole_objects(merge.store.read_evidence(window), window, shape, merge.settings)
    regions = regions_of(objects_HW, window, shape[1])
    return Divided(window, shape, objects_HW, pieces_HW, regions)


def _numbers_from_0(merge: Merge, index: int) -> NDArray[np.uint64]:
    """The final numbers of the objects of a core, behind a 0 for the background."""
    numbers: NDArray[np.uint64] = np.append(np.uint64(0), merge.load("number", index)["numbers"])
    return numbers


def _crops(merge: Merge, owner: int) -> Iterator[tuple[Window, Array]]:
    """The boxes of the joined pieces of an owner, and their objects."""
    part, begin = merge.load("crops", owner), 0
    for top, left, bottom, right in part["boxes"].tolist():
        box = Window(top, left, bottom, right)
        end = begin + (bottom - top) * (right - left)
        yield box, part["pixels"][begin:end].reshape(box.shape)
        begin = end
