"""Boundary scores: worked numbers, brute force over pairs of pixels, MONAI, adding up, void, and the ends."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError, UsageError
from pixelwise.metrics import boundary as b
from pixelwise.metrics.confusion import count, iou

TRUE = np.zeros((10, 10), bool)
TRUE[2:8, 2:8] = True
PREDICTED = np.roll(TRUE, 1, axis=1)
ROAD = np.zeros((1, 12), bool)
ROAD[0, 2:6] = True
FOUND = np.zeros((1, 12), bool)
FOUND[0, 4:10] = True


def naive_boundary(classes, counted, frame):
    """Pixel by pixel, from the definition."""
    height, width = classes.shape
    edge = np.zeros(classes.shape, bool)
    for y, x in itertools.product(range(height), range(width)):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= v < height and 0 <= u < width):
                edge[y, x] |= frame
            elif counted[v, u] and classes[v, u] != classes[y, x]:
                edge[y, x] = True
    return edge & counted


def naive_nearest(points, targets, spacing=(1, 1)):
    """From each point to the nearest target, by all pairs."""
    return [
        min((math.hypot((y - v) * spacing[0], (x - u) * spacing[1]) for v, u in np.argwhere(targets)), default=math.inf)
        for y, x in np.argwhere(points)
    ]


@st.composite
def pairs(draw):
    """Labels and a mask of up to 8 x 8 pixels in lumps, 3 classes, some void."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    half = [-(-n // 2) for n in shape]
    labels, mask = (np.kron(rng.integers(0, 3, half), np.ones((2, 2), int)) for _ in range(2))
    labels, mask = (a[: shape[0], : shape[1]].astype(np.uint8) for a in (labels, mask))
    mask[rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))] = 255
    return labels, mask


@pytest.mark.parametrize(("tolerance", "f1"), [(0, 0.5), (1, 1.0), (0.99, 0.5)])
def test_worked_boundary_f1_of_shifted_squares(tolerance, f1):
    near = b.boundary_counts(PREDICTED.astype(int), TRUE.astype(int), classes=2, ignore_index=None, tolerance=tolerance)
    assert near[1, [1, 3]].tolist() == [20, 20]
    assert b.near_precision(near)[1] == b.near_recall(near)[1] == b.near_f1(near)[1] == f1


