"""Weights for classes of uneven size: pure functions of counted pixels, and the map that brings them into every loss.

The first three give a float64 array of one weight per class. A class without any pixel gets the weight 0: there is
nothing to weigh.

N images, K classes, B batch, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.contracts import check_range
from pixelwise.task import Task

Weights = NDArray[np.float64]


def inverse_frequency(pixels_K: ArrayLike, *, power: float = 1.0) -> Weights:
    """1 / (pixels of the class)^power, scaled so that their mean over all pixels is 1.

    With power 1 every class has the same sum of weights: pixels / (classes × pixels of the class). Power 0.5 is the
    weighting of Wong et al. (MICCAI 2018, arXiv 1809.00076), power 0 none.

    >>> inverse_frequency([30, 10]).round(4).tolist()
    [0.6667, 2.0]
    """
    check_range("power", power, lowest=0)
    pixels_K = _counts(pixels_K)
    weights_K = _inverse(pixels_K) ** power * (pixels_K > 0)
    return _scaled(weights_K, pixels_K.sum() / (weights_K * pixels_K).sum())


def median_frequency(pixels_NK: ArrayLike, *, image_pixels_N: ArrayLike | None = None) -> Weights:
    """Median of the frequencies of all classes / frequency of the class.

    The frequency of a class is its pixels / all pixels of the images that it is in. From the pixels of each class in
    each image, and those of each image, which are the sum over the classes unless `image_pixels_N` is given (SegNet's
    weights for CamVid count the void ones as well). Eigen and Fergus, ICCV 2015, arXiv 1411.4734. Classes without
    pixels are left out of the median.

    >>> median_frequency([[3, 1, 0], [2, 0, 2]]).tolist()
    [0.8, 2.0, 1.0]
    """
    pixels_NK = _counts(pixels_NK, dimensions=2)
    sizes_N = pixels_NK.sum(axis=1) if image_pixels_N is None else _counts(image_pixels_N)
    if len(sizes_N) != len(pixels_NK) or (sizes_N < pixels_NK.sum(axis=1)).any():
        raise UsageError("image_pixels_N: give for every image at least as many pixels as its classes have together")
    frequency_K = pixels_NK.sum(axis=0) * _inverse(sizes_N @ (pixels_NK > 0))
    return _scaled(_inverse(frequency_K), np.median(frequency_K[frequency_K > 0]))


def effective_number(pixels_K: ArrayLike, *, beta: float = 0.9999) -> Weights:
    """(1 - beta) / (1 - beta^pixels), scaled so that they sum to the number of classes that have pixels.

    Cui, Jia, Lin, Song and Belongie, "Class-balanced loss based on effective number of samples", CVPR 2019, arXiv
    1901.05555. `beta`, from 0 to below 1: 0 weighs all classes alike; towards 1 the weights become those of
    the inverse frequency. Classes of many more than 1 / (1 - beta) pixels weigh alike.

    >>> effective_number([1, 1000000], beta=0.5).round(4).tolist()
    [1.3333, 0.6667]
    """
    check_range("beta", beta, lowest=0, highest=math.nextafter(1, 0))
    pixels_K = _counts(pixels_K)
    weights_K = _inverse(-np.expm1(pixels_K * math.log(beta)) if beta else np.minimum(pixels_K, 1))
    return _scaled(weights_K, (pixels_K > 0).sum() / weights_K.sum())


def weight_map(mask_BHW: Tensor, class_weights: Sequence[float] | Weights, task: Task) -> Tensor:
    """weight_BHW for the losses, float32: the weight of the class of each pixel, 0 where void.

    Of overlapping classes (mask_BKHW) a pixel has the largest weight of those that are there, and 1 where none is.
    Raises UsageError unless there is one finite weight from 0 for each class.

    >>> weight_map(torch.tensor([[[0, 1, 255]]]), [0.5, 2.0], Task.of(["a", "b"])).tolist()
    [[[0.5, 2.0, 0.0]]]
    """
    if len(class_weights) != task.outputs:
        raise UsageError(f"{len(class_weights)} class weights for {task.outputs} classes; give one for each class")
    for name, weight in zip(task.names, class_weights, strict=True):
        check_range(f"weight of class {name!r}", float(weight), lowest=0)
    present_BKHW, counts_BKHW = task.truth(mask_BHW)
    weights_K = torch.as_tensor(np.asarray(class_weights, np.float32), device=mask_BHW.device)
    if task.kind == "exclusive":
        return weights_K[mask_BHW.where(counts_BKHW[:, 0], 0).long()] * counts_BKHW[:, 0]
    largest_BHW = (weights_K.view(-1, 1, 1) * present_BKHW).amax(dim=1)
    return largest_BHW.where(present_BKHW.any(dim=1), 1.0) * counts_BKHW.any(dim=1)


def _counts(pixels: ArrayLike, *, dimensions: int = 1) -> NDArray[Any]:
    counted = np.asarray(pixels, np.float64)
    if counted.ndim != dimensions or not np.isfinite(counted).all() or (counted < 0).any() or not counted.any():
        raise UsageError(
            f"counts of pixels of shape {counted.shape}: give {dimensions} dimension(s) of whole numbers from 0, "
            "some above 0; count the masks of the training set"
        )
    return counted


def _inverse(values_K: NDArray[Any]) -> Weights:
    """1 / value, and 0 for 0."""
    inverse: Weights = np.divide(1.0, values_K, out=np.zeros_like(values_K), where=values_K > 0)
    return inverse


def _scaled(weights_K: Weights, factor: float) -> Weights:
    scaled: Weights = weights_K * factor
    return scaled
