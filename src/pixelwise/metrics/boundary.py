"""How well edges are placed: boundary F1, surface Dice, Hausdorff distance, trimaps, relaxed precision and recall.

Boundary F1      Csurka, Larlus, Perronnin: What is a good evaluation measure for semantic segmentation? BMVC 2013
Surface Dice     Nikolov et al.: Deep learning to achieve clinically applicable segmentation of head and neck anatomy
                 for radiotherapy. arXiv 1809.04430
Hausdorff        Huttenlocher, Klanderman, Rucklidge: Comparing images using the Hausdorff distance. PAMI 1993
Trimap           Kohli, Ladický, Torr: Robust higher order potentials for enforcing label consistency. IJCV 2009
Relaxed scores   Mnih, Hinton: Learning to detect roads in high-resolution aerial images. ECCV 2010

Boundary F1, surface Dice and the relaxed scores are functions of the same four numbers, which add up over images:

    predicted pixels near a true one, predicted pixels, true pixels near a predicted one, true pixels

They differ in which pixels are asked (boundaries or whole areas) and in the mean. Near means: some pixel of the other
side is within the tolerance, and one pixel may serve several; the one-to-one matching of the BSDS benchmark is
stricter. Distances do not add up, so Hausdorff and mean distance are values of one image.

A boundary pixel is one that has a pixel of another class above, below, left or right of it. Void is no other class: it
makes no boundary, has none, and matches none. Class maps have no boundary at the frame of the image, where only the
picture ends (as in the DAVIS benchmark); the surface of a single object is closed there (as in MONAI).

H rows, W columns, K classes, T thresholds. near_4: the four numbers above, on the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from pixelwise.errors import DataError, UsageError
from pixelwise.metrics.confusion import Array, Counts, absent, count
from pixelwise.metrics.ratio import ratio

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Around = Literal["void", "boundaries"]
SHARE_OF_DIAGONAL = 0.0075
ROUNDING = 1 + 1e-9


def boundaries(classes_HW: Array, counted_HW: Bools, *, frame: bool = False) -> Bools:
    """Which counted pixels have a counted neighbour of another class; with `frame`, those at the image's edge too.

    >>> boundaries(np.array([[0, 0, 1, 1]]), np.ones((1, 4), bool)).tolist()
    [[False, True, True, False]]
    """
    edge_HW = np.zeros(classes_HW.shape, np.bool_)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (classes_HW[one] != classes_HW[other]) & counted_HW[one] & counted_HW[other]
        edge_HW[one] |= differ
        edge_HW[other] |= differ
    if frame:
        edge_HW[[0, -1]] = edge_HW[:, [0, -1]] = True
    return edge_HW & counted_HW


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """Distances between the boundary of a prediction and that of the truth, one number per boundary pixel.

    predicted   from each predicted boundary pixel to the nearest true one
    true        from each true boundary pixel to the nearest predicted one

    The numbers are infinite where the other side has no boundary; a side without any has no numbers.
    """

    predicted: Floats
    true: Floats


def surface_distances(
    predicted_HW: Bools, true_HW: Bools, *, counted_HW: Bools | None = None, spacing: tuple[float, float] = (1.0, 1.0)
) -> SurfaceDistances:
    """Distances between the closed surfaces of one predicted and one true object or class.

    `counted_HW` is False at void pixels (`task.counts`). `spacing` is the height and width of a pixel; distances are in
    its unit. Raises DataError where sizes differ.

    >>> predicted, true = np.zeros((2, 4, 9), bool)
    >>> predicted[:, 4:6], true[:, 3:5] = True, True
    >>> float(hausdorff_distance(surface_distances(predicted, true)))
    1.0
    """
    _check_shapes(predicted_HW, true_HW)
    if min(spacing) <= 0 or not all(map(math.isfinite, spacing)):
        raise UsageError(f"spacing {spacing}: give the height and width of a pixel, both above 0")
    counted_HW = np.ones(true_HW.shape, np.bool_) if counted_HW is None else counted_HW
    edges = [boundaries(area, counted_HW, frame=True) & area for area in (predicted_HW, true_HW)]
    return _distances_between(edges[0], edges[1], spacing)


def hausdorff_distance(distances: SurfaceDistances, *, percentile: float = 100.0) -> float:
    """The largest distance from either surface to the other; with `percentile=95`, the HD95 of medical imaging.

    The percentile is taken of each direction, then the larger of the two. NaN where neither side has the object,
    infinite where only one has it: say how many images were so before you average.
    """
    if not 0 <= percentile <= 100:
        raise UsageError(f"percentile {percentile}: give 0 to 100")
    directions = [d for d in (distances.predicted, distances.true) if d.size]
    if any(np.isinf(d).any() for d in directions):
        return math.inf
    return max((float(np.percentile(d, percentile)) for d in directions), default=math.nan)


def average_surface_distance(distances: SurfaceDistances) -> float:
    """Mean distance over the pixels of both surfaces (ASSD), in the unit of the distances.

    NaN where neither side has the object, infinite where only one has it.
    """
    both = np.concatenate([distances.predicted, distances.true])
    return float(both.mean()) if both.size else math.nan


def tolerance_counts(distances: SurfaceDistances, tolerance: float) -> Counts:
    """The four numbers near_4 of two surfaces, int64; `tolerance` is in the unit of the distances, and included."""
    _check_tolerance(tolerance)
    near = [np.count_nonzero(d <= tolerance * ROUNDING) for d in (distances.predicted, distances.true)]
    return np.array([near[0], distances.predicted.size, near[1], distances.true.size])


def boundary_counts(
    labels_HW: Array, mask_HW: Array, *, classes: int, ignore_index: int | None, tolerance: float | None = None
) -> Counts:
    """The four numbers near_4 of the boundary of each class, int64, shape (classes, 4).

    `tolerance` is in pixels; None is 0.75 % of the image's diagonal. Raises DataError as `confusion.count` does.

    The score of the papers is that of each image, then the mean over images:
    `np.nanmean([mean_boundary_f1(counts) for counts in every_image])`. Of summed counts, long boundaries weigh more.

    >>> counts = boundary_counts(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]), classes=2, ignore_index=255, tolerance=1)
    >>> counts.tolist()
    [[1, 1, 1, 1], [1, 1, 1, 1]]
    """
    present_K = ~absent(count(labels_HW, mask_HW, classes=classes, ignore_index=ignore_index))
    tolerance = SHARE_OF_DIAGONAL * math.hypot(*mask_HW.shape) if tolerance is None else tolerance
    _check_tolerance(tolerance)

    counted_HW = _counted(mask_HW, ignore_index)
    edges = [boundaries(values, counted_HW) for values in (labels_HW, mask_HW)]
    near_K4 = np.zeros((classes, 4), np.int64)
    for k in np.flatnonzero(present_K):
        distances = _distances_between(edges[0] & (labels_HW == k), edges[1] & (mask_HW == k), (1.0, 1.0))
        near_K4[k] = tolerance_counts(distances, tolerance)
    return near_K4


def near_precision(near_4: Counts) -> Floats:
    """Share of the predicted pixels that are near a true one; NaN where nothing is predicted."""
    return ratio(near_4[..., 0], near_4[..., 1])


def near_recall(near_4: Counts) -> Floats:
    """Share of the true pixels that are near a predicted one; NaN where nothing is true."""
    return ratio(near_4[..., 2], near_4[..., 3])


def near_f1(near_4: Counts) -> Floats:
    """Harmonic mean of near_precision and near_recall (boundary F1); NaN where both sides are empty, 0 where one is.

    >>> round(float(near_f1(np.array([10, 20, 20, 20]))), 4)
    0.6667
    """
    # 2PR / (P + R) with P = a/b and R = c/d, multiplied out: it is 0, not 0 / 0, where a side is empty.
    a, b, c, d = np.moveaxis(np.asarray(near_4, np.float64), -1, 0)
    return np.where(b + d > 0, np.nan_to_num(ratio(2 * a * c, a * d + c * b)), np.nan)


def surface_dice(near_4: Counts) -> Floats:
    """Normalised surface Dice: share of both surfaces' pixels that are near the other; NaN where both are empty.

    >>> float(surface_dice(np.array([10, 20, 20, 20])))
    0.75
    """
    return ratio(near_4[..., 0] + near_4[..., 2], near_4[..., 1] + near_4[..., 3])


def mean_boundary_f1(near_K4: Counts, *, truth_only: bool = False) -> float:
    """Mean boundary F1 over the classes with a boundary in truth or prediction; with `truth_only`, in the truth.

    The first is how SegNet is scored, the second how the paper says it. NaN where no class has one.
    """
    f1_K = near_f1(near_K4)
    counted_K = near_K4[:, 3] > 0 if truth_only else ~np.isnan(f1_K)
    return float(f1_K[counted_K].mean()) if counted_K.any() else math.nan


def trimap_counts(
    labels_HW: Array, mask_HW: Array, *, width: float, classes: int, ignore_index: int | None, around: Around = "void"
) -> Counts:
    """The confusion matrix of the pixels in a band along void or boundaries, for the scores of `confusion`.

    around="void": pixels at most `width` from a void pixel, where void marks the outlines of objects, as in Pascal VOC.
    around="boundaries": the pixels on both sides of a true boundary and what is less than `width` from them, so that a
    width of 1 is those alone. Counts of an image without any are 0.
    """
    if around not in ("void", "boundaries"):
        raise UsageError(f"unknown band around {around!r}; choose void or boundaries")
    if not width > 0:
        raise UsageError(f"a band {width} pixels wide has no pixel; give a width above 0")
    count(labels_HW, mask_HW, classes=classes, ignore_index=ignore_index)  # refuses wrong values outside the band too
    counted_HW = _counted(mask_HW, ignore_index)
    middle_HW = ~counted_HW if around == "void" else boundaries(mask_HW, counted_HW)
    apart_HW = _distance_map(middle_HW)
    band_HW = apart_HW <= width * ROUNDING if around == "void" else apart_HW < width

    # What lies outside the band becomes void; a task without void gets a value for it that is no class.
    void = -1 if ignore_index is None else ignore_index
    narrowed_HW = np.where(band_HW, mask_HW.astype(np.int64), void)
    return count(labels_HW, narrowed_HW, classes=classes, ignore_index=void)


def relaxed_counts(
    scores_HW: Array,
    true_HW: Bools,
    *,
    tolerance: float,
    thresholds: Sequence[float] = (0.5,),
    counted_HW: Bools | None = None,
) -> Counts:
    """The four numbers near_4 of whole areas at each threshold, int64, shape (T, 4); they add up over images.

    A pixel is predicted where its score is above the threshold; bool predictions are scores of 0 and 1. Roads are
    usually scored with a tolerance of 3 pixels.

    >>> scores, road = np.array([[0.0, 0.9, 0.6, 0.2]]), np.array([[True, True, False, False]])
    >>> relaxed_counts(scores, road, tolerance=1, thresholds=[0.1, 0.5]).tolist()
    [[2, 3, 2, 2], [2, 2, 2, 2]]
    """
    _check_shapes(scores_HW, true_HW)
    _check_tolerance(tolerance)
    counted_HW = np.ones(true_HW.shape, np.bool_) if counted_HW is None else counted_HW
    true_HW = true_HW & counted_HW
    scores_HW = np.where(counted_HW, scores_HW.astype(np.float64), -np.inf)
    if np.isnan(scores_HW).any():
        raise DataError("scores with NaN: the network or the files are damaged; rule: real numbers")

    # A true pixel is near a prediction as long as the highest score around it is above the threshold.
    disc = _disc(tolerance)
    near_true_HW = cv2.dilate(true_HW.astype(np.uint8), disc) > 0
    highest_HW = cv2.dilate(scores_HW, disc)
    asked = scores_HW[near_true_HW], scores_HW[counted_HW], highest_HW[true_HW]
    above_T3 = np.stack([_above(values, thresholds) for values in asked], axis=1)
    true_T1 = np.full((len(thresholds), 1), np.count_nonzero(true_HW))
    return np.concatenate([above_T3, true_T1], axis=1)


def break_even(near_T4: Counts) -> float:
    """The precision at which recall equals it, on the curve of `relaxed_counts` with ascending thresholds.

    Linear between neighbouring thresholds, the highest where there are several, NaN where the curve never gets there.

    >>> round(break_even(np.array([[4, 8, 4, 4], [3, 3, 3, 4]])), 4)
    0.8333
    """
    precision_T, recall_T = near_precision(near_T4), near_recall(near_T4)
    defined = ~np.isnan(precision_T) & ~np.isnan(recall_T)
    precision_T, lead_T = precision_T[defined], (precision_T - recall_T)[defined]

    found = list(precision_T[lead_T == 0])
    for i in np.flatnonzero(lead_T[:-1] * lead_T[1:] < 0):
        part = lead_T[i] / (lead_T[i] - lead_T[i + 1])
        found.append(precision_T[i] + part * (precision_T[i + 1] - precision_T[i]))
    return float(max(found, default=math.nan))


def _distances_between(predicted_HW: Bools, true_HW: Bools, spacing: tuple[float, float]) -> SurfaceDistances:
    """From each pixel of one set to the nearest of the other, exactly: a tree of points, not a map of the image."""
    predicted, true = (np.argwhere(pixels) * np.asarray(spacing) for pixels in (predicted_HW, true_HW))
    return SurfaceDistances(_nearest(predicted, true), _nearest(true, predicted))


def _nearest(points: Floats, targets: Floats) -> Floats:
    if not (len(points) and len(targets)):
        return np.full(len(points), np.inf)
    distances: Floats = KDTree(targets).query(points)[0]
    return distances


def _distance_map(targets_HW: Bools) -> Floats:
    """Distance of every pixel to the nearest target, in pixels; infinite where there is no target."""
    if not targets_HW.any():
        return np.full(targets_HW.shape, np.inf)
    rounded_HW = cv2.distanceTransform((~targets_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # OpenCV's float32 is a rounded root of a whole number; the number itself gives the root to float64.
    return np.sqrt(np.rint(np.square(rounded_HW, dtype=np.float64)))


def _disc(radius: float) -> NDArray[np.uint8]:
    """The pixels at most `radius` from the middle one, as a mask of odd size."""
    reach = math.floor(radius * ROUNDING)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(y * y + x * x <= (radius * ROUNDING) ** 2, np.uint8)


def _above(values: Array, thresholds: Sequence[float]) -> Counts:
    """How many values are above each threshold."""
    ordered = np.sort(values)
    return len(values) - np.searchsorted(ordered, np.asarray(thresholds, np.float64), side="right")


def _counted(mask_HW: Array, ignore_index: int | None) -> Bools:
    return np.ones(mask_HW.shape, np.bool_) if ignore_index is None else mask_HW != ignore_index


def _check_shapes(predicted_HW: Array, true_HW: Array) -> None:
    if predicted_HW.ndim != 2 or predicted_HW.shape != true_HW.shape or not true_HW.size:
        raise DataError(
            f"a prediction of shape {predicted_HW.shape} and a truth of shape {true_HW.shape}: both must be rows × "
            "columns of the same image, at least 1 × 1; predict at the size of the mask"
        )


def _check_tolerance(tolerance: float) -> None:
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise UsageError(f"tolerance {tolerance}: give a distance of 0 or more")
