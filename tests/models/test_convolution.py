from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pixelwise.models.convolution import (
    BatchNorm,
    SeparableConv,
    conv_norm_relu,
    conv_relu,
    separable_conv_norm_relu,
)
from pixelwise.models.upsample import bed_of_nails

BLOCKS = (conv_relu, conv_norm_relu, separable_conv_norm_relu)


def parameters(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


def multiplications(layer: nn.Module, *size: int) -> int:
    """Multiplications of a layer for one image of that size (channels, height, width)."""
    with FlopCounterMode(display=False) as counter:
        layer(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2  # it counts the additions too


def on_paper(build: type[nn.Module], *arguments: int, **options: int | bool) -> nn.Module:
    with torch.device("meta"):
        return build(*arguments, **options)


def spread(kernel: Tensor, rate: int) -> Tensor:
    """The kernel with rate - 1 zeros between its weights."""
    size = rate * (kernel.shape[-1] - 1) + 1
    return bed_of_nails(kernel, rate)[..., :size, :size]


def image(rows: list[list[float]]) -> Tensor:
    """One image of one channel."""
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def same(found: Tensor, expected: list[list[float]], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, image(expected), atol=tolerance, rtol=0)


# Convolution and padding, by hand

PATCH = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
SHARPEN = [[0, -1, 0], [-1, 5, -1], [0, -1, 0]]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (SHARPEN, 50),
        ([[-1, 0, 1]] * 3, 60),  # vertical edges
        ([[-1] * 3, [0] * 3, [1] * 3], 180),  # horizontal edges
        ([[1 / 9] * 3] * 3, 50),  # box
    ],
)
def test_convolution_does_not_flip_the_kernel(kernel, expected):
    same(F.conv2d(image(PATCH), image(kernel)), [[expected]])


@pytest.mark.parametrize(
    ("mode", "padded", "sharpened"),
    [
        (
            "constant",
            [[0, 0, 0, 0, 0], [0, 10, 20, 30, 0], [0, 40, 50, 60, 0], [0, 70, 80, 90, 0], [0, 0, 0, 0, 0]],
            [[-10, 10, 70], [70, 50, 130], [230, 190, 310]],
        ),
        (
            "reflect",
            [
                [50, 40, 50, 60, 50],
                [20, 10, 20, 30, 20],
                [50, 40, 50, 60, 50],
                [80, 70, 80, 90, 80],
                [50, 40, 50, 60, 50],
            ],
            [[-70, -40, -10], [20, 50, 80], [110, 140, 170]],
        ),
        (
            "replicate",
            [
                [10, 10, 20, 30, 30],
                [10, 10, 20, 30, 30],
                [40, 40, 50, 60, 60],
                [70, 70, 80, 90, 90],
                [70, 70, 80, 90, 90],
            ],
            [[-30, -10, 10], [30, 50, 70], [90, 110, 130]],
        ),
    ],
)
def test_padding_before_a_convolution(mode, padded, sharpened):
    found = F.pad(image(PATCH), (1, 1, 1, 1), mode=mode)
    same(found, padded)
    same(F.conv2d(found, image(SHARPEN)), sharpened)


KERNEL = [[1, 0, -1], [2, 1, 0], [0, 1, 2]]


def test_a_padded_convolution_by_hand():
    signal = image([[-1, 2, 2, 1], [1, -1, 1, 2], [-1, 0, 2, 1], [1, 1, 0, 2]])
    expected = [[-2, 1, 11, 7], [-2, 2, 4, 7], [3, -1, 3, 8], [1, 0, 1, 4]]
    same(F.conv2d(signal, image(KERNEL), padding=1), expected)


# Plain convolution


def test_a_1x1_convolution_mixes_channels():
    layer = nn.Conv2d(3, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1, -1, 0.5]).view(1, 3, 1, 1))
    image = torch.arange(1.0, 13).view(1, 3, 2, 2)
    assert layer(image).tolist() == [[[[0.5, 1], [1.5, 2]]]]


