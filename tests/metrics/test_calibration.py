"""Calibration: worked bins, definitions by loops, adding up, and the ends of the range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError, UsageError
from pixelwise.metrics import calibration as c
from pixelwise.task import Task

TASK = Task.of(["background", "cell", "nucleus"])


@st.composite
def examples(draw):
    """Scores of 3 classes, their labels, and a mask with some void, as one image of up to 6 x 6 pixels."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.dirichlet([0.5] * 3, shape).transpose(2, 0, 1).astype(np.float32)
    mask = rng.integers(0, 3, shape)
    mask[rng.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 255
    labels = TASK.decide(torch.from_numpy(scores)[None])[0].numpy()
    return scores, labels, mask


def truth(mask):
    true, counted = TASK.truth(torch.from_numpy(mask)[None])
    return true[0].numpy(), counted[0].numpy()


def naive_error(confidence, right, bins):
    """The expected calibration error, bin by bin, from lists."""
    total = 0.0
    for m in range(bins):
        inside = [(s, r) for s, r in zip(confidence, right, strict=True) if m / bins < s <= (m + 1) / bins]
        if inside:
            gap = np.mean([r for _, r in inside]) - np.mean([s for s, _ in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total if len(confidence) else math.nan


def test_worked_reliability():
    # Confidences 0.9, 0.7 (both right), 0.6 (wrong); two bins: the upper holds 3 pixels, 2 right, sum 2.2.
    scores = np.array([[[0.9, 0.3, 0.6, 0.5]], [[0.1, 0.7, 0.4, 0.5]]])
    bins = c.decided_reliability(scores, np.array([[0, 1, 0, 0]]), np.array([[0, 1, 1, 255]]), ignore_index=255, bins=2)
    assert bins == pytest.approx(np.array([[0, 0, 0], [3, 2, 2.2]]))
    assert c.bin_accuracy(bins) == pytest.approx([math.nan, 2 / 3], nan_ok=True)
    assert c.bin_confidence(bins) == pytest.approx([math.nan, 2.2 / 3], nan_ok=True)
    assert c.expected_calibration_error(bins) == pytest.approx(0.2 / 3)
    assert c.maximum_calibration_error(bins) == pytest.approx(0.2 / 3)


def test_worked_errors_of_two_bins():
    bins = np.array([[4, 1, 1.6], [6, 6, 4.8]])
    assert c.expected_calibration_error(bins) == pytest.approx((0.6 + 1.2) / 10)
    assert c.maximum_calibration_error(bins) == pytest.approx(0.2)


def test_worked_brier_score():
    scores = np.array([[[0.8, 0.3, 0.5]], [[0.2, 0.7, 0.5]]])
    true = np.array([[[True, True, False]], [[False, False, True]]])
    counts = c.brier_counts(scores, true, np.array([[[True, True, False]]]))
    assert counts == pytest.approx(np.array([[0.53, 2], [0.53, 2]]))
    assert c.brier_score(counts) == pytest.approx([0.265, 0.265])


def test_bins_are_closed_above():
    edges = np.array([[[0.0, 0.25, 0.5, 0.75, 1.0]]])
    bins = c.class_reliability(edges, np.ones((1, 1, 5), bool), np.ones((1, 1, 5), bool), bins=4)
    assert bins[0, :, 0].tolist() == [2, 1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(examples(), st.sampled_from([1, 4, 15]))
def test_errors_equal_their_definition(example, bins):
    scores, labels, mask = example
    kept = mask != 255
    confidence = np.take_along_axis(scores, labels[None], 0)[0].astype(np.float64)
    decided = c.decided_reliability(scores, labels, mask, ignore_index=255, bins=bins)
    expected = naive_error(confidence[kept], (labels == mask)[kept], bins)
    assert float(c.expected_calibration_error(decided)) == pytest.approx(expected, nan_ok=True)

    classes = c.expected_calibration_error(c.class_reliability(scores, *truth(mask), bins=bins))
    expected = [naive_error(scores[k][kept].astype(np.float64), (mask == k)[kept], bins) for k in range(3)]
    assert classes == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(examples())
def test_brier_score_equals_its_definition(example):
    scores, _, mask = example
    kept = mask != 255
    got = c.brier_score(c.brier_counts(scores, *truth(mask)))
    squares = [(scores[k][kept].astype(np.float64) - (mask == k)[kept]) ** 2 for k in range(3)]
    assert got == pytest.approx([s.mean() if s.size else math.nan for s in squares], nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(examples())
def test_rows_of_an_image_add_up(example):
    scores, labels, mask = example
    rows = [np.s_[i : i + 1] for i in range(len(mask))]
    decided = [c.decided_reliability(scores[:, r], labels[r], mask[r], ignore_index=255) for r in rows]
    assert sum(decided) == pytest.approx(c.decided_reliability(scores, labels, mask, ignore_index=255))
    for counts in (c.class_reliability, c.brier_counts):
        parts = [counts(scores[:, r], *truth(mask[r])) for r in rows]
        assert sum(parts) == pytest.approx(counts(scores, *truth(mask)))


def test_scores_that_are_frequencies_are_calibrated():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, (1, 400, 400))
    true = rng.uniform(0, 1, scores.shape) < scores
    everywhere = np.ones_like(true)
    assert c.expected_calibration_error(c.class_reliability(scores, true, everywhere))[0] < 0.01
    assert c.brier_score(c.brier_counts(scores, true, everywhere))[0] == pytest.approx(1 / 6, abs=0.005)
    sure = c.expected_calibration_error(c.class_reliability(np.round(scores), true, everywhere))[0]
    assert sure == pytest.approx(0.25, abs=0.01)


def test_one_right_and_sure_pixel():
    one = np.ones((1, 1, 1))
    bins = c.decided_reliability(one, np.zeros((1, 1), int), np.zeros((1, 1), int), ignore_index=None)
    assert c.expected_calibration_error(bins) == c.maximum_calibration_error(bins) == 0
    assert c.brier_score(c.brier_counts(one, one > 0, one > 0)).tolist() == [0]


def test_all_void_has_no_error():
    bins = np.zeros((2, 15, 3))
    assert np.isnan(c.expected_calibration_error(bins)).all()
    assert np.isnan(c.maximum_calibration_error(bins)).all()
    assert np.isnan(c.brier_score(np.zeros((2, 2)))).all()


def test_rounding_beyond_1_is_forgiven():
    scores = np.full((1, 1, 1), 1.000001)
    assert c.class_reliability(scores, scores > 0, scores > 0, bins=3)[0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]


ONE = np.full((2, 1, 1), 0.5)
LABEL = np.zeros((1, 1), int)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: c.decided_reliability(ONE, LABEL, LABEL, ignore_index=None, bins=0), "0 bins"),
        (lambda: c.decided_reliability(ONE + 1, LABEL, LABEL, ignore_index=None), "outside 0 to 1"),
        (lambda: c.decided_reliability(ONE, LABEL + 2, LABEL, ignore_index=None), "labels outside 0 to 1"),
        (lambda: c.decided_reliability(ONE, LABEL, LABEL[:0], ignore_index=None), "same rows × columns"),
        (lambda: c.class_reliability(ONE, ONE[:1] > 0, ONE > 0), "classes × rows × columns"),
        (lambda: c.brier_counts(ONE * math.nan, ONE > 0, ONE > 0), "NaN"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, words):
    with pytest.raises((DataError, UsageError)) as error:
        call()
    assert words in str(error.value)
