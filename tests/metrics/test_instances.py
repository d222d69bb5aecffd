"""Overlaps and measures of objects: worked numbers, a naive oracle on sets, void, order and names, the ends."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError
from pixelwise.metrics.instances import IOU_THRESHOLDS, InstanceCounts, count_instances
from pixelwise.metrics.overlap import count_overlap

NUCLEI = Path(__file__).resolve().parents[3] / "shared" / "data" / "dsb2018" / "stage1_train"


def strips(*lengths):
    """One row in which each object is followed by one pixel of background."""
    pieces = [np.append(np.full(length, i + 1), 0) for i, length in enumerate(lengths)]
    return np.concatenate(pieces)[None].astype(np.int32)


def shortened(truth, **kept):
    """The strips of a truth, of which only the first pixels are kept."""
    result = truth.copy()
    for name, pixels in kept.items():
        columns = np.flatnonzero(truth[0] == int(name[1:]))
        result[0, columns[pixels:]] = 0
    return result


def naive(instances, truth, void):
    """Hits at each threshold, objects, AJI parts and IoU sum, by sets of pixels and exact fractions."""
    keep = {i for i in range(truth.size) if not void.flat[i]}
    ids = {"t": truth.ravel().tolist(), "p": instances.ravel().tolist()}
    objects = {k: [{i for i, v in enumerate(ids[k]) if v == n} for n in dict.fromkeys(ids[k]) if n] for k in ids}
    true = [t & keep for t in objects["t"] if t & keep]
    ious = [[Fraction(len(t & p & keep), len((t | p) & keep)) for p in objects["p"]] for t in true]
    hit = {j for row in ious for j, v in enumerate(row) if v > Fraction(1, 2)}
    counted = [j for j, p in enumerate(objects["p"]) if j in hit or 2 * len(p - keep) <= len(p)]
    hits = [sum(v > Fraction(k, 20) for row in ious for v in row) for k in range(10, 20)]
    above, below, used = 0, 0, set()
    for t, row in zip(true, ious, strict=True):
        best = max(counted, key=lambda j: (row[j], -j), default=None)
        if best is None or not row[best]:
            below += len(t)
            continue
        above += len(t & objects["p"][best])
        below += len((t | objects["p"][best]) & keep)
        used.add(best)
    below += sum(len(objects["p"][j] & keep) for j in counted if j not in used)
    return hits, len(true), len(counted), above, below, float(sum(v for row in ious for v in row if v > Fraction(1, 2)))


@st.composite
def scenes(draw, *, most_void=0.6):
    """Instances, truth and void of up to 8 x 8 pixels, objects in blocks so that large overlaps are common."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = np.kron(rng.integers(0, 5, (4, 4)), np.ones((2, 2), np.int32))[: shape[0], : shape[1]].astype(np.int32)
    instances = np.where(rng.random(shape) < 0.2, rng.integers(0, 5, shape), (truth * 3) % 7).astype(np.int32)
    void = rng.random(shape) < draw(st.sampled_from([0.0, 0.2, most_void]))
    return instances, truth, void


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_two_objects_of_iou_08_and_06():
    truth = strips(10, 10)
    counts = count_instances(shortened(truth, _1=8, _2=6), truth)
    assert counts.hits_IT.tolist() == [[2, 2, 1, 1, 1, 1, 0, 0, 0, 0]]
    assert counts.dsb_score == pytest.approx(1 / 3, abs=1e-12)
    assert counts.ap50 == 1
    assert counts.panoptic_quality == pytest.approx(0.7, abs=1e-12)


def test_three_predictions_of_which_two_hit():
    truth = strips(10, 10, 5)
    instances = shortened(truth, _1=9, _2=7)
    counts = count_instances(instances, np.where(truth == 3, 0, truth))
    assert counts.ap.tolist() == pytest.approx([2 / 3] * 4 + [1 / 4] * 4 + [0] * 2)
    assert counts.dsb_score == pytest.approx(0.366667, abs=1e-6)
    assert counts.f1.tolist() == pytest.approx([4 / 5] * 4 + [2 / 5] * 4 + [0] * 2)
    assert counts.precision[0] == pytest.approx(2 / 3)
    assert counts.recall[0] == 1
    assert counts.segmentation_quality == pytest.approx(0.8)
    assert counts.recognition_quality == pytest.approx(0.8)
    assert counts.panoptic_quality == pytest.approx(0.64)
    assert counts.aji == pytest.approx(16 / 25)
    assert (counts.count_error, counts.relative_count_error) == (1, 0.5)


