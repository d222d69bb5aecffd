"""The weight map of the U-Net, which makes a network learn the narrow gaps between cells.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015, arXiv
1505.04597, equation 2 and figure 3: a map that glows where the background is squeezed between two cells. The weight of
a pixel in the loss is w = w_c + border, with w_c the weight of its class and

    border = w0 exp(-(d1 + d2)^2 / (2 sigma^2))

where d1 and d2 are the distances to the nearest and to the second nearest cell.

H rows, W columns.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pixelwise.errors import UsageError

REACH = 6.0  # in sigma: exp(-18) is less than 2e-8


def border_weights(
    instances_HW: NDArray[np.integer[Any]], *, weight: float = 10.0, sigma: float = 5.0
) -> NDArray[np.float32]:
    """The border term of each background pixel, from 0 to `weight` (w0 of the paper); 0 on cells.

    `instances_HW` has a number above 0 for each cell, and background elsewhere. Distances are Euclidean, in pixels,
    between the centres of pixels; `sigma` is in pixels. With fewer than two cells all is 0, and so is what is further
    than 6 sigma from the second nearest cell. Raises UsageError for what is no label image, a weight below 0 and a
    sigma of 0 or less.

    The distances to a cell are computed within that reach of its bounding box only, so that the time grows with the
    pixels and not with the pixels times the cells.

    >>> border_weights(np.array([[1, 1, 0, 0, 0, 2, 2]])).round(3)
    array([[0.   , 0.   , 7.261, 7.261, 7.261, 0.   , 0.   ]], dtype=float32)
    """
    if instances_HW.ndim != 2 or instances_HW.dtype.kind not in "iu":
        raise UsageError(f"a label image has two axes and whole numbers, not {instances_HW.shape} {instances_HW.dtype}")
    if not (0 <= weight < math.inf and 0 < sigma < math.inf):
        raise UsageError(f"border weight {weight} with sigma {sigma}: give a weight of 0 or more, and a sigma above 0")
    nearest_HW, second_HW = two_distances(instances_HW, reach=math.ceil(REACH * sigma))
    border_HW = np.float32(weight) * np.exp(np.square(nearest_HW + second_HW) / np.float32(-2 * sigma**2))
    return np.where(instances_HW > 0, np.float32(0), border_HW)


def two_distances(
    instances_HW: NDArray[np.integer[Any]], *, reach: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The distances of each pixel to the nearest and to the second nearest object, pixels; infinite beyond `reach`.

    Both are exact up to `reach`, and some beyond it are given too.

    >>> nearest_HW, second_HW = two_distances(np.array([[7, 0, 0, 0, 5]]), reach=3)
    >>> nearest_HW.tolist(), second_HW.tolist()
    ([[0.0, 1.0, 2.0, 1.0, 0.0]], [[inf, 3.0, 2.0, 3.0, inf]])
    """
    nearest_HW = np.full(instances_HW.shape, np.inf, np.float32)
    second_HW = nearest_HW.copy()
    numbered_HW = _numbered(instances_HW)
    for number, box in enumerate(ndimage.find_objects(numbered_HW), start=1):
        if box is None:
            continue
        around = _grown(box, reach)
        elsewhere = (numbered_HW[around] != number).astype(np.uint8)
        distance = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        nearest, second = nearest_HW[around], second_HW[around]
        np.minimum(second, np.maximum(nearest, distance), out=second)
        np.minimum(nearest, distance, out=nearest)
    return nearest_HW, second_HW


def _numbered(instances_HW: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """The same objects, numbered from 1 if their numbers are larger than there are pixels."""
    if instances_HW.max(initial=0) > instances_HW.size:
        numbers, inverse = np.unique(instances_HW, return_inverse=True)
        instances_HW = inverse.reshape(instances_HW.shape) + 1 - np.count_nonzero(numbers <= 0)
    numbered_HW: NDArray[np.int32] = np.maximum(instances_HW, 0).astype(np.int32)
    return numbered_HW


def _grown(box: tuple[slice, ...], reach: int) -> tuple[slice, ...]:
    return tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
