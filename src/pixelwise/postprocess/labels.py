"""Semantic, instance and panoptic segmentation: one into the other, and back where nothing was lost.

mask_HW        semantic: the class of each pixel, or `ignore_index` for void
instances_HW   the object of each pixel, int32 from 1; 0 where there is none (stuff, background, void)
panoptic_HW    both in one number: class × 1000 + object (Kirillov et al.: Panoptic segmentation. CVPR 2019, arXiv
               1801.00868). Void is ignore_index × 1000. It is turned back exactly
COCO           a panoptic picture holds the number as a colour: red + 256 green + 256² blue
Cityscapes     `instanceIds`: class × 1000 + object, objects of a class from 0; the class alone where there is no object

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError
from pixelwise.postprocess.morphology import (
    LARGEST_LABEL,
    Connectivity,
    Labels,
    check_labels,
    check_map,
    connected_components,
    objects,
    renumber,
)

Array = NDArray[Any]
DIVISOR = 1000


def split_classes(mask_HW: Array, things: Sequence[int], *, connectivity: Connectivity = 4) -> Labels:
    """Semantic to instances: each connected piece of a class of `things` is an object, numbered in reading order.

    >>> split_classes(np.array([[1, 0, 1, 2, 2]]), things=[1, 2]).tolist()
    [[1, 0, 2, 3, 3]]
    """
    check_map(mask_HW, "mask")
    instances_HW, total = np.zeros(mask_HW.shape, np.int32), 0
    for thing in sorted(set(things)):
        parts_HW = connected_components(mask_HW == thing, connectivity=connectivity)
        instances_HW += np.where(parts_HW > 0, parts_HW + total, 0).astype(np.int32)
        total += int(parts_HW.max())
    return renumber(instances_HW)


def classes_of_instances(mask_HW: Array, instances_HW: Array) -> dict[int, int]:
    """The class of each object; raises DataError where an object has pixels of two.

    >>> classes_of_instances(np.array([[7, 7, 0, 3]]), np.array([[1, 1, 0, 2]]))
    {1: 7, 2: 3}
    """
    _check_pair(mask_HW, instances_HW)
    classes = {}
    for label, box in objects(instances_HW):
        found = np.unique(mask_HW[box][instances_HW[box] == label]).tolist()
        if len(found) > 1:
            raise DataError(f"object {label} has pixels of the classes {found[:5]}; an object is of one class")
        classes[label] = found[0]
    return classes


def paint_classes(instances_HW: Array, classes: Mapping[int, int], *, background: int = 0) -> NDArray[np.int32]:
    """Instances to semantic: each object gets its class, all else `background`.

    >>> paint_classes(np.array([[1, 0, 2]]), {1: 7, 2: 3}).tolist()
    [[7, 0, 3]]
    """
    check_labels(instances_HW)
    painted = np.full(int(instances_HW.max()) + 1, background, np.int32)
    for label, _ in objects(instances_HW):
        if label not in classes:
            raise DataError(f"object {label} has no class; give the class of each of the {painted.size - 1} objects")
        painted[label] = classes[label]
    return painted[instances_HW]


def number_within_classes(mask_HW: Array, instances_HW: Array) -> Labels:
    """The same objects numbered 1, 2, … within each class, in reading order, so that few numbers suffice.

    >>> number_within_classes(np.array([[1, 2, 1]]), np.array([[4, 5, 6]])).tolist()
    [[1, 1, 2]]
    """
    ordered_HW = renumber(instances_HW)
    numbers, met = [0], dict[int, int]()
    for class_index in classes_of_instances(mask_HW, ordered_HW).values():
        met[class_index] = met.get(class_index, 0) + 1
        numbers.append(met[class_index])
    return np.array(numbers, np.int32)[ordered_HW]


def to_panoptic(mask_HW: Array, instances_HW: Array) -> NDArray[np.int32]:
    """One number per pixel, class × 1000 + object. Void pixels keep their ignore index as their class.

    Raises DataError for objects from 1000 on: number them with `number_within_classes`.

    >>> to_panoptic(np.array([[0, 3, 255]]), np.array([[0, 2, 0]])).tolist()
    [[0, 3002, 255000]]
    """
    _check_pair(mask_HW, instances_HW)
    _check_numbers(instances_HW, DIVISOR - 1)
    return mask_HW.astype(np.int32) * DIVISOR + instances_HW.astype(np.int32)


def from_panoptic(panoptic_HW: Array) -> tuple[NDArray[np.int32], Labels]:
    """The mask and the instances that `to_panoptic` put together.

    >>> mask_HW, instances_HW = from_panoptic(np.array([[0, 3002, 255000]]))
    >>> mask_HW.tolist(), instances_HW.tolist()
    ([[0, 3, 255]], [[0, 2, 0]])
    """
    check_map(panoptic_HW, "panoptic map")
    mask_HW, instances_HW = np.divmod(panoptic_HW.astype(np.int32), DIVISOR)
    return mask_HW, instances_HW


def panoptic_to_rgb(panoptic_HW: Array) -> NDArray[np.uint8]:
    """COCO's picture of panoptic numbers, (H, W, 3): red + 256 green + 256² blue.

    >>> panoptic_to_rgb(np.array([[66051]])).tolist()
    [[[3, 2, 1]]]
    """
    check_map(panoptic_HW, "panoptic map")
    if panoptic_HW.min() < 0 or panoptic_HW.max() > LARGEST_LABEL:
        raise DataError(
            f"panoptic numbers {panoptic_HW.min()} to {panoptic_HW.max()}: a colour holds 0 to {LARGEST_LABEL}; "
            "use an ignore index from 0 to 16776"
        )
    return np.stack([panoptic_HW >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)


def rgb_to_panoptic(picture_HWC: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The panoptic numbers of COCO's picture (H, W, 3).

    >>> rgb_to_panoptic(np.array([[[3, 2, 1]]], np.uint8)).tolist()
    [[66051]]
    """
    if picture_HWC.ndim != 3 or picture_HWC.shape[2] != 3 or picture_HWC.dtype != np.uint8:
        raise DataError(f"picture of shape {picture_HWC.shape} and type {picture_HWC.dtype}: give 8-bit RGB")
    panoptic_HW: NDArray[np.int32] = picture_HWC.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    return panoptic_HW


