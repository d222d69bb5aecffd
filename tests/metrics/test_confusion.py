"""Confusion counts and region scores: worked numbers, a naive oracle, adding up, and the ends of the range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError, UsageError
from pixelwise.metrics import confusion as c

MASK = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [2, 2, 2, 255]], np.uint8)
LABELS = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [2, 0, 1, 2]], np.uint8)
COUNTS = np.array([[5, 1, 0], [0, 2, 0], [1, 1, 1]])


def naive_counts(labels, mask, classes, ignore):
    counts = [[0] * classes for _ in range(classes)]
    for label, truth in zip(labels.ravel().tolist(), mask.ravel().tolist(), strict=True):
        if truth != ignore:
            counts[truth][label] += 1
    return counts


@st.composite
def pairs(draw):
    """Labels and a mask of up to 9 x 9 pixels, 1 to 5 classes, some void."""
    classes = draw(st.integers(1, 5))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.integers(0, classes, shape).astype(np.uint8)
    mask[rng.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 255
    return rng.integers(0, classes, shape).astype(np.uint8), mask, classes


def test_worked_counts():
    counts = c.count(LABELS, MASK, classes=3, ignore_index=255)
    assert counts.tolist() == COUNTS.tolist()
    assert counts.dtype == np.int64


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (c.precision, [5 / 6, 1 / 2, 1]),
        (c.recall, [5 / 6, 1, 1 / 3]),
        (c.f1, [5 / 6, 2 / 3, 1 / 2]),
        (c.iou, [5 / 7, 1 / 2, 1 / 3]),
        (c.truth_share, [6 / 11, 2 / 11, 3 / 11]),
    ],
)
def test_worked_scores_per_class(score, expected):
    assert score(COUNTS) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pixel_accuracy", 0.727273),
        ("mean_accuracy", 0.722222),
        ("mean_iou", 0.515873),
        ("frequency_weighted_iou", 0.571429),
        ("mean_f1", 0.666667),
    ],
)
def test_worked_means(name, expected):
    assert c.METRICS[name](COUNTS) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_counts_equal_a_loop_over_pixels(pair):
    labels, mask, classes = pair
    counts = c.count(labels, mask, classes=classes, ignore_index=255)
    assert counts.tolist() == naive_counts(labels, mask, classes, 255)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_scores_equal_their_definition_on_sets(pair):
    labels, mask, classes = pair
    counts = c.count(labels, mask, classes=classes, ignore_index=255)
    valid = [(int(p), int(t)) for p, t in zip(labels.ravel(), mask.ravel(), strict=True) if t != 255]
    for k in range(classes):
        said = {i for i, (p, _) in enumerate(valid) if p == k}
        true = {i for i, (_, t) in enumerate(valid) if t == k}
        ratio = {
            c.iou: (len(said & true), len(said | true)),
            c.f1: (2 * len(said & true), len(said) + len(true)),
            c.precision: (len(said & true), len(said)),
            c.recall: (len(said & true), len(true)),
        }
        for score, (part, whole) in ratio.items():
            expected = part / whole if whole else math.nan
            assert score(counts)[k] == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_parts_of_an_image_add_up(pair):
    labels, mask, classes = pair
    whole = c.count(labels, mask, classes=classes, ignore_index=255)
    rows = [c.count(labels[i : i + 1], mask[i : i + 1], classes=classes, ignore_index=255) for i in range(len(mask))]
    assert np.array_equal(sum(rows), whole)


@settings(max_examples=40, deadline=None)
@given(pairs(), st.randoms())
def test_renamed_classes_only_rename_the_scores(pair, random):
    labels, mask, classes = pair
    order = list(range(classes))
    random.shuffle(order)
    renamed = np.array([*order, *range(classes, 256)], np.uint8)
    before = c.count(labels, mask, classes=classes, ignore_index=255)
    after = c.count(renamed[labels], renamed[mask], classes=classes, ignore_index=255)
    assert c.iou(after)[order] == pytest.approx(c.iou(before), nan_ok=True)
    for metric in c.METRICS.values():
        assert metric(after) == pytest.approx(metric(before), nan_ok=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_every_integer_type_counts_the_same(dtype):
    counts = c.count(LABELS.astype(dtype), MASK.astype(dtype), classes=3, ignore_index=255)
    assert counts.tolist() == COUNTS.tolist()


def test_presence_as_bool_counts():
    labels, mask = np.array([[True, False]]), np.array([[True, True]])
    assert c.count(labels, mask, classes=2, ignore_index=None).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("void", [-1, 11, 255, 1000])
def test_void_may_be_any_value_that_is_no_class(void):
    mask = np.where(MASK == 255, void, MASK.astype(np.int16))
    assert c.count(LABELS, mask, classes=3, ignore_index=void).tolist() == COUNTS.tolist()


def test_an_image_of_several_strips_is_counted_whole(monkeypatch):
    monkeypatch.setattr(c, "STRIP_PIXELS", 5)
    assert c.count(LABELS, MASK, classes=3, ignore_index=255).tolist() == COUNTS.tolist()


def test_255_classes():
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    counts = c.count(np.minimum(mask, 254), mask, classes=255, ignore_index=255)
    assert np.array_equal(counts, np.eye(255, dtype=np.int64))


def test_a_class_predicted_but_never_true_has_iou_0_and_counts():
    counts = np.array([[3, 1], [0, 0]])
    assert c.iou(counts).tolist() == [0.75, 0.0]
    assert c.mean_iou(counts) == 0.375
    assert math.isnan(c.recall(counts)[1])
    assert c.mean_accuracy(counts) == 0.75
    assert c.absent(counts).tolist() == [False, False]


def test_a_class_absent_from_both_is_left_out():
    counts = np.array([[3, 0, 1], [0, 0, 0], [0, 0, 4]])
    assert math.isnan(c.iou(counts)[1])
    assert c.mean_iou(counts) == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert c.absent(counts).tolist() == [False, True, False]


def test_all_void_has_no_score():
    counts = c.count(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), classes=2, ignore_index=255)
    assert counts.sum() == 0
    assert all(math.isnan(metric(counts)) for metric in c.METRICS.values())


def test_one_class_and_one_pixel():
    one = np.zeros((1, 1), np.uint8)
    assert c.mean_iou(c.count(one, one, classes=1, ignore_index=None)) == 1.0


@pytest.mark.parametrize(
    ("labels", "mask", "words"),
    [
        ([[0, 3]], [[0, 0]], "labels with value 3 in 1 pixels; rule: 0 to 2;"),
        ([[0, -1]], [[0, 0]], "labels with value -1"),
        ([[0, 255]], [[0, 255]], "labels with value 255"),
        ([[0, 0]], [[9, 9]], "mask with value 9 in 2 pixels; rule: 0 to 2, or 255 for void"),
        ([[0, 0]], [[0, 256]], "mask with value 256"),
        ([list(range(3, 10))], [[0] * 7], "and 2 other values"),
        ([[0, 0]], [[0], [0]], "(1, 2) and a mask of shape (2, 1)"),
        ([[0.5]], [[0]], "labels of type float64"),
        ([0], [0], "rows × columns"),
        ([[]], [[]], "no pixel"),
    ],
)
def test_what_cannot_be_counted_is_named(labels, mask, words):
    mask = np.array(mask, np.int16 if mask != [[]] else np.uint8)
    with pytest.raises(DataError) as error:
        c.count(np.array(labels), mask, classes=3, ignore_index=255)
    assert words in str(error.value)


def test_without_void_255_is_a_wrong_value():
    with pytest.raises(DataError, match="mask with value 255 in 1 pixels; rule: 0 to 2; correct"):
        c.count(LABELS, MASK, classes=3, ignore_index=None)


@pytest.mark.parametrize("classes", [0, 256])
def test_impossible_numbers_of_classes(classes):
    with pytest.raises(UsageError, match="classes: give 1 to 255"):
        c.count(LABELS, MASK, classes=classes, ignore_index=None)


# Overlapping classes


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 999))
def test_overlapping_classes_are_counted_each_like_two_exclusive_ones(classes, size, seed):
    rng = np.random.default_rng(seed)
    labels, mask = rng.integers(0, 2**classes, (2, *size))
    mask[rng.random(size) < 0.2] = 255
    counts = c.count_overlapping(labels, mask, classes=classes, ignore_index=255)
    for k in range(classes):
        there = np.where(mask == 255, 255, mask >> k & 1)
        alone = c.count(labels >> k & 1, there, classes=2, ignore_index=255)
        assert counts[k].tolist() == alone.tolist()
        for metric in (c.precision, c.recall, c.f1, c.iou, c.truth_share):
            assert metric(counts)[k] == pytest.approx(metric(alone)[1], nan_ok=True)
        assert c.absent(counts)[k] == (alone[1].sum() + alone[:, 1].sum() == 0)
    assert c.pixels_counted(counts) == (mask != 255).sum()


def test_a_class_of_all_pixels_is_no_class_without_a_background():
    counts = c.count_overlapping(np.array([[1, 0]]), np.array([[1, 1]]), classes=1, ignore_index=None)
    assert counts.tolist() == [[[0, 0], [1, 1]]]
    assert c.mean_iou(counts) == c.frequency_weighted_iou(counts) == c.pixel_accuracy(counts) == 0.5


def test_nothing_counted_of_overlapping_classes_is_undefined():
    counts = c.count_overlapping(np.array([[1]]), np.array([[255]]), classes=2, ignore_index=255)
    assert all(math.isnan(metric(counts)) for metric in c.METRICS.values())
