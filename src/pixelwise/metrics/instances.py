"""Measures of objects: each predicted object is a hit or not, by its overlap with one object of the truth.

All come from one sparse table of overlaps per image. An object is found at threshold t where its intersection over
union is above t, strictly; above 1/2 at most one predicted object can find it, so no matching has to be chosen. The
comparison is exact, in whole numbers: 20 intersection > k union for t = k / 20.

* Score of the 2018 Data Science Bowl: per image the mean over t = 0.50, 0.55, ..., 0.95 of TP / (TP + FP + FN), then
  the mean over the images (Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science
  Bowl", Nature Methods 2019). AP50 is the same at t = 0.50 alone. There is no confidence in it: it is not COCO's AP.
* Panoptic quality PQ = SQ × RQ (Kirillov et al., "Panoptic Segmentation", CVPR 2019, arXiv 1801.00868).
* Aggregated Jaccard index (Kumar et al., "A Dataset and a Technique for Generalized Nuclear Segmentation for
  Computational Pathology", IEEE TMI 2017, Algorithm 1). This is the original: the same predicted object may be the
  best one of several true objects. (AJI+ allows it only once.)

Rules for the ends of the range. An image with no object in truth and prediction has DSB score, AP and AJI of 1: all
that was to be found was found. (Every image of the Bowl has a nucleus, so it never had to decide; the TGS salt
challenge, with the same measure, gave 1 too.) An image that is all void has no score and is left out of the means. A
predicted object that lies by more than half in void and is no hit at 1/2 counts nowhere (Kirillov et al., section 4).

I images, T thresholds, N objects of the truth, M predicted objects, P pairs that touch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from pixelwise.metrics.confusion import Array, Counts
from pixelwise.metrics.overlap import Overlap, count_overlap
from pixelwise.metrics.ratio import Values, mean_of_defined, ratio

IOU_TWENTIETHS = tuple(range(10, 20))
IOU_THRESHOLDS = tuple(k / 20 for k in IOU_TWENTIETHS)


@dataclass(frozen=True, kw_only=True, eq=False)
class InstanceCounts:
    """What was counted in some images, one row for each; rows of several processes are put together with +.

    pixels_I         pixels that are not void
    true_I           objects of the truth
    predicted_I      predicted objects, without those that void excuses
    hits_IT          objects found at each of IOU_THRESHOLDS
    iou_I            sum of the IoU of the objects found at 1/2
    intersection_I, union_I   above and below the line of the aggregated Jaccard index

    >>> truth, instances = np.array([[1, 1, 1, 0, 2, 2]]), np.array([[5, 5, 0, 0, 0, 8]])
    >>> counts = count_instances(instances, truth) + count_instances(truth, truth)
    >>> counts.ap[:4].round(4).tolist(), round(counts.dsb_score, 4)
    ([0.6667, 0.6667, 0.6667, 0.6667], 0.5667)
    """

    pixels_I: Counts
    true_I: Counts
    predicted_I: Counts
    hits_IT: Counts
    iou_I: Values
    intersection_I: Counts
    union_I: Counts

    @classmethod
    def of(cls, parts: Iterable[InstanceCounts]) -> InstanceCounts:
        """The rows of all parts; no part gives no row, and scores that are NaN."""
        rows = [_NO_IMAGE, *parts]
        return cls(**{f.name: np.concatenate([getattr(row, f.name) for row in rows]) for f in fields(cls)})

    def __add__(self, other: InstanceCounts) -> InstanceCounts:
        return InstanceCounts.of([self, other])

    @property
    def ap_per_image(self) -> Values:
        """TP / (TP + FP + FN), images × thresholds; 1 where an image has no objects, NaN where all of it is void."""
        either_IT = (self.true_I + self.predicted_I)[:, None] - self.hits_IT
        return self._per_image(self.hits_IT, either_IT)

    @property
    def dsb_per_image(self) -> Values:
        """Score of the 2018 Data Science Bowl of each image."""
        score_I: Values = self.ap_per_image.mean(axis=1)
        return score_I

    @property
    def aji_per_image(self) -> Values:
        """Aggregated Jaccard index of each image."""
        return self._per_image(self.intersection_I, self.union_I)

    @property
    def ap(self) -> Values:
        """TP / (TP + FP + FN) at each threshold, the mean over the images."""
        return np.array([mean_of_defined(ap_I) for ap_I in self.ap_per_image.T])

    @property
    def ap50(self) -> float:
        """TP / (TP + FP + FN) where IoU > 0.50, the mean over the images."""
        return float(self.ap[0])

    @property
    def dsb_score(self) -> float:
        """Score of the 2018 Data Science Bowl, the mean over the images."""
        return mean_of_defined(self.dsb_per_image)

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index, the mean over the images."""
        return mean_of_defined(self.aji_per_image)

    @property
    def precision(self) -> Values:
        """Share of all predicted objects that are hits, at each threshold; NaN where nothing is predicted."""
        return ratio(self.hits_IT.sum(axis=0), self.predicted_I.sum())

    @property
    def recall(self) -> Values:
        """Share of all objects of the truth that are found, at each threshold; NaN where there is none."""
        return ratio(self.hits_IT.sum(axis=0), self.true_I.sum())

    @property
    def f1(self) -> Values:
        """2 TP / (2 TP + FP + FN) of the objects of all images together, at each threshold; NaN without objects."""
        return ratio(2 * self.hits_IT.sum(axis=0), self.true_I.sum() + self.predicted_I.sum())

    @property
    def segmentation_quality(self) -> float:
        """SQ: mean IoU of the objects found at 1/2, in all images together; NaN where none is found."""
        return float(ratio(math.fsum(self.iou_I), self.hits_IT[:, 0].sum()))

    @property
    def recognition_quality(self) -> float:
        """RQ: F1 of the objects of all images together at IoU > 1/2."""
        return float(self.f1[0])

    @property
    def panoptic_quality(self) -> float:
        """PQ: sum of the IoU of the hits / (TP + FP / 2 + FN / 2), over all images; NaN without objects."""
        return float(ratio(2 * math.fsum(self.iou_I), self.true_I.sum() + self.predicted_I.sum()))

    @property
    def count_error(self) -> float:
        """Mean over the images of |predicted objects - true objects|."""
        return mean_of_defined(np.where(self.pixels_I > 0, np.abs(self.predicted_I - self.true_I), np.nan))

    @property
    def relative_count_error(self) -> float:
        """Mean of |predicted objects - true objects| / true objects, over the images that have objects."""
        return mean_of_defined(ratio(np.abs(self.predicted_I - self.true_I), self.true_I))

    def scores(self) -> dict[str, float]:
        """The scores that are one number, by name; NaN where undefined."""
        return {
            "dsb_score": self.dsb_score,
            "ap50": self.ap50,
            "f1_50": self.recognition_quality,
            "panoptic_quality": self.panoptic_quality,
            "segmentation_quality": self.segmentation_quality,
            "recognition_quality": self.recognition_quality,
            "aji": self.aji,
            "count_error": self.count_error,
            "relative_count_error": self.relative_count_error,
        }

    def _per_image(self, part: Counts, whole: Counts) -> Values:
        """part / whole: 1 where there was nothing to find and nothing was found, NaN where all is void."""
        pixels = self.pixels_I.reshape(-1, *[1] * (whole.ndim - 1))
        return np.where(pixels > 0, np.where(whole > 0, ratio(part, whole), 1.0), np.nan)


