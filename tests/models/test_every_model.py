"""What every network of MODELS must do; a new one is tested by being in the dictionary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelwise.models.registry import MODELS, build_model, model_options

SMALL = {"width": 4, "depth": 2}
SIZES = [(1, 1), (1, 50), (31, 33), (64, 48)]


@pytest.fixture(scope="module", params=MODELS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Each network with 2 input channels and 3 classes, small where it has arguments for that."""
    torch.manual_seed(0)
    options: dict[str, Any] = {key: value for key, value in SMALL.items() if key in model_options(request.param)}
    return build_model(request.param, in_channels=2, classes=3, options=options)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_gives_logits_of_that_size(network, size):
    with torch.inference_mode():
        logits = network.eval()(torch.randn(1, 2, *size))
    assert isinstance(logits, Tensor)
    assert logits.shape == (1, 3, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_a_network_in_use_repeats_itself_and_looks_at_one_image_at_a_time(network):
    images = torch.randn(2, 2, 17, 20)
    with torch.inference_mode():
        both = network.eval()(images)
        assert torch.equal(network(images), both)
        torch.testing.assert_close(network(images[:1]), both[:1], atol=1e-4, rtol=1e-4)


def test_logits_depend_on_the_image_and_are_not_scores(network):
    with torch.inference_mode():
        logits = network.eval()(10 * torch.randn(1, 2, 20, 20))
    assert logits.std() > 0
    assert (logits.sum(dim=1) - 1).abs().max() > 0.01


def test_gradients_reach_every_parameter(network):
    network.train().zero_grad()
    network(torch.randn(2, 2, 20, 20)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_the_same_seed_gives_the_same_weights():
    first, second = (_seeded("unet") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_moving_the_image_by_the_stride_moves_the_logits():
    network = _seeded("unet").eval()
    stride = int(network.stride)  # type: ignore[arg-type]
    image = torch.randn(1, 2, 128, 128)
    with torch.inference_mode():
        whole, moved = network(image), network(image[..., stride:, stride:])
        by_one = network(image[..., 1:, 1:])
    inner = slice(48, 72)
    torch.testing.assert_close(moved[..., inner, inner], whole[..., stride:, stride:][..., inner, inner])
    assert not torch.allclose(by_one[..., inner, inner], whole[..., 1:, 1:][..., inner, inner])


def _seeded(name: str) -> nn.Module:
    torch.manual_seed(7)
    return build_model(name, in_channels=2, classes=3, options=SMALL)