def test_the_default_tolerance_is_a_share_of_the_diagonal():
    # 360 x 480 has a diagonal of 600 pixels, so 4.5: a wall moved by 4 is near, one moved by 5 is not.
    mask = np.zeros((360, 480), np.uint8)
    mask[:, 240:] = 1
    for shift, expected in ((4, 1.0), (5, 0.0)):
        near = b.boundary_counts(np.roll(mask, shift, 1) & mask, mask, classes=2, ignore_index=255)
        assert b.mean_boundary_f1(near) == expected


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from([0.0, 1.0, math.sqrt(2), 2.5]))
def test_boundary_counts_equal_brute_force(pair, tolerance):
    labels, mask = pair
    counted = mask != 255
    edges = [naive_boundary(values, counted, frame=False) for values in pair]
    expected = np.zeros((3, 4), int)
    for k in range(3):
        said, true = edges[0] & (labels == k), edges[1] & (mask == k)
        for column, (points, targets) in enumerate(((said, true), (true, said))):
            distances = naive_nearest(points, targets)
            expected[k, 2 * column :][:2] = sum(d <= tolerance for d in distances), len(distances)
    got = b.boundary_counts(labels, mask, classes=3, ignore_index=255, tolerance=tolerance)
    assert got.tolist() == expected.tolist()


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from([(1.0, 1.0), (2.0, 0.5)]))
def test_surface_distances_equal_brute_force(pair, spacing):
    labels, mask = pair
    counted = mask != 255
    said, true = labels == 1, mask == 1
    edges = [naive_boundary(area, counted, frame=True) & area for area in (said, true)]
    got = b.surface_distances(said, true, counted_HW=counted, spacing=spacing)
    assert got.predicted == pytest.approx(naive_nearest(*edges, spacing))
    assert got.true == pytest.approx(naive_nearest(*edges[::-1], spacing))


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_truth_and_prediction_may_change_places(pair):
    one, other = pair[0] == 1, pair[1] == 1
    there, back = b.surface_distances(one, other), b.surface_distances(other, one)
    assert b.hausdorff_distance(there) == pytest.approx(b.hausdorff_distance(back), nan_ok=True)
    assert b.average_surface_distance(there) == pytest.approx(b.average_surface_distance(back), nan_ok=True)
    for score in (b.near_f1, b.surface_dice):
        near = [float(score(b.tolerance_counts(d, 1))) for d in (there, back)]
        assert near[0] == pytest.approx(near[1], nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(pairs(), st.floats(0, 4), st.floats(0, 4))
def test_a_wider_tolerance_never_lowers_a_score(pair, one, other):
    labels, mask = pair
    narrow, wide = (
        b.boundary_counts(labels, mask, classes=3, ignore_index=255, tolerance=t) for t in sorted((one, other))
    )
    assert (narrow <= wide).all()
    assert narrow[:, [1, 3]].tolist() == wide[:, [1, 3]].tolist()


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_a_perfect_prediction_is_perfect(pair):
    _, mask = pair
    near = b.boundary_counts(np.where(mask == 255, 0, mask), mask, classes=3, ignore_index=255, tolerance=0)
    assert (near[:, 0] == near[:, 1]).all()
    assert math.isnan(b.mean_boundary_f1(near)) or b.mean_boundary_f1(near) == 1


@pytest.mark.filterwarnings("ignore:monai:FutureWarning")
def test_distances_and_surface_dice_equal_those_of_monai():
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for _ in range(5):
        said, true = np.zeros((2, 40, 50), bool)
        for area in (said, true):
            top, left = rng.integers(0, 20, 2)
            area[top : top + rng.integers(3, 20), left : left + rng.integers(3, 30)] = True
        tensors = [torch.from_numpy(np.stack([~area, area]))[None] for area in (said, true)]
        ours = b.surface_distances(said, true)
        for percentile in (100, 95):
            theirs = metrics.compute_hausdorff_distance(*tensors, percentile=percentile).item()
            assert b.hausdorff_distance(ours, percentile=percentile) == pytest.approx(theirs, rel=1e-5)
        theirs = metrics.compute_average_surface_distance(*tensors, symmetric=True).item()
        assert b.average_surface_distance(ours) == pytest.approx(theirs, rel=1e-5)
        theirs = metrics.compute_surface_dice(*tensors, class_thresholds=[2.0]).item()
        assert float(b.surface_dice(b.tolerance_counts(ours, 2))) == pytest.approx(theirs, rel=1e-5)


def test_worked_distances():
    # One pixel against a bar of three: 0, 1, 2 from the bar, 0 from the pixel.
    said, true = np.zeros((2, 1, 5), bool)
    said[0, 1] = true[0, 1:4] = True
    distances = b.surface_distances(said, true)
    assert distances.predicted.tolist() == [0]
    assert distances.true.tolist() == [0, 1, 2]
    assert b.hausdorff_distance(distances) == 2
    assert b.hausdorff_distance(distances, percentile=95) == pytest.approx(1.9)
    assert b.average_surface_distance(distances) == 3 / 4
    assert b.hausdorff_distance(b.surface_distances(said, true, spacing=(1, 0.1))) == pytest.approx(0.2)


def test_a_tolerance_of_exactly_the_distance_is_near_with_any_spacing():
    said, true = np.zeros((2, 1, 9), bool)
    said[0, 0] = true[0, 3] = True
    distances = b.surface_distances(said, true, spacing=(1, 0.1))
    assert b.tolerance_counts(distances, 0.3).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("said", "true", "distance", "dice"),
    [(False, False, math.nan, math.nan), (True, False, math.inf, 0), (False, True, math.inf, 0), (True, True, 0, 1)],
)
def test_absent_objects_are_defined(said, true, distance, dice):
    distances = b.surface_distances(np.full((1, 1), said), np.full((1, 1), true))
    near = b.tolerance_counts(distances, 5)
    assert b.hausdorff_distance(distances) == pytest.approx(distance, nan_ok=True)
    assert b.hausdorff_distance(distances, percentile=95) == pytest.approx(distance, nan_ok=True)
    assert b.average_surface_distance(distances) == pytest.approx(distance, nan_ok=True)
    assert float(b.surface_dice(near)) == pytest.approx(dice, nan_ok=True)
    assert float(b.near_f1(near)) == pytest.approx(dice, nan_ok=True)


