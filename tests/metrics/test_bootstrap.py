"""Bootstrap intervals: all resamples by enumeration, coverage, undefined draws, and the ends of the range."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import UsageError
from pixelwise.metrics import bootstrap as b
from pixelwise.metrics.confusion import iou, mean_iou


def matrices(images, classes=3, seed=0):
    return np.random.default_rng(seed).integers(0, 50, (images, classes, classes))


def test_the_value_is_the_score_of_all_images():
    counts = matrices(6)
    interval = b.bootstrap(mean_iou, counts, draws=50)
    assert interval.value == mean_iou(counts.sum(axis=0))
    assert interval.low <= interval.value <= interval.high
    assert interval.undefined == 0


def test_draws_are_as_frequent_as_theory_says():
    # Three images, all 27 ordered resamples equally likely: the sums tell which images were drawn.
    counts = np.array([1, 10, 100])
    expected = Counter(sum(pick) for pick in itertools.product(counts.tolist(), repeat=3))
    drawn = Counter(int(total) for total in b.resampled_sums(counts, 27_000, seed=1))
    assert drawn.keys() == expected.keys()
    for total, ways in expected.items():
        assert drawn[total] == pytest.approx(1000 * ways, abs=5 * (1000 * ways) ** 0.5)


def test_sums_are_whole_and_in_the_type_of_the_counts():
    sums = list(b.resampled_sums(np.array([[2**40 + 1], [2**40 + 3]]), 20, seed=0))
    assert {int(total[0]) for total in sums} <= {2**41 + 2, 2**41 + 4, 2**41 + 6}
    assert sums[0].dtype == np.int64


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.integers(1, 30), st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_interval_whatever_the_memory(images, draws, seed):
    counts = matrices(images, seed=seed)
    sums = list(b.resampled_sums(counts, draws, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(b, "NUMBERS_AT_ONCE", 1)
        alone = list(b.resampled_sums(counts, draws, seed))
    assert np.array_equal(sums, alone)
    assert len(sums) == draws


def test_another_seed_gives_another_interval():
    counts = matrices(6)
    assert b.bootstrap(mean_iou, counts, draws=50, seed=1).low != b.bootstrap(mean_iou, counts, draws=50, seed=2).low


def test_images_that_are_all_the_same_leave_no_doubt():
    counts = np.repeat(matrices(1), 5, axis=0)
    interval = b.bootstrap(mean_iou, counts, draws=20)
    assert interval.low == interval.high == pytest.approx(interval.value)


def test_the_order_of_images_moves_only_the_draws():
    counts = matrices(40)
    there, back = (b.bootstrap(mean_iou, c, draws=2000) for c in (counts, counts[::-1]))
    assert there.value == back.value
    assert there.low == pytest.approx(back.low, abs=0.005)


def test_a_higher_level_is_a_wider_interval():
    widths = [
        np.ptp([interval.low, interval.high])
        for interval in (b.bootstrap(mean_iou, matrices(10), draws=200, level=level) for level in (0.5, 0.9, 0.99))
    ]
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


def test_the_interval_of_a_mean_is_that_of_statistics():
    values = np.random.default_rng(0).normal(0.7, 0.1, 200)
    counts = np.stack([values, np.ones(200)], axis=1)
    interval = b.bootstrap(lambda sums: sums[0] / sums[1], counts, draws=4000)
    half = 1.96 * values.std() / 200**0.5
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        hits = rng.binomial(50, 0.8, size=40)
        interval = b.bootstrap(lambda c: c[0] / c[1], np.stack([hits, np.full(40, 50)], 1), draws=300, seed=seed)
        held += bool(interval.low <= 0.8 <= interval.high)
    assert 180 <= held <= 199


def test_one_interval_per_class_and_undefined_draws_are_counted():
    # Class 1 is in one image of two only, so a quarter of the draws miss it; class 2 is nowhere.
    counts = np.zeros((2, 3, 3), int)
    counts[:, 0, 0] = 5
    counts[1, 1, 1], counts[1, 0, 1] = 3, 1
    interval = b.bootstrap(iou, counts, draws=2000)
    assert interval.value.shape == interval.low.shape == interval.undefined.shape == (3,)
    assert interval.undefined == pytest.approx([0, 0.25, 1], abs=0.04)
    assert interval.low[1] == interval.high[1] == 0.75
    assert np.isnan([interval.value[2], interval.low[2], interval.high[2]]).all()


def test_two_predictors_of_the_same_images_are_compared_in_pairs():
    # Images differ much, the predictors by one pixel in each: together that is certain, apart it is not.
    hits = np.arange(1, 40, 2)
    pairs = np.stack([hits, hits + 1, np.full(20, 60)], axis=1)
    apart = b.bootstrap(lambda c: c[0] / c[2], pairs, draws=200)
    together = b.bootstrap(lambda c: (c[1] - c[0]) / c[2], pairs, draws=200)
    assert together.low == together.high == pytest.approx(1 / 60)
    assert apart.high - apart.low > 0.1


@pytest.mark.parametrize(
    ("options", "images", "words"),
    [
        ({}, 0, "0 images"),
        ({}, 1, "1 images"),
        ({"draws": 0}, 3, "0 draws"),
        ({"level": 1.0}, 3, "level 1.0"),
        ({"level": 0.0}, 3, "level 0.0"),
    ],
)
def test_what_has_no_interval_is_refused(options, images, words):
    with pytest.raises(UsageError, match=words):
        b.bootstrap(mean_iou, matrices(images), **options)
