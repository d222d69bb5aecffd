"""Scores of objects: what the counts of many images say, as JSON values and as a table a person can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pixelwise.evaluation.scores import aligned, four_decimals, json_number
from pixelwise.metrics.instances import IOU_THRESHOLDS, InstanceCounts

OBJECT_TITLES = {
    "dsb_score": "DSB score (mean AP at IoU 0.50:0.05:0.95)",
    "ap50": "AP at IoU 0.50",
    "f1_50": "F1 at IoU 0.50",
    "panoptic_quality": "panoptic quality PQ = SQ × RQ",
    "segmentation_quality": "segmentation quality SQ",
    "recognition_quality": "recognition quality RQ (F1 at IoU 0.50)",
    "aji": "aggregated Jaccard index",
    "count_error": "count error, objects per image",
    "relative_count_error": "relative count error",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectScores:
    """All scores of the objects of some images.

    >>> import numpy as np
    >>> from pixelwise.metrics.instances import count_instances
    >>> truth = np.array([[1, 1, 0, 2, 2]])
    >>> round(ObjectScores(counts=count_instances(truth, truth)).to_dict()["dsb_score"], 4)
    1.0
    """

    counts: InstanceCounts

    @property
    def aggregation(self) -> str:
        """The rule by which these numbers were made, in one sentence."""
        void = int((self.counts.pixels_I == 0).sum())
        left_out = f" (without {void} that are all void)" if void else ""
        images = _of(len(self.counts.pixels_I), "image")
        predicted, true = _of(int(self.counts.predicted_I.sum()), "object"), int(self.counts.true_I.sum())
        return (
            f"{predicted} predicted, {true} in the truth; DSB score, AP, Jaccard index and count errors are means over "
            f"{images}{left_out}; F1, PQ, SQ and RQ are of all objects together; a hit has an IoU above the threshold"
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON values; None where undefined."""
        return {
            **{name: json_number(value) for name, value in self.counts.scores().items()},
            "ap": {f"{t:.2f}": json_number(ap) for t, ap in zip(IOU_THRESHOLDS, self.counts.ap.tolist(), strict=True)},
            "true_objects": int(self.counts.true_I.sum()),
            "predicted_objects": int(self.counts.predicted_I.sum()),
            "aggregation": self.aggregation,
        }

    def table(self) -> list[str]:
        """The lines of a plain-text table, then the rule of aggregation."""
        scores = self.counts.scores()
        rows = [[OBJECT_TITLES[name], four_decimals(value)] for name, value in scores.items() if name != "f1_50"]
        return [*aligned(rows), "", self.aggregation]


def image_objects(counts: InstanceCounts) -> dict[str, Any]:
    """The scores of the objects of one image as JSON values."""
    return {
        "dsb_score": json_number(counts.dsb_score),
        "ap50": json_number(counts.ap50),
        "aji": json_number(counts.aji),
        "true_objects": int(counts.true_I.sum()),
        "predicted_objects": int(counts.predicted_I.sum()),
    }


def _of(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
