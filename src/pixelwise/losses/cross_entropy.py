"""Cross-entropy between the scores of a network and the mask, plain and balanced.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.losses.contracts import (
    PIXELS,
    Target,
    check_range,
    check_word,
    log_complements,
    target_of,
    weighted_sum,
)
from pixelwise.task import Task

REDUCTIONS = ("mean", "weighted_mean", "sum")


def cross_entropy(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Mean over the pixels that count of -log(score of the truth), each times its weight where weights are given.

    Exclusive classes: mask_BHW of class indices. Overlapping classes: mask_BKHW of 0 and 1, binary cross-entropy summed
    over the classes. A batch that is all void gives 0 with zero gradient.

    `reduction`: `mean` divides by the number of pixels that count, not by the sum of the weights; `weighted_mean`
    divides by the sum of their weights (what torch does with class weights); `sum` divides by nothing (the U-Net paper:
    Ronneberger et al., MICCAI 2015, section 3).
    `label_smoothing`, 0 to 1: this share of the truth is spread evenly over all classes, or over yes and no where
    classes overlap (Szegedy et al., CVPR 2016, section 7, where it is 0.1).

    >>> loss = cross_entropy(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), Task.of(["a", "b"]))
    >>> round(loss.item(), 6)
    0.693147
    """
    check_range("label_smoothing", label_smoothing, lowest=0, highest=1)
    check_word("reduction", reduction, REDUCTIONS)
    target = target_of(mask_BHW, task, weight_BHW)
    if task.kind == "overlapping":
        terms_BKHW = one_against_rest(logits_BKHW, target, task)
        if label_smoothing:
            swapped = target._replace(present_BKHW=~target.present_BKHW)
            terms_BKHW = torch.lerp(terms_BKHW, one_against_rest(logits_BKHW, swapped, task), label_smoothing / 2)
        return _reduce(terms_BKHW, target, reduction)

    log_scores_BKHW = task.log_scores(logits_BKHW)
    classes_BHW = mask_BHW.where(target.counts_BKHW[:, 0], 0)
    terms_B1HW = F.nll_loss(log_scores_BKHW, classes_BHW, reduction="none")[:, None]
    if label_smoothing:
        terms_B1HW = torch.lerp(terms_B1HW, -log_scores_BKHW.mean(dim=1, keepdim=True), label_smoothing)
    return _reduce(terms_B1HW, target, reduction)


def balanced_cross_entropy(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy in which every class that is in the batch weighs as much as every other; see `class_balance`.

    `reduction` as in `cross_entropy`. With class weights of the whole training set instead of the batch's, balanced
    cross-entropy is `cross_entropy` with weight_BHW from `class_weights.weight_map`; its `reduction` has the two
    conventions in use, division by the number of pixels and by the sum of the weights, which differ.
    """
    check_word("reduction", reduction, REDUCTIONS)
    target = target_of(mask_BHW, task, weight_BHW)
    balanced = target._replace(weights_BKHW=target.weights_BKHW * class_balance(target, task))
    return _reduce(entropies(logits_BKHW, target, task), balanced, reduction)


def class_balance(target: Target, task: Task) -> Tensor:
    """Weights, of mean 1 over the pixels that count, with which all classes of the batch sum to the same; BKHW or B1HW.

    A pixel of class c weighs N / (classes in the batch × pixels of class c). Overlapping classes are balanced one by
    one, there against not there. For two classes this is the weighting of Xie and Tu (ICCV 2015, equation 2; "balanced
    cross-entropy" of Jadon, CIBCB 2020), 1 - share of the class, without their factor 2 share (1 - share), which
    switches the loss off where a class is rare, and gives an absent one no gradient.
    """
    present_BKHW = target.present_BKHW & target.counts_BKHW
    pixels_K11 = present_BKHW.sum(PIXELS).view(-1, 1, 1)
    if task.kind == "overlapping":
        absent_K11 = target.counts_BKHW.sum(PIXELS).view(-1, 1, 1) - pixels_K11
        weights = _inverse_shares(torch.stack([pixels_K11, absent_K11]))
        return weights[0].where(present_BKHW, weights[1])
    return (_inverse_shares(pixels_K11) * present_BKHW).sum(dim=1, keepdim=True)


def entropies(logits_BKHW: Tensor, target: Target, task: Task) -> Tensor:
    """The terms of cross-entropy, output by output; their sum over the outputs is that of the pixel.

    Exclusive classes: -log(score) at the class that is there, 0 at the others. Overlapping: binary cross-entropy.
    """
    if task.kind == "overlapping":
        return one_against_rest(logits_BKHW, target, task)
    return -task.log_scores(logits_BKHW).where(target.present_BKHW, 0.0)


def one_against_rest(logits_BKHW: Tensor, target: Target, task: Task) -> Tensor:
    """Binary cross-entropy of each class, there or not: -log(score) or -log(1 - score), of exclusive classes too."""
    return -task.log_scores(logits_BKHW).where(target.present_BKHW, log_complements(logits_BKHW, task))


def _reduce(terms_BKHW: Tensor, target: Target, reduction: str) -> Tensor:
    total = weighted_sum(terms_BKHW, target)
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / target.pixels()
    mean_weight = target.weights_BKHW.sum() / target.counts_BKHW.sum().clamp(min=1)
    return total / target.pixels() / mean_weight.where(mean_weight > 0, 1.0)


def _inverse_shares(pixels: Tensor) -> Tensor:
    """Total / (groups that have pixels × pixels of the group) along the first dimension; 0 for a group without any."""
    groups = (pixels > 0).sum(dim=0)
    return (pixels.sum(dim=0) / (groups * pixels).clamp(min=1)).where(pixels > 0, 0.0)
