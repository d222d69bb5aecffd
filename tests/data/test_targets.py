"""Inside and border of objects, against the definition pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pixelwise.data.synthetic import draw_cells
from pixelwise.data.targets import border_around, border_between, border_target
from pixelwise.errors import UsageError
from pixelwise.task import Task


def naive(instances_HW: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """Border is where the window holds two objects or more."""
    border_HW = np.zeros(instances_HW.shape, bool)
    for row, column in np.ndindex(instances_HW.shape):
        rows, columns = slice(max(0, row - width), row + width + 1), slice(max(0, column - width), column + width + 1)
        window = instances_HW[rows, columns]
        border_HW[row, column] = len(np.unique(window[window > 0])) > 1
    return border_HW


@pytest.mark.parametrize(
    ("row", "width", "target"),
    [
        ([1, 1, 1, 2, 2, 2], 1, [1, 1, 2, 2, 1, 1]),
        ([1, 1, 0, 2, 2], 1, [1, 1, 2, 1, 1]),
        ([1, 1, 0, 0, 2, 2], 1, [1, 1, 0, 0, 1, 1]),
        ([1, 1, 0, 0, 2, 2], 2, [1, 1, 2, 2, 1, 1]),
        ([1, 1, 1, 2, 2, 2], 2, [1, 2, 2, 2, 2, 1]),
        ([0, 1, 1, 0, 1, 1, 0], 2, [0, 1, 1, 0, 1, 1, 0]),
        ([-1, 1, -1, 2], 1, [0, 1, 2, 1]),
        ([3], 4, [1]),
        ([0, 0], 1, [0, 0]),
    ],
)
def test_worked_rows(row: list[int], width: int, target: list[int]) -> None:
    assert border_target(np.array([row]), width=width).tolist() == [target]


def test_objects_that_touch_at_a_corner_have_a_border() -> None:
    assert border_target(np.array([[1, 0], [0, 2]]), width=1).tolist() == [[2, 2], [2, 2]]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.integers(1, 4),
    st.sampled_from([1, 5, 2**31 - 40]),
    st.integers(0, 999),
)
def test_any_objects_by_the_definition(size: tuple[int, int], width: int, factor: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    instances_HW = rng.integers(0, 30, size) * (rng.random(size) < 0.15)
    large = np.where(instances_HW > 0, factor + instances_HW, 0)
    expected = naive(instances_HW, width)
    assert np.array_equal(border_between(large, width=width), expected)
    assert np.array_equal(border_between(large.T, width=width).T, expected)


def present(bits_HW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The two maps of a target in bits, as the losses see them."""
    assert bits_HW.dtype == np.uint8
    task = Task.of(["object", "border"], kind="overlapping")
    present_BKHW, _ = task.truth(torch.from_numpy(bits_HW[None]))
    return np.asarray(present_BKHW[0])


def test_the_three_forms_say_the_same() -> None:
    instances_HW = draw_cells(size=(90, 80), seed=5).instances_HW
    classes_HW = border_target(instances_HW, width=2)
    inside_HW, border_HW = present(border_target(instances_HW, width=2, form="sigmoid2"))
    whole_HW, same_HW = present(border_target(instances_HW, width=2, form="sigmoid2_full"))
    assert np.array_equal(border_HW, same_HW)
    assert np.array_equal(border_HW, classes_HW == 2)
    assert np.array_equal(inside_HW, classes_HW == 1)
    assert np.array_equal(whole_HW, instances_HW > 0)
    assert 0.01 < border_HW.mean() < 0.2


def test_without_the_border_touching_objects_fall_apart() -> None:
    instances_HW = np.kron([[1, 2], [3, 4]], np.ones((20, 20), int))
    inside_HW = border_target(instances_HW, width=1) == 1
    assert [np.unique(instances_HW[inside_HW & (instances_HW == k)]).tolist() for k in (1, 2, 3, 4)] == [
        [1],
        [2],
        [3],
        [4],
    ]
    assert not inside_HW[19:21].any()
    assert not inside_HW[:, 19:21].any()
    assert inside_HW.sum() == 4 * 19 * 19


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="width of 1 or more"):
        border_between(np.zeros((2, 2), int), width=0)
    with pytest.raises(UsageError, match="softmax3, sigmoid2, sigmoid2_full"):
        border_target(np.zeros((2, 2), int), width=1, form="softmax")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "width", "target"),
    [
        ([0, 1, 1, 1, 2, 2, 2], 1, [0, 2, 1, 2, 2, 1, 1]),
        ([1, 1, 1, 1, 0, 0, 0], 1, [1, 1, 1, 2, 0, 0, 0]),
        ([0, 1, 1, 1, 1, 1, 0], 2, [0, 2, 2, 1, 2, 2, 0]),
        ([7, 7, 7], 1, [1, 1, 1]),
        ([0, 5, 0], 3, [0, 2, 0]),
        ([0, 0, 0], 1, [0, 0, 0]),
    ],
)
def test_contours_by_hand(row, width, target):
    assert border_target(np.array([row]), width=width, place="around").tolist() == [target]
    assert border_target(np.array([row]).T, width=width, place="around").T.tolist() == [target]


@given(
    arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)), st.integers(1, 3)
)
@settings(max_examples=60, deadline=None)
def test_a_contour_is_what_differs_within_the_width_on_objects(instances_HW, width):
    height, columns = instances_HW.shape
    expected = np.zeros((height, columns), bool)
    for y, x in np.ndindex(height, columns):
        around = instances_HW[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        expected[y, x] = instances_HW[y, x] > 0 and (around != instances_HW[y, x]).any()
    assert np.array_equal(border_around(instances_HW, width=width), expected)
    touching = border_between(instances_HW, width=width) & (instances_HW > 0)
    assert not (touching & ~expected).any(), "what lies between objects is a part of their contours"
    full = border_target(instances_HW, width=width, form="sigmoid2_full", place="around")
    assert np.array_equal(full, (instances_HW > 0) + 2 * expected)


def test_another_place_is_refused():
    with pytest.raises(UsageError, match="unknown place of borders 'beside'; choose between or around"):
        border_target(np.zeros((2, 2), int), width=1, place="beside")  # type: ignore[arg-type]
