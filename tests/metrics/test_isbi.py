"""Measures of the ISBI 2012 challenge: worked label arrays, naive oracles of flooding and warping, stacks, the ends."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pixelwise.errors import DataError
from pixelwise.metrics import isbi
from pixelwise.metrics.isbi import IsbiCounts, compare_regions, count_slice
from pixelwise.metrics.thinning import thin_borders
from pixelwise.metrics.warping import PIECES, RING, SIMPLE, Warping, warp

SLICES = Path(__file__).resolve().parents[3] / "shared" / "data" / "isbi2012" / "masks"
A1, A2 = [1, 1, 0, 2, 2], [1, 1, 0, 2, 2, 0, 3, 3]
B2 = [1, 1, 1, 1, 1, 0, 2, 2]
BARS = np.array([[1, 1, 0, 1, 1]] * 3, bool)
EIGHT = np.ones((3, 3), bool)


def two_cells():
    """7 x 9 pixels with two cells of 5 x 3 in columns 1 to 3 and 5 to 7."""
    cells = np.zeros((7, 9), bool)
    cells[1:6, 1:4] = cells[1:6, 5:8] = True
    return cells


def flood(cells):
    """Vincent and Soille's flood of a two-level map, state by state, columns first: the watershed as published."""
    labels, _ = ndimage.label(cells.T)
    if not cells.any():
        return np.ones(cells.shape, int)
    state = np.where(labels > 0, labels, -2)  # -2: at this level, -3: in the queue, 0: dam
    inside = {(x, y) for x in range(state.shape[0]) for y in range(state.shape[1])}

    def around(x, y):
        return [p for p in ((x - 1, y), (x, y - 1), (x + 1, y), (x, y + 1)) if p in inside]

    queue = deque(p for p in sorted(inside) if state[p] == -2 and any(labels[q] > 0 for q in around(*p)))
    for p in queue:
        state[p] = -3
    while queue:
        p, from_dam = queue.popleft(), False
        for q in around(*p):
            if state[q] > 0 and (state[p] == -3 or (state[p] == 0 and from_dam)):
                state[p] = state[q]
            elif state[q] > 0 and state[p] > 0 and state[p] != state[q]:
                state[p], from_dam = 0, False
            elif state[q] == 0 and state[p] == -3:
                state[p], from_dam = 0, True
            elif state[q] == -2:
                state[q] = -3
                queue.append(q)
    return state.T


def naive_simple(patch):
    """One 4-connected piece of cell at a side of the centre, and one 8-connected piece of border around it."""
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    cell = ndimage.label(patch & ring)[0]
    pieces = {int(cell[p]) for p in ((0, 1), (1, 0), (1, 2), (2, 1))} - {0}
    return len(pieces) == 1 and ndimage.label(~patch & ring, EIGHT)[1] == 1


def naive_warp(truth, probabilities, threshold):
    """Sweep over the wrong pixels, farthest from the threshold first, until a sweep flips none; then try each."""
    cells, target = np.pad(truth, 1), np.pad(probabilities > threshold, 1)
    far = np.pad(np.abs(probabilities - threshold), 1).astype(np.float32)
    before = -1
    while before != (cells != target).sum():
        before = (cells != target).sum()
        columns_first = [(int(r), int(c)) for c, r in np.argwhere((cells != target).T)]
        for r, c in sorted(columns_first, key=lambda p: -far[p]):
            if naive_simple(cells[r - 1 : r + 2, c - 1 : c + 2]):
                cells[r, c] = ~cells[r, c]
    left = [tuple(p) for p in np.argwhere(cells != target)]
    kinds = [naive_kind(cells, p) for p in left]
    return Warping(len(left), kinds.count("split"), kinds.count("merger"))


