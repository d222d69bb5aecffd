"""The table of objects: the numbers, what is undefined, and the rule that made them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pixelwise.evaluation.object_scores import OBJECT_TITLES, ObjectScores, image_objects
from pixelwise.metrics.instances import InstanceCounts, count_instances

TRUTH = np.array([[1] * 10 + [0] + [2] * 10 + [0]])
HALF = np.array([[1] * 10 + [0] + [2] * 6 + [0] * 4 + [3]])


def scores(*images):
    return ObjectScores(counts=InstanceCounts.of(count_instances(image, TRUTH) for image in images))


def test_json_holds_everything():
    values = json.loads(json.dumps(scores(HALF, TRUTH).to_dict(), allow_nan=False))
    # HALF: one perfect object, one of IoU 0.6, one invented: 2/3 below 0.6, else 1/4.
    half = (2 * 2 / 3 + 8 * 1 / 4) / 10
    assert values["dsb_score"] == pytest.approx((half + 1) / 2)
    assert values["ap"]["0.50"] == pytest.approx((2 / 3 + 1) / 2)
    assert values["ap"]["0.60"] == pytest.approx((1 / 4 + 1) / 2)
    assert list(values["ap"])[-1] == "0.95"
    assert values["f1_50"] == pytest.approx(2 * 4 / (2 * 4 + 1))
    assert values["segmentation_quality"] == pytest.approx((1 + 0.6 + 2) / 4)
    assert values["count_error"] == pytest.approx(0.5)
    assert (values["true_objects"], values["predicted_objects"]) == (4, 5)


def test_the_table_names_every_score_once_and_the_rule():
    *rows, empty, rule = scores(HALF, TRUTH).table()
    assert empty == ""
    assert [row.split("  ")[0] for row in rows] == [t for name, t in OBJECT_TITLES.items() if name != "f1_50"]
    assert rows[0].endswith("0.6667")
    assert rule.startswith("5 objects predicted, 4 in the truth; DSB score, AP, Jaccard index and count errors are")
    assert "means over 2 images; F1" in rule


def test_images_without_objects_and_all_void():
    nothing = np.zeros((2, 2), int)
    empty = ObjectScores(counts=count_instances(nothing, nothing))
    assert empty.to_dict()["dsb_score"] == 1.0
    assert empty.to_dict()["f1_50"] is None
    void = ObjectScores(counts=count_instances(nothing, nothing, np.ones((2, 2), bool)))
    assert void.to_dict()["dsb_score"] is None
    assert "(without 1 that are all void)" in void.aggregation
    assert void.table()[0].endswith("–")


def test_an_image_alone():
    assert image_objects(count_instances(TRUTH, TRUTH)) == {
        "dsb_score": 1.0,
        "ap50": 1.0,
        "aji": 1.0,
        "true_objects": 2,
        "predicted_objects": 2,
    }