def test_f1_with_nothing_near_is_0():
    near = np.array([[0, 3, 0, 4], [0, 0, 0, 4], [0, 3, 0, 0], [0, 0, 0, 0]])
    assert b.near_f1(near) == pytest.approx([0, 0, 0, math.nan], nan_ok=True)
    assert b.near_precision(near) == pytest.approx([0, math.nan, 0, math.nan], nan_ok=True)
    assert b.near_recall(near) == pytest.approx([0, 0, math.nan, math.nan], nan_ok=True)


def test_the_mean_may_leave_out_classes_that_are_only_predicted():
    near = np.array([[4, 4, 4, 4], [0, 2, 0, 0], [0, 0, 0, 0]])
    assert b.mean_boundary_f1(near) == 0.5
    assert b.mean_boundary_f1(near, truth_only=True) == 1.0
    assert math.isnan(b.mean_boundary_f1(np.zeros((3, 4), int)))


def test_void_makes_no_boundary_and_matches_none():
    mask = np.array([[0, 0, 255, 1, 1]])
    labels = np.array([[0, 0, 0, 1, 1]])
    assert not b.boundary_counts(labels, mask, classes=2, ignore_index=255, tolerance=1).any()
    everywhere = b.boundary_counts(labels, np.full((1, 5), 255), classes=2, ignore_index=255)
    assert math.isnan(b.mean_boundary_f1(everywhere))


def test_only_objects_are_closed_at_the_frame():
    whole = np.ones((3, 3), bool)
    assert not b.boundaries(whole, whole).any()
    assert b.boundaries(whole, whole, frame=True).sum() == 8


def test_counts_of_images_add_up():
    shifted = b.boundary_counts(PREDICTED * 1, TRUE * 1, classes=2, ignore_index=None, tolerance=0)
    same = b.boundary_counts(TRUE * 1, TRUE * 1, classes=2, ignore_index=None, tolerance=0)
    assert b.near_f1(shifted + same)[1] == pytest.approx(30 / 40)


@settings(max_examples=40, deadline=None)
@given(pairs(), st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.sampled_from(["void", "boundaries"]))
def test_trimap_counts_equal_counting_in_a_band_by_brute_force(pair, width, around):
    labels, mask = pair
    middle = mask == 255 if around == "void" else naive_boundary(mask, mask != 255, frame=False)
    apart = np.reshape(naive_nearest(np.ones(mask.shape), middle), mask.shape)
    band = apart <= width if around == "void" else apart < width
    expected = count(labels, np.where(band, mask, 255), classes=3, ignore_index=255)
    got = b.trimap_counts(labels, mask, width=width, classes=3, ignore_index=255, around=around)
    assert got.tolist() == expected.tolist()


def test_worked_trimap():
    mask = np.array([[0, 0, 0, 255, 1, 1, 1]])
    labels = np.array([[1, 0, 0, 0, 1, 0, 1]])
    narrow = b.trimap_counts(labels, mask, width=1, classes=2, ignore_index=255)
    wide = b.trimap_counts(labels, mask, width=2, classes=2, ignore_index=255)
    assert narrow.tolist() == [[1, 0], [0, 1]]
    assert wide.tolist() == [[2, 0], [1, 1]]
    assert iou(wide) == pytest.approx([2 / 3, 1 / 2])


