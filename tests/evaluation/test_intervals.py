"""Intervals of the scores of an evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pixelwise.errors import UsageError
from pixelwise.evaluation.evaluate import Evaluation, ImageResult
from pixelwise.evaluation.intervals import interval_lines, intervals_to_dict, score_intervals
from pixelwise.metrics.instances import count_instances
from pixelwise.task import Task

TASK = Task.of(["background", "cell"])
TRUTH = np.array([[1, 1, 0, 2, 2]])


def evaluation(shares, objects=False):
    """An image of 100 pixels for each share of right ones; with objects, those of a right half have one of two."""
    images = []
    for number, share in enumerate(shares):
        right = round(100 * share)
        found = TRUTH if share > 0.5 else np.where(TRUTH == 1, 1, 0)
        instances = count_instances(found, TRUTH) if objects else None
        counts = np.array([[right // 2, (100 - right) // 2], [(100 - right) // 2, right // 2]])
        images.append(ImageResult(name=str(number), counts_KK=counts, void=0, instances=instances))
    return Evaluation(task=TASK, images=tuple(images))


def test_the_score_lies_in_its_interval_and_alike_images_have_none():
    spread, alike = score_intervals(evaluation([0.2, 0.6, 1.0, 0.8])), score_intervals(evaluation([0.6] * 4))
    assert list(spread) == ["mean_iou", "pixel_accuracy"]
    for name, one in spread.items():
        assert one.low < one.value < one.high
        assert alike[name].low == alike[name].value == alike[name].high
    assert spread["pixel_accuracy"].value == pytest.approx(0.65)


def test_the_dsb_score_is_that_of_the_evaluation():
    whole = evaluation([0.2, 0.6, 1.0, 0.8], objects=True)
    found = score_intervals(whole)["dsb_score"]
    assert found.value == pytest.approx(whole.objects.counts.dsb_score) == pytest.approx((0.5 + 3) / 4)
    assert 0.5 <= found.low < found.value <= found.high == 1.0


def test_lines_and_json_say_the_same():
    intervals = score_intervals(evaluation([0.2, 0.6, 1.0, 0.8]))
    *rows, empty, rule = interval_lines(intervals)
    values = json.loads(json.dumps(intervals_to_dict(intervals), allow_nan=False))
    assert (values["level"], values["draws"], empty) == (0.95, 1000, "")
    assert rows[1] == f"pixel accuracy  0.6500  {values['pixel_accuracy']['low']:.4f} to " + (
        f"{values['pixel_accuracy']['high']:.4f}"
    )
    assert rule.startswith("95% intervals")


def test_one_image_has_no_interval():
    with pytest.raises(UsageError, match="at least 2"):
        score_intervals(evaluation([0.5]))