@pytest.mark.parametrize("twentieths", range(10, 20))
def test_an_iou_equal_to_the_threshold_is_no_hit(twentieths):
    truth = strips(20)
    at, above = shortened(truth, _1=twentieths), shortened(truth, _1=twentieths + 1)
    assert not count_instances(at, truth).hits_IT[0, twentieths - 10 :].any()
    assert count_instances(above, truth).hits_IT[0, twentieths - 10] == 1


def test_thresholds():
    assert pytest.approx(np.arange(0.5, 0.951, 0.05)) == IOU_THRESHOLDS


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_counts_equal_their_definition_on_sets(scene):
    instances, truth, void = scene
    counts = count_instances(instances, truth, void)
    hits, true, predicted, above, below, iou = naive(instances, truth, void)
    assert counts.hits_IT[0].tolist() == hits
    assert (counts.true_I[0], counts.predicted_I[0]) == (true, predicted)
    assert (counts.intersection_I[0], counts.union_I[0]) == (above, below)
    assert counts.iou_I[0] == pytest.approx(iou)
    assert counts.pixels_I[0] == (~void).sum()


@settings(max_examples=60, deadline=None)
@given(scenes(), st.randoms())
def test_other_ids_change_nothing(scene, random):
    instances, truth, void = scene
    names = [0, *random.sample(range(1, 2**31 - 1), 7)]
    renamed = count_instances(np.array(names)[instances], np.array(names[:1] + names[:0:-1])[truth], void)
    assert same(renamed, count_instances(instances, truth, void))


@settings(max_examples=60, deadline=None)
@given(st.lists(scenes(most_void=1.0), max_size=5), st.randoms())
def test_images_add_up_in_any_order(images, random):
    rows = [count_instances(*image) for image in images]
    whole = InstanceCounts.of(rows)
    split = random.randint(0, len(rows))
    assert same(InstanceCounts.of(rows[:split]) + InstanceCounts.of(rows[split:]), whole)
    random.shuffle(rows)
    assert InstanceCounts.of(rows).scores() == pytest.approx(whole.scores(), rel=0, abs=0, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_what_is_in_void_does_not_matter(scene):
    instances, truth, void = scene
    assert same(count_instances(instances, truth, void), count_instances(instances, np.where(void, 9, truth), void))


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_scores_are_between_0_and_1_and_perfect_for_the_truth(scene):
    instances, truth, void = scene
    for name, score in count_instances(instances, truth, void).scores().items():
        assert math.isnan(score) or 0 <= score <= 1 + 1e-12 or "count" in name
    perfect = count_instances(truth, truth)
    assert (perfect.dsb_score, perfect.ap50, perfect.aji, perfect.count_error) == (1, 1, 1, 0)
    assert perfect.panoptic_quality == 1 or not truth.any()


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_panoptic_quality_is_its_two_parts_multiplied(scene):
    counts = count_instances(*scene)
    if counts.hits_IT[0, 0]:
        product = counts.segmentation_quality * counts.recognition_quality
        assert counts.panoptic_quality == pytest.approx(product)


def test_pooled_and_mean_scores_of_two_images_differ_as_said():
    one, four = strips(4), strips(4, 4, 4, 4)
    counts = count_instances(np.zeros_like(one), one) + count_instances(four, four)
    assert counts.dsb_score == 0.5
    assert counts.f1[0] == pytest.approx(8 / 9)
    assert counts.panoptic_quality == pytest.approx(8 / 9)
    assert counts.segmentation_quality == 1
    assert counts.aji == 0.5
    assert (counts.count_error, counts.relative_count_error) == (0.5, 0.5)


def test_aggregated_jaccard_lets_one_prediction_serve_two_objects():
    truth = np.array([[1, 1, 2, 2, 0]])
    counts = count_instances(np.array([[5, 5, 5, 5, 0]]), truth)
    assert (counts.intersection_I[0], counts.union_I[0]) == (4, 8)
    halves = count_instances(np.array([[5, 6]]), np.array([[1, 1]]))
    assert (halves.intersection_I[0], halves.union_I[0]) == (1, 3)


def test_a_prediction_mostly_in_void_is_neither_right_nor_wrong():
    truth, instances = np.array([[1, 1, 0, 0, 0]]), np.array([[1, 1, 2, 2, 2]])
    void = np.array([[False, False, False, True, True]])
    counts = count_instances(instances, truth, void)
    assert (counts.dsb_score, counts.aji, counts.panoptic_quality, counts.count_error) == (1, 1, 1, 0)
    half = count_instances(instances[:, :4], truth[:, :4], void[:, :4])
    assert half.predicted_I[0] == 2
    assert half.dsb_score == 0.5


@pytest.mark.parametrize(
    ("instances", "truth", "score"), [([[0, 0]], [[0, 0]], 1), ([[0, 3]], [[0, 0]], 0), ([[0, 0]], [[0, 3]], 0)]
)
def test_empty_images(instances, truth, score):
    counts = count_instances(np.array(instances), np.array(truth))
    assert (counts.dsb_score, counts.ap50, counts.aji) == (score, score, score)
    assert math.isnan(counts.segmentation_quality)
    assert counts.panoptic_quality == 0 or score == 1
    assert math.isnan(counts.relative_count_error) != bool(np.any(truth))


def test_all_void_and_no_image_have_no_score():
    one = np.ones((3, 3), np.int32)
    void = count_instances(one, one, np.ones((3, 3), bool))
    assert all(math.isnan(score) for score in void.scores().values())
    assert all(math.isnan(score) for score in InstanceCounts.of([]).scores().values())
    assert (void + count_instances(one, one)).dsb_score == 1


def test_one_pixel():
    one = np.ones((1, 1), np.uint8)
    assert count_instances(one, one).dsb_score == 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.uint16, np.int64, np.uint64])
