"""The confusion matrix, and every region score as a pure function of it.

Counts add up: over images, tiles and processes. So count first, add, and divide once at the end. All per-class scores
are one formula, the Tversky index, with different prices for a wrong pixel:

    index(p, n) = hits / (hits + p * false positives + n * false negatives)

    recall = index(0, 1)   precision = index(1, 0)   F1 = Dice = index(1/2, 1/2)   IoU = Jaccard = index(1, 1)

A score that would be 0 / 0 is undefined and NaN; means are taken over the defined ones. So a class that is absent from
the truth but predicted somewhere has an IoU of 0 and counts; a class absent from both is left out. Where nothing is
defined (every pixel void) a mean is NaN too.

Classes that overlap have a matrix each, of "not there" and "there"; all scores are then made of these in the same way.

H rows, W columns, K classes. counts_KK: rows are the truth (mask), columns the prediction (labels). Where a function
takes counts_KK it also takes counts_K22, of overlapping classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError, UsageError
from pixelwise.metrics.ratio import ratio
from pixelwise.task import MOST_CLASSES

Array = NDArray[Any]
Counts = NDArray[np.int64]
PerClass = NDArray[np.float64]
STRIP_PIXELS = 1 << 20
VALUES_SHOWN = 5


def count(labels_HW: Array, mask_HW: Array, *, classes: int, ignore_index: int | None) -> Counts:
    """How many pixels of each class (row) got each label (column), int64, shape (classes, classes).

    Pixels whose mask is `ignore_index` count nowhere. Raises DataError where the two sizes differ, where a label is
    not a class, or where a mask value is neither a class nor void; the message names the values.

    >>> count(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]), classes=2, ignore_index=255).tolist()
    [[1, 1], [0, 0]]
    """
    _check_pair(labels_HW, mask_HW, classes)
    _check_values(labels_HW, "labels", classes, None)
    _check_values(mask_HW, "mask", classes, ignore_index)

    # One histogram of mask * K + label; void is an extra row below. Strips keep a large image small in memory.
    pairs = np.zeros((classes + 1) * classes, np.int64)
    step = max(1, STRIP_PIXELS // mask_HW.shape[1])
    for top in range(0, mask_HW.shape[0], step):
        labels, mask = labels_HW[top : top + step], mask_HW[top : top + step]
        row = mask if ignore_index is None else np.where(mask == ignore_index, classes, mask)
        pair = row.astype(np.uint16) * np.uint16(classes) + labels.astype(np.uint16)
        pairs += np.bincount(pair.ravel(), minlength=pairs.size)
    return pairs.reshape(classes + 1, classes)[:classes].copy()


def count_overlapping(labels_HW: Array, mask_HW: Array, *, classes: int, ignore_index: int | None) -> Counts:
    """counts_K22 of overlapping classes: for each class a matrix of "not there" (0) and "there" (1).

    Bit k of a label or a mask value says whether class k is there. Raises as `count`.

    >>> count_overlapping(np.array([[1, 3]]), np.array([[1, 2]]), classes=2, ignore_index=255).tolist()
    [[[0, 1], [0, 1]], [[1, 0], [0, 1]]]
    """
    sets = 2**classes
    counts_SS = count(labels_HW, mask_HW, classes=sets, ignore_index=ignore_index)
    there_KS = np.arange(sets) >> np.arange(classes)[:, None] & 1
    sides_K2S = np.stack([1 - there_KS, there_KS], axis=1)
    counts_K22: Counts = sides_K2S @ counts_SS @ sides_K2S.transpose(0, 2, 1)
    return counts_K22


def precision(counts_KK: Counts) -> PerClass:
    """Share of the pixels labelled as a class that are of it; NaN for a class that was never predicted."""
    return _tversky(counts_KK, false_positive=1.0, false_negative=0.0)


def recall(counts_KK: Counts) -> PerClass:
    """Share of the pixels of a class that are labelled so (class accuracy); NaN for a class absent from the truth."""
    return _tversky(counts_KK, false_positive=0.0, false_negative=1.0)


def f1(counts_KK: Counts) -> PerClass:
    """F1 score of each class, which is its Dice coefficient (Dice 1945); NaN for a class absent from both.

    >>> f1(np.array([[5, 1], [0, 2]])).round(4).tolist()
    [0.9091, 0.8]
    """
    return _tversky(counts_KK, false_positive=0.5, false_negative=0.5)


def iou(counts_KK: Counts) -> PerClass:
    """Intersection over union of each class, the Jaccard index (Jaccard 1912); NaN for a class absent from both.

    >>> iou(np.array([[5, 1], [0, 2]])).round(4).tolist()
    [0.8333, 0.6667]
    """
    return _tversky(counts_KK, false_positive=1.0, false_negative=1.0)


def absent(counts_KK: Counts) -> NDArray[np.bool_]:
    """Which classes are neither in the truth nor in the prediction."""
    hits_K, added_K, missed_K = _parts(counts_KK)
    nowhere: NDArray[np.bool_] = hits_K + added_K + missed_K == 0
    return nowhere


def pixels_counted(counts_KK: Counts) -> int:
    """How many pixels the counts are of."""
    return int(counts_KK.sum() if counts_KK.ndim == 2 else counts_KK[0].sum())


def truth_share(counts_KK: Counts) -> PerClass:
    """Share of the counted pixels that are of each class in the truth; NaN where no pixel counts."""
    hits_K, _, missed_K = _parts(counts_KK)
    return ratio(hits_K + missed_K, np.full(len(counts_KK), pixels_counted(counts_KK)))


def pixel_accuracy(counts_KK: Counts) -> float:
    """Share of the counted pixels with the right label (Long et al. 2015, section 5).

    Of overlapping classes: share of the pixels, over all classes, that are rightly said to be there or not.
    """
    right = np.trace(counts_KK) if counts_KK.ndim == 2 else np.trace(counts_KK, axis1=1, axis2=2).sum()
    return float(ratio(np.asarray(right), counts_KK.sum()))


def mean_accuracy(counts_KK: Counts) -> float:
    """Mean recall over the classes present in the truth (Long et al. 2015, section 5)."""
    return _mean(recall(counts_KK))


def mean_iou(counts_KK: Counts) -> float:
    """Mean IoU over the classes present in truth or prediction (Long et al. 2015, section 5).

    >>> round(mean_iou(np.array([[5, 1, 0], [0, 2, 0], [1, 1, 1]])), 6)
    0.515873
    """
    return _mean(iou(counts_KK))


def frequency_weighted_iou(counts_KK: Counts) -> float:
    """Mean IoU weighted by the pixels of each class in the truth (Long et al. 2015, section 5)."""
    hits_K, _, missed_K = _parts(counts_KK)
    pixels_K = hits_K + missed_K
    return float(ratio(np.nansum(pixels_K * iou(counts_KK)), pixels_K.sum()))


def mean_f1(counts_KK: Counts) -> float:
    """Mean F1 (Dice) over the classes present in truth or prediction."""
    return _mean(f1(counts_KK))


METRICS: dict[str, Callable[[Counts], float]] = {
    "mean_iou": mean_iou,
    "mean_f1": mean_f1,
    "pixel_accuracy": pixel_accuracy,
    "mean_accuracy": mean_accuracy,
    "frequency_weighted_iou": frequency_weighted_iou,
}
"""The scores that are one number, by name."""


def _tversky(counts_KK: Counts, *, false_positive: float, false_negative: float) -> PerClass:
    """The Tversky index of each class (Tversky 1977), with the prices of the two kinds of wrong pixel."""
    hits_K, added_K, missed_K = _parts(counts_KK)
    return ratio(hits_K, hits_K + false_positive * added_K + false_negative * missed_K)


def _parts(counts_KK: Counts) -> tuple[Counts, Counts, Counts]:
    """For each class the pixels that were found, that were labelled so wrongly, and that were missed."""
    if counts_KK.ndim == 3:
        return counts_KK[:, 1, 1], counts_KK[:, 0, 1], counts_KK[:, 1, 0]
    hits_K = np.diagonal(counts_KK)
    return hits_K, counts_KK.sum(axis=0) - hits_K, counts_KK.sum(axis=1) - hits_K


def _mean(values_K: PerClass) -> float:
    defined = values_K[~np.isnan(values_K)]
    return float(defined.mean()) if defined.size else float("nan")


def _check_pair(labels_HW: Array, mask_HW: Array, classes: int) -> None:
    if not 1 <= classes <= MOST_CLASSES:
        raise UsageError(f"{classes} classes: give 1 to {MOST_CLASSES}")
    if labels_HW.ndim != 2 or labels_HW.shape != mask_HW.shape:
        raise DataError(
            f"labels of shape {labels_HW.shape} and a mask of shape {mask_HW.shape}: both must be rows × columns of "
            "the same image; predict at the size of the mask"
        )
    if not labels_HW.size:
        raise DataError(f"labels and mask of shape {mask_HW.shape} have no pixel; give at least 1 × 1")


def _check_values(values_HW: Array, what: str, classes: int, ignore_index: int | None) -> None:
    if values_HW.dtype.kind not in "bui":
        raise DataError(f"{what} of type {values_HW.dtype}: classes are whole numbers; decide or round first")
    wrong_HW = (values_HW < 0) | (values_HW >= classes)
    if ignore_index is not None:
        wrong_HW &= values_HW != ignore_index
    if not wrong_HW.any():
        return
    found, pixels = np.unique(values_HW[wrong_HW], return_counts=True)
    listed = ", ".join(f"{v} in {n} pixels" for v, n in zip(found[:VALUES_SHOWN], pixels[:VALUES_SHOWN], strict=True))
    more = f" and {found.size - VALUES_SHOWN} other values" if found.size > VALUES_SHOWN else ""
    void = "" if ignore_index is None else f", or {ignore_index} for void"
    raise DataError(f"{what} with value {listed}{more}; rule: 0 to {classes - 1}{void}; correct the {what}")