def count_instances(instances_HW: Array, truth_HW: Array, void_HW: Array | None = None) -> InstanceCounts:
    """Count the objects of one image: one row of InstanceCounts.

    Both are label images of whole numbers: 0 is background, each other number an object; the numbers of the two need
    not correspond. `void_HW` is True where a pixel counts nowhere. Raises DataError where the sizes differ or a value
    is not a label.

    >>> count_instances(np.array([[1, 1, 0, 2]]), np.array([[3, 3, 3, 0]])).hits_IT[0, :4].tolist()
    [1, 1, 1, 1]
    """
    found = count_overlap(instances_HW, truth_HW, void_HW)
    hit_P = 2 * found.shared_P > found.union
    counted_M = _counted(found, hit_P)
    intersection, union = _aggregated_jaccard(found, counted_M)
    thresholds_T = np.array(IOU_TWENTIETHS)
    return InstanceCounts(
        pixels_I=np.array([found.pixels]),
        true_I=np.array([found.truth_N.size]),
        predicted_I=np.array([counted_M.sum()]),
        hits_IT=(20 * found.shared_P[:, None] > thresholds_T * found.union[:, None]).sum(axis=0, keepdims=True),
        iou_I=np.array([math.fsum(found.shared_P[hit_P] / found.union[hit_P])]),
        intersection_I=np.array([intersection]),
        union_I=np.array([union]),
    )


def _counted(found: Overlap, hit_P: Array) -> Array:
    """Which predicted objects count: those that are hits, and those that do not lie mostly in void."""
    counted_M: Array = found.void_M <= found.predicted_M
    counted_M[found.pair_predicted_P[hit_P]] = True
    return counted_M


def _aggregated_jaccard(found: Overlap, counted_M: Array) -> tuple[int, int]:
    """Intersection and union of each object of the truth with its best prediction; all other pixels join the union."""
    pairs = np.flatnonzero(counted_M[found.pair_predicted_P])
    truth, predicted = found.pair_truth_P[pairs], found.pair_predicted_P[pairs]
    shared, union = found.shared_P[pairs], found.union[pairs]

    # The best of each is the first after sorting; among equals, the one that comes first in the image.
    order = np.lexsort((predicted, -shared / union, truth))
    matched, first = np.unique(truth[order], return_index=True)
    best = order[first]

    missed = found.truth_N.sum() - found.truth_N[matched].sum()
    used = np.unique(predicted[best])
    added = found.predicted_M[counted_M].sum() - found.predicted_M[used].sum()
    return int(shared[best].sum()), int(union[best].sum() + missed + added)


_NONE = np.zeros(0, np.int64)
_NO_IMAGE = InstanceCounts(
    pixels_I=_NONE,
    true_I=_NONE,
    predicted_I=_NONE,
    hits_IT=np.zeros((0, len(IOU_TWENTIETHS)), np.int64),
    iou_I=np.zeros(0),
    intersection_I=_NONE,
    union_I=_NONE,
)
