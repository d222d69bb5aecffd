"""What a prediction takes, and smaller windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelwise.bundle import Bundle
from pixelwise.config import PredictConfig
from pixelwise.inference import estimate
from pixelwise.inference.estimate import (
    LEAST_TILE,
    bytes_per_pixel,
    estimate_prediction,
    seen_pixels,
    with_smaller_tile,
)
from pixelwise.inference.folder import Outputs
from pixelwise.inference.predict import Predictor, predict
from pixelwise.runtime import LackOfMemoryError, Runtime


@pytest.fixture
def make(make_bundle: Callable[..., Bundle], runtime: Runtime) -> Callable[..., Predictor]:
    return lambda **settings: Predictor.of(make_bundle(predict=PredictConfig(**settings)), runtime)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (40, 50)),
        ({"tile": 64}, (64, 64)),
        ({"tile": 64}, (100, 130)),
        ({"tile": 64, "overlap": 0.5, "flips": True}, (70, 65)),
        ({"scales": (0.5, 1.0)}, (33, 47)),
        ({"tile": 64, "scales": (1.0, 2.0), "flips": True}, (50, 40)),
    ],
)
def test_the_pixels_counted_are_those_that_the_network_sees(make, settings: dict, size: tuple[int, int]) -> None:
    predictor = make(**settings)
    predictor.tiling((9999, 9999))  # what the network needs around a window is measured with it, once
    seen = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += inputs[0].shape[-2] * inputs[0].shape[-1]

    predictor.network.register_forward_pre_hook(count)
    predict(np.zeros((*size, 1), np.uint8), predictor)
    assert seen == seen_pixels(size, predictor)


def test_time_grows_with_the_pixels_and_memory_with_the_largest(make, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make(tile=64)
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(estimate, "_seconds", lambda image_HWC, _: shapes.append(image_HWC.shape) or 0.1)
    found = estimate_prediction([(64, 64), (32, 64)], predictor, bytes_per_pixel=2.0)
    assert found.seconds == pytest.approx(0.15)
    assert found.disk == 2 * 64 * 96
    assert shapes == [(64, 64, 1)] * 2
    large = estimate_prediction([(1000, 2000)], predictor, bytes_per_pixel=0)
    assert shapes[-1] == (64, 64, 1), "a window, and not the image"
    assert large.memory - found.memory == pytest.approx((2_000_000 - 64 * 64) * 4 * (1 + 3 * 2), abs=50_000_000)
    assert large.seconds > 0.1 * 2_000_000 / 64**2


def test_no_image_takes_no_time(make) -> None:
    found = estimate_prediction([], make(), bytes_per_pixel=1.0)
    assert (found.images, found.seconds, found.disk) == (0, 0, 0)
    assert "0 images" in found.describe()[0]


def test_what_is_written_counts(make) -> None:
    predictor, folder = make(), Path("out")
    plain = bytes_per_pixel(Outputs(folder=folder), predictor)
    assert 0 < plain < 1
    assert bytes_per_pixel(Outputs(folder=folder, scores=True), predictor) == plain + 2 * 1.5  # two classes
    assert bytes_per_pixel(Outputs(folder=folder, overlays=True, geojson=True), predictor) > plain + 1


@pytest.mark.parametrize(
    ("tile", "size", "smaller"),
    [
        (1024, (4000, 4000), 512),
        (1024, (600, 600), 300),
        (1024, (300, 300), 150),
        (257, (4000, 10), 100),
        (256, (999, 999), 128),
    ],
)
def test_windows_become_so_small_that_it_helps(make, tile: int, size: tuple[int, int], smaller: int) -> None:
    if smaller < LEAST_TILE:
        with pytest.raises(LackOfMemoryError, match=f"windows of {tile} pixels"):
            with_smaller_tile(make(tile=tile), size)
        return
    found = with_smaller_tile(make(tile=tile), size)
    assert found.settings.tile == smaller
    assert found.settings.tile**2 < size[0] * size[1]


def test_smaller_windows_end_in_a_refusal(make) -> None:
    predictor = make(tile=1024)
    for _ in range(3):
        predictor = with_smaller_tile(predictor, (5000, 5000))
    assert predictor.settings.tile == LEAST_TILE
    with pytest.raises(LackOfMemoryError, match="use a machine with more"):
        with_smaller_tile(predictor, (5000, 5000))