def test_convolution_is_a_matrix_product_of_unrolled_windows():
    image, layer = torch.randn(2, 3, 6, 7), nn.Conv2d(3, 4, 3, padding=1)
    columns = F.unfold(image, 3, padding=1)
    found = layer.weight.flatten(1) @ columns + layer.bias[:, None]
    torch.testing.assert_close(found.view(2, 4, 6, 7), layer(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("n", "options", "out"),
    [
        (224, {}, 222),
        (5, {"padding": 1}, 5),
        (224, {"padding": 1, "stride": 2}, 112),
        (5, {"padding": 1, "stride": 2}, 3),
        (4, {}, 2),
    ],
)
def test_size_of_a_3x3_convolution(n, options, out):
    assert on_paper(nn.Conv2d, 1, 1, 3, **options)(torch.empty(1, 1, n, n, device="meta")).shape[-2:] == (out, out)


@pytest.mark.parametrize(("layers", "field"), [(1, 3), (2, 5), (3, 7), (4, 9), (5, 11)])
def test_receptive_field_grows_by_two_per_layer(layers, field):
    image = torch.ones(1, 1, 15, 15, requires_grad=True)
    feature = image
    for _ in range(layers):
        feature = F.conv2d(feature, torch.ones(1, 1, 3, 3), padding=1)
    (gradient,) = torch.autograd.grad(feature[0, 0, 7, 7], image)
    assert (gradient > 0).sum() == field**2


# The blocks


@pytest.mark.parametrize("build", BLOCKS)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("dilation", [1, 2, 12])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
def test_blocks_keep_the_size(build, kernel, dilation, size):
    block = build(3, 5, kernel, dilation=dilation).eval()
    out = block(torch.randn(2, 3, *size))
    assert out.shape == (2, 5, *size)
    assert (out >= 0).all()


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.sampled_from([1, 3, 5]), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_strides_divide_the_size_and_round_up(height, width, stride, kernel, dilation):
    block = on_paper(conv_norm_relu, 2, 3, kernel, stride=stride, dilation=dilation)
    out = block(torch.empty(2, 2, height, width, device="meta"))
    assert out.shape == (2, 3, -(-height // stride), -(-width // stride))


def test_a_block_is_convolution_then_norm_then_relu():
    torch.manual_seed(0)
    block, feature = conv_norm_relu(3, 4, dilation=2), torch.randn(5, 3, 9, 8)
    mixed = F.conv2d(feature, block[0].weight, padding=2, dilation=2)
    mean, variance = mixed.mean((0, 2, 3), keepdim=True), mixed.var((0, 2, 3), keepdim=True, unbiased=False)
    expected = ((mixed - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(block.train()(feature), expected, atol=1e-5, rtol=1e-5)

    plain = conv_relu(3, 4, 5)
    expected = F.conv2d(feature, plain[0].weight, plain[0].bias, padding=2).clamp(min=0)
    torch.testing.assert_close(plain(feature), expected)


# Atrous convolution


def test_atrous_convolution_by_hand():
    signal, kernel = torch.arange(1.0, 8).view(1, 1, 7), torch.tensor([[[1.0, 0, -1]]])
    assert F.conv1d(signal, kernel, dilation=2).tolist() == [[[-4, -4, -4]]]


@pytest.mark.parametrize(("rate", "size"), [(1, 3), (2, 5), (4, 9), (6, 13), (12, 25), (18, 37), (24, 49)])
def test_atrous_convolution_is_convolution_with_zeros_in_the_kernel(rate, size):
    torch.manual_seed(0)
    block, feature = conv_relu(2, 3, dilation=rate), torch.randn(1, 2, 30, 20)
    kernel = spread(block[0].weight, rate)
    assert kernel.shape[-2:] == (size, size)
    expected = F.conv2d(feature, kernel, block[0].bias, padding=size // 2).relu()
    torch.testing.assert_close(block(feature), expected, atol=1e-5, rtol=1e-5)
    assert parameters(block) == 2 * 3 * 9 + 3  # as many as without


@pytest.mark.parametrize("rate", [2, 3])
def test_separable_atrous_convolution_is_two_convolutions_with_zeros(rate):
    layer, feature = SeparableConv(4, 5, 3, dilation=rate), torch.randn(1, 4, 9, 10)
    kernel = spread(layer[0].weight, rate)
    expected = F.conv2d(F.conv2d(feature, kernel, padding=rate, groups=4), layer[1].weight)
    torch.testing.assert_close(layer(feature), expected, atol=1e-5, rtol=1e-5)


# Depthwise separable convolution: 5x5, 3 channels, 12x12 to 8x8 pixels; ours is padded, so that it is given 8x8


def test_multiplications_of_a_convolution():
    one, many = (on_paper(nn.Conv2d, 3, filters, 5, bias=False) for filters in (1, 256))
    assert (parameters(one), multiplications(one, 3, 12, 12)) == (75, 4_800)
    assert (parameters(many), multiplications(many, 3, 12, 12)) == (19_200, 1_228_800)


def test_multiplications_of_a_separable_convolution():
    one, many = (on_paper(SeparableConv, 3, filters, 5) for filters in (1, 256))
    assert (parameters(one[0]), multiplications(one[0], 3, 8, 8)) == (75, 4_800)
    assert (parameters(one), multiplications(one, 3, 8, 8)) == (78, 4_992)
    assert (parameters(many), multiplications(many, 3, 8, 8)) == (843, 53_952)
    assert 843 / 19_200 == 53_952 / 1_228_800 == 0.04390625 == 1 / 256 + 1 / 25


def test_a_separable_convolution_is_a_convolution_of_rank_one():
    layer, feature = SeparableConv(3, 4, 5), torch.randn(2, 3, 8, 9)
    depthwise, pointwise = layer[0].weight, layer[1].weight  # (3, 1, 5, 5), (4, 3, 1, 1)
    expected = F.conv2d(feature, pointwise * depthwise[:, 0], padding=2)
    torch.testing.assert_close(layer(feature), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "arguments", "count"),
    [
        (conv_relu, (3, 64), 1_792),
        (conv_relu, (64, 64, 5), 102_464),
        (conv_relu, (64, 64, 7), 200_768),
        (conv_norm_relu, (304, 256), 304 * 256 * 9 + 512),
        (separable_conv_norm_relu, (2048, 256), 542_720 + 512),
    ],
)
def test_parameters_of_blocks(build, arguments, count):
    assert parameters(on_paper(build, *arguments)) == count


# Batch norm


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 1, 2), (4, 3, 5, 6)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_torch(shape, training):
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3).train(training), nn.BatchNorm2d(3).train(training)
    for _ in range(3):
        feature = 5 + 2 * torch.randn(shape)
        assert torch.equal(ours(feature), theirs(feature))
    assert all(torch.equal(ours.state_dict()[key], theirs.state_dict()[key]) for key in theirs.state_dict())


def test_batch_norm_of_one_value_per_channel_uses_what_it_has_learned():
    torch.manual_seed(0)
    norm = BatchNorm(3)
    norm(5 + 2 * torch.randn(8, 3, 4, 4))
    nn.init.uniform_(norm.weight, 1, 2)
    nn.init.uniform_(norm.bias, 1, 2)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    feature = torch.randn(1, 3, 1, 1, requires_grad=True)
    found = norm.train()(feature)
    assert torch.equal(found, norm.eval()(feature))
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(3)(feature)

    found.square().sum().backward()
    assert feature.grad.all()
    assert norm.weight.grad.all()
    assert norm.bias.grad.all()


def test_blocks_train_on_a_map_of_one_pixel():
    block = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(4, 8, 1), separable_conv_norm_relu(8, 2)).train()
    assert block(torch.randn(1, 4, 6, 6)).isfinite().all()
