"""How far the scores would move with other images: intervals by the bootstrap over images.

N images, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pixelwise.evaluation.evaluate import Evaluation
from pixelwise.evaluation.object_scores import OBJECT_TITLES
from pixelwise.evaluation.scores import TITLES, aligned, four_decimals, json_number
from pixelwise.metrics.bootstrap import Interval, bootstrap
from pixelwise.metrics.confusion import Array, mean_iou, pixel_accuracy

LEVEL, DRAWS = 0.95, 1000
BOUNDED = {"mean_iou": mean_iou, "pixel_accuracy": pixel_accuracy}


def score_intervals(evaluation: Evaluation) -> dict[str, Interval]:
    """Mean IoU and pixel accuracy, and where objects were counted the DSB score, each with its interval.

    Raises UsageError for fewer than two images.
    """
    counts_NKK = np.array([image.counts_KK for image in evaluation.images])
    found = {name: bootstrap(metric, counts_NKK, level=LEVEL, draws=DRAWS) for name, metric in BOUNDED.items()}
    if evaluation.objects is not None:
        dsb_N = evaluation.objects.counts.dsb_per_image
        sums_N2 = np.stack([np.nan_to_num(dsb_N), ~np.isnan(dsb_N)], axis=1)
        found["dsb_score"] = bootstrap(_mean_of_sum, sums_N2, level=LEVEL, draws=DRAWS)
    return found


def interval_lines(intervals: dict[str, Interval]) -> list[str]:
    """The intervals as lines, then what they mean."""
    titles = TITLES | OBJECT_TITLES
    rows = [
        [titles[name], four_decimals(float(one.value)), f"{_number(one.low)} to {_number(one.high)}"]
        for name, one in intervals.items()
    ]
    rule = f"{LEVEL:.0%} intervals, by the bootstrap over the images ({DRAWS} draws): what other such images would give"
    return [*aligned(rows), "", rule]


def intervals_to_dict(intervals: dict[str, Interval]) -> dict[str, Any]:
    """The intervals as JSON values; None where undefined."""
    return {
        "level": LEVEL,
        "draws": DRAWS,
        **{
            name: {"low": json_number(float(one.low)), "high": json_number(float(one.high))}
            for name, one in intervals.items()
        },
    }


def _mean_of_sum(sum_2: Array) -> float:
    """A mean from (sum of the values, their number)."""
    total, number = sum_2.tolist()
    return total / number if number else float("nan")


def _number(value: Array) -> str:
    return four_decimals(float(value))
