"""What every network of MODELS must do; a new one is tested by being in the dictionary."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.registry import MODELS, build_model, model_options

SIZES = [(1, 1), (31, 33), (65, 97), (224, 224)]
CLASSES = 3


def small_network(name: str, in_channels: int = 2) -> nn.Module:
    """The small copy of a network, the same weights each time."""
    torch.manual_seed(0)
    return build_model(name, in_channels=in_channels, classes=CLASSES, options=MODELS[name].small)


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> nn.Module:
    return small_network(name)


def test_the_published_number_of_parameters_is_exact(name):
    published = MODELS[name].published
    with torch.device("meta"):
        network = build_model(
            name, in_channels=published.in_channels, classes=published.classes, options=published.options
        )
        logits = network.eval()(torch.empty(1, published.in_channels, *published.size))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == published.parameters
    assert logits.shape == (1, published.classes, *published.size)


def test_it_says_where_it_comes_from_and_what_can_be_chosen(name):
    architecture = MODELS[name]
    assert 1990 < architecture.year < 2030
    assert str(architecture.year) in architecture.paper
    assert architecture.link.startswith(("arXiv ", "DOI "))
    assert set(architecture.small) <= set(model_options(name))


@pytest.mark.parametrize("size", SIZES)
def test_any_size_gives_logits_of_that_size(network, size):
    with torch.inference_mode():
        logits = network.eval()(torch.randn(1, 2, *size))
    assert isinstance(logits, Tensor)
    assert logits.shape == (1, CLASSES, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_a_network_in_use_repeats_itself_and_looks_at_one_image_at_a_time(network):
    images = torch.randn(2, 2, 17, 20)
    with torch.inference_mode():
        both = network.eval()(images)
        assert torch.equal(network(images), both)
        torch.testing.assert_close(network(images[:1]), both[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_of_any_number_of_channels(name, channels):
    with torch.inference_mode():
        assert small_network(name, channels).eval()(torch.randn(1, channels, 40, 40)).shape == (1, CLASSES, 40, 40)


def test_one_step_of_the_optimiser_lowers_the_loss(name):
    network = small_network(name).eval()  # dropout would hide the gain
    image = torch.randn(2, 2, 48, 48)
    mask = (image[:, 0] > 0).long()
    before = F.cross_entropy(network(image), mask)
    before.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    with torch.no_grad():
        state = [p.clone() for p in network.parameters()]
        losses = []
        for step in (1e-1, 1e-2, 1e-3, 1e-4):
            for p, start in zip(network.parameters(), state, strict=True):
                p.copy_(start if p.grad is None else start - step * p.grad / norm)
            losses.append(F.cross_entropy(network(image), mask))
    assert min(losses) < before


def test_it_trains_on_a_batch_of_one_and_gradients_reach_every_parameter(name):
    network = small_network(name).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):  # weights that start at zero hold the gradient back in the first step
        optimizer.zero_grad()
        network(torch.randn(1, 2, 64, 64)).square().mean().add(network(torch.randn(1, 2, 64, 64)).mean()).backward()
        optimizer.step()
    learnable = {key: p for key, p in network.named_parameters() if p.requires_grad}
    assert [key for key, p in learnable.items() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad.isfinite().all() for p in learnable.values())


def test_bfloat16_gives_nearly_the_same_logits(network):
    image = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = network.eval()(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(image).float()
    # Rounding may move a maximum, and networks that unpool then put a value one pixel off: the whole counts.
    assert (rough - exact).norm() <= 0.5 * exact.norm()
    assert (rough.argmax(dim=1) == exact.argmax(dim=1)).float().mean() >= 0.8


def test_channels_last_gives_the_same_logits(name):
    image = torch.randn(1, 2, 40, 56)
    network = small_network(name).eval()
    with torch.inference_mode():
        plain = network(image)
        turned = network.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(turned, plain, atol=1e-4 * float(plain.abs().max()) + 1e-6, rtol=1e-4)


def test_its_weights_are_saved_and_loaded(name):
    first, second = (
        small_network(name).eval(),
        build_model(name, in_channels=2, classes=CLASSES, options=MODELS[name].small),
    )
    image = torch.randn(1, 2, 33, 40)
    second.load_state_dict(load(save({key: value.contiguous() for key, value in first.state_dict().items()})))
    with torch.inference_mode():
        assert torch.equal(second.eval()(image), first(image))


def test_the_same_seed_gives_the_same_weights(name):
    first, second = (small_network(name).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_its_supervised_parts_give_maps(network):
    maps = {}

    def keep(part: str):
        return lambda module, given, made: maps.update({part: made})

    for part in network.supervised:
        handle, _, index = part.partition(":")
        network.get_submodule(handle).register_forward_hook(keep(part), always_call=False)
    with torch.inference_mode():
        network.eval()(torch.randn(1, 2, 64, 64))
    for part in network.supervised:
        _, _, index = part.partition(":")
        feature = maps[part][int(index)] if index else maps[part]
        assert feature.ndim == 4


def test_moving_the_image_by_the_stride_moves_the_logits():
    network = small_network("unet").eval()
    stride = int(network.stride)  # type: ignore[arg-type]
    image = torch.randn(1, 2, 128, 128)
    with torch.inference_mode():
        whole, moved = network(image), network(image[..., stride:, stride:])
        by_one = network(image[..., 1:, 1:])
    inner = slice(48, 72)
    torch.testing.assert_close(moved[..., inner, inner], whole[..., stride:, stride:][..., inner, inner])
    assert not torch.allclose(by_one[..., inner, inner], whole[..., 1:, 1:][..., inner, inner])
