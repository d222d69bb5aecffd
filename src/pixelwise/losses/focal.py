"""Focal loss: cross-entropy in which pixels that are right already weigh little.

Lin, Goyal, Girshick, He and Dollár, "Focal loss for dense object detection", ICCV 2017, arXiv 1708.02002.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.contracts import Target, check_range, log_complements, mean_over_pixels, target_of
from pixelwise.losses.cross_entropy import class_balance
from pixelwise.task import Task


def focal(
    logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None, *, gamma: float = 2.0
) -> Tensor:
    """Mean over the pixels that count of -(1 - p)^gamma log p, p the score of the truth (Lin et al., equation 4).

    Exclusive classes: softmax. Overlapping classes: a sigmoid for each, summed over the classes. `gamma`, at least 0:
    how little right pixels weigh; 0 is cross-entropy. It divides by the number of pixels, as `cross_entropy` does.

    >>> right = torch.tensor([0.9, 0.1]).log().view(1, 2, 1, 1)
    >>> round(focal(right, torch.zeros(1, 1, 1, dtype=torch.long), Task.of(["a", "b"])).item(), 6)
    0.001054
    """
    target = target_of(mask_BHW, task, weight_BHW)
    return mean_over_pixels(_focal_terms(logits_BKHW, target, task, gamma), target)


def balanced_focal(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Focal loss whose terms are weighted by class (Lin et al., equation 5).

    Without `alpha` the weights come from the batch, as those of `balanced_cross_entropy` do. A number from 0 to 1, for
    overlapping classes only, weighs presence by alpha and absence by 1 - alpha; the paper has 0.25 with gamma 2. For
    class weights of the whole training set, use `focal` with weight_BHW from `class_weights.weight_map`.
    Raises UsageError where `alpha` is given for exclusive classes.
    """
    target = target_of(mask_BHW, task, weight_BHW)
    terms_BKHW = _focal_terms(logits_BKHW, target, task, gamma)
    if alpha is None:
        return mean_over_pixels(terms_BKHW * class_balance(target, task), target)

    check_range("alpha", alpha, lowest=0, highest=1)
    if task.kind != "overlapping":
        raise UsageError(f"alpha = {alpha:g} is for overlapping classes; leave it out for exclusive ones")
    return mean_over_pixels(terms_BKHW * (alpha * target.present_BKHW + (1 - alpha) * ~target.present_BKHW), target)


def _focal_terms(logits_BKHW: Tensor, target: Target, task: Task, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of each pixel, B1HW of exclusive classes, BKHW of overlapping ones.

    The power is taken as exp(gamma log(1 - p)), which has a finite gradient where p rounds to 1.
    """
    check_range("gamma", gamma, lowest=0)
    log_p_BKHW = task.log_scores(logits_BKHW)
    if task.kind == "overlapping":
        log_rest_BKHW = log_complements(logits_BKHW, task)
        log_truth = log_p_BKHW.where(target.present_BKHW, log_rest_BKHW)
        log_wrong = log_rest_BKHW.where(target.present_BKHW, log_p_BKHW)
    else:
        log_truth = log_p_BKHW.where(target.present_BKHW, 0.0).sum(dim=1, keepdim=True)
        log_wrong = log_p_BKHW.masked_fill(target.present_BKHW, -torch.inf).logsumexp(dim=1, keepdim=True)
    return -(gamma * log_wrong).exp() * log_truth
