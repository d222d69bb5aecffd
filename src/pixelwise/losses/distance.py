"""Losses that weigh a pixel by its distance to a boundary, of the truth or of the prediction.

Distances are Euclidean, in pixels, computed on the processor for each image and class, and no gradient flows through
them. Void is neither inside nor outside a class: boundaries run between pixels that count.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixelwise.losses.contracts import check_range, mean_over_entries, mean_over_pixels, target_of
from pixelwise.losses.cross_entropy import entropies
from pixelwise.task import Task

Array = NDArray[Any]


def distance_cross_entropy(
    logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None, *, penalty: float = 1.0
) -> Tensor:
    """Cross-entropy whose terms are multiplied by 1 + penalty × nearness to the boundary of the class.

    Caliva et al., "Distance map loss penalty term for semantic segmentation", MIDL 2019, arXiv 1908.03679 (`penalty`
    1). Nearness is 1 - distance / the largest distance on that side of the boundary, in that image: almost 1 beside it,
    0 where it is farthest. It is 0 where a class fills an image or is absent.
    """
    check_range("penalty", penalty, lowest=0)
    target = target_of(mask_BHW, task, weight_BHW)
    nearness_BKHW = _per_map(_nearness, target.present_BKHW, target.counts_BKHW).to(logits_BKHW.device)
    return mean_over_pixels(entropies(logits_BKHW, target, task) * (1 + penalty * nearness_BKHW), target)


def hausdorff_distance_loss(
    logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None, *, alpha: float = 2.0
) -> Tensor:
    """Mean over pixels and classes of (score - truth)² (d_truth^alpha + d_prediction^alpha).

    Karimi and Salcudean, "Reducing the Hausdorff distance in medical image segmentation with convolutional neural
    networks", TMI 2019, arXiv 1904.10030: the form by distance transforms, with their alpha 2. d is the distance of a
    pixel to the boundary of the class in the mask, and in the prediction after `task.decide`. Where a class is absent
    or fills the image, its boundary may be just outside: d is then the distance to the edge of the image. In pixels
    squared, so the value is large; the paper adds a Dice loss of the same size: `0.01*hausdorff+dice`.
    """
    check_range("alpha", alpha, lowest=0)
    target = target_of(mask_BHW, task, weight_BHW)
    scores_BKHW = task.activate(logits_BKHW)
    predicted_BKHW, _ = task.truth(task.decide(scores_BKHW.detach()).long())
    distances = (
        _per_map(distance_to_boundary, present_BKHW, target.counts_BKHW).to(scores_BKHW.device).pow(alpha)
        for present_BKHW in (target.present_BKHW, predicted_BKHW)
    )
    errors_BKHW = (scores_BKHW - target.present_BKHW.float()).square()
    return mean_over_entries(errors_BKHW * sum(distances), target)


def shape_aware(
    logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None, *, factor: float = 1.0
) -> Tensor:
    """Cross-entropy whose terms are multiplied by 1 + factor × E where the class is decided wrongly.

    Al Arif, Knapp and Slabaugh, "Shape-aware deep convolutional neural network for vertebrae segmentation", MSKI 2017
    (`factor` 1); in the survey of Jadon (CIBCB 2020). E, of each class and image, is the mean distance in pixels from
    the predicted outline to the true one, 0 where they agree. An absent class has the edge of the image for an outline.
    """
    check_range("factor", factor, lowest=0)
    target = target_of(mask_BHW, task, weight_BHW)
    predicted_BKHW, _ = task.truth(task.decide(task.activate(logits_BKHW.detach())).long())
    true_BKHW, guessed_BKHW = (
        _per_map(distance_to_boundary, present_BKHW, target.counts_BKHW).to(logits_BKHW.device)
        for present_BKHW in (target.present_BKHW, predicted_BKHW)
    )
    # Beside a boundary the distance is 1 on both sides, so an outline that is right is 1 from the true one.
    outline_BKHW = (guessed_BKHW > 0) & (guessed_BKHW <= 1)
    apart_BK11 = ((true_BKHW - 1) * outline_BKHW).sum((2, 3), keepdim=True)
    apart_BK11 = apart_BK11 / outline_BKHW.sum((2, 3), keepdim=True).clamp(min=1)
    wrong_BKHW = predicted_BKHW != target.present_BKHW
    return mean_over_pixels(entropies(logits_BKHW, target, task) * (1 + factor * apart_BK11 * wrong_BKHW), target)


def distance_to_boundary(inside_HW: Array, outside_HW: Array) -> Array:
    """Distance of each pixel to the nearest one on the other side, in pixels; 0 where neither inside nor outside.

    Where one side has no pixel, it is the distance to the nearest pixel outside the image.

    >>> distance_to_boundary(np.array([[True, True, False]]), np.array([[False, False, True]])).tolist()
    [[2.0, 1.0, 1.0]]
    """
    if inside_HW.any() and outside_HW.any():
        to_outside_HW, to_inside_HW = _distance_to(outside_HW), _distance_to(inside_HW)
        distance_HW = np.where(inside_HW, to_outside_HW, to_inside_HW)
    else:
        rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1 for n in inside_HW.shape)
        distance_HW = np.minimum(rows[:, None], columns).astype(np.float32)
    counted: Array = distance_HW * (inside_HW | outside_HW)
    return counted


def _nearness(inside_HW: Array, outside_HW: Array) -> Array:
    """1 - distance to the boundary / the largest on that side; 0 where there is no boundary."""
    if not (inside_HW.any() and outside_HW.any()):
        return np.zeros(inside_HW.shape, np.float32)
    distance_HW = distance_to_boundary(inside_HW, outside_HW)
    farthest_HW = np.where(inside_HW, distance_HW[inside_HW].max(), distance_HW[outside_HW].max())
    nearness: Array = (1 - distance_HW / farthest_HW) * (inside_HW | outside_HW)
    return nearness


def _distance_to(marked_HW: Array) -> Array:
    distance: Array = cv2.distanceTransform((~marked_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance


def _per_map(measure: Callable[[Array, Array], Array], present_BKHW: Tensor, counts_BKHW: Tensor) -> Tensor:
    """`measure` of the pixels inside and outside each class of each image, float32, on the processor."""
    inside_BKHW = (present_BKHW & counts_BKHW).cpu().numpy()
    outside_BKHW = (~present_BKHW & counts_BKHW).cpu().numpy()
    shape = inside_BKHW.shape
    maps = zip(inside_BKHW.reshape(-1, *shape[2:]), outside_BKHW.reshape(-1, *shape[2:]), strict=True)
    return torch.from_numpy(np.stack([measure(*pair) for pair in maps]).astype(np.float32).reshape(shape))
