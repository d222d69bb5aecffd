from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import UsageError
from pixelwise.tiles import TileGrid, Window, fading_weights, starts, windows

sides = st.integers(1, 200)


@pytest.mark.parametrize(
    ("length", "size", "step", "align", "expected"),
    [
        (100, 64, 48, 1, [0, 36]),
        (100, 64, 48, 16, [0, 48]),
        (64, 64, 48, 16, [0]),
        (65, 64, 48, 16, [0, 16]),
        (10, 64, 48, 16, [0]),
        (40, 10, 10, 1, [0, 10, 20, 30]),
        (41, 10, 10, 1, [0, 10, 20, 30, 31]),
        (64, 32, 20, 16, [0, 16, 32]),
    ],
)
def test_starts_by_hand(length, size, step, align, expected):
    assert starts(length, size, step, align) == expected


@given(sides, sides, st.integers(1, 64), st.integers(1, 64), st.floats(0, 0.95), st.sampled_from([1, 2, 3, 16]))
@settings(max_examples=150, deadline=None)
def test_windows_cover_every_pixel_and_stay_inside(height, width, rows, columns, overlap, align):
    size = (max(rows, align), max(columns, align))
    covered = np.zeros((height, width), int)
    for window in windows((height, width), size, overlap, align):
        assert window.top % align == window.left % align == 0
        assert 0 <= window.top < window.bottom <= height
        assert 0 <= window.left < window.right <= width
        assert window.shape <= size
        assert covered[window.slices].shape == window.shape
        covered[window.slices] += 1
    assert covered.min() >= 1


@given(sides, st.integers(4, 64), st.floats(0, 0.9))
@settings(max_examples=50, deadline=None)
def test_neighbours_overlap_by_at_least_the_share(length, side, overlap):
    lefts = [window.left for window in windows((1, length), (1, side), overlap)]
    steps = np.diff(lefts)
    assert lefts == sorted(set(lefts))
    assert (steps <= max(1, round(side * (1 - overlap)))).all()


def test_an_image_smaller_than_a_window_is_one_window():
    assert windows((3, 5), (8, 8)) == [Window(0, 0, 3, 5)]


def test_windows_come_row_by_row():
    assert [(w.top, w.left) for w in windows((16, 24), (8, 8), 0.0)] == [
        (0, 0), (0, 8), (0, 16), (8, 0), (8, 8), (8, 16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "overlap", "align", "said"),
    [
        ((8, 8), 1.0, 1, "overlap 1.0"),
        ((8, 8), -0.1, 1, "overlap -0.1"),
        ((8, 8), float("nan"), 1, "overlap nan"),
        ((0, 8), 0.0, 1, "at least 1"),
        ((8, 8), 0.0, 0, "at least 1"),
        ((32, 16), 0.0, 32, "leave gaps; choose windows of at least 32 pixels"),
    ],
)
def test_windows_that_cannot_cover_are_refused(size, overlap, align, said):
    with pytest.raises(UsageError, match=said):
        windows((100, 100), size, overlap, align)


@given(sides, sides)
@settings(max_examples=50, deadline=None)
def test_fading_weights_are_symmetric_positive_and_highest_in_the_middle(height, width):
    weights = fading_weights((height, width))
    assert weights.shape == (height, width)
    assert weights.dtype == np.float32
    assert weights.min() >= np.exp(-4.0)
    assert weights.max() == weights[height // 2, width // 2] <= 1
    np.testing.assert_array_equal(weights, weights[::-1, ::-1])
    np.testing.assert_allclose(weights, fading_weights((width, height)).T, rtol=1e-6)


def test_fading_weights_fall_as_a_gaussian():
    weights = fading_weights((1, 9))[0]
    assert weights[4] == 1
    assert weights[0] == pytest.approx(np.exp(-0.5 * (4 / (9 / 4)) ** 2))


@given(sides, sides, st.integers(1, 70), st.integers(0, 40), st.sampled_from([1, 2, 8, 16]))
@settings(max_examples=200, deadline=None)
def test_tiles_write_every_pixel_once_and_read_their_halo(height, width, strides, halo, align):
    grid = TileGrid((height, width), strides * align)
    written = np.zeros((height, width), int)
    for tile in grid.tiles(halo, align=align):
        written[tile.write.slices] += 1
        assert tile.read.top % align == tile.read.left % align == 0
        assert tile.write.top - tile.read.top >= min(halo, tile.write.top)
        assert tile.read.bottom - tile.write.bottom == min(halo, height - tile.write.bottom)
        assert tile.write.left - tile.read.left >= min(halo, tile.write.left)
        assert tile.read.right - tile.write.right == min(halo, width - tile.write.right)
        inner = tile.write.within(tile.read)
        assert (inner.top, inner.left) >= (0, 0)
        assert inner.shape == tile.write.shape
    assert (written == 1).all()


@given(sides, sides, st.integers(1, 80), st.data())
@settings(max_examples=100, deadline=None)
def test_cores_that_touch_a_window_are_those_that_overlap_it(height, width, core, data):
    grid = TileGrid((height, width), core)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))
    overlapping = [index for index in range(len(grid)) if grid.window(index).overlap(window)]
    assert grid.touching(window) == overlapping
    assert len(grid) == grid.rows * grid.columns
    shared = [grid.window(index).overlap(window) for index in overlapping]
    assert sum(one.shape[0] * one.shape[1] for one in shared if one) == window.shape[0] * window.shape[1]


@pytest.mark.parametrize(("shape", "core"), [((0, 5), 4), ((5, 0), 4), ((5, 5), 0)])
def test_a_grid_without_pixels_is_refused(shape, core):
    with pytest.raises(UsageError, match="all must be at least 1"):
        TileGrid(shape, core)