def to_cityscapes(mask_HW: Array, instances_HW: Array) -> NDArray[np.int32]:
    """Cityscapes' instanceIds: class × 1000 + object, objects of each class from 0; the class where there is no object.

    mask_HW holds the classes as Cityscapes numbers them (labelIds), 0 to 999. Objects are numbered in reading order.
    Raises DataError where an object is of class 0, which the numbers could not tell from a class.

    >>> to_cityscapes(np.array([[7, 26, 24, 26]]), np.array([[0, 5, 6, 7]])).tolist()
    [[7, 26000, 24000, 26001]]
    """
    _check_pair(mask_HW, instances_HW)
    if mask_HW.min() < 0 or mask_HW.max() >= DIVISOR:
        raise DataError(f"classes {mask_HW.min()} to {mask_HW.max()}: Cityscapes numbers hold 0 to {DIVISOR - 1}")
    numbers_HW = number_within_classes(mask_HW, instances_HW)
    _check_numbers(numbers_HW, DIVISOR)
    if (mask_HW[numbers_HW > 0] == 0).any():
        raise DataError("an object of class 0 has no number of Cityscapes; use the classes 1 to 999 for objects")
    classes_HW = mask_HW.astype(np.int32)
    return np.where(numbers_HW > 0, classes_HW * DIVISOR + numbers_HW - 1, classes_HW)


def from_cityscapes(ids_HW: Array) -> tuple[NDArray[np.int32], Labels]:
    """The mask (labelIds) and the instances, numbered in reading order, of Cityscapes' instanceIds.

    >>> mask_HW, instances_HW = from_cityscapes(np.array([[7, 26000, 24000, 26001]]))
    >>> mask_HW.tolist(), instances_HW.tolist()
    ([[7, 26, 24, 26]], [[0, 1, 2, 3]])
    """
    check_labels(ids_HW)
    ids_HW = ids_HW.astype(np.int32)
    has_object = ids_HW >= DIVISOR
    return np.where(has_object, ids_HW // DIVISOR, ids_HW), renumber(np.where(has_object, ids_HW, 0))


def _check_pair(mask_HW: Array, instances_HW: Array) -> None:
    check_labels(instances_HW)
    if mask_HW.shape != instances_HW.shape or mask_HW.dtype.kind not in "ui":
        raise DataError(
            f"a mask of shape {mask_HW.shape} and type {mask_HW.dtype} with instances of shape {instances_HW.shape}: "
            "give whole numbers of the same image"
        )


def _check_numbers(instances_HW: Array, largest: int) -> None:
    if instances_HW.max() > largest:
        raise DataError(
            f"object {instances_HW.max()}: class × {DIVISOR} + object holds at most {largest} objects of a class; "
            "number_within_classes gives the lowest numbers"
        )