def naive_kind(cells, pixel):
    """What flipping a pixel does to the cells around it, by labelling the whole image before and after."""

    def ids(labels):
        r, c = pixel
        patch = labels[r - 1 : r + 2, c - 1 : c + 2].ravel().tolist()
        return set(patch[:4] + patch[5:]) - {0}

    around = ids(ndimage.label(cells)[0])
    if len(around) > 1:
        return "split" if cells[pixel] else "merger"
    without = cells.copy()
    without[pixel] = False
    return "split" if cells[pixel] and len(ids(ndimage.label(without)[0])) > 1 else "other"


@st.composite
def slices(draw):
    """A map of few different probabilities and a truth, of up to 9 x 9 pixels."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = rng.random(shape) < draw(st.sampled_from([0.5, 0.7, 0.9]))
    noise = rng.integers(-6, 7, shape) / 10
    return np.clip(truth + noise, 0, 1), truth


@pytest.mark.parametrize(
    ("truth", "regions", "v_rand", "rand_error", "v_info"),
    [
        (A1, [1, 1, 1, 1, 1], (2 / 3, 0.5, 1), 0.5, (0, 1, 0)),
        (A1, [1, 0, 0, 2, 2], (6 / 7, 1, 0.75), 0.125, (0.8, 1, 2 / 3)),
        (A1, [1, 2, 0, 3, 3], (6 / 7, 1, 0.75), 0.125, (0.8, 1, 2 / 3)),
        (A1, [1, 0, 2, 2, 2], (6 / 7, 1, 0.75), 0.125, (0.8, 1, 2 / 3)),
        (A1, A1, (1, 1, 1), 0, (1, 1, 1)),
        (A2, B2, (0.75, 0.6, 1), 2 / 9, (0.733680, 0.579380, 1)),
    ],
)
def test_worked_agreements(truth, regions, v_rand, rand_error, v_info):
    agreement = compare_regions(np.array([regions]), np.array([truth]))
    assert (agreement.v_rand, agreement.rand_precision, agreement.rand_recall) == pytest.approx(v_rand, abs=1e-6)
    assert agreement.rand_error == pytest.approx(rand_error, abs=1e-6)
    assert (agreement.v_info, agreement.info_precision, agreement.info_recall) == pytest.approx(v_info, abs=1e-6)


def test_worked_variation_of_information_and_rand_index():
    regions, truth = np.array([B2]), np.array([A2])
    assert compare_regions(regions, truth).variation_of_information == pytest.approx(0.462098, abs=1e-6)
    assert compare_regions(regions, truth).rand_index == pytest.approx(0.733333, abs=1e-6)
    assert compare_regions(regions + 1, truth + 1).rand_index == pytest.approx(0.678571, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(slices())
def test_pairs_equal_their_definition(pair):
    regions, truth = np.round(pair[0] * 3).astype(int), ndimage.label(pair[1])[0]
    said = [(int(a), int(b) or -i - 1) for i, (a, b) in enumerate(zip(truth.flat, regions.flat, strict=True)) if a]
    agreement = compare_regions(regions, truth)
    assert agreement.pixels == len(said)
    assert agreement.truth == sum(a == c for a, _ in said for c, _ in said)
    assert agreement.predicted == sum(b == d for _, b in said for _, d in said)
    assert agreement.both == sum(p == q for p in said for q in said)
    shares = [said.count(p) / len(said) for p in set(said)]
    assert agreement.joint_entropy == pytest.approx(-sum(s * math.log(s) for s in shares))
    assert agreement.v_info == 0 or 0 <= agreement.v_info <= 1 + 1e-9 or math.isnan(agreement.v_info)


def test_agreement_at_the_ends():
    none = compare_regions(np.array([[1, 1]]), np.array([[0, 0]]))
    assert all(math.isnan(v) for v in (none.v_rand, none.rand_error, none.v_info, none.rand_index))
    one = compare_regions(np.array([[1, 1]]), np.array([[1, 1]]))
    assert (one.v_rand, one.rand_error, one.v_info) == (1, 0, 0)
    missed = compare_regions(np.array([[0, 0]]), np.array([[1, 1]]))
    assert (missed.v_rand, missed.rand_recall, missed.info_precision, missed.info_recall) == (2 / 3, 0.5, 0, 1)


@settings(max_examples=200, deadline=None)
@given(slices())
def test_thinning_is_the_flood_as_published(pair):
    cells = pair[0] > 0.5
    assert np.array_equal(thin_borders(cells), flood(cells))


@settings(max_examples=60, deadline=None)
@given(slices())
def test_thinning_keeps_every_cell_and_never_joins_two(pair):
    cells = pair[1]
    grown, labels = thin_borders(cells), ndimage.label(cells)[0]
    assert not cells.any() or len(set(zip(labels[cells], grown[cells], strict=True))) == labels.max() == grown.max()
    for a, b in ((grown[1:], grown[:-1]), (grown[:, 1:], grown[:, :-1])):
        assert not ((a != b) & (a > 0) & (b > 0)).any()


def test_thinning_of_walls_and_of_nothing():
    assert thin_borders(np.array([[True, False, False, True]])).tolist() == [[1, 1, 0, 2]]
    assert thin_borders(np.zeros((2, 3), bool)).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert thin_borders(np.ones((1, 1), bool)).tolist() == [[1]]
    corner = np.array([[True, False, False], [False, False, False], [False, False, False]])
    assert thin_borders(corner).all()


def test_the_table_of_simple_points_is_their_definition():
    for code in range(256):
        patch = np.zeros((3, 3), bool)
        for k, (row, column) in enumerate(RING):
            patch[1 + row, 1 + column] = code >> k & 1
        assert naive_simple(patch) == SIMPLE[code]
    assert (PIECES[0], PIECES[255], PIECES[0b10101010], PIECES[0b01010101]) == (0, 0, 4, 0)


@pytest.mark.parametrize(
    ("change", "left", "splits", "mergers", "wrong"),
    [
        ({(3, 4): 1}, 1, 0, 1, 1),
        ({(3, 4): 1, (2, 4): 1}, 2, 0, 2, 2),
        ({(3, 2): 0}, 1, 0, 0, 1),
        ({(r, c): int(c == 4) for r in range(1, 6) for c in (4, 5)}, 0, 0, 0, 10),
        ({(r, 2): 0 for r in range(1, 6)}, 1, 1, 0, 5),
    ],
    ids=["bridge of 1", "bridge of 2", "hole", "wall shifted", "column erased"],
)
def test_worked_warping_of_two_cells(change, left, splits, mergers, wrong):
    truth = two_cells()
    prediction = truth.copy()
    for pixel, value in change.items():
        prediction[pixel] = value
    assert warp(truth, prediction.astype(float), 0.5) == Warping(left, splits, mergers)
    assert (truth != prediction).sum() == wrong
    counts = count_slice(prediction, truth)
    assert counts.warping_error == pytest.approx(left / 63, abs=1e-9)
    assert counts.splits_and_mergers == pytest.approx((splits + mergers) / 63, abs=1e-9)
    assert counts.squared_difference == pytest.approx([wrong / 63] * 11)


def test_worked_warping_of_bars():
    merged, shifted = BARS.copy(), np.array([[1, 0, 1, 1, 1]] * 3, bool)
    merged[1, 2] = True
    assert count_slice(merged, BARS).warping_error == pytest.approx(1 / 15)
    assert count_slice(merged, BARS).splits_and_mergers == pytest.approx(1 / 15)
    assert count_slice(shifted, BARS).warping_error == 0
    assert count_slice(shifted, BARS).squared_difference[0] == pytest.approx(0.4)


@settings(max_examples=120, deadline=None)
@given(slices(), st.sampled_from([0.0, 0.3, 0.5, 0.8]))
def test_warping_is_the_sweep_as_published(pair, threshold):
    assert warp(pair[1], pair[0], threshold) == naive_warp(pair[1], pair[0], threshold)


def test_a_ring_is_no_split_and_an_arc_is():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    arc = ring.copy()
    arc[2, 3:] = False
    opened, cut = ring.copy(), arc.copy()
    opened[2, 3:], cut[2, :2] = False, False
    assert warp(ring, opened.astype(float), 0.5) == Warping(1, 0, 0)
    assert warp(arc, cut.astype(float), 0.5) == Warping(1, 1, 0)


def test_the_pixels_that_are_surest_are_flipped_first():
    truth = np.array([[0, 0, 0], [1, 0, 1], [0, 0, 0]], bool)
    bridge = np.array([[0.9, 0.9, 0.9], [1, 0.6, 1], [0, 0, 0]])
    assert warp(truth, bridge, 0.5) == Warping(2, 0, 2)
    flipped = [warp(truth, np.where(bridge == 0.6, p, bridge), 0.5).mismatches for p in (0.2, 0.6, 0.95)]
    assert flipped == [1, 2, 2]


@settings(max_examples=40, deadline=None)
@given(slices())
def test_a_map_and_its_mirror_image_have_the_same_pixels_and_pairs(pair):
    one, mirrored = count_slice(*pair), count_slice(pair[0][:, ::-1], pair[1][:, ::-1])
    assert np.array_equal(one.cells_ST3, mirrored.cells_ST3)
    assert np.array_equal(one.pairs_ST3, mirrored.pairs_ST3)


@settings(max_examples=40, deadline=None)
@given(slices())
def test_other_numbers_of_the_regions_change_nothing(pair):
    regions, truth = ndimage.label(pair[0] > 0.5)[0], ndimage.label(pair[1])[0]
    before = compare_regions(regions, truth)
    after = compare_regions(np.where(regions, 1000 - regions, 0), np.where(truth, 77 - truth, 0))
    assert (before.both, before.truth, before.predicted) == (after.both, after.truth, after.predicted)
    assert before.joint_entropy == after.joint_entropy


ROUNDED = (
    np.array([[0.4, 1, 1, 1], [0, 0.3, 0.2, 0.3], [0, 0.2, 0.3, 0.5], [1, 0.9, 0, 0.6]]),
    np.array([[0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]], bool),
)
"""a perfect map whose entropies are rounded so that they seem to share more than they have"""


@settings(max_examples=40, deadline=None)
@given(slices())
@example(ROUNDED)
def test_measures_stay_between_0_and_1_and_splits_within_mismatches(pair):
    counts = count_slice(*pair)
    assert all(math.isnan(score) or 0 <= score <= 1 for score in counts.scores().values())
    assert (counts.warping_ST3[..., 1] + counts.warping_ST3[..., 2] <= counts.warping_ST3[..., 0]).all()
    wrong_at_half = (pair[1] != (pair[0].astype(np.float32) > 0.5)).mean()
    assert counts.squared_difference[5] == pytest.approx(wrong_at_half)
    assert counts.warping_error <= counts.squared_difference[:10].min() + 1e-12


def test_pixel_error_is_the_best_threshold_of_the_summed_counts():
    truth = np.array([[1, 1, 0, 0]])
    first, second = count_slice(np.array([[0.95, 0.55, 0.25, 0.0]]), truth), count_slice(np.zeros((1, 4)), truth)
    assert first.pixel_error == 0
    assert first.cells_ST3[0, 0].tolist() == [2, 1, 0]
    assert (first + second).pixel_error == pytest.approx(1 - 4 / 6)
    assert second.pixel_error == 1


def test_a_probability_of_1_is_a_cell_at_every_threshold_and_single_precision_counts():
    assert len(isbi.ISBI_THRESHOLDS) == 11
    assert count_slice(np.ones((1, 1)), np.ones((1, 1))).cells_ST3[0, :, 0].tolist() == [1] * 11
    assert count_slice(np.full((1, 1), 0.1), np.ones((1, 1))).cells_ST3[0, :2, 0].tolist() == [1, 1]


def test_thinning_forgives_thick_borders_and_the_old_error_does_not():
    truth = two_cells()
    thick = truth.copy()
    thick[:, 3] = thick[:, 5] = False
    counts = count_slice(thick, truth)
    assert counts.v_rand == 1
    assert counts.v_info == 1
    assert counts.rand_error > 0.2


def test_v_rand_is_a_mean_over_slices_and_rand_error_is_pooled():
    truth = BARS
    merged = count_slice(np.ones((3, 5)), truth)
    assert merged.v_rand == pytest.approx(2 / 3)
    both = merged + count_slice(truth, truth)
    assert both.v_rand == pytest.approx((1 + 2 / 3) / 2)
    assert both.rand_error == pytest.approx(1 - 2 * 144 / (144 + 216))
    assert both.v_info == 0.5


@settings(max_examples=30, deadline=None)
@given(st.lists(slices(), max_size=4), st.randoms())
def test_slices_add_up_in_any_order(stack, random):
    rows = [count_slice(*one) for one in stack]
    whole = IsbiCounts.of(rows).scores()
    split = random.randint(0, len(rows))
    parts = IsbiCounts.of(rows[:split]) + IsbiCounts.of(rows[split:])
    assert parts.scores() == pytest.approx(whole, rel=0, abs=0, nan_ok=True)
    random.shuffle(rows)
    assert IsbiCounts.of(rows).scores() == pytest.approx(whole, rel=0, abs=0, nan_ok=True)


def test_no_slice_and_no_cell_have_no_score():
    assert all(math.isnan(score) for score in IsbiCounts.of([]).scores().values())
    empty = count_slice(np.zeros((2, 2)), np.zeros((2, 2)))
    assert [name for name, score in empty.scores().items() if score == 0] == ["warping_error", "splits_and_mergers"]
    assert math.isnan(empty.v_rand)
    assert (empty + count_slice(BARS, BARS)).v_rand == 1


@pytest.mark.parametrize(
    ("values", "truth", "words"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), "a map of shape (2, 2) and a truth of shape (2, 3)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "at least 1 × 1"),
        (np.zeros((1, 1), np.uint8), np.zeros((1, 1)), "divide 8-bit values by 255"),
        (np.full((1, 1), 2.5), np.zeros((1, 1)), "from 2.5 to 2.5"),
        (np.full((1, 1), -0.5), np.zeros((1, 1)), "from -0.5 to -0.5"),
        (np.full((1, 1), np.nan), np.zeros((1, 1)), "from nan to nan"),
    ],
)
def test_what_is_no_probability_map_is_named(values, truth, words):
    with pytest.raises(DataError) as error:
        count_slice(values, truth)
    assert words in str(error.value)


@pytest.mark.skipif(not SLICES.is_dir(), reason="the slices of the challenge are not here")
def test_a_real_slice_against_itself_and_against_itself_blurred():
    truth = cv2.imread(str(sorted(SLICES.iterdir())[0]), cv2.IMREAD_GRAYSCALE)[:160, :160]
    assert count_slice(truth / 255, truth).scores() == {
        "v_rand": 1,
        "v_info": 1,
        "rand_error": 0,
        "warping_error": 0,
        "splits_and_mergers": 0,
        "pixel_error": 0,
    }
    blurred = count_slice(cv2.GaussianBlur(truth / 255, (0, 0), 1.5).clip(0, 1), truth)
    assert 0.95 < blurred.v_rand < 1
    assert blurred.v_rand > 1 - blurred.rand_error
    assert blurred.splits_and_mergers <= blurred.warping_error < blurred.pixel_error
    assert blurred.warping_ST3[0, 0, 2] > 0
    assert blurred.warping_ST3[0, :, 0].argmin() > 2
