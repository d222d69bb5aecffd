"""The one evaluator: counting per image, adding shards, ranking, and refusing what does not fit."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError, UsageError
from pixelwise.evaluation.evaluate import Measures, evaluate, merge
from pixelwise.inference.predict import Prediction
from pixelwise.metrics.instances import count_instances
from pixelwise.metrics.isbi import IsbiCounts, count_slice
from pixelwise.postprocess.morphology import connected_components
from pixelwise.task import Task

TASK = Task.of(["background", "cell"])


@dataclass
class Sample:
    name: str
    image_HWC: np.ndarray
    mask_HW: np.ndarray = field(repr=False)


def make_sample(name, labels, mask):
    """A sample whose image holds the labels that `predict` below reads off it."""
    return Sample(name, np.array(labels, np.uint8)[..., None], np.array(mask, np.uint8))


def read(sample):
    return sample.image_HWC, sample.mask_HW


def said(labels_HW):
    """A prediction of these labels, whose objects are the runs of ones in a row."""
    scores_KHW = np.stack([labels_HW == 0, labels_HW == 1]).astype(np.float32)
    return Prediction(labels_HW, scores_KHW, connected_components(labels_HW))


def run(samples, task=TASK, predict=lambda image_HWC: said(image_HWC[..., 0]), measures=None):
    return evaluate(samples, read=read, predict=predict, task=task, measures=measures)


def pieces_of_mask(sample):
    return connected_components(sample.mask_HW == 1)


OBJECTS = Measures(true_objects=pieces_of_mask)


def random_samples(seed, count=5):
    rng = np.random.default_rng(seed)
    return [make_sample(f"{i}.png", rng.integers(0, 2, (4, 6)), rng.choice([0, 1, 255], (4, 6))) for i in range(count)]


GOOD = make_sample("good", [[0, 1]], [[0, 1]])
HALF = make_sample("half", [[0, 1]], [[0, 0]])
BAD = make_sample("bad", [[1, 0]], [[0, 1]])
VOID = make_sample("void", [[0, 1]], [[255, 255]])


def test_scores_are_of_the_sum_not_the_mean_of_images():
    evaluation = run([make_sample("a", [[1, 1, 1]], [[1, 1, 1]]), make_sample("b", [[1]], [[0]])])
    assert evaluation.scores.counts_KK.tolist() == [[0, 1], [0, 3]]
    assert evaluation.scores.means["mean_iou"] == pytest.approx((0 + 3 / 4) / 2)
    assert evaluation.scores.images == 2


def test_void_is_counted_apart():
    evaluation = run([make_sample("a", [[0, 1, 1]], [[0, 255, 255]])])
    assert evaluation.scores.void == 2
    assert evaluation.scores.counts_KK.sum() == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 5), st.randoms())
def test_shards_add_up_in_any_order(seed, cut, random):
    samples = random_samples(seed)
    whole = run(samples).to_dict()
    random.shuffle(samples)
    shards = [run(samples[:cut]), run(samples[cut:])]
    random.shuffle(shards)
    assert merge(shards).to_dict() == whole


def test_samples_are_read_one_at_a_time():
    events = []

    def stream():
        for name in "ab":
            events.append(f"take {name}")
            yield make_sample(name, [[0]], [[0]])

    def read(sample):
        events.append(f"read {sample.name}")
        return sample.image_HWC, sample.mask_HW

    evaluate(stream(), read=read, predict=lambda image_HWC: said(image_HWC[..., 0]), task=TASK)
    assert events == ["take a", "read a", "take b", "read b"]


@pytest.mark.parametrize("order", list(itertools.permutations([GOOD, HALF, BAD, VOID])))
def test_worst_and_best_put_all_void_last(order):
    evaluation = run(order)
    assert [image.name for image in evaluation.worst(4)] == ["bad", "half", "good", "void"]
    assert [image.name for image in evaluation.best(4)] == ["good", "half", "bad", "void"]
    assert [image.all_void for image in evaluation.worst(4)] == [False, False, False, True]
    assert [image.name for image in evaluation.worst(1)] == ["bad"]


def test_json_has_a_row_per_image():
    values = json.loads(json.dumps(run([HALF, VOID]).to_dict(), allow_nan=False))
    half, void = values["per_image"]
    assert half == {
        "name": "half",
        "mean_iou": 0.25,
        "pixel_accuracy": 0.5,
        "iou": [0.5, 0.0],
        "pixels": 2,
        "void_pixels": 0,
        "all_void": False,
    }
    assert (void["mean_iou"], void["iou"], void["void_pixels"], void["all_void"]) == (None, [None, None], 2, True)
    assert values["images"] == 2


def test_no_samples_can_still_be_merged():
    assert run([]).scores.to_dict()["mean_iou"] is None
    assert merge([run([]), run([GOOD])]).scores.means["mean_iou"] == 1.0


def test_a_prediction_of_another_size_names_both():
    with pytest.raises(DataError, match="half: the prediction is 1 × 1 pixels, the mask 1 × 2"):
        run([HALF], predict=lambda image_HWC: said(image_HWC[:, :1, 0]))


def test_a_wrong_mask_value_names_the_sample():
    with pytest.raises(DataError, match=r"odd\\n: mask with value 7 in 1 pixels"):
        run([make_sample("odd\n", [[0]], [[7]])])


def test_two_images_of_one_name_are_refused():
    with pytest.raises(UsageError, match="half was evaluated twice"):
        run([HALF, GOOD, HALF])
    with pytest.raises(UsageError, match="good was evaluated twice"):
        merge([run([GOOD]), run([GOOD])])


def test_merging_nothing_or_different_tasks_is_refused():
    with pytest.raises(UsageError, match="no evaluation to merge"):
        merge([])
    with pytest.raises(UsageError, match="different tasks"):
        merge([run([GOOD]), run([HALF], task=Task.of(["background", "nucleus"]))])


def test_values_have_no_classes_to_score():
    with pytest.raises(UsageError, match="a task of values cannot be evaluated yet"):
        run([GOOD], task=Task.of(["depth", "height"], kind="values"))


def test_overlapping_classes_are_scored_each_by_itself():
    both = Task.of(["cell", "edge"], kind="overlapping")
    evaluation = run([make_sample("a", [[0, 1, 2, 3]], [[1, 1, 3, 255]]), make_sample("b", [[3]], [[0]])], task=both)
    scores = evaluation.scores
    assert scores.counts_KK.tolist() == [[[0, 1], [2, 1]], [[2, 1], [0, 1]]]
    assert scores.per_class["iou"] == [1 / 4, 1 / 2]
    assert scores.per_class["share"] == [3 / 4, 1 / 4]
    assert scores.means["mean_iou"] == pytest.approx(3 / 8)
    assert scores.means["pixel_accuracy"] == pytest.approx(4 / 8)
    assert scores.means["frequency_weighted_iou"] == pytest.approx((3 * 1 / 4 + 1 / 2) / 4)
    assert "one confusion matrix of each class over all 2 images (1 void pixel excluded)" in scores.aggregation
    values = evaluation.to_dict()
    assert (values["pixels"], values["void_pixels"]) == (4, 1)
    assert values["per_image"][0]["pixels"] == 3
    halves = [
        run([make_sample("a", [[0, 1, 2, 3]], [[1, 1, 3, 255]])], task=both),
        run([make_sample("b", [[3]], [[0]])], task=both),
    ]
    assert merge(halves[::-1]).to_dict() == values


# Objects


def test_objects_are_counted_beside_the_pixels():
    evaluation = run([make_sample("a", [[1, 0, 1, 1]], [[1, 0, 0, 0]]), GOOD], measures=OBJECTS)
    values = evaluation.to_dict()
    assert values["objects"]["dsb_score"] == pytest.approx((1 / 2 + 1) / 2)
    assert (values["objects"]["true_objects"], values["objects"]["predicted_objects"]) == (2, 3)
    assert values["per_image"][0]["objects"]["dsb_score"] == pytest.approx(0.5)
    assert any("DSB score" in line for line in evaluation.table())
    assert values["mean_iou"] == run([GOOD, make_sample("a", [[1, 0, 1, 1]], [[1, 0, 0, 0]])]).to_dict()["mean_iou"]


def test_objects_are_not_counted_unasked():
    evaluation = run([GOOD, HALF])
    assert evaluation.objects is None
    assert evaluation.regions is None
    assert "objects" not in evaluation.to_dict()
    assert evaluation.table() == evaluation.scores.table()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 5), st.randoms())
def test_objects_of_shards_add_up_in_any_order(seed, cut, random):
    samples = random_samples(seed)
    whole = run(samples, measures=OBJECTS).to_dict()
    random.shuffle(samples)
    shards = [run(samples[:cut], measures=OBJECTS), run(samples[cut:], measures=OBJECTS)]
    random.shuffle(shards)
    assert merge(shards).to_dict() == whole


def test_void_pixels_are_of_no_object():
    void = make_sample("a", [[1, 1, 0, 1]], [[1, 1, 0, 255]])
    (image,) = run([void], measures=OBJECTS).images
    expected = count_instances(np.array([[1, 1, 0, 2]]), np.array([[1, 1, 0, 0]]), np.array([[False] * 3 + [True]]))
    assert image.instances.scores() == pytest.approx(expected.scores())
    assert image.instances.predicted_I.tolist() == [1]


def test_images_are_ranked_by_their_objects_where_these_are_counted():
    # Many right pixels and one wrong object: a higher mean IoU, a lower DSB score.
    melted = make_sample("melted", [[1] * 21], [[1] * 10 + [0] + [1] * 10])
    rough = make_sample("rough", [[1, 1, 1, 1, 1, 0, 0, 0]], [[1, 1, 1, 1, 1, 1, 1, 0]])
    assert [image.name for image in run([melted, rough], measures=OBJECTS).worst(2)] == ["melted", "rough"]
    nothing = make_sample("nothing", [[0]], [[255]])
    assert run([melted, nothing], measures=OBJECTS).worst(2)[-1].name == "nothing"
    assert run([nothing], measures=OBJECTS).to_dict()["objects"]["dsb_score"] is None


def test_regions_are_those_of_the_scores_of_the_last_class():
    rng = np.random.default_rng(0)
    samples = [make_sample(str(i), rng.integers(0, 2, (8, 9)), rng.integers(0, 2, (8, 9))) for i in range(3)]
    found = run(samples, measures=Measures(regions=True)).regions
    expected = IsbiCounts.of(count_slice((s.image_HWC[..., 0] == 1).astype(np.float32), s.mask_HW) for s in samples)
    assert found.scores() == pytest.approx(expected.scores())
    with pytest.raises(DataError, match="void: 2 pixels are void"):
        run([VOID], measures=Measures(regions=True))
