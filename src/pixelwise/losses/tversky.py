"""Overlap losses: Dice and Jaccard are two points of the Tversky index, and the others are functions of it.

Salehi, Erdogmus and Gholipour, "Tversky loss function for image segmentation using 3D fully convolutional deep
networks", MLMI 2017, arXiv 1706.05721.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pixelwise.losses.contracts import PIXELS, check_range, power, target_of
from pixelwise.task import Task

SMOOTH = 0.5


class SoftCounts(NamedTuple):
    """Pixels of each class over the whole batch, counted by score and weight; K values each."""

    true_positives: Tensor
    false_negatives: Tensor
    false_positives: Tensor


def dice(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    squared: bool = False,
    smooth: float = SMOOTH,
) -> Tensor:
    """1 - soft Dice, 2 TP / (2 TP + FN + FP), the mean over the classes; see `tversky_index`.

    `squared` takes the squares of the scores in the denominator, 2 Σpy / (Σp² + Σy²), as V-Net does (Milletari, Navab
    and Ahmadi, 3DV 2016, arXiv 1606.04797).
    """
    counts = soft_counts(logits_BKHW, mask_BHW, task, weight_BHW, squared=squared)
    return 1 - _index(counts, missed=0.5, invented=0.5, smooth=smooth).mean()


def jaccard(
    logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None, *, smooth: float = SMOOTH
) -> Tensor:
    """1 - soft Jaccard, TP / (TP + FN + FP), the mean over the classes; see `tversky_index`."""
    return 1 - tversky_index(logits_BKHW, mask_BHW, task, weight_BHW, missed=1.0, invented=1.0, smooth=smooth).mean()


def tversky(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    missed: float = 0.7,
    invented: float = 0.3,
    smooth: float = SMOOTH,
) -> Tensor:
    """1 - Tversky index, the mean over the classes; see `tversky_index`.

    By default a missed pixel costs more than an invented one: Salehi et al. found 0.7 and 0.3 best.
    """
    index_K = tversky_index(logits_BKHW, mask_BHW, task, weight_BHW, missed=missed, invented=invented, smooth=smooth)
    return 1 - index_K.mean()


def focal_tversky(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    missed: float = 0.7,
    invented: float = 0.3,
    gamma: float = 0.75,
    smooth: float = SMOOTH,
) -> Tensor:
    """(1 - Tversky index)^gamma, the mean over the classes; see `tversky_index`.

    Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for lesion segmentation", ISBI
    2019, arXiv 1810.07842. `gamma`, above 0, is the exponent; what the paper calls γ is 1 / gamma, 4/3.
    Below 1 it raises the say of classes that are almost right, above 1 it lowers it.
    """
    check_range("gamma", gamma, lowest=0.01)
    index_K = tversky_index(logits_BKHW, mask_BHW, task, weight_BHW, missed=missed, invented=invented, smooth=smooth)
    return power(1 - index_K, gamma).mean()


def log_cosh_dice(
    logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None, *, smooth: float = SMOOTH
) -> Tensor:
    """log(cosh(Dice loss)), whose gradient fades as the loss does (Jadon, CIBCB 2020, arXiv 2006.14822)."""
    return dice(logits_BKHW, mask_BHW, task, weight_BHW, smooth=smooth).cosh().log()


def generalised_dice(
    logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None, *, smooth: float = SMOOTH
) -> Tensor:
    """1 - 2 Σ w TP / Σ w (2 TP + FN + FP), summed over the classes, w = 1 / (pixels of the class)².

    Sudre, Li, Vercauteren, Ourselin and Cardoso, DLMIA 2017, arXiv 1707.03237. A class absent from the batch
    weighs as much as the rarest that is there. The weights are taken relative to the largest, so that `smooth`, added
    above and below, is in pixels of the rarest class.
    """
    check_range("smooth", smooth, lowest=0)
    counts = soft_counts(logits_BKHW, mask_BHW, task, weight_BHW)
    size_K = (counts.true_positives + counts.false_negatives).detach()
    rarest = size_K.where(size_K > 0, size_K.max()).min()
    weights_K = (rarest / size_K.where(size_K > 0, rarest).where(rarest > 0, 1.0)).square().where(rarest > 0, 1.0)
    pooled = SoftCounts(*((weights_K * pixels_K).sum() for pixels_K in counts))
    return 1 - _index(pooled, missed=0.5, invented=0.5, smooth=smooth)


def sensitivity_specificity(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    sensitivity: float = 0.05,
    squared: bool = True,
) -> Tensor:
    """Error on the pixels of a class and error on the others, each a mean, added up; the mean over the classes.

    `sensitivity`, 0 to 1, is the share of the first; 1 - sensitivity that of the second. With `squared` the error is
    (score - truth)²: Brosch, Yoo, Tang, Li, Traboulsee and Tam, MICCAI 2015, with their share of 0.05.
    Without, it is |score - truth|, and the loss 1 - (sensitivity × soft sensitivity + (1 - sensitivity) × soft
    specificity), the score of Jadon (CIBCB 2020) as a loss. A class absent from the batch has the second part only.
    """
    check_range("sensitivity", sensitivity, lowest=0, highest=1)
    target = target_of(mask_BHW, task, weight_BHW)
    error_BKHW = (task.activate(logits_BKHW) - target.present_BKHW.float()).abs()
    if squared:
        error_BKHW = error_BKHW.square()

    loss_K = error_BKHW.new_zeros(task.outputs)
    for share, side_BKHW in ((sensitivity, target.present_BKHW), (1 - sensitivity, ~target.present_BKHW)):
        weights_BKHW = side_BKHW * target.weights_BKHW
        size_K = weights_BKHW.sum(PIXELS)
        loss_K = loss_K + share * (error_BKHW * weights_BKHW).sum(PIXELS) / size_K.where(size_K > 0, 1)
    return loss_K.mean()


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
    predicted, and still gets a gradient against false positives; at 0 it gets none. Void counts nowhere.
    """
    counts = soft_counts(logits_BKHW, mask_BHW, task, weight_BHW)
    return _index(counts, missed=missed, invented=invented, smooth=smooth)


def soft_counts(
    logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None, *, squared: bool = False
) -> SoftCounts:
    """True positives, false negatives and false positives of each class; `squared` as in `dice`."""
    present_BKHW, _, weights_BKHW = target_of(mask_BHW, task, weight_BHW)
    scores_BKHW = task.activate(logits_BKHW)
    weighted_BKHW = scores_BKHW * weights_BKHW
    true_positives = (weighted_BKHW * present_BKHW).sum(PIXELS)
    predicted = (weighted_BKHW * scores_BKHW if squared else weighted_BKHW).sum(PIXELS)
    false_negatives = (present_BKHW * weights_BKHW).sum(PIXELS) - true_positives
    return SoftCounts(true_positives, false_negatives, predicted - true_positives)


def _index(counts: SoftCounts, *, missed: float, invented: float, smooth: float) -> Tensor:
    """The Tversky index; 1 where it would be 0 / 0."""
    for name, value in (("missed", missed), ("invented", invented), ("smooth", smooth)):
        check_range(name, value, lowest=0)
    errors = missed * counts.false_negatives + invented * counts.false_positives
    whole = counts.true_positives + errors + smooth
    nothing = whole == 0
    index: Tensor = (counts.true_positives + smooth + nothing) / (whole + nothing)
    return index
