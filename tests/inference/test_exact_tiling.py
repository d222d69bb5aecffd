"""Tiled logits are those of the whole image, for the networks for which this can be; and the test can fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelwise.inference.context import Context, context_of
from pixelwise.inference.sliding import sliding_logits
from pixelwise.inference.tiling import Tiling
from pixelwise.models.registry import MODELS, build_model

EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"width": 4, "depth": 3}),
    "unet, bilinear": ("unet", {"width": 4, "depth": 3, "upsampling": "bilinear"}),
    "unet of the paper": ("unet_paper", {"width": 2}),
    "unet on resnet10": ("unet_encoder", {"encoder": "resnet10t", "width": 4}),
    "resunet": ("resunet", {"width": 4}),
    "fcn8s": ("fcn8s", dict(MODELS["fcn8s"].small)),
    "fcn32s": ("fcn32s", dict(MODELS["fcn32s"].small)),
    "segnet": ("segnet", dict(MODELS["segnet"].small)),
    "segnet_basic": ("segnet_basic", {"width": 8} if "width" in MODELS["segnet_basic"].small else {}),
    "deeplabv1": ("deeplabv1", dict(MODELS["deeplabv1"].small)),
    "deeplabv2": ("deeplabv2_vgg16", dict(MODELS["deeplabv2_vgg16"].small)),
    "ternausnet11": ("ternausnet11", dict(MODELS["ternausnet11"].small)),
}
GLOBAL = ("pspnet", "deeplabv3", "deeplabv3plus", "parsenet")


def lively(name: str, options: dict[str, Any]) -> nn.Module:
    """A network whose every part matters: random weights, statistics and biases."""
    torch.manual_seed(1)
    network = build_model(name, in_channels=1, classes=2, options=options).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.0)
        elif not parameter.any():
            nn.init.kaiming_normal_(parameter)
    for name_, buffer in network.named_buffers():
        if name_.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
    return network.double()


def difference(network: nn.Module, context: Context, *, beyond: int = 0, offset: int = 0, size: int = 0) -> float:
    """How far tiled logits are from those of the whole, as a share of their spread, in a long narrow image.

    beyond  pixels added to the halo, or taken from it; offset  pixels by which cores are off the stride
    """
    assert context.halo is not None
    core = max(context.stride, 32)
    length = size or 2 * context.halo + 2 * core + 13
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, length, 40, generator=generator, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        whole = network(image)
        if beyond or offset:
            tiled = shifted_tiles(image, network, halo=context.halo + beyond, core=core, offset=offset)
        else:
            tiling = Tiling(way="exact", side=2 * context.halo + core, halo=context.halo, stride=context.stride)
            tiled = sliding_logits(image, network=network, tiling=tiling).double()
    spread = whole.max() - whole.min()
    assert spread > 1e-6, "the logits must tell something"
    return float((tiled - whole).abs().max() / spread)


def shifted_tiles(image: Tensor, network: nn.Module, *, halo: int, core: int, offset: int) -> Tensor:
    """Tiling written anew, with a halo of any width and origins off the stride."""
    length, parts = image.shape[-2], []
    for top in range(0, length, core):
        first, last = max(0, top - halo), min(length, top + core + halo)
        first = max(0, first - offset) if first else 0
        logits = network(image[..., first:last, :])
        parts.append(logits[..., top - first : min(top + core, length) - first, :])
    return torch.cat(parts, dim=-2)


@pytest.mark.parametrize("name", EXACT)
def test_tiled_logits_are_those_of_the_whole_image(name: str) -> None:
    network = lively(*EXACT[name])
    context = context_of(network, 1)
    assert context.halo is not None
    assert difference(network, context) < 1e-5


@pytest.mark.parametrize("name", ["unet", "unet on resnet10", "segnet_basic", "deeplabv1"])
def test_an_origin_off_the_stride_is_not_exact(name: str) -> None:
    network = lively(*EXACT[name])
    context = context_of(network, 1)
    assert difference(network, context, offset=context.stride // 2) > 1e-3


@pytest.mark.parametrize("name", ["unet", "unet of the paper"])
def test_a_halo_that_is_too_short_is_not_exact(name: str) -> None:
    network = lively(*EXACT[name])
    context = context_of(network, 1)
    assert difference(network, context, beyond=-context.stride) > 1e-9 > difference(network, context, beyond=16)


def test_a_halo_8_pixels_short_shows_in_the_dependence_itself() -> None:
    """Random weights count little at the rim of the field; weights that are all positive count everywhere."""
    network = build_model("unet", in_channels=1, classes=1, options={"width": 2, "depth": 2}).eval().double()
    for parameter in network.parameters():
        parameter.data.fill_(0.5)
    context = context_of(network, 1)
    assert context.halo is not None
    assert difference(network, context, beyond=-8) > 1e-6 > 1e-12 > difference(network, context, beyond=8)


@pytest.mark.parametrize("name", GLOBAL)
def test_networks_that_see_the_whole_image_are_recognised(name: str) -> None:
    with torch.device("meta"):
        architecture = MODELS[name]
        network = architecture.build(1, 2, **architecture.small)
    context = context_of(network, 1)
    assert (context.halo, context.reason) == (None, "pooling over the whole image")


@pytest.mark.parametrize(
    ("encoder", "reason"), [("test_vit", "attention"), ("test_efficientnet", "pooling over the whole image")]
)
def test_encoders_that_see_the_whole_image_are_recognised(encoder: str, reason: str) -> None:
    with torch.device("meta"):
        network = build_model("unet_encoder", in_channels=3, classes=2, options={"encoder": encoder, "width": 8})
    assert (context_of(network, 3).halo, context_of(network, 3).reason) == (None, reason)


@pytest.mark.parametrize(
    ("norm", "reason"), [(nn.GroupNorm(2, 4), "group norm"), (nn.InstanceNorm2d(4), "instance norm")]
)
def test_norms_by_the_image_see_all_of_it(norm: nn.Module, reason: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm)
    network.stride = 1  # type: ignore[assignment]
    assert context_of(network, 1) == Context(stride=1, halo=None, reason=reason)


@pytest.mark.parametrize(("kernel", "stride", "halo"), [(1, 1, 0), (3, 1, 1), (7, 4, 4), (9, 4, 4), (11, 4, 8)])
def test_the_halo_of_a_convolution_is_half_its_kernel_on_whole_strides(kernel: int, stride: int, halo: int) -> None:
    network = nn.Conv2d(1, 1, kernel, padding="same")
    network.stride = stride  # type: ignore[assignment]
    wrapped = nn.Sequential(nn.Conv2d(1, 1, kernel, padding=kernel // 2))
    wrapped.stride = stride  # type: ignore[assignment]
    assert context_of(wrapped, 1).halo == halo


def test_a_network_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_model("unet", in_channels=1, classes=2, options={"width": 2, "depth": 1})
    first = context_of(network, 1)
    monkeypatch.setattr("pixelwise.inference.context.receptive_field", lambda *_, **__: pytest.fail("measured again"))
    assert context_of(network, 1) is first


@pytest.mark.parametrize("size", [1, 15, 16, 17, 31, 33, 63, 100, 101, 127, 128, 129, 160, 177, 200])
def test_any_length_of_image_is_tiled_exactly(size: int) -> None:
    network = lively("unet", {"width": 4, "depth": 2})
    assert difference(network, context_of(network, 1), size=size) < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "halo"),
    [("unet", {"width": 2}, 96), ("unet_paper", {"width": 2}, 96), ("unet_encoder", {"encoder": "resnet18"}, 288)],
)
def test_halos_as_found_by_trying(name: str, options: dict[str, Any], halo: int) -> None:
    """Halos of 80 and of 256 pixels were tried for these networks and differ; the next on whole strides do not."""
    with torch.device("meta"):
        network = build_model(name, in_channels=1, classes=2, options=options)
    assert context_of(network, 1).halo == halo
