"""Precision and recall over all thresholds, average precision and the ROC curve, from histograms that add up.

Everingham et al.: The Pascal Visual Object Classes challenge. IJCV 2010 (average precision in its three forms).
Fawcett: An introduction to ROC analysis. Pattern Recognition Letters 2006.

A curve needs no sorted list of all pixels: two histograms of the scores of one class, one of the pixels that are of the
class and one of those that are not, hold every point of it at the thresholds between bins. Histograms add up over
images, tiles and processes. Something is found where its score is *above* the threshold, as `Task.decide` has it.

H rows, W columns, K classes, T points of a curve, S slots: bins + 1, as scores of exactly 0 have one of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError, UsageError
from pixelwise.metrics.confusion import Array, Counts
from pixelwise.metrics.ratio import ratio

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Interpolation = Literal["step", "envelope", "11 points"]
INTERPOLATIONS = ("step", "envelope", "11 points")
BINS = 1024
ROUNDING = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ThresholdCurve:
    """What is found of one class at falling thresholds.

    thresholds         found is what scores above this; minus infinity: everything
    true_positives     found, and of the class
    false_positives    found, and not of the class
    positives          how many there are of the class, found or not
    negatives          how many there are that are not of the class
    """

    thresholds: Floats
    true_positives: Counts
    false_positives: Counts
    positives: int
    negatives: int

    @property
    def precision(self) -> Floats:
        """Share of what is found that is of the class; NaN where nothing is found."""
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> Floats:
        """Share of the class that is found, also called true positive rate; NaN for a class that is absent."""
        return ratio(self.true_positives, self.positives)

    @property
    def f1(self) -> Floats:
        """F1 score at each threshold; NaN for a class that is neither there nor found."""
        found = self.true_positives + self.false_positives
        return ratio(2 * self.true_positives, found + self.positives)


def scored_pixels(scores_KHW: Array, true_KHW: Bools, counted_KHW: Bools) -> Iterator[tuple[Floats, Bools]]:
    """Of one class after the other: the scores of the pixels that count, and whether they are of the class.

    Takes scores in 0 to 1 (`task.activate`), and `task.truth` of the mask; `counted` may have one class for all.
    Raises DataError where the shapes do not fit or a score is no probability.
    """
    if scores_KHW.ndim != 3 or scores_KHW.shape != true_KHW.shape:
        raise DataError(
            f"scores of shape {scores_KHW.shape} and a truth of shape {true_KHW.shape}: both must be classes × rows × "
            "columns of the same image; predict at the size of the mask"
        )
    if counted_KHW.shape not in (true_KHW.shape, (1, *true_KHW.shape[1:])):
        raise DataError(f"which pixels count has shape {counted_KHW.shape}; give {true_KHW.shape} or one class for all")
    counted_KHW = np.broadcast_to(counted_KHW, true_KHW.shape)
    for scores, true, counted in zip(scores_KHW, true_KHW, counted_KHW, strict=True):
        yield probabilities(scores[counted]), true[counted]


def probabilities(scores: Array) -> Floats:
    """The scores as float64 in 0 to 1; raises DataError for any that lies further outside than rounding takes it.

    >>> probabilities(np.array([0.5, 1.00001])).tolist()
    [0.5, 1.0]
    """
    if not np.all((scores >= -ROUNDING) & (scores <= 1 + ROUNDING)):
        raise DataError("scores outside 0 to 1, or NaN; rule: probabilities; use task.activate on the logits")
    return np.clip(scores.astype(np.float64), 0.0, 1.0)


def score_histograms(scores_KHW: Array, true_KHW: Bools, counted_KHW: Bools, *, bins: int = BINS) -> Counts:
    """How many pixels have which score, apart for those not of the class and those of it: int64, (K, 2, bins + 1).

    Slot 0 holds scores of exactly 0, slot i those above (i - 1) / bins, up to and including i / bins. With a power of 2
    as `bins`, the points of the curve are exactly what `Task.decide` finds at thresholds of i / bins. Arguments and
    errors are those of `scored_pixels`.

    >>> score_histograms(np.array([[[0.1, 0.6, 0.9]]]), np.array([[[False, True, True]]]), np.ones((1, 1, 3), bool),
    ...                  bins=2).tolist()
    [[[0, 1, 0], [0, 0, 2]]]
    """
    if bins < 1:
        raise UsageError(f"{bins} bins: give 1 or more, such as {BINS}")
    histograms = []
    for scores, true in scored_pixels(scores_KHW, true_KHW, counted_KHW):
        slots = np.ceil(scores * bins).astype(np.int64) + true * (bins + 1)
        histograms.append(np.bincount(slots, minlength=2 * (bins + 1)))
    return np.stack(histograms).reshape(-1, 2, bins + 1)


def curve_of_histograms(histograms_2S: Counts) -> ThresholdCurve:
    """The curve of one class from its two histograms, at thresholds of (bins - 1) / bins, … 0, minus infinity."""
    slots = histograms_2S.shape[1]
    found_2S = np.cumsum(histograms_2S[:, ::-1], axis=1)
    thresholds = np.concatenate([np.arange(slots - 2, -1, -1) / (slots - 1), [-math.inf]])
    return ThresholdCurve(
        thresholds=thresholds,
        true_positives=found_2S[1],
        false_positives=found_2S[0],
        positives=int(found_2S[1, -1]),
        negatives=int(found_2S[0, -1]),
    )


def exact_curve(scores: Array, true: Bools, *, missed: int = 0) -> ThresholdCurve:
    """The curve with a point at every score that occurs, for lists that fit into memory.

    `missed` counts true ones that have no score at all, such as objects that no detection hit. Raises DataError where
    the two lists differ in length or a score is NaN.

    >>> curve = exact_curve(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, True, False]))
    >>> round(average_precision(curve), 6), round(average_precision(curve, interpolation="envelope"), 6)
    (0.805556, 0.833333)
    """
    if scores.shape != true.shape or np.isnan(scores).any():
        raise DataError(f"{scores.size} scores for {true.size} truths, or NaN among them; give one number for each")
    values, places = np.unique(scores, return_inverse=True)
    histograms = np.zeros((2, values.size), np.int64)
    np.add.at(histograms, (true.astype(np.bool_).astype(np.int64).ravel(), places.ravel()), 1)

    # A score is found by a threshold of the next lower score; the lowest of all by 0, where it is above that.
    below = np.concatenate([[0.0 if values.size and values[0] > 0 else -math.inf], values[:-1]])[: values.size]
    found = np.cumsum(histograms[:, ::-1], axis=1)
    positives, negatives = int(histograms[1].sum()), int(histograms[0].sum())
    return ThresholdCurve(
        thresholds=below[::-1].astype(np.float64),
        true_positives=found[1],
        false_positives=found[0],
        positives=positives + missed,
        negatives=negatives,
    )


def average_precision(curve: ThresholdCurve, *, interpolation: Interpolation = "step") -> float:
    """Area under precision over recall; NaN for a class that is absent from the truth.

    step         the sum of precision times the step in recall, with nothing smoothed
    envelope     precision is first raised to the highest at any greater recall (Pascal VOC from 2010 on)
    11 points    the mean of that at recalls 0, 0.1, … 1 (Pascal VOC up to 2009)
    """
    if interpolation not in INTERPOLATIONS:
        raise UsageError(f"unknown interpolation {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}")
    if not curve.positives:
        return math.nan
    hits = curve.true_positives
    precision = np.nan_to_num(curve.precision)
    if interpolation != "step":
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    if interpolation == "11 points":
        # Recall is at least i / 10 from this point on; beyond the last point precision is 0.
        first = np.searchsorted(10 * hits, np.arange(11) * curve.positives, side="left")
        return float(np.append(precision, 0.0)[first].mean())
    return float(np.sum(np.diff(hits, prepend=0) * precision) / curve.positives)


def area_under_roc(curve: ThresholdCurve) -> float:
    """Area under the ROC curve: the chance that a true one scores higher than another, ties counting half.

    NaN where there are no positives or no negatives.
    """
    if not (curve.positives and curve.negatives):
        return math.nan
    hits = np.append(np.append(0, curve.true_positives), curve.positives)
    wrong = np.append(np.append(0, curve.false_positives), curve.negatives)
    area = np.sum(np.diff(wrong) * (hits[1:] + hits[:-1])) / 2
    return float(area / (curve.positives * curve.negatives))


def best_threshold(curve: ThresholdCurve) -> float:
    """The threshold of the highest F1, for `Task.thresholds`; the highest of equal ones, NaN where no F1 is defined.

    Choose it on validation images, never on those that it is then judged by.
    """
    usable = np.isfinite(curve.thresholds) & ~np.isnan(curve.f1)
    if not usable.any():
        return math.nan
    return float(curve.thresholds[np.argmax(np.where(usable, curve.f1, -1.0))])
