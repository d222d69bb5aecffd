"""Overlap losses: Dice and Jaccard are two points of the Tversky index.

Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep networks", 2017.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

from torch import Tensor

from pixelwise.task import Task

SMOOTH = 0.5


def dice(logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None) -> Tensor:
    """1 - soft Dice, 2 TP / (2 TP + FN + FP), the mean over the classes; see `tversky_index`."""
    return 1 - tversky_index(logits_BKHW, mask_BHW, task, weight_BHW).mean()


def jaccard(logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None) -> Tensor:
    """1 - soft Jaccard, TP / (TP + FN + FP), the mean over the classes; see `tversky_index`."""
    return 1 - tversky_index(logits_BKHW, mask_BHW, task, weight_BHW, missed=1.0, invented=1.0).mean()


def tversky_index(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    missed: float = 0.5,
    invented: float = 0.5,
    smooth: float = SMOOTH,
) -> Tensor:
    """Soft overlap of each class over the whole batch, K values in 0 to 1: TP / (TP + missed FN + invented FP).

    `missed` multiplies the false negatives, `invented` the false positives: 1/2 and 1/2 is Dice, 1 and 1 is Jaccard.
    `smooth` pixels are added above and below, so that a class absent from the batch has index 1 where nothing of it is
    predicted, and still gets a gradient against false positives. Void counts nowhere.
    """
    truth_BKHW, weights_BKHW = task.truth(mask_BHW)
    if weight_BHW is not None:
        weights_BKHW = weights_BKHW * weight_BHW[:, None]
    pixels = (0, 2, 3)
    weighted_BKHW = task.activate(logits_BKHW) * weights_BKHW
    true_positives = (weighted_BKHW * truth_BKHW).sum(pixels)
    false_negatives = (truth_BKHW * weights_BKHW).sum(pixels) - true_positives
    false_positives = weighted_BKHW.sum(pixels) - true_positives
    errors = missed * false_negatives + invented * false_positives
    index: Tensor = (true_positives + smooth) / (true_positives + errors + smooth)
    return index
