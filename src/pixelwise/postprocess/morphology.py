"""Cleaning up masks and label images: holes, specks, pieces, opening and closing.

A mask is true where the object is. A label image (int32) is 0 on the background and a number from 1 on each object.
Connectivity 4 joins pixels that share a side, 8 also those that share a corner. The background has the other one: a
hole of 4-connected objects is an 8-connected piece of background, so that it cannot leak through a corner.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pixelwise.errors import DataError, UsageError

Connectivity = Literal[4, 8]
Array = NDArray[Any]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]
CONNECTIVITIES = (4, 8)
LARGEST_RADIUS = 1000
LARGEST_LABEL = (1 << 24) - 1


def connected_components(mask_HW: Array, *, connectivity: Connectivity = 4) -> Labels:
    """The connected pieces of a mask, numbered from 1; every pixel that is not 0 belongs to one.

    >>> connected_components(np.array([[1, 0], [0, 1]])).max(), connected_components(np.eye(2), connectivity=8).max()
    (np.int32(2), np.int32(1))
    """
    check_connectivity(connectivity)
    check_map(mask_HW, "mask")
    labels_HW: Labels = cv2.connectedComponents((mask_HW != 0).view(np.uint8), connectivity=connectivity)[1]
    return labels_HW


def pieces(labels_HW: Array, *, connectivity: Connectivity = 4) -> Labels:
    """The connected pieces of every object of a label image, numbered from 1 in the order of the objects.

    >>> pieces(np.array([[2, 2, 1, 2]])).tolist()
    [[2, 2, 1, 3]]
    """
    check_connectivity(connectivity)
    pieces_HW, total = np.zeros(labels_HW.shape, np.int32), 0
    for label, box in objects(labels_HW):
        parts = connected_components(labels_HW[box] == label, connectivity=connectivity)
        pieces_HW[box] += np.where(parts > 0, parts + total, 0).astype(np.int32)
        total += int(parts.max())
    return pieces_HW


def objects(labels_HW: Array) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Every label of a label image, in ascending order, with the box of rows and columns around it."""
    check_labels(labels_HW)
    for label, box in enumerate(ndimage.find_objects(labels_HW), start=1):
        if box is not None:
            yield label, box


def renumber(labels_HW: Array) -> Labels:
    """The same objects with the numbers 1, 2, 3, …, in the order in which reading row by row meets them.

    >>> renumber(np.array([[0, 9, 9], [4, 0, 9]])).tolist()
    [[0, 1, 1], [2, 0, 1]]
    """
    check_labels(labels_HW)
    flat = labels_HW.ravel()
    first = np.full(int(flat.max()) + 1, flat.size, np.int64)
    first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)  # the last of equal indices is kept: the first pixel

    # Labels that do not occur, and the background, get no number.
    first[0] = flat.size
    order = np.argsort(first, kind="stable")[: np.count_nonzero(first < flat.size)]
    numbers = np.zeros(first.size, np.int32)
    numbers[order] = np.arange(1, order.size + 1)
    return numbers[labels_HW]


def fill_holes(mask_HW: Array, *, connectivity: Connectivity = 4) -> Mask:
    """The mask with every piece of background filled that it encloses and that does not reach the image's edge.

    >>> fill_holes(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])).all()
    np.True_
    """
    return fill_object_holes((mask_HW != 0).astype(np.int32), connectivity=connectivity) > 0


def fill_object_holes(labels_HW: Array, *, connectivity: Connectivity = 4) -> Labels:
    """The label image with every piece of background filled that one object alone encloses.

    A gap between several objects, or between an object and another inside it, stays background, and so does what
    reaches the image's edge.

    >>> fill_object_holes(np.array([[5, 5, 5, 7, 7], [5, 0, 5, 0, 7], [5, 5, 5, 7, 7]])).tolist()
    [[5, 5, 5, 7, 7], [5, 5, 5, 0, 7], [5, 5, 5, 7, 7]]
    """
    check_labels(labels_HW)
    regions_HW = connected_components(labels_HW == 0, connectivity=4 if connectivity == 8 else 8)
    lowest, highest = _surroundings(labels_HW.astype(np.int32), regions_HW)
    filling = np.where((lowest == highest) & (lowest > 0), lowest, 0).astype(np.int32)
    filling[0] = 0  # the objects themselves
    return labels_HW.astype(np.int32) + filling[regions_HW]


def remove_small(mask_HW: Array, smallest: int, *, connectivity: Connectivity = 4) -> Mask:
    """The mask without its connected pieces of fewer than `smallest` pixels."""
    return remove_small_objects(connected_components(mask_HW, connectivity=connectivity), smallest) > 0


def remove_small_objects(labels_HW: Array, smallest: int) -> Labels:
    """The label image without the objects of fewer than `smallest` pixels; the others keep their numbers.

    >>> remove_small_objects(np.array([[1, 0, 2, 2]]), 2).tolist()
    [[0, 0, 2, 2]]
    """
    check_labels(labels_HW)
    areas = np.bincount(labels_HW.ravel())
    return np.where(areas < smallest, 0, np.arange(areas.size)).astype(np.int32)[labels_HW]


