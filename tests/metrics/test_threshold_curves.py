"""Curves over thresholds: worked numbers, definitions by loops, histograms against the exact curve, and the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError, UsageError
from pixelwise.metrics import curves as c
from pixelwise.task import Task

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
TRUE = np.array([True, False, True, True, False])


@st.composite
def scored(draw, finest=8):
    """Scores that are whole eighths, with ties, and truths."""
    numbers = draw(st.lists(st.tuples(st.integers(0, finest), st.booleans()), min_size=1, max_size=30))
    scores, true = zip(*numbers, strict=True)
    return np.array(scores) / finest, np.array(true)


def image_of(scores, true):
    """The list as an image of one class and one row."""
    return scores[None, None], true[None, None], np.ones((1, 1, len(scores)), bool)


@pytest.mark.parametrize(
    ("interpolation", "expected"), [("step", 0.805556), ("envelope", 0.833333), ("11 points", 0.840909)]
)
def test_worked_average_precision(interpolation, expected):
    curve = c.exact_curve(SCORES, TRUE)
    assert c.average_precision(curve, interpolation=interpolation) == pytest.approx(expected, abs=1e-6)
    histograms = c.score_histograms(*image_of(SCORES, TRUE), bins=10)
    binned = c.curve_of_histograms(histograms[0])
    assert c.average_precision(binned, interpolation=interpolation) == pytest.approx(expected, abs=1e-6)


def test_worked_curve():
    curve = c.exact_curve(SCORES, TRUE)
    assert curve.thresholds.tolist() == [0.8, 0.7, 0.6, 0.5, 0.0]
    assert curve.precision == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    assert curve.recall == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1, 1])
    assert curve.f1 == pytest.approx([1 / 2, 2 / 5, 2 / 3, 6 / 7, 3 / 4])
    assert c.best_threshold(curve) == 0.5


def test_worked_histograms():
    got = c.score_histograms(*image_of(np.array([0.0, 0.25, 0.26, 1.0]), np.array([False, True, True, True])), bins=4)
    assert got.tolist() == [[[1, 0, 0, 0, 0], [0, 1, 1, 0, 1]]]
    assert got.dtype == np.int64


@settings(max_examples=80, deadline=None)
@given(scored())
def test_points_and_areas_equal_their_definitions(example):
    scores, true = example
    curve = c.exact_curve(scores, true)
    for threshold, hits, wrong in zip(curve.thresholds, curve.true_positives, curve.false_positives, strict=True):
        assert (hits, wrong) == (np.sum((scores > threshold) & true), np.sum((scores > threshold) & ~true))

    positives, negatives = scores[true], scores[~true]
    wins = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
    expected = np.mean(wins) if wins else math.nan
    assert c.area_under_roc(curve) == pytest.approx(expected, nan_ok=True)

    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = scores >= threshold
        recall = np.sum(found & true) / max(1, len(positives))
        area += (recall - before) * np.mean(true[found])
        before = recall
    assert c.average_precision(curve) == pytest.approx(area if len(positives) else math.nan, nan_ok=True)


@settings(max_examples=80, deadline=None)
@given(scored())
def test_11_points_equal_their_definition(example):
    scores, true = example
    curve = c.exact_curve(scores, true)
    reached = [
        max((p for p, hits in zip(curve.precision, curve.true_positives, strict=True) if 10 * hits >= i * true.sum()))
        for i in range(11)
    ]
    expected = np.mean(reached) if true.any() else math.nan
    assert c.average_precision(curve, interpolation="11 points") == pytest.approx(expected, nan_ok=True)


@settings(max_examples=80, deadline=None)
@given(scored(), st.sampled_from(["step", "envelope", "11 points"]))
def test_histograms_are_exact_where_no_two_scores_share_a_bin(example, interpolation):
    scores, true = example
    exact = c.exact_curve(scores, true)
    binned = c.curve_of_histograms(c.score_histograms(*image_of(scores, true), bins=8)[0])
    got = c.average_precision(binned, interpolation=interpolation)
    assert got == pytest.approx(c.average_precision(exact, interpolation=interpolation), nan_ok=True)
    assert c.area_under_roc(binned) == pytest.approx(c.area_under_roc(exact), nan_ok=True)
    if true.any():
        best = [np.sum((scores > c.best_threshold(curve)) & true) for curve in (exact, binned)]
        assert best[0] == best[1]


@settings(max_examples=40, deadline=None)
@given(scored(), scored())
def test_histograms_add_up(one, other):
    both = [np.concatenate(parts) for parts in zip(one, other, strict=True)]
    parts = [c.score_histograms(*image_of(*example), bins=16) for example in (one, other)]
    assert np.array_equal(parts[0] + parts[1], c.score_histograms(*image_of(*both), bins=16))


@settings(max_examples=40, deadline=None)
@given(scored())
def test_envelope_is_never_below_the_steps(example):
    curve = c.exact_curve(*example)
    if curve.positives:
        assert c.average_precision(curve, interpolation="envelope") >= c.average_precision(curve) - 1e-12


@pytest.mark.parametrize("bins", [8, 256])
def test_points_are_what_the_task_decides(bins):
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(0, 257, (1, 1, 20, 20)) / 256).float()
    mask = torch.from_numpy(rng.integers(0, 2, (1, 1, 20, 20)))
    task = Task.of(["road"], kind="overlapping")
    true, counted = task.truth(mask)
    curve = c.curve_of_histograms(
        c.score_histograms(scores[0].numpy(), true[0].numpy(), counted[0].numpy(), bins=bins)[0]
    )
    for place in (0, 3, bins - 1):
        task = Task(names=task.names, colours=task.colours, kind=task.kind, thresholds=(curve.thresholds[place],))
        found = task.decide(scores)
        assert curve.true_positives[place] == (found & true).sum()
        assert curve.false_positives[place] == (found & ~true).sum()


def test_what_does_not_count_counts_nowhere():
    scores = np.array([[[0.2, math.nan]], [[0.8, 7.0]]])
    true = np.array([[[True, False]], [[False, True]]])
    histograms = c.score_histograms(scores, true, np.array([[[True, False]]]), bins=2)
    assert histograms.tolist() == [[[0, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]]


def test_missed_objects_lower_recall():
    curve = c.exact_curve(np.array([0.9]), np.array([True]), missed=1)
    assert curve.recall.tolist() == [0.5]
    assert c.average_precision(curve) == 0.5
    assert c.average_precision(curve, interpolation="11 points") == pytest.approx(6 / 11)


def test_nothing_found_nothing_there():
    empty = c.exact_curve(np.zeros(0), np.zeros(0, bool))
    void = c.curve_of_histograms(np.zeros((2, 9), np.int64))
    for curve in (empty, void):
        assert math.isnan(c.average_precision(curve))
        assert math.isnan(c.area_under_roc(curve))
        assert math.isnan(c.best_threshold(curve))
    missed = c.exact_curve(np.zeros(0), np.zeros(0, bool), missed=3)
    for interpolation in c.INTERPOLATIONS:
        assert c.average_precision(missed, interpolation=interpolation) == 0


def test_one_kind_only():
    positives = c.exact_curve(np.array([0.3, 0.3]), np.array([True, True]))
    assert c.average_precision(positives) == 1
    assert math.isnan(c.area_under_roc(positives))
    assert c.best_threshold(positives) == 0
    negatives = c.exact_curve(np.array([0.3, 0.3]), np.array([False, False]))
    assert math.isnan(c.average_precision(negatives))


def test_scores_of_0_are_found_by_no_usable_threshold():
    curve = c.exact_curve(np.array([0.0, 0.5]), np.array([True, False]))
    assert curve.thresholds.tolist() == [0.0, -math.inf]
    assert c.best_threshold(curve) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: c.exact_curve(np.zeros(2), np.zeros(3, bool)), "2 scores for 3 truths"),
        (lambda: c.exact_curve(np.array([math.nan]), np.array([True])), "NaN"),
        (lambda: c.average_precision(c.exact_curve(SCORES, TRUE), interpolation="12 points"), "unknown interpolation"),
        (lambda: c.score_histograms(*image_of(SCORES, TRUE), bins=0), "0 bins"),
        (lambda: c.score_histograms(*image_of(SCORES + 1, TRUE)), "outside 0 to 1"),
        (lambda: c.score_histograms(*image_of(SCORES * math.nan, TRUE)), "NaN"),
        (lambda: c.score_histograms(SCORES, TRUE, TRUE), "classes × rows × columns"),
        (
            lambda: c.score_histograms(np.zeros((3, 1, 2)), np.zeros((3, 1, 2), bool), np.zeros((2, 1, 2), bool)),
            "which pixels count",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(call, words):
    with pytest.raises((DataError, UsageError)) as error:
        call()
    assert words in str(error.value)
