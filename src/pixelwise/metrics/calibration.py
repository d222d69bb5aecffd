"""Whether a score of 0.8 is right eight times in ten: reliability bins, calibration error, Brier score.

Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks. ICML 2017, arXiv 1706.04599 (ECE, figure 1:
accuracy in each bin of confidence as bars, against the diagonal of perfect calibration).
Kull et al.: Beyond temperature scaling. NeurIPS 2019, arXiv 1910.12656 (the same for each class).
Brier: Verification of forecasts expressed in terms of probability. Monthly Weather Review 1950.

Counts add up over images, tiles and processes. Neighbouring pixels resemble one another, so the counts of one image say
less than their number suggests: see `bootstrap` for an interval over images.

H rows, W columns, K classes, M bins of equal width. bins_M3: in each bin the pixels, those of them that were right, and
the sum of their scores. Bin m holds scores above m / M, up to and including (m + 1) / M; a score of 0 is in the first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError, UsageError
from pixelwise.metrics.confusion import Array
from pixelwise.metrics.curves import probabilities, scored_pixels
from pixelwise.metrics.ratio import ratio

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
BINS = 15


def decided_reliability(
    scores_KHW: Array, labels_HW: Array, mask_HW: Array, *, ignore_index: int | None, bins: int = BINS
) -> Floats:
    """Reliability bins of the decided class of each pixel, float64, shape (bins, 3), as Guo et al. have it.

    The confidence of a pixel is the score of its label (`task.decide`); it is right where the label is the mask.

    >>> scores = np.array([[[0.9, 0.4]], [[0.1, 0.6]]])
    >>> decided_reliability(scores, np.array([[0, 1]]), np.array([[0, 0]]), ignore_index=255, bins=2).tolist()
    [[0.0, 0.0, 0.0], [2.0, 1.0, 1.5]]
    """
    if scores_KHW.ndim != 3 or not scores_KHW.shape[1:] == labels_HW.shape == mask_HW.shape:
        raise DataError(
            f"scores of shape {scores_KHW.shape}, labels of shape {labels_HW.shape} and a mask of shape "
            f"{mask_HW.shape}: all must be of the same rows × columns; predict at the size of the mask"
        )
    if not np.all((labels_HW >= 0) & (labels_HW < len(scores_KHW))):
        raise DataError(f"labels outside 0 to {len(scores_KHW) - 1}: take them from the same scores, by task.decide")
    confidence_HW = np.take_along_axis(scores_KHW, labels_HW[None].astype(np.int64), axis=0)[0]
    counted_HW = (mask_HW >= 0) & (True if ignore_index is None else mask_HW != ignore_index)
    return _bins_of(probabilities(confidence_HW[counted_HW]), (labels_HW == mask_HW)[counted_HW], bins)


def class_reliability(scores_KHW: Array, true_KHW: Bools, counted_KHW: Bools, *, bins: int = BINS) -> Floats:
    """Reliability bins of each class, whatever was decided: float64, shape (K, bins, 3).

    Right are the pixels that are of the class. Arguments and errors are those of `curves.scored_pixels`.
    """
    return np.stack([_bins_of(scores, true, bins) for scores, true in scored_pixels(scores_KHW, true_KHW, counted_KHW)])


def bin_accuracy(bins_M3: Floats) -> Floats:
    """Share of the pixels in each bin that were right, the bars of a reliability diagram; NaN for an empty bin."""
    return ratio(bins_M3[..., 1], bins_M3[..., 0])


def bin_confidence(bins_M3: Floats) -> Floats:
    """Mean score of the pixels in each bin; NaN for an empty bin."""
    return ratio(bins_M3[..., 2], bins_M3[..., 0])


def expected_calibration_error(bins_M3: Floats) -> Floats:
    """Mean distance of accuracy from confidence, bins weighted by their pixels (equation 3); NaN without pixels.

    One number for each leading axis: `expected_calibration_error(class_reliability(...))` has one per class.

    >>> round(float(expected_calibration_error(np.array([[2, 1, 0.6], [2, 2, 1.6]]))), 4)
    0.2
    """
    gaps_M = np.abs(bins_M3[..., 1] - bins_M3[..., 2])
    return ratio(gaps_M.sum(axis=-1), bins_M3[..., 0].sum(axis=-1))


def maximum_calibration_error(bins_M3: Floats) -> Floats:
    """The largest distance of accuracy from confidence in any bin (equation 5); NaN without pixels."""
    gaps_M = np.nan_to_num(np.abs(bin_accuracy(bins_M3) - bin_confidence(bins_M3)))
    return np.where(bins_M3[..., 0].sum(axis=-1) > 0, gaps_M.max(axis=-1), np.nan)


def brier_counts(scores_KHW: Array, true_KHW: Bools, counted_KHW: Bools) -> Floats:
    """The sum of squared differences of scores from the truth, and the pixels, of each class: float64, shape (K, 2)."""
    pixels = scored_pixels(scores_KHW, true_KHW, counted_KHW)
    return np.array([[np.square(scores - true).sum(), scores.size] for scores, true in pixels])


def brier_score(counts_K2: Floats) -> Floats:
    """Brier score of each class, 0 (right and sure) to 1 (wrong and sure); NaN without pixels.

    The Brier score of exclusive classes, from 0 to 2, is the sum over the classes.

    >>> brier_score(np.array([[0.5, 2.0]])).tolist()
    [0.25]
    """
    return ratio(counts_K2[..., 0], counts_K2[..., 1])


def _bins_of(confidence: Floats, right: Bools, bins: int) -> Floats:
    if bins < 1:
        raise UsageError(f"{bins} bins: give 1 or more, such as {BINS}")
    places = np.maximum(np.ceil(confidence * bins).astype(np.int64) - 1, 0)
    weights = (None, right, confidence)
    return np.stack([np.bincount(places, weight, minlength=bins).astype(np.float64) for weight in weights], axis=1)
