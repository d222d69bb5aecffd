"""Measures of the ISBI 2012 challenge: cells of an electron micrograph and the membranes between them.

Arganda-Carreras, Turaga, Berger et al., "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Frontiers in Neuroanatomy 2015; definitions as in the challenge's own software.

A prediction is a map of the probability of NOT being membrane, 0 to 1; the truth is True inside cells (255 in the
challenge's files) and False on membranes. Pixels of the map above a threshold are cells, and 4-connected ones are one
region. Each measure is taken at every threshold and the best one stands.

pixel error      1 - F of the cell pixels; counts summed over the stack
Rand error       1 - F of pairs of pixels in one region, by the pixels that are cell in the truth; summed over the stack
warping error    pixels that cannot be moved right without a change of topology (`warp`); and of these the pixels of
                 splits and mergers alone, summed over the stack
V_Rand, V_Info   Rand F and its information-theoretic relative, after the borders of the prediction are thinned
                 (`thin_borders`); the mean over the slices. V_Rand (thinned) sorts the final leaderboard

Where the truth has no cell, pair and region measures are undefined (NaN) and the slice is left out.

H rows, W columns, S slices, T thresholds, P pairs of regions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from pixelwise.errors import DataError
from pixelwise.metrics.confusion import Array, Counts
from pixelwise.metrics.overlap import count_overlap
from pixelwise.metrics.ratio import Values, mean_of_defined, ratio
from pixelwise.metrics.thinning import thin_borders
from pixelwise.metrics.warping import warp

WARPING_THRESHOLDS = tuple(k / 10 for k in range(10))
ISBI_THRESHOLDS = (*WARPING_THRESHOLDS, math.nextafter(1.0, 0.0))
"""Tenths. The last stays below 1, as the challenge's own sum of ten tenths does: pixels of probability 1 are cells."""