def keep_largest(mask_HW: Array, *, connectivity: Connectivity = 4) -> Mask:
    """The largest connected piece of a mask; of equals, the one that reading row by row meets first.

    >>> keep_largest(np.array([[1, 0, 1, 1]])).tolist()
    [[False, False, True, True]]
    """
    parts_HW = renumber(connected_components(mask_HW, connectivity=connectivity))
    areas = np.bincount(parts_HW.ravel())
    return (parts_HW > 0) & (parts_HW == 1 + areas[1:].argmax() if areas.size > 1 else False)


def keep_largest_pieces(labels_HW: Array, *, connectivity: Connectivity = 4) -> Labels:
    """The largest connected piece of every object; of equals, the one that reading row by row meets first."""
    kept_HW = np.zeros(labels_HW.shape, np.int32)
    for label, box in objects(labels_HW):
        kept_HW[box][keep_largest(labels_HW[box] == label, connectivity=connectivity)] = label
    return kept_HW


def opening(mask_HW: Array, radius: int) -> Mask:
    """Where a disc of the given radius in pixels fits into the mask: spurs and specks go.

    Beyond the image's edge the mask counts as going on.

    >>> opening(np.array([[0, 0, 0, 1], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]), 1)[0].any()
    np.False_
    """
    return _morphology(mask_HW, cv2.MORPH_OPEN, radius)


def closing(mask_HW: Array, radius: int) -> Mask:
    """Fill where no disc of the given radius in pixels fits into the background: cracks and pinholes go.

    Beyond the image's edge the background counts as going on.

    >>> closing(np.array([[1, 1, 0, 1, 1]] * 3), 1).all()
    np.True_
    """
    return _morphology(mask_HW, cv2.MORPH_CLOSE, radius)


def open_objects(labels_HW: Array, radius: int) -> Labels:
    """The opening of every object by itself; the pixels that it loses become background."""
    opened_HW = np.zeros(labels_HW.shape, np.int32)
    for label, box in objects(labels_HW):
        outer = _widened(box, radius, labels_HW.shape)
        opened_HW[outer][opening(labels_HW[outer] == label, radius)] = label
    return opened_HW


def close_objects(labels_HW: Array, radius: int) -> Labels:
    """The closing of every object by itself, over background alone; a pixel that two claim goes to the lower number."""
    closed_HW = labels_HW.astype(np.int32)
    for label, box in objects(labels_HW):
        outer = _widened(box, 2 * radius, labels_HW.shape)
        claimed = closing(labels_HW[outer] == label, radius) & (closed_HW[outer] == 0)
        closed_HW[outer][claimed] = label
    return closed_HW


def check_connectivity(connectivity: int) -> None:
    """Refuse a connectivity other than 4 and 8."""
    if type(connectivity) is not int or connectivity not in CONNECTIVITIES:
        raise UsageError(f"connectivity = {connectivity}: choose 4 (pixels that share a side) or 8 (or a corner)")


def check_map(map_HW: Array, what: str) -> None:
    """Refuse what does not have rows and columns and at least one pixel."""
    if map_HW.ndim != 2 or not map_HW.size:
        raise DataError(f"{what} of shape {map_HW.shape}: give rows × columns, at least 1 × 1")


def check_labels(labels_HW: Array) -> None:
    """Refuse what is not a label image: whole numbers from 0 to 16,777,215 (tables by label stay small)."""
    check_map(labels_HW, "label image")
    if labels_HW.dtype.kind not in "ui":
        raise DataError(f"label image of type {labels_HW.dtype}: objects are whole numbers, 0 is background")
    if labels_HW.min() < 0 or labels_HW.max() > LARGEST_LABEL:
        raise DataError(
            f"label image with values {labels_HW.min()} to {labels_HW.max()}; rule: 0 to {LARGEST_LABEL}; "
            "set void to 0 and number the objects from 1"
        )


def _surroundings(labels_HW: Labels, regions_HW: Labels) -> tuple[Labels, Labels]:
    """The lowest and the highest label beside each region of background; -1 is beyond the image's edge."""
    lowest = np.full(int(regions_HW.max()) + 1, np.iinfo(np.int32).max, np.int32)
    highest = np.full(lowest.size, -1, np.int32)
    around_HW = np.pad(labels_HW, 1, constant_values=-1)
    height, width = labels_HW.shape
    for top, left in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside_HW = around_HW[top : top + height, left : left + width]
        edge_HW = (regions_HW > 0) & (beside_HW != 0)
        np.minimum.at(lowest, regions_HW[edge_HW], beside_HW[edge_HW])
        np.maximum.at(highest, regions_HW[edge_HW], beside_HW[edge_HW])
    return lowest, highest


def _morphology(mask_HW: Array, operation: int, radius: int) -> Mask:
    check_map(mask_HW, "mask")
    if not 0 <= radius <= LARGEST_RADIUS:
        raise UsageError(f"radius = {radius}: choose 0 to {LARGEST_RADIUS} pixels")
    steps = np.arange(-radius, radius + 1)
    disc = (steps[:, None] ** 2 + steps**2 <= radius**2).view(np.uint8)
    result: Array = cv2.morphologyEx((mask_HW != 0).view(np.uint8), operation, disc)
    return result > 0


def _widened(box: tuple[slice, slice], margin: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The box with a margin, as far as the image goes."""
    rows, columns = (
        slice(max(0, side.start - margin), min(length, side.stop + margin))
        for side, length in zip(box, shape, strict=True)
    )
    return rows, columns
