"""Normalisation against numpy in two passes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.data import normalise
from pixelwise.data.images import read_image
from pixelwise.data.normalise import Normalisation, measure
from pixelwise.errors import DataError, UsageError


def random_image(dtype: str, seed: int, shape: tuple[int, int, int] = (5, 7, 3)) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 200 + 20).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_apply_is_the_definition(dtype: str) -> None:
    image_HWC = random_image(dtype, 0)
    mean, std = (100.0, 50.0, 0.5), (20.0, 3.0, 70.0)
    expected = (image_HWC.astype(np.float64) - mean) / std
    result = Normalisation(mean, std).apply(image_HWC)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_apply_takes_a_part_of_an_image() -> None:
    image_HWC = random_image("uint8", 0, (9, 11, 3))
    model = measure([image_HWC])
    np.testing.assert_array_equal(model.apply(image_HWC[2:5, 3:8]), model.apply(image_HWC)[2:5, 3:8])


def test_large_offsets_cost_no_digits_in_float64_and_integers() -> None:
    image_HWC = np.array([[[10**9 - 1], [10**9 + 1]]])
    for dtype in (np.int32, np.float64):
        result = measure([image_HWC.astype(dtype)]).apply(image_HWC.astype(dtype))
        np.testing.assert_array_equal(result.ravel(), [-1, 1])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
    st.sampled_from(["uint8", "uint16", "float32", "float64"]),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_measure_is_two_passes_in_any_order(sizes: list, dtype: str, block: int, random: object) -> None:
    images = [random_image(dtype, seed, (*size, 2)) for seed, size in enumerate(sizes)]
    pixels = np.concatenate([image.reshape(-1, 2) for image in images]).astype(np.float64)
    shuffled = random.sample(images, len(images))  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalise, "BLOCK_VALUES", block)
        found = measure(iter(shuffled))
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-9)
    expected = pixels.std(axis=0)
    np.testing.assert_allclose(found.std, np.where(expected > 1e-9, expected, 1.0), rtol=1e-9)


def test_measure_survives_values_around_a_milliard() -> None:
    images = [1e9 + np.random.default_rng(seed).standard_normal((50, 50, 1)) for seed in range(4)]
    pixels = np.concatenate(images)
    found = measure(images)
    assert found.mean[0] == pytest.approx(pixels.mean(), rel=1e-12)
    assert found.std[0] == pytest.approx(pixels.std(), rel=1e-6)


@pytest.mark.parametrize("value", [0, 7, 255, 0.1, 1e9 / 3])
def test_constant_images_become_zeros(value: float) -> None:
    image_HWC = np.full((13, 17, 1), value)
    model = measure([image_HWC, image_HWC[:3]])
    assert model.std == (1.0,)
    assert np.abs(model.apply(image_HWC)).max() < 1e-6


def test_adjusted_is_contrast_then_brightness() -> None:
    image_HWC, model = random_image("uint8", 1), Normalisation((9.0, 8.0, 7.0), (3.0, 2.0, 1.0))
    expected = 1.3 * model.apply(image_HWC) - 0.4
    np.testing.assert_allclose(model.adjusted(gain=1.3, shift=-0.4).apply(image_HWC), expected, rtol=1e-5, atol=1e-5)
    assert model.adjusted(gain=1.0, shift=0.0) == model


def test_description_goes_through_json() -> None:
    model = Normalisation((0.1, 2.0), (1e-3, 7.0))
    assert Normalisation.from_dict(json.loads(json.dumps(model.to_dict()))) == model


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mean": [0]},
        {"mean": [], "std": []},
        {"mean": [0], "std": [1, 1]},
        {"mean": [0], "std": [0]},
        {"mean": [0], "std": [-1]},
        {"mean": [0], "std": [1e-40]},
        {"mean": [float("nan")], "std": [1]},
        {"mean": [0], "std": [float("inf")]},
        {"mean": [0], "std": [float("nan")]},
        {"mean": [10**400], "std": [1]},
        {"mean": "12", "std": "12"},
        {"mean": None, "std": [1]},
        {"mean": [[1]], "std": [1]},
    ],
)
def test_other_descriptions_are_refused(values: dict) -> None:
    with pytest.raises(UsageError):
        Normalisation.from_dict(values)


def test_wrong_number_of_channels_names_both() -> None:
    with pytest.raises(DataError, match="the model takes 3 channels, the image has 13"):
        Normalisation((0.0,) * 3, (1.0,) * 3).apply(np.zeros((2, 2, 13)))
    with pytest.raises(DataError, match="the model takes 1 channel, the image has 3"):
        Normalisation((0.0,), (1.0,)).apply(np.zeros((2, 2, 3)))
    with pytest.raises(DataError, match="rows, columns and channels"):
        Normalisation((0.0,), (1.0,)).apply(np.zeros((2, 2)))


def test_images_that_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="no pixels"):
        measure([])
    with pytest.raises(DataError, match="one image has 1 channel, another has 3"):
        measure([np.zeros((2, 2, 1)), np.zeros((2, 2, 3))])
    with pytest.raises(DataError, match="not finite"):
        measure([np.array([[[np.nan]]])])
    with pytest.raises(DataError, match="rows, columns and channels"):
        measure([np.zeros((2, 2))])


def test_real_images_get_mean_0_and_deviation_1(real_data: Path) -> None:
    images = [read_image(path) for path in sorted((real_data / "isbi2012/images").iterdir())[:4]]
    model = measure(images)
    pixels = np.concatenate([model.apply(image).ravel() for image in images]).astype(np.float64)
    assert pixels.mean() == pytest.approx(0, abs=1e-5)
    assert pixels.std() == pytest.approx(1, abs=1e-5)