def test_a_trimap_needs_no_void_value_and_may_be_empty():
    mask = np.array([[0, 0, 1, 1]], np.uint8)
    along = b.trimap_counts(mask, mask, width=1, classes=2, ignore_index=None, around="boundaries")
    assert along.tolist() == [[1, 0], [0, 1]]
    for ignore_index in (None, 255):
        assert not b.trimap_counts(mask, mask, width=3, classes=2, ignore_index=ignore_index).any()


@pytest.mark.parametrize(
    ("tolerance", "precision", "recall"), [(0, 1 / 3, 0.5), (1, 0.5, 0.75), (3, 5 / 6, 1), (math.sqrt(2), 0.5, 0.75)]
)
def test_worked_relaxed_scores(tolerance, precision, recall):
    near = b.relaxed_counts(FOUND, ROAD, tolerance=tolerance)
    assert near.shape == (1, 4)
    assert b.near_precision(near)[0] == pytest.approx(precision, abs=1e-6)
    assert b.near_recall(near)[0] == pytest.approx(recall, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from([0, 1, 1.5, math.sqrt(5), 3]), st.integers(0, 1000))
def test_relaxed_counts_equal_brute_force_at_every_threshold(pair, tolerance, seed):
    _, mask = pair
    scores = np.random.default_rng(seed).integers(0, 5, mask.shape) / 4
    counted, thresholds = mask != 255, [0.0, 0.25, 0.6, 1.0]
    near = b.relaxed_counts(scores, mask == 1, tolerance=tolerance, thresholds=thresholds, counted_HW=counted)
    for threshold, got in zip(thresholds, near, strict=True):
        said, true = (scores > threshold) & counted, mask == 1
        there, back = naive_nearest(said, true), naive_nearest(true, said)
        assert got.tolist() == [
            sum(d <= tolerance for d in there),
            len(there),
            sum(d <= tolerance for d in back),
            len(back),
        ]


def test_break_even_is_where_precision_meets_recall():
    # Precision and recall (1/2, 1) and (1, 3/4): equal at two thirds of the way, at 5/6.
    assert b.break_even(np.array([[4, 8, 4, 4], [3, 3, 3, 4]])) == pytest.approx(5 / 6)
    assert b.break_even(np.array([[4, 8, 4, 4], [3, 4, 3, 4], [1, 1, 1, 4]])) == 0.75
    assert math.isnan(b.break_even(np.array([[4, 8, 4, 4], [0, 0, 0, 4]])))
    assert math.isnan(b.break_even(np.zeros((3, 4), int)))


def test_break_even_of_a_perfect_map_is_1():
    near = b.relaxed_counts(ROAD, ROAD, tolerance=0, thresholds=[-0.5, 0.5])
    assert b.break_even(near) == 1.0


SQUARE = np.zeros((3, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: b.surface_distances(TRUE, TRUE[1:]), "same image"),
        (lambda: b.surface_distances(TRUE[0], TRUE[0]), "rows × columns"),
        (lambda: b.surface_distances(TRUE, TRUE, spacing=(0, 1)), "spacing (0, 1)"),
        (lambda: b.hausdorff_distance(b.surface_distances(TRUE, TRUE), percentile=101), "percentile 101"),
        (lambda: b.boundary_counts(SQUARE, SQUARE, classes=2, ignore_index=None, tolerance=-1), "tolerance -1"),
        (lambda: b.boundary_counts(SQUARE, SQUARE + 7, classes=2, ignore_index=None), "mask with value 7"),
        (lambda: b.trimap_counts(SQUARE, SQUARE + 7, width=1, classes=2, ignore_index=None), "mask with value 7"),
        (lambda: b.trimap_counts(SQUARE, SQUARE, width=0, classes=2, ignore_index=None), "0 pixels wide"),
        (
            lambda: b.trimap_counts(SQUARE, SQUARE, width=1, classes=2, ignore_index=None, around="x"),
            "choose void or boundaries",
        ),
        (lambda: b.relaxed_counts(ROAD * math.nan, ROAD, tolerance=1), "NaN"),
        (lambda: b.relaxed_counts(ROAD, ROAD, tolerance=math.inf), "tolerance inf"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, words):
    with pytest.raises((DataError, UsageError)) as error:
        call()
    assert words in str(error.value)
