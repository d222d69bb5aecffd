"""The border weight map of the U-Net against worked numbers, and against one distance transform per cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from pixelwise.data.synthetic import draw_cells
from pixelwise.errors import UsageError
from pixelwise.losses.border import border_weights, two_distances


def naive(instances_HW: NDArray[np.int64], weight: float = 10.0, sigma: float = 5.0) -> NDArray[np.float64]:
    """Equation 2 of the paper as it stands: the distances to all cells, sorted."""
    cells = [number for number in np.unique(instances_HW) if number > 0]
    if len(cells) < 2:
        return np.zeros(instances_HW.shape)
    distances = np.sort([ndimage.distance_transform_edt(instances_HW != number) for number in cells], axis=0)
    term = weight * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return np.where(instances_HW > 0, 0, term)


def test_worked_rows() -> None:
    row = np.array([[1, 1, 0, 0, 0, 2, 2]])
    np.testing.assert_allclose(border_weights(row), [[0, 0, *[7.261490] * 3, 0, 0]], atol=2e-6)
    for gap, value in ((1, 9.231163), (2, 8.352702), (3, 7.261490), (9, 1.353353)):  # d1 + d2 is the gap + 1
        row = np.array([[1] + [0] * gap + [2]])
        np.testing.assert_allclose(border_weights(row)[0, 1:-1], [value] * gap, atol=2e-6)


def test_worked_map() -> None:
    instances_HW = np.zeros((5, 9), np.int32)
    instances_HW[1:4, 1:4], instances_HW[1:4, 5:8] = 1, 2
    outer = [4.280805, 5.916002, 7.071651, 8.110361, 8.521438, 8.110361, 7.071651, 5.916002, 4.280805]
    inner = [4.867523, 0, 0, 0, 9.231163, 0, 0, 0, 4.867523]
    found = border_weights(instances_HW)
    np.testing.assert_allclose(found, [outer, inner, inner, inner, outer], atol=2e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("size", "weight", "sigma"), [((96, 130), 10, 5), ((70, 60), 3, 2.5), ((50, 90), 10, 0.7)])
def test_it_is_the_naive_stack_of_distance_transforms(size: tuple[int, int], weight: float, sigma: float) -> None:
    instances_HW = draw_cells(size=size, seed=3).instances_HW
    expected = naive(instances_HW, weight, sigma)
    np.testing.assert_allclose(border_weights(instances_HW, weight=weight, sigma=sigma), expected, atol=1e-5)
    assert expected.max() > weight / 100


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 90)), st.integers(0, 6), st.sampled_from([1, 5]), st.integers(0, 999)
)
def test_any_scattered_objects(size: tuple[int, int], objects: int, sigma: float, seed: int) -> None:
    """Pieces of one object may lie anywhere; its box then holds other objects."""
    rng = np.random.default_rng(seed)
    instances_HW = np.zeros(size, np.int64)
    for number in range(1, objects + 1):
        instances_HW[rng.integers(size[0], size=3), rng.integers(size[1], size=3)] = number
    expected = naive(instances_HW, sigma=sigma)
    np.testing.assert_allclose(border_weights(instances_HW, sigma=sigma), expected, atol=1e-5)
    # Names of objects and the orientation of the image do not matter.
    renamed = np.concatenate([[0], 2**30 - rng.permutation(objects)])[instances_HW].T
    np.testing.assert_allclose(border_weights(renamed, sigma=sigma).T, expected, atol=1e-5)


@pytest.mark.parametrize("instances", [np.zeros((3, 4), int), np.eye(4, dtype=int) * 7, [[5]], np.full((2, 2), -1)])
def test_less_than_two_cells_have_no_border(instances: NDArray[np.int64]) -> None:
    assert not border_weights(np.asarray(instances)).any()


def test_void_is_background() -> None:
    assert border_weights(np.array([[1, -1, 2]]))[0, 1] == pytest.approx(10 * math.exp(-4 / 50))


def test_distances_are_exact_within_reach_and_never_too_small() -> None:
    instances_HW = draw_cells(size=(80, 80), seed=1).instances_HW
    cells = range(1, instances_HW.max() + 1)
    exact = np.sort([ndimage.distance_transform_edt(instances_HW != number) for number in cells], axis=0)[:2]
    found = np.stack(two_distances(instances_HW, reach=7))
    within = exact <= 7
    assert 0.2 < within.mean() < 0.9
    np.testing.assert_allclose(found[within], exact[within], atol=1e-5)
    assert (found >= exact - 1e-5).all()


def test_what_is_no_label_image_is_refused() -> None:
    with pytest.raises(UsageError, match="two axes and whole numbers"):
        border_weights(np.zeros((2, 2)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="two axes"):
        border_weights(np.zeros((1, 2, 2), int))
    for wrong in ({"weight": -1.0}, {"weight": math.inf}, {"sigma": 0.0}, {"sigma": math.nan}):
        with pytest.raises(UsageError, match="a sigma above 0"):
            border_weights(np.zeros((2, 2), int), **wrong)
