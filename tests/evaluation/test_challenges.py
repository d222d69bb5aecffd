"""The tables of challenges: their own numbers, and refusals of models of another task."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pixelwise.data.known_classes import CAMVID, VOC
from pixelwise.errors import UsageError
from pixelwise.evaluation.challenges import CHALLENGES, PIECES, find_challenge
from pixelwise.evaluation.evaluate import Evaluation, ImageResult
from pixelwise.metrics.instances import count_instances
from pixelwise.metrics.isbi import count_slice
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.task import Task

TWO, THREE = Task.of(["membrane", "cell"]), Task.of(["background", "object", "border"])
BORDERS = InstanceSettings(form="softmax3")
CITY, ANYTHING = Task.of(CAMVID.names, ignore_index=11), Task.of(VOC.names)


def evaluation(task, counts_KK, **counted):
    image = ImageResult(name="a", counts_KK=np.asarray(counts_KK), void=0, **counted)
    return Evaluation(task=task, images=(image,))


@pytest.mark.parametrize(
    ("name", "task", "instances"),
    [
        ("isbi2012", TWO, None),
        ("dsb2018", TWO, None),
        ("dsb2018", TWO, PIECES),
        ("dsb2018", THREE, BORDERS),
        ("camvid", CITY, None),
        ("voc2012", ANYTHING, None),
    ],
)
def test_challenges_take_models_of_their_task(name, task, instances):
    assert find_challenge(name, task, instances) is CHALLENGES[name]


@pytest.mark.parametrize(
    ("name", "task", "instances", "words"),
    [
        (
            "isbi2012",
            THREE,
            BORDERS,
            "--metrics isbi2012 is for two classes .* 3 classes \\(background, object, border",
        ),
        ("isbi2012", Task.of(["a", "b"], kind="overlapping"), None, "is for two classes"),
        ("dsb2018", THREE, None, "is for single objects"),
        ("camvid", ANYTHING, None, "is for 11 classes.* 21 classes .*…"),
        ("camvid", Task.of(CAMVID.names, ignore_index=None), None, "void left out"),
        ("voc2012", CITY, None, "is for 21 classes"),
        ("voc", ANYTHING, None, "unknown challenge 'voc'; did you mean 'voc2012'|choose one of isbi2012, dsb2018"),
    ],
)
def test_other_tasks_and_names_are_refused(name, task, instances, words):
    with pytest.raises(UsageError, match=words):
        find_challenge(name, task, instances)


def test_the_data_science_bowl_has_a_row_per_threshold():
    truth, found = np.array([[1] * 10 + [0] + [2] * 10]), np.array([[1] * 8 + [0] * 3 + [2] * 10])
    whole = evaluation(TWO, [[1, 0], [2, 18]], instances=count_instances(found, truth))
    lines = CHALLENGES["dsb2018"].table(whole)
    assert lines[1:7] == [f"IoU above 0.{t}  1.0000" for t in (50, 55, 60, 65, 70, 75)]
    assert lines[7] == "IoU above 0.80  0.3333"
    assert lines[11].split() == ["score", "(mean)", f"{(6 + 4 / 3) / 10:.4f}"]
    assert "DSB score above" in lines[-1]


def test_isbi_has_the_six_measures_of_the_stack():
    truth = np.array([[1, 1, 0, 1, 1]] * 4)
    slices = count_slice(truth.astype(np.float32), truth)
    values = CHALLENGES["isbi2012"].to_dict(evaluation(TWO, [[4, 0], [0, 16]], regions=slices))
    assert list(values["scores"].values()) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert next(iter(values["scores"])) == "V_Rand after thinning"
    lines = CHALLENGES["isbi2012"].table(evaluation(TWO, [[4, 0], [0, 16]], regions=slices))
    assert lines[3].split() == ["Rand", "error", "0.0000"]
    assert "inside of cells" in lines[-1]


@pytest.mark.parametrize(("name", "task", "rows"), [("camvid", CITY, 3), ("voc2012", ANYTHING, 22)])
def test_the_means_are_those_of_the_default_table(name, task, rows):
    counts_KK = np.random.default_rng(0).integers(1, 50, (task.outputs, task.outputs))
    whole = evaluation(task, counts_KK)
    values = CHALLENGES[name].to_dict(whole)["scores"]
    json.dumps(values, allow_nan=False)
    assert len(values) == rows
    right = np.diag(counts_KK)
    iou = right / (counts_KK.sum(0) + counts_KK.sum(1) - right)
    assert list(values.values())[-1] == pytest.approx(iou.mean())
    assert whole.scores.means["mean_iou"] == list(values.values())[-1]
    if name == "camvid":
        assert values["global accuracy"] == pytest.approx(right.sum() / counts_KK.sum())
        assert values["class average accuracy"] == pytest.approx((right / counts_KK.sum(1)).mean())
    else:
        assert values["tvmonitor"] == pytest.approx(iou[20])
