from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.resunet import PostActivationUnit, PreActivationUnit, ResUNet, SparseProjection, shortcut
from pixelwise.models.upsample import UPSAMPLING

BOTH = pytest.mark.parametrize("activation", ["pre", "post"])

# Channels into and out of each of the seven units of the paper's table 1; the last three take the joined maps.
UNITS = [(3, 64), (64, 128), (128, 256), (256, 512), (512 + 256, 256), (256 + 128, 128), (128 + 64, 64)]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_paper(in_channels: int = 3, classes: int = 1, **options: str) -> ResUNet:
    """A network without memory behind its weights, to count and to ask for shapes."""
    with torch.device("meta"):
        return ResUNet(in_channels, classes, **options)


# What was published


def test_the_15_convolutions_have_their_number_of_parameters():
    by_hand = sum(9 * before * after + after + 9 * after * after + after for before, after in UNITS) + 64 + 1
    network = on_paper()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    main = [layer for layer in layers if layer.kernel_size == (3, 3)] + [network.head]
    assert len(main) == 15
    assert sum(parameters(layer) for layer in main) == by_hand == 7_782_913


def test_batch_norms_and_projections_add_theirs():
    # Two numbers per channel for the norm before each convolution but the very first.
    norms = 2 * sum(before + after for before, after in UNITS) - 2 * 3
    projections = sum(before * after + after for before, after in UNITS)
    assert 7_782_913 + norms + projections == 8_220_993

    # And for the norm on each projection but that of the image.
    projected = 2 * sum(after for _, after in UNITS[1:])
    assert parameters(on_paper()) == 8_220_993 + projected == 8_223_681


def test_the_other_units_have_a_norm_after_each_convolution():
    projections = sum(before * after + after for before, after in UNITS)
    norms = 2 * 3 * sum(after for _, after in UNITS)
    assert parameters(on_paper(activation="post")) == 7_782_913 + projections + norms == 8_223_041


@BOTH
def test_the_sizes_of_the_paper(activation):
    network, shapes = on_paper(activation=activation), []
    for unit in (*network.encoder.units, *network.decoder):
        unit.register_forward_hook(lambda layer, inputs, output: shapes.append((output.shape[-1], output.shape[1])))
    logits = network(torch.zeros(1, 3, 224, 224, device="meta"))
    assert shapes == [(224, 64), (112, 128), (56, 256), (28, 512), (56, 256), (112, 128), (224, 64)]
    assert logits.shape == (1, 1, 224, 224)


def test_nothing_is_pooled_and_the_first_convolution_of_a_unit_strides():
    network = on_paper()
    convolutions = [layer for layer in network.encoder.modules() if isinstance(layer, nn.Conv2d)]
    strides = [layer.stride[0] for layer in convolutions if layer.kernel_size == (3, 3)]
    assert strides == [1, 1, 2, 1, 2, 1, 2, 1]
    assert not [layer for layer in network.modules() if "Pool" in type(layer).__name__]


# The units