def test_every_integer_type_counts_the_same(dtype):
    truth = np.array([[1, 1, 0, 1]]).astype(dtype)
    found = count_overlap(truth, truth, np.array([[False, False, True, True]]))
    assert (found.truth_N.tolist(), found.predicted_M.tolist(), found.void_M.tolist()) == ([2], [2], [1])
    assert (found.shared_P.tolist(), found.union.tolist(), found.pixels) == ([2], [2], 2)


@pytest.mark.skipif(not NUCLEI.is_dir(), reason="the nuclei of the Data Science Bowl are not here")
def test_real_nuclei_eroded_by_a_pixel():
    masks = sorted((sorted(NUCLEI.iterdir())[0] / "masks").glob("*.png"))
    nuclei = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0 for path in masks]
    truth = sum((i + 1) * nucleus.astype(np.int32) for i, nucleus in enumerate(nuclei))
    eroded = [cv2.erode(nucleus.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for nucleus in nuclei]
    instances = sum((i + 1) * nucleus.astype(np.int32) for i, nucleus in enumerate(eroded))
    ious = [e.sum() / n.sum() for e, n in zip(eroded, nuclei, strict=True)]
    counts = count_instances(instances, truth)
    assert counts.true_I[0] == len(nuclei) > 10
    assert counts.hits_IT[0].tolist() == [sum(iou > k / 20 for iou in ious) for k in range(10, 20)]
    assert counts.aji == pytest.approx(sum(e.sum() for e in eroded) / sum(n.sum() for n in nuclei))
    assert counts.iou_I[0] == pytest.approx(sum(iou for iou in ious if iou > 0.5))


def test_many_objects_are_counted_in_one_pass():
    truth = np.arange(1, 200 * 300 + 1).reshape(200, 300)
    counts = count_instances(truth[:, ::-1].copy()[:, ::-1] + 2**30, truth)
    assert counts.hits_IT.tolist() == [[60000] * 10]


@pytest.mark.parametrize(
    ("instances", "truth", "void", "words"),
    [
        ([[1, 1]], [[1], [1]], None, "instances of shape (1, 2) beside a truth of shape (2, 1)"),
        ([1], [1], None, "rows × columns"),
        ([[1.0]], [[1]], None, "instances of type float64"),
        ([[1]], [[-1]], None, "truth with values from -1 to -1"),
        ([[2**31]], [[1]], None, "instances with values from 2147483648"),
        ([[1]], [[1]], [[True, False]], "void of shape (1, 2)"),
        ([[1]], [[1]], [[255]], "type int64"),
    ],
)
def test_what_is_no_label_image_is_named(instances, truth, void, words):
    with pytest.raises(DataError) as error:
        count_overlap(np.array(instances), np.array(truth), None if void is None else np.array(void))
    assert words in str(error.value)
