"""The certificate that windows change nothing, and what it says where they do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelwise.bundle import Bundle, Network
from pixelwise.config import PredictConfig
from pixelwise.errors import UsageError
from pixelwise.inference.predict import Predictor
from pixelwise.inference.tiling import Tiling
from pixelwise.inference.verify import certify, seam_score, seams_of
from pixelwise.models.registry import MODELS
from pixelwise.runtime import Runtime


def grey(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 1), np.uint8)


@pytest.fixture
def make(make_bundle: Callable[..., Bundle], runtime: Runtime) -> Callable[..., Predictor]:
    return lambda **settings: Predictor.of(make_bundle(predict=PredictConfig(**settings)), runtime)


def global_predictor(make_bundle: Callable[..., Bundle], runtime: Runtime, name: str) -> Predictor:
    """A network that pools over the whole image."""
    torch.manual_seed(0)
    bundle = make_bundle()
    network = Network(name=name, in_channels=1, options=dict(MODELS[name].small))
    weights = network.build(bundle.task).state_dict()
    for name, weight in weights.items():
        if name.endswith("weight") and weight.ndim == 4 and weight.std() < 0.05:
            torch.nn.init.kaiming_normal_(weight)
    return Predictor.of(replace(bundle, network=network, weights=weights), runtime)


def test_a_network_of_convolutions_is_certified(make: Callable[..., Predictor]) -> None:
    found = certify(grey(420, 450), make())
    assert found.exact
    assert found.difference < 1e-5
    assert found.relabelled == 0
    assert found.tiles == 9  # 450 is two cores of 192 and a rest
    assert found.seam_score == pytest.approx(found.whole_score, rel=1e-3)
    text = "\n".join(found.describe())
    assert "tiled = untiled" in text
    assert "stride 4" in text
    assert json.loads(json.dumps(found.to_dict()))["exact"] is True


@pytest.mark.parametrize("tiling", ["fading", "average", "inner"])
def test_other_ways_are_not_certified_and_show_seams(make: Callable[..., Predictor], tiling: str) -> None:
    found = certify(grey(200, 220), make(tiling=tiling, tile=64, overlap=0.0 if tiling != "inner" else 0.1))
    assert not found.exact
    assert found.difference > 1e-4
    assert found.seam_score != pytest.approx(found.whole_score, rel=1e-3)
    assert "tiled is not untiled" in found.describe()[-1]
    assert "not exactly" in found.describe()[1]


@pytest.mark.parametrize("name", ["parsenet", "pspnet", "deeplabv3"])
def test_a_network_that_sees_everything_gets_a_seam_score(
    make_bundle: Callable[..., Bundle], runtime: Runtime, name: str
) -> None:
    predictor = global_predictor(make_bundle, runtime, name)
    found = certify(grey(600, 560), predictor)
    assert not found.exact
    assert math.isfinite(found.seam_score)
    assert found.difference > 1e-4
    assert "sees the whole image (pooling over the whole image)" in found.describe()[0]


def test_an_image_of_one_window_cannot_tell(make: Callable[..., Predictor]) -> None:
    with pytest.raises(UsageError, match="an image of 90 x 100 pixels is one window"):
        certify(grey(100, 90), make())


def test_a_seam_is_where_change_is_larger_than_elsewhere() -> None:
    ramp = np.tile(np.arange(60.0), (1, 40, 1))
    assert seam_score(ramp, rows=[], columns=[19, 39]) == 1
    stepped = ramp + (np.arange(60) > 19) * 4
    assert seam_score(stepped, rows=[], columns=[19]) == pytest.approx(5)
    assert seam_score(stepped.transpose(0, 2, 1), rows=[19], columns=[]) == pytest.approx(5)
    assert seam_score(stepped, rows=[], columns=[30]) < 1
    assert seam_score(np.zeros((2, 9, 9)), rows=[4], columns=[4]) == 1
    only = np.zeros((1, 4, 9))
    only[..., 5:] = 1
    assert seam_score(only, rows=[], columns=[4]) == math.inf
    assert math.isnan(seam_score(ramp, rows=[], columns=[]))
    assert math.isnan(seam_score(np.zeros((1, 1, 2)), rows=[], columns=[0]))


def test_seams_lie_between_windows() -> None:
    inner = Tiling(way="inner", side=48, halo=8, stride=8)
    assert seams_of(inner, (33, 32)) == ([31], [])
    fading = Tiling(way="fading", side=32, overlap=0.5, stride=16)
    assert seams_of(fading, (32, 64)) == ([], [15, 31, 47])