def set_residual_to_zero(unit: nn.Module) -> None:
    last = [layer for layer in unit.residual if isinstance(layer, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def test_a_unit_that_adds_nothing_is_the_identity():
    feature = torch.randn(2, 4, 5, 6)
    before, after = PreActivationUnit(4, 4).eval(), PostActivationUnit(4, 4).eval()
    for unit in (before, after):
        set_residual_to_zero(unit)
    assert torch.equal(before(feature), feature)
    assert torch.equal(after(feature), feature.relu())


def test_the_gradient_passes_a_unit_unchanged():
    feature = torch.randn(1, 3, 4, 4, requires_grad=True)
    unit = PreActivationUnit(3, 3).eval()
    set_residual_to_zero(unit)
    unit(feature).sum().backward()
    assert torch.equal(feature.grad, torch.ones_like(feature))


def test_the_order_of_the_layers():
    def order(unit: nn.Module) -> list[str]:
        return [type(layer).__name__ for layer in unit.residual]

    assert order(PreActivationUnit(2, 3)) == ["BatchNorm", "ReLU", "Conv2d"] * 2
    assert order(PreActivationUnit(2, 3, on_image=True)) == ["Conv2d", "BatchNorm", "ReLU", "Conv2d"]
    assert order(PostActivationUnit(2, 3)) == ["Conv2d", "BatchNorm", "ReLU", "Conv2d", "BatchNorm"]


def test_only_a_change_of_shape_needs_a_projection():
    assert isinstance(shortcut(4, 4, 1), nn.Identity)
    assert [type(layer).__name__ for layer in shortcut(4, 4, 2)] == ["SparseProjection", "BatchNorm"]
    assert isinstance(shortcut(4, 5, 1, norm=False), nn.Conv2d)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_the_stride_rounds_odd_sizes_up(height, width, stride):
    feature = torch.zeros(1, 2, height, width)
    for unit in (PreActivationUnit(2, 3, stride), PostActivationUnit(2, 3, stride)):
        assert unit.eval()(feature).shape == (1, 3, -(-height // stride), -(-width // stride))


# The same, written down again


def plain_resunet(state: dict[str, Tensor], image: Tensor, *, pre: bool) -> Tensor:
    """Logits by torch's functions alone, from the weights in their order."""
    tensors = iter(state.values())

    def norm(feature: Tensor) -> Tensor:
        scale, shift, mean, variance, _ = (next(tensors) for _ in range(5))
        return F.batch_norm(feature, mean, variance, scale, shift)

    def convolution(feature: Tensor, stride: int = 1) -> Tensor:
        weight, bias = next(tensors), next(tensors)
        return F.conv2d(feature, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

    def unit(feature: Tensor, stride: int, *, first: bool = False) -> Tensor:
        if pre:
            residual = convolution(feature if first else F.relu(norm(feature)), stride)
            residual = convolution(F.relu(norm(residual)))
            projected = convolution(feature, stride)
            return residual + (projected if first else norm(projected))
        residual = F.relu(norm(convolution(feature, stride)))
        residual = norm(convolution(residual))
        return F.relu(residual + norm(convolution(feature, stride)))

    features = [unit(image, 1, first=True)]
    for _ in range(3):
        features.append(unit(features[-1], 2))
    feature = features.pop()
    while features:
        skip = features.pop()
        up = F.interpolate(feature, scale_factor=2, mode="bilinear", align_corners=False)
        feature = unit(torch.cat([up[..., : skip.shape[-2], : skip.shape[-1]], skip], dim=1), 1)
    return convolution(feature)


@BOTH
@pytest.mark.parametrize("size", [(32, 24), (31, 33), (9, 8), (1, 50), (1, 1)])
def test_logits_are_those_of_the_formulas(activation, size):
    torch.manual_seed(0)
    network = ResUNet(2, 3, width=4, activation=activation).double().eval()
    for key, value in network.state_dict().items():
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape) + (0.5 if "weight" in key or "var" in key else 0))
    image = torch.randn(2, 2, *size).double()
    with torch.inference_mode():
        torch.testing.assert_close(network(image), plain_resunet(network.state_dict(), image, pre=activation == "pre"))


# Arguments


@pytest.mark.parametrize("name", UPSAMPLING)
def test_every_way_to_enlarge_a_map_fits(name):
    torch.manual_seed(0)
    network = ResUNet(1, 2, width=4, upsampling=name).eval()
    assert network(torch.randn(1, 1, 19, 22)).shape == (1, 2, 19, 22)
    learned = sum(parameters(block.up) for block in network.decoder)
    assert (learned > 0) == (name in {"transposed", "resize_conv", "pixel_shuffle"})
    assert parameters(network) == learned + parameters(ResUNet(1, 2, width=4))


def test_the_start_of_the_operators_that_enlarge_is_left_alone():
    feature, inner = torch.randn(1, 32, 6, 6), (..., slice(2, -2), slice(2, -2))
    transposed = ResUNet(1, 2, width=4, upsampling="transposed").decoder[0].up
    smooth = F.interpolate(feature, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(transposed(feature)[inner], smooth[inner])
    shuffled = ResUNet(1, 2, width=4, upsampling="pixel_shuffle").decoder[0].up(feature)
    assert torch.equal(shuffled[..., ::2, ::2], shuffled[..., 1::2, 1::2])


@BOTH
def test_fresh_weights_are_those_of_he(activation):
    torch.manual_seed(0)
    bridge = ResUNet(3, 1, width=16, activation=activation).encoder.units[-1]
    last = [layer for layer in bridge.residual if isinstance(layer, nn.Conv2d)][-1]
    for layer, incoming in ((last, 9 * 128), (bridge.shortcut[0], 64)):
        assert layer.weight.std().item() == pytest.approx((2 / incoming) ** 0.5, rel=0.02)
        assert not layer.bias.any()


def test_the_encoder_keeps_its_promise():
    encoder = ResUNet(1, 2, width=2).encoder.eval()
    assert encoder.strides == (1, 2, 4, 8)
    shapes = [tuple(feature.shape[1:]) for feature in encoder(torch.zeros(1, 1, 21, 8))]
    assert shapes == [(2, 21, 8), (4, 11, 4), (8, 6, 2), (16, 3, 1)]
    assert encoder.channels == tuple(channels for channels, _, _ in shapes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width = 0: choose a value from 1"),
        ({"activation": "relu"}, "activation = relu: choose one of pre, post"),
        ({"upsampling": "unpool"}, "upsampling = unpool: choose one of nearest, bilinear"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ResUNet(1, 2, **options)


# Training


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def losses(network: nn.Module, *, steps: int = 30) -> list[float]:
    """Training on random blobs, brighter than the mean or not, with the paper's loss: the mean squared error."""
    noise = F.avg_pool2d(torch.randn(2, 1, 40, 40), 9, stride=1)
    image, mask = noise / noise.std(), (noise > 0).float()
    optimizer, history = torch.optim.Adam(network.parameters(), lr=0.01), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(network(image).sigmoid(), mask)
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


@BOTH
@pytest.mark.usefixtures("deterministic")
def test_it_learns(activation):
    torch.manual_seed(0)
    history = losses(ResUNet(1, 1, width=4, activation=activation).train())
    assert history[-1] < 0.07 < 0.14 < history[0]


def test_a_sparse_projection_is_a_1x1_convolution_with_stride():
    torch.manual_seed(0)
    layer, feature = SparseProjection(3, 4, every=2), torch.randn(2, 3, 7, 10)
    strided = F.conv2d(feature, layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(feature), strided)


def test_training_with_channels_last_does_not_end_the_process():
    """In a process of its own: with a stride in the convolution itself it ended by a signal."""
    program = """
import torch
from pixelwise.models.resunet import SparseProjection
for _ in range(10):
    layer = SparseProjection(8, 16, every=2).to(memory_format=torch.channels_last)
    feature = torch.randn(4, 8, 128, 128).to(memory_format=torch.channels_last).requires_grad_()
    layer(feature).square().mean().backward()
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