Triple = tuple[int, int, int]
MapRow = tuple[Triple, Triple, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionAgreement:
    """How two divisions of the same pixels agree, restricted to the pixels that are foreground in the truth.

    Each foreground pixel that the prediction calls border is a region of its own. With n_ij pixels in region i of the
    truth and j of the prediction, n_i and n_j their sums, and m pixels predicted as border:

    pixels                      n, the foreground of the truth
    both, truth, predicted      sum n_ij² + m, sum n_i², sum n_j² + m: ordered pairs of pixels in one region
    joint_entropy, truth_entropy, predicted_entropy   of the same divisions, natural logarithm

    >>> agreement = compare_regions(np.array([[1, 0, 0, 2, 2]]), np.array([[1, 1, 0, 2, 2]]))
    >>> round(agreement.v_rand, 6), agreement.rand_error, round(agreement.v_info, 6)
    (0.857143, 0.125, 0.8)
    """

    pixels: int
    both: int
    truth: int
    predicted: int
    joint_entropy: float
    truth_entropy: float
    predicted_entropy: float

    @property
    def rand_precision(self) -> float:
        """Of the pairs that the prediction puts together, the share that belong together: the merge score of V_Rand."""
        return _share(self.both, self.predicted)

    @property
    def rand_recall(self) -> float:
        """Of the pairs that belong together, the share that the prediction puts together: the split score of V_Rand."""
        return _share(self.both, self.truth)

    @property
    def v_rand(self) -> float:
        """F of both, V_Rand at alpha = 1/2."""
        return _share(2 * self.both, self.truth + self.predicted)

    @property
    def rand_error(self) -> float:
        """Share of the ordered pairs of pixels (each with itself too) on which the two disagree."""
        return _share(self.truth + self.predicted - 2 * self.both, self.pixels**2)

    @property
    def rand_index(self) -> float:
        """Rand's index: share of the pairs of different pixels on which the two agree (Rand 1971)."""
        wrong = self.truth + self.predicted - 2 * self.both
        return 1 - _share(wrong, self.pixels * (self.pixels - 1))

    @property
    def variation_of_information(self) -> float:
        """H(truth | prediction) + H(prediction | truth), in nats."""
        return 2 * self.joint_entropy - self.truth_entropy - self.predicted_entropy

    @property
    def info_precision(self) -> float:
        """Shared information / H(truth); 0 where the truth is one region, 1 where the prediction is."""
        if self.predicted_entropy == 0:
            return self._defined(1.0)
        return self._shared_information / self.truth_entropy if self.truth_entropy else self._defined(0.0)

    @property
    def info_recall(self) -> float:
        """Shared information / H(prediction); 1 where the truth is one region, 0 where the prediction is."""
        if self.predicted_entropy == 0:
            return self._defined(0.0)
        return self._shared_information / self.predicted_entropy if self.truth_entropy else self._defined(1.0)

    @property
    def v_info(self) -> float:
        """F of both, V_Info at alpha = 1/2. It is 0 where truth or prediction are one region, even if both are."""
        both = self.info_precision + self.info_recall
        return 2 * self.info_precision * self.info_recall / both if both else both

    @property
    def _shared_information(self) -> float:
        # No more than either has, and none below 0: sums of logarithms are rounded.
        shared = self.truth_entropy + self.predicted_entropy - self.joint_entropy
        return min(max(0.0, shared), self.truth_entropy, self.predicted_entropy)

    def _defined(self, value: float) -> float:
        return value if self.pixels else float("nan")


def compare_regions(regions_HW: Array, truth_HW: Array) -> RegionAgreement:
    """Compare label images of regions (0 is border). Raises DataError where the sizes differ or a value is no label.

    To count the background as one more region, as the classic Rand index does, give both labels plus one.
    """
    found = count_overlap(regions_HW, truth_HW)
    pixels = int(found.truth_N.sum())
    border = pixels - int(found.shared_P.sum())
    columns_M = np.bincount(found.pair_predicted_P, weights=found.shared_P).astype(np.int64)
    singles = border / pixels * math.log(pixels) if border else 0.0
    return RegionAgreement(
        pixels=pixels,
        both=int(found.shared_P @ found.shared_P) + border,
        truth=int(found.truth_N @ found.truth_N),
        predicted=int(columns_M @ columns_M) + border,
        joint_entropy=_entropy(found.shared_P, pixels) + singles,
        truth_entropy=_entropy(found.truth_N, pixels),
        predicted_entropy=_entropy(columns_M, pixels) + singles,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class IsbiCounts:
    """What was counted in some slices, one row for each; rows of several processes are put together with +.

    pixels_S             pixels of each slice
    cells_ST3            cell pixels: true positives, false positives, false negatives, at each of ISBI_THRESHOLDS
    pairs_ST3            the same of ordered pairs of pixels in one region
    v_rand_ST, v_info_ST   after thinning
    warping_ST3          mismatches, split pixels, merger pixels after warping, at each of WARPING_THRESHOLDS
    """

    pixels_S: Counts
    cells_ST3: Counts
    pairs_ST3: Counts
    v_rand_ST: Values
    v_info_ST: Values
    warping_ST3: Counts

    @classmethod
    def of(cls, parts: Iterable[IsbiCounts]) -> IsbiCounts:
        """The rows of all parts; no part gives no row, and scores that are NaN."""
        rows = [_NO_SLICE, *parts]
        return cls(**{f.name: np.concatenate([getattr(row, f.name) for row in rows]) for f in fields(cls)})

    def __add__(self, other: IsbiCounts) -> IsbiCounts:
        return IsbiCounts.of([self, other])

    @property
    def pixel_error(self) -> float:
        """1 - the largest F of the cell pixels."""
        return 1 - _largest(_f_score(self.cells_ST3))

    @property
    def squared_difference(self) -> Values:
        """Mean squared difference of the binary maps at each of ISBI_THRESHOLDS: the share of wrong pixels."""
        return ratio(self.cells_ST3[..., 1:].sum(axis=(0, 2)), self.pixels_S.sum())

    @property
    def rand_error(self) -> float:
        """1 - the largest F of the pairs, without thinning: the Rand error by which the challenge ranked at first."""
        return 1 - _largest(_f_score(self.pairs_ST3))

    @property
    def warping_error(self) -> float:
        """Smallest share of pixels that are wrong after warping, the mean over the slices."""
        return _smallest(_mean_of_slices(ratio(self.warping_ST3[..., 0], self.pixels_S[:, None])))

    @property
    def splits_and_mergers(self) -> float:
        """Smallest share of pixels of splits and mergers in the whole stack: the challenge's warping error."""
        return _smallest(ratio(self.warping_ST3[..., 1:].sum(axis=(0, 2)), self.pixels_S.sum()))

    @property
    def v_rand(self) -> float:
        """V_Rand (thinned): the mean over the slices, at the best threshold."""
        return _largest(_mean_of_slices(self.v_rand_ST))

    @property
    def v_info(self) -> float:
        """V_Info (thinned): the mean over the slices, at the best threshold."""
        return _largest(_mean_of_slices(self.v_info_ST))

    def scores(self) -> dict[str, float]:
        """The measures of the challenge, by name; NaN where undefined."""
        return {
            "v_rand": self.v_rand,
            "v_info": self.v_info,
            "rand_error": self.rand_error,
            "warping_error": self.warping_error,
            "splits_and_mergers": self.splits_and_mergers,
            "pixel_error": self.pixel_error,
        }


def count_slice(map_HW: Array, truth_HW: Array) -> IsbiCounts:
    """Count one slice: one row of IsbiCounts.

    `map_HW` is the probability of not being membrane (taken as float32, like the challenge's files), or a bool map of
    cells; `truth_HW` is 0 on membranes. Raises DataError where the sizes differ or the map is not in 0 to 1.

    >>> truth = np.array([[255, 255, 0, 255, 255]] * 3)
    >>> counts = count_slice(truth / 255, truth)
    >>> counts.v_rand, counts.pixel_error, counts.splits_and_mergers
    (1.0, 0.0, 0.0)
    """
    map_HW, truth_HW = _checked(map_HW, truth_HW)
    cells, pairs, v_rand, v_info = zip(*_count_maps(map_HW, truth_HW), strict=True)
    warped = [warp(truth_HW, map_HW, threshold) for threshold in WARPING_THRESHOLDS]
    return IsbiCounts(
        pixels_S=np.array([truth_HW.size]),
        cells_ST3=np.array([cells]),
        pairs_ST3=np.array([pairs]),
        v_rand_ST=np.array([v_rand]),
        v_info_ST=np.array([v_info]),
        warping_ST3=np.array([[(left.mismatches, left.splits, left.mergers) for left in warped]]),
    )


def _count_maps(map_HW: Array, truth_HW: Array) -> list[MapRow]:
    """One row for each of ISBI_THRESHOLDS. Maps are nested: those with as many cell pixels are one, counted once."""
    true_regions_HW, _ = ndimage.label(truth_HW)
    rows: dict[int, MapRow] = {}
    sizes = []
    for threshold in ISBI_THRESHOLDS:
        cells_HW = map_HW > threshold
        sizes.append(int(cells_HW.sum()))
        if sizes[-1] not in rows:
            rows[sizes[-1]] = _count_map(cells_HW, truth_HW, true_regions_HW)
    return [rows[size] for size in sizes]


def _count_map(cells_HW: Array, truth_HW: Array, true_regions_HW: Array) -> MapRow:
    """Cell pixels, pairs, V_Rand and V_Info of one binary map."""
    hits, said, true = (int(pixels.sum()) for pixels in (cells_HW & truth_HW, cells_HW, truth_HW))
    regions_HW, _ = ndimage.label(cells_HW)
    plain = compare_regions(regions_HW, true_regions_HW)
    thinned = compare_regions(thin_borders(cells_HW), true_regions_HW)
    pairs = (plain.both, plain.predicted - plain.both, plain.truth - plain.both)
    return (hits, said - hits, true - hits), pairs, thinned.v_rand, thinned.v_info


def _entropy(pixels_P: Counts, pixels: int) -> float:
    """Entropy of regions of these sizes, in nats, without what single pixels add."""
    shares = pixels_P[pixels_P > 0] / pixels if pixels else np.zeros(0)
    return abs(math.fsum(shares * np.log(shares)))


def _f_score(counts_ST3: Counts) -> Values:
    """F of the summed counts of the stack at each threshold."""
    hits, false_positives, false_negatives = np.moveaxis(counts_ST3.sum(axis=0), -1, 0)
    return ratio(2 * hits, 2 * hits + false_positives + false_negatives)


def _mean_of_slices(values_ST: Values) -> Values:
    """Mean over the slices where it is defined, at each threshold."""
    return np.array([mean_of_defined(values_S) for values_S in values_ST.T])


def _largest(values_T: Values) -> float:
    return float(np.fmax.reduce(values_T))


def _smallest(values_T: Values) -> float:
    return float(np.fmin.reduce(values_T))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _checked(map_HW: Array, truth_HW: Array) -> tuple[Array, Array]:
    """The map as the float64 of its float32 values, and the cells of the truth as bool."""
    if map_HW.ndim != 2 or map_HW.shape != truth_HW.shape or not map_HW.size:
        raise DataError(
            f"a map of shape {map_HW.shape} and a truth of shape {truth_HW.shape}: both must be rows × columns of the "
            "same slice, of at least 1 × 1; predict at the size of the truth"
        )
    if map_HW.dtype.kind not in "bf":
        raise DataError(f"a map of type {map_HW.dtype}: give probabilities from 0 to 1; divide 8-bit values by 255")
    values_HW = map_HW.astype(np.float32).astype(np.float64)
    if not (values_HW.min() >= 0 and values_HW.max() <= 1):
        raise DataError(
            f"a map with values from {values_HW.min()} to {values_HW.max()}: give the probability of not being "
            "membrane, 0 to 1; activate the logits first"
        )
    return values_HW, truth_HW > 0


_NO_PIXEL, _NO_VALUE = np.zeros(0, np.int64), np.zeros((0, len(ISBI_THRESHOLDS)))
_NO_COUNT = np.zeros((0, len(ISBI_THRESHOLDS), 3), np.int64)
_NO_SLICE = IsbiCounts(
    pixels_S=_NO_PIXEL,
    cells_ST3=_NO_COUNT,
    pairs_ST3=_NO_COUNT,
    v_rand_ST=_NO_VALUE,
    v_info_ST=_NO_VALUE,
    warping_ST3=np.zeros((0, len(WARPING_THRESHOLDS), 3), np.int64),
)
