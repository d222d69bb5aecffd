"""Losses that add an overlap to a cross-entropy inside one formula. Plain sums are written `ce+dice`; see `registry`.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

from torch import Tensor

from pixelwise.losses.contracts import check_range, mean_over_entries, mean_over_pixels, power, target_of
from pixelwise.losses.cross_entropy import entropies, one_against_rest
from pixelwise.losses.tversky import SMOOTH, dice, tversky_index
from pixelwise.task import Task


def combo(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = SMOOTH,
) -> Tensor:
    """alpha × weighted binary cross-entropy + (1 - alpha) × Dice loss.

    Taghanaki et al., "Combo loss: handling input and output imbalance in multi-organ segmentation", CMIG 2019, arXiv
    1805.02798. The cross-entropy is a mean over pixels and classes, each class against the rest; presence
    weighs `beta`, absence 1 - beta, so that beta above 1/2 is hard on missed pixels. Both from 0 to 1. The paper
    subtracts (1 - alpha) Dice where this adds (1 - alpha) (1 - Dice): the same gradient, and 0 for a perfect result.
    """
    check_range("alpha", alpha, lowest=0, highest=1)
    check_range("beta", beta, lowest=0, highest=1)
    target = target_of(mask_BHW, task, weight_BHW)
    sides_BKHW = beta * target.present_BKHW + (1 - beta) * ~target.present_BKHW
    entropy = mean_over_entries(sides_BKHW * one_against_rest(logits_BKHW, target, task), target)
    return alpha * entropy + (1 - alpha) * dice(logits_BKHW, mask_BHW, task, weight_BHW, smooth=smooth)


def exponential_logarithmic(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    gamma: float = 0.3,
    dice_share: float = 0.8,
    smooth: float = SMOOTH,
) -> Tensor:
    """dice_share × mean of (-ln Dice)^gamma over classes + (1 - dice_share) × mean of (-ln p)^gamma over pixels.

    Wong, Moradi, Tang and Syeda-Mahmood, "3D segmentation with exponential logarithmic loss for highly unbalanced
    object sizes", MICCAI 2018, arXiv 1809.00076, with their 0.3 and 0.8. The paper's class weights of
    the second part, (all pixels / pixels of the class)^0.5, are `class_weights.inverse_frequency` with power 0.5, given
    as weight_BHW (which weighs the Dice part too). `gamma` is above 0. Overlapping classes: -ln p is the binary
    cross-entropy of each class, its mean also over the classes.
    """
    check_range("gamma", gamma, lowest=0.01)
    check_range("dice_share", dice_share, lowest=0, highest=1)
    index_K = tversky_index(logits_BKHW, mask_BHW, task, weight_BHW, smooth=smooth)
    target = target_of(mask_BHW, task, weight_BHW)
    terms_BKHW = power(entropies(logits_BKHW, target, task), gamma)
    mean = mean_over_entries if task.kind == "overlapping" else mean_over_pixels
    return dice_share * power(-index_K.log(), gamma).mean() + (1 - dice_share) * mean(terms_BKHW, target)
