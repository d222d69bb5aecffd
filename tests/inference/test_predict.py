"""The pipeline from an image to its labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pixelwise.bundle import Bundle
from pixelwise.config import PredictConfig, TilingWay
from pixelwise.errors import PixelwiseError, UsageError
from pixelwise.inference.predict import Predictor, predict
from pixelwise.postprocess.instances import InstanceSettings, find_instances
from pixelwise.runtime import LackOfMemoryError, Runtime

SIZES = [(1, 1), (1, 5000), (5000, 1), (31, 33), (3, 3), (64, 48), (97, 89)]


@pytest.mark.parametrize("size", SIZES)
def test_any_size_gives_labels_of_that_size(
    make_bundle: Callable[..., Bundle], runtime: Runtime, size: tuple[int, int]
) -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (*size, 1), np.uint8)
    prediction = predict(image_HWC, Predictor.of(make_bundle(), runtime))
    assert prediction.labels.shape == size
    assert prediction.labels.dtype == np.uint8
    assert prediction.scores_KHW.shape == (2, *size)
    np.testing.assert_allclose(prediction.scores_KHW.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(prediction.labels, prediction.scores_KHW.argmax(axis=0))


def test_the_steps_of_the_pipeline_by_hand(make_bundle: Callable[..., Bundle], runtime: Runtime) -> None:
    bundle = make_bundle()
    image_HWC = np.random.default_rng(1).integers(0, 256, (20, 24, 1), np.uint8)
    normal_BCHW = torch.from_numpy((image_HWC[None, :, :, 0].astype(np.float32) - 100) / 50)[:, None]
    with torch.no_grad():
        scores_BKHW = bundle.build_network()(normal_BCHW).softmax(dim=1)
    found = predict(image_HWC, Predictor.of(bundle, runtime))
    np.testing.assert_allclose(found.scores_KHW, scores_BKHW[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("value", [0, 255])
def test_constant_images_give_finite_scores(make_bundle: Callable[..., Bundle], runtime: Runtime, value: int) -> None:
    found = predict(np.full((40, 40, 1), value, np.uint8), Predictor.of(make_bundle(), runtime))
    assert np.isfinite(found.scores_KHW).all()


def test_another_number_of_channels_is_refused_with_both_numbers(
    make_bundle: Callable[..., Bundle], runtime: Runtime
) -> None:
    with pytest.raises(PixelwiseError, match=r"3 channels.*13"):
        predict(np.zeros((8, 8, 13), np.uint16), Predictor.of(make_bundle(channels=3), runtime))


class Leftness(nn.Module):
    """Gives class 1 a logit that grows to the right: not symmetric at all."""

    stride = 1

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-3, 3, image_BCHW.shape[-1]).expand(image_BCHW[:, :1].shape)
        return torch.cat([torch.zeros_like(ramp), ramp], dim=1)


def test_averaged_flips_make_a_symmetric_answer(make_bundle: Callable[..., Bundle], runtime: Runtime) -> None:
    predictor = Predictor.of(make_bundle(predict=PredictConfig(flips=True)), runtime)
    predictor = replace(predictor, network=Leftness())
    scores_KHW = predict(np.zeros((10, 10, 1), np.uint8), predictor).scores_KHW
    np.testing.assert_allclose(scores_KHW, 0.5, atol=1e-6)


def test_scores_are_averaged_over_the_sizes(make_bundle: Callable[..., Bundle], runtime: Runtime) -> None:
    bundle = make_bundle()
    image_HWC = np.random.default_rng(3).integers(0, 256, (21, 30, 1), np.uint8)
    normal_BCHW = torch.from_numpy((image_HWC[None, :, :, 0].astype(np.float32) - 100) / 50)[:, None]
    network = bundle.build_network()
    with torch.no_grad():
        whole = network(normal_BCHW).softmax(dim=1)
        half_BCHW = nn.functional.interpolate(normal_BCHW, size=(10, 15), mode="bilinear")
        half = nn.functional.interpolate(network(half_BCHW).softmax(dim=1), size=(21, 30), mode="bilinear")
    found = predict(image_HWC, Predictor.of(bundle, runtime, PredictConfig(scales=(0.5, 1))))
    np.testing.assert_allclose(found.scores_KHW, ((whole + half) / 2)[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(found.labels, found.scores_KHW.argmax(axis=0))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33), (97, 89)])
def test_sizes_and_flips_together_give_scores_of_any_size(
    make_bundle: Callable[..., Bundle], runtime: Runtime, size: tuple[int, int]
) -> None:
    settings = PredictConfig(scales=(0.5, 1, 1.5), flips=True, tile=64)
    image_HWC = np.random.default_rng(4).integers(0, 256, (*size, 1), np.uint8)
    scores_KHW = predict(image_HWC, Predictor.of(make_bundle(), runtime, settings)).scores_KHW
    assert scores_KHW.shape == (2, *size)
    np.testing.assert_allclose(scores_KHW.sum(axis=0), 1, atol=1e-5)
    mirrored = predict(image_HWC[:, ::-1], Predictor.of(make_bundle(), runtime, settings)).scores_KHW
    if max(size) <= 42:  # whole at every size: no windows whose places break the symmetry
        np.testing.assert_allclose(mirrored[:, :, ::-1], scores_KHW, atol=1e-5)


@pytest.mark.parametrize("tiling", ["fading", "average", "inner"])
def test_windows_change_little_away_from_their_edges(
    make_bundle: Callable[..., Bundle], runtime: Runtime, tiling: TilingWay
) -> None:
    bundle, settings = make_bundle(), PredictConfig(tile=96, overlap=0.5, tiling=tiling)
    image_HWC = np.random.default_rng(2).integers(0, 256, (150, 170, 1), np.uint8)
    whole = predict(image_HWC, Predictor.of(bundle, runtime)).scores_KHW
    cut = predict(image_HWC, Predictor.of(bundle, runtime, settings)).scores_KHW
    assert np.abs(whole - cut).max() > 0
    assert np.abs(whole - cut).mean() < 0.01
    assert (whole.argmax(0) == cut.argmax(0)).mean() > 0.97


@pytest.mark.parametrize("settings", [{}, {"flips": True}, {"scales": (0.5, 1.0)}])
def test_exact_windows_change_nothing(make_bundle: Callable[..., Bundle], runtime: Runtime, settings: dict) -> None:
    bundle = make_bundle()
    image_HWC = np.random.default_rng(2).integers(0, 256, (250, 270, 1), np.uint8)
    whole = predict(image_HWC, Predictor.of(bundle, runtime, PredictConfig(**settings)))
    cut = Predictor.of(bundle, runtime, PredictConfig(tile=160, tiling="exact", **settings))
    tiling = cut.tiling((250, 270))
    assert tiling is not None
    assert tiling.way == "exact"
    np.testing.assert_allclose(predict(image_HWC, cut).scores_KHW, whole.scores_KHW, atol=1e-5)


def test_the_budget_decides_how_large_exact_windows_are(make_bundle: Callable[..., Bundle], runtime: Runtime) -> None:
    plain = Predictor.of(make_bundle(), runtime)
    assert plain.tiling((1024, 1024)) is None
    sides = []
    for memory in (30_000_000, 100_000_000, 300_000_000):
        tiling = replace(plain, memory=memory).tiling((9000, 9000))
        assert tiling is not None
        sides.append(tiling.side)
    assert sides[0] < sides[1] < sides[2]
    assert sides[2] == pytest.approx(sides[1] * 3**0.5, rel=0.05)
    assert "exactly as the whole image" in tiling.describe()
    with pytest.raises(LackOfMemoryError, match=r"100 kB of memory are too little .* give more \(--memory\)"):
        replace(plain, memory=100_000).tiling((9000, 9000))


def test_windows_too_small_to_be_exact_are_said_or_refused(
    make_bundle: Callable[..., Bundle], runtime: Runtime
) -> None:
    bundle = make_bundle()
    small = Predictor.of(bundle, runtime, PredictConfig(tile=32)).tiling((100, 100))
    assert small is not None
    assert small.way == "fading"
    assert "not exactly" in small.describe()
    wanted = Predictor.of(bundle, runtime, PredictConfig(tile=32, tiling="exact"))
    with pytest.raises(UsageError, match="give more, or 0 for as many as memory allows"):
        wanted.tiling((100, 100))


PIECES = InstanceSettings(form="plain")


@pytest.mark.parametrize("settings", [PredictConfig(), PredictConfig(flips=True, scales=(0.5, 1))])
def test_objects_are_made_of_the_averaged_scores(
    make_bundle: Callable[..., Bundle], runtime: Runtime, settings: PredictConfig
) -> None:
    image_HWC = np.random.default_rng(5).integers(0, 256, (31, 33, 1), np.uint8)
    predictor = replace(Predictor.of(make_bundle(), runtime, settings), network=Leftness(), instances=PIECES)
    found = predict(image_HWC, predictor)
    assert found.instances_HW is not None
    assert found.instances_HW.dtype == np.int32
    np.testing.assert_array_equal(found.instances_HW, find_instances(found.scores_KHW, PIECES))
    if not settings.flips:
        assert found.instances_HW.any(), "the right half is one object"
        np.testing.assert_array_equal(found.instances_HW, found.labels)
    plain = predict(image_HWC, replace(predictor, instances=None))
    assert plain.instances_HW is None
    np.testing.assert_array_equal(plain.scores_KHW, found.scores_KHW)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_objects_of_images_of_any_size(
    make_bundle: Callable[..., Bundle], runtime: Runtime, size: tuple[int, int]
) -> None:
    predictor = replace(Predictor.of(make_bundle(), runtime), instances=PIECES)
    found = predict(np.zeros((*size, 1), np.uint8), predictor).instances_HW
    assert found is not None
    assert found.shape == size
