"""The watershed from seeds, and cutting a mask at its necks.

The watershed floods a landscape from its seeds, level by level; on a level all shores advance one pixel at a time
(Beucher and Meyer: The morphological approach to segmentation: the watershed transformation. 1993, "hierarchical
queues"). So a pixel goes to a seed from which it can be reached over the lowest pass, and on a plain to the nearest.
No line is left between the objects.

What becomes of a connected piece of the mask (of what the flood may reach) depends on that piece alone: not on other
pieces, nor on where in the image it lies. So a piece may be cut out of an image of any size, with a margin of one
pixel, and is divided as in the whole.

H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pixelwise.postprocess.morphology import (
    Connectivity,
    Labels,
    Mask,
    check_map,
    connected_components,
    renumber,
)

Array = NDArray[Any]
Distances = NDArray[np.float32]


def watershed(height_HW: Array, seeds_HW: Array, allowed_HW: Array, *, connectivity: Connectivity = 4) -> Labels:
    """Flood a landscape from seeds: every allowed pixel that is connected to a seed gets the label of one.

    height_HW   whole numbers, best few different ones: each is a level of the flood
    seeds_HW    0, or the label of a seed; seeds keep their pixels
    allowed_HW  where the flood may go

    A pixel goes to a seed from which the highest pixel on the way is lowest, and of those to the one whose flood comes
    first. Of floods that come together, the one that comes from below wins, then from the right, the left, above, and
    then from the corners.

    >>> watershed(np.array([[0, 1, 9, 1, 0]]), np.array([[1, 0, 0, 0, 2]]), np.ones((1, 5), bool)).tolist()
    [[1, 1, 2, 2, 2]]
    """
    # A frame of forbidden pixels, so that neighbours in the flat arrays are neighbours in the image.
    width = height_HW.shape[1] + 2
    height, labels = (np.pad(map_HW, 1).ravel() for map_HW in (height_HW, seeds_HW.astype(np.int32)))
    free = np.pad((allowed_HW != 0) & (seeds_HW == 0), 1).ravel()
    steps = (-width, -1, 1, width) + ((-width - 1, -width + 1, width - 1, width + 1) if connectivity == 8 else ())

    # The front advances pixel by pixel; shores above the water wait until it has risen.
    waiting = _advance(labels, free, np.flatnonzero(labels), steps)
    while waiting.size:
        level = height[waiting].min()
        front, shores = waiting, []
        while front.size:
            flooded = height[front] <= level
            shores.append(front[~flooded])
            front = _advance(labels, free, front[flooded], steps)
        waiting = np.concatenate(shores)
    return labels.reshape(-1, width)[1:-1, 1:-1].copy()


def split_by_distance(mask_HW: Array, *, neck: float = 0.5, connectivity: Connectivity = 4) -> Labels:
    """Cut the pieces of a mask at their necks: two bulges part where the way between them is narrow.

    The height of a pixel is its distance to the background (the edge of the image is none). Two tops are of two
    objects where every way between them comes below `neck` times the lower top: 0 never cuts, 1 cuts at any dent. The
    rule compares a neck with the lesser bulge, so it needs no scale, and large and small objects may touch. For convex
    objects such as nuclei 0.7 to 0.8 is good.

    >>> mask = np.array([[1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1, 1]])
    >>> split_by_distance(np.pad(mask, 1), neck=0.8)[2].tolist()
    [0, 1, 1, 1, 2, 2, 2, 2, 0]
    """
    check_map(mask_HW, "mask")
    inside_HW = mask_HW != 0
    if inside_HW.all():
        return np.ones(mask_HW.shape, np.int32)  # no distance is defined
    # Exact to the last bit wherever the piece lies: OpenCV's distance is not, and a tie may hang on it.
    distance_HW: Distances = ndimage.distance_transform_edt(inside_HW).astype(np.float32)

    # One basin per local maximum, heights in half pixels; the numbers of the tops read row by row.
    tops_HW = inside_HW & (distance_HW == cv2.dilate(distance_HW, np.ones((3, 3), np.uint8)))
    seeds_HW = renumber(connected_components(tops_HW, connectivity=connectivity))
    height_HW = -np.rint(2 * distance_HW).astype(np.int32)
    basins_HW = watershed(height_HW, seeds_HW, inside_HW, connectivity=connectivity)
    return renumber(_merge_basins(distance_HW, basins_HW, neck, connectivity))


def _advance(labels: Labels, free: Mask, front: NDArray[np.intp], steps: tuple[int, ...]) -> NDArray[np.intp]:
    """Give each free neighbour of the front its label; returns the neighbours, direction by direction."""
    reached = []
    for step in steps:
        ahead = front + step
        taken = free[ahead]
        pixels = ahead[taken]
        labels[pixels] = labels[front[taken]]
        free[pixels] = False
        reached.append(pixels)
    return np.concatenate(reached)


def _merge_basins(distance_HW: Distances, basins_HW: Labels, neck: float, connectivity: Connectivity) -> Labels:
    """Join basins over their passes, highest first, where a pass is not below `neck` times the lower top."""
    count = int(basins_HW.max())
    if not count:
        return basins_HW
    heights = np.zeros(count + 1, np.float32)
    np.maximum.at(heights, basins_HW, distance_HW)
    tops, owner = heights.tolist(), list(range(count + 1))
    for height, first, second in _passes(distance_HW, basins_HW, connectivity):
        one, other = sorted((_root(owner, first), _root(owner, second)))
        if one != other and height >= neck * min(tops[one], tops[other]):
            owner[other] = one
            tops[one] = max(tops[one], tops[other])
    return np.array([_root(owner, basin) for basin in range(count + 1)], np.int32)[basins_HW]


def _passes(distance_HW: Distances, basins_HW: Labels, connectivity: Connectivity) -> list[tuple[float, int, int]]:
    """The highest pass between every two basins that touch, highest first, then by number."""
    rows, columns = basins_HW.shape
    found = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))[: 2 if connectivity == 4 else 4]:
        here = np.s_[: rows - down, max(0, -right) : columns - max(0, right)]
        there = np.s_[down:, max(0, right) : columns + min(0, right)]
        meet = (basins_HW[here] != basins_HW[there]) & (basins_HW[here] > 0) & (basins_HW[there] > 0)
        pair = np.sort(np.stack([basins_HW[here][meet], basins_HW[there][meet]]), axis=0)
        found.append((np.minimum(distance_HW[here][meet], distance_HW[there][meet]), *pair))
    heights, firsts, seconds = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((seconds, firsts, -heights))
    passes: dict[tuple[int, int], float] = {}
    for height, first, second in zip(*(part[order].tolist() for part in (heights, firsts, seconds)), strict=True):
        passes.setdefault((first, second), height)
    return [(height, first, second) for (first, second), height in passes.items()]


def _root(owner: list[int], basin: int) -> int:
    """The basin that a basin was joined to in the end."""
    while owner[basin] != basin:
        owner[basin] = owner[owner[basin]]
        basin = owner[basin]
    return basin
