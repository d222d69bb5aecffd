from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.upsample import (
    UPSAMPLING,
    BedOfNails,
    BilinearDeconvolution,
    bed_of_nails,
    max_unpool,
    pixel_shuffle,
    resize_convolution,
    resize_to,
    upsampling,
)

SQUARE = [[1, 2], [3, 4]]
INTERPOLATED = ("nearest", "bilinear", "bicubic")


def image(rows: list[list[float]]) -> Tensor:
    """One image of one channel."""
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def same(found: Tensor, expected: list[list[float]], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, image(expected), atol=tolerance, rtol=0)


# Interpolation


def test_nearest_repeats_each_value():
    same(upsampling("nearest", 1, 1)(image(SQUARE)), [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])


def test_nearest_to_sizes_that_are_no_multiple():
    same(resize_to(image(SQUARE), (5, 5), curve="nearest"), [[1, 1, 1, 2, 2]] * 3 + [[3, 3, 3, 4, 4]] * 2)
    same(resize_to(image(SQUARE), (6, 6), curve="nearest"), [[1, 1, 1, 2, 2, 2]] * 3 + [[3, 3, 3, 4, 4, 4]] * 3)


def test_bilinear_keeps_the_outer_edges_in_place():
    expected = [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]]
    same(upsampling("bilinear", 1, 1)(image(SQUARE)), expected)
    same(resize_to(image(SQUARE), (4, 4)), expected)


@pytest.mark.parametrize("scale", [1, 10])
def test_bilinear_may_keep_the_centres_of_corners_in_place(scale):
    expected = [[1, 4 / 3, 5 / 3, 2], [5 / 3, 2, 7 / 3, 8 / 3], [7 / 3, 8 / 3, 3, 10 / 3], [3, 10 / 3, 11 / 3, 4]]
    found = resize_to(scale * image(SQUARE), (4, 4), align_corners=True)
    torch.testing.assert_close(found, scale * image(expected))


def test_bicubic():
    expected = [
        [0.683594, 1.015625, 1.5625, 1.894531],
        [1.347656, 1.679688, 2.226562, 2.558594],
        [2.441406, 2.773438, 3.320312, 3.652344],
        [3.105469, 3.4375, 3.984375, 4.316406],
    ]
    same(upsampling("bicubic", 1, 1)(image(SQUARE)), expected, 1e-6)
    aligned = resize_to(image(SQUARE), (4, 4), curve="bicubic", align_corners=True)
    expected = [[1, 1.314814, 1.685185, 2], [1.629629, 1.944443, 2.314814, 2.629629]]
    same(aligned[..., :2, :], expected, 2e-6)


def cubic_weights(t: float) -> list[float]:
    """Keys' kernel with a = -0.75 for the four neighbours of a point `t` after the second of them."""
    a = -0.75
    weights = []
    for x in (1 + t, t, 1 - t, 2 - t):
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        weights.append(near if x <= 1 else far)
    return weights


def test_bicubic_weighs_four_neighbours_in_each_direction():
    torch.manual_seed(0)
    line = torch.randn(8)
    found = resize_to(line.view(1, 1, 1, 8).expand(1, 1, 8, 8), (16, 16), curve="bicubic")[0, 0, 8]
    for place in range(4, 12):  # away from the ends
        source = (place + 0.5) / 2 - 0.5
        first = math.floor(source) - 1
        expected = sum(w * line[first + k] for k, w in enumerate(cubic_weights(source % 1)))
        assert found[place] == pytest.approx(float(expected), abs=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_bilinear_is_the_tent_of_the_four_neighbours(height, width, rows, columns):
    torch.manual_seed(height + 10 * width)
    feature = torch.randn(height, width)

    def tents(n: int, size: int) -> Tensor:
        """(size, n): how much each of n values weighs in each of `size` places."""
        source = ((torch.arange(size) + 0.5) * n / size - 0.5).clamp(0, n - 1)
        return (1 - (source[:, None] - torch.arange(n)).abs()).clamp(min=0)

    expected = tents(height, rows) @ feature @ tents(width, columns).T
    torch.testing.assert_close(resize_to(feature[None, None], (rows, columns))[0, 0], expected, atol=1e-5, rtol=1e-5)


def test_a_map_of_the_right_size_is_given_back_as_it_is():
    feature = torch.randn(1, 2, 5, 7)
    assert resize_to(feature, (5, 7)) is feature
    assert resize_to(feature, torch.Size([5, 7]), curve="bicubic") is feature


@pytest.mark.parametrize("curve", INTERPOLATED)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33)])
def test_a_map_of_one_pixel_becomes_constant(curve, size):
    found = resize_to(torch.full((1, 1, 1, 1), 7.0), size, curve=curve)
    torch.testing.assert_close(found, torch.full((1, 1, *size), 7.0))


# Bed of nails and max-unpooling

POOLED = [[1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]


def test_bed_of_nails():
    expected = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    same(bed_of_nails(image(SQUARE)), expected)
    same(BedOfNails()(image(SQUARE)), expected)
    same(upsampling("bed_of_nails", 1, 1)(image(SQUARE)), expected)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_bed_of_nails_is_a_transposed_convolution_with_a_single_one(factor):
    feature = torch.randn(2, 3, 4, 5)
    kernel = torch.zeros(3, 1, factor, factor)
    kernel[..., 0, 0] = 1
    assert torch.equal(bed_of_nails(feature, factor), F.conv_transpose2d(feature, kernel, stride=factor, groups=3))


def test_max_unpooling_puts_values_where_the_maxima_were():
    pooled, indices = F.max_pool2d(image(POOLED), 2, return_indices=True)
    same(pooled, [[5, 6], [7, 8]])
    assert indices.tolist() == [[[[5, 2], [12, 15]]]]
    same(max_unpool(image(SQUARE), indices, (4, 4)), [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]])
    same(max_unpool(pooled, indices, (4, 4)), [[0, 0, 6, 0], [0, 5, 0, 0], [0, 0, 0, 0], [7, 0, 0, 8]])


def test_max_unpooling_to_an_odd_size():
    feature = image([[1, 2, 9], [3, 4, 5], [8, 6, 7]])
    pooled, indices = F.max_pool2d(feature, 2, ceil_mode=True, return_indices=True)
    same(pooled, [[4, 9], [8, 7]])
    same(max_unpool(pooled, indices, (3, 3)), [[0, 0, 9], [0, 4, 0], [8, 0, 7]])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_max_unpooling_is_that_of_torch_for_any_size(height, width, factor, channels_last):
    torch.manual_seed(height + 10 * width)
    form = torch.channels_last if channels_last else torch.contiguous_format
    feature = torch.randn(2, 3, height, width).to(memory_format=form)
    pooled, indices = F.max_pool2d(feature, factor, ceil_mode=True, return_indices=True)
    expected = F.max_unpool2d(pooled, indices, factor, output_size=(height, width))
    assert torch.equal(max_unpool(pooled, indices, (height, width)), expected)


def test_pooling_undoes_max_unpooling():
    feature = torch.randn(2, 3, 11, 14).abs()
    pooled, indices = F.max_pool2d(feature, 2, ceil_mode=True, return_indices=True)
    again = F.max_pool2d(max_unpool(pooled, indices, (11, 14)), 2, ceil_mode=True)
    assert torch.equal(again, pooled)


def test_gradients_of_unpooling_and_nails():
    torch.manual_seed(0)
    feature = torch.randn(1, 2, 5, 4, dtype=torch.double)
    pooled, indices = F.max_pool2d(feature, 2, ceil_mode=True, return_indices=True)
    assert torch.autograd.gradcheck(lambda x: max_unpool(x, indices, (5, 4)), pooled.requires_grad_())
    assert torch.autograd.gradcheck(lambda x: bed_of_nails(x, 3), feature.requires_grad_())
    assert torch.autograd.gradcheck(BilinearDeconvolution(4), feature)


# The convolutions that learn


def test_pixel_shuffle_begins_as_nearest_neighbours():
    torch.manual_seed(0)
    layer = pixel_shuffle(5, 3, 4)
    feature = torch.randn(1, 5, 6, 7)
    blocks = layer(feature).unflatten(3, (7, 4)).unflatten(2, (6, 4))
    assert torch.equal(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))
    assert blocks.std() > 0.1
    by_hand = F.conv2d(feature, layer[0].weight[::16], layer[0].bias[::16])
    torch.testing.assert_close(layer(feature), resize_to(by_hand, (24, 28), curve="nearest"))


def test_resize_convolution_is_what_it_says():
    layer = resize_convolution(2, 3, 2)
    feature = torch.randn(1, 2, 4, 5)
    expected = F.conv2d(feature.repeat_interleave(2, 2).repeat_interleave(2, 3), *layer[1].parameters(), padding=1)
    torch.testing.assert_close(layer(feature), expected)


# All by name


@pytest.mark.parametrize("name", UPSAMPLING)
@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 2), (2, 5)])
@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_every_operator_multiplies_the_size_and_sets_the_channels(name, factor, before, after, size):
    layer = upsampling(name, before, after, factor=factor)
    out = layer(torch.randn(2, before, *size))
    assert out.shape == (2, after, size[0] * factor, size[1] * factor)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "bed_of_nails"])
def test_operators_that_do_not_learn_have_weights_only_where_channels_change(name):
    assert [*upsampling(name, 3, 3).parameters()] == []
    assert sum(p.numel() for p in upsampling(name, 3, 5).parameters()) == 3 * 5 + 5


@pytest.mark.parametrize(("name", "count"), [("transposed", 20_490), ("resize_conv", 11_530), ("pixel_shuffle", 5_160)])
def test_parameters_of_operators_that_learn(name, count):
    # 16 x 128 x 10 + 10; 9 x 128 x 10 + 10; 4 x (128 x 10 + 10)
    assert sum(p.numel() for p in upsampling(name, 128, 10).parameters()) == count


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Operations without a deterministic form raise an error."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", UPSAMPLING)
def test_every_operator_repeats_itself_with_its_gradients(name):
    torch.manual_seed(0)
    layer, feature = upsampling(name, 3, 3, factor=2), torch.randn(2, 3, 5, 6, requires_grad=True)
    runs = []
    for _ in range(2):
        out = layer(feature)
        runs.append((out, *torch.autograd.grad(out.square().sum(), feature)))
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
    assert runs[0][1].any()


@pytest.mark.usefixtures("deterministic")
def test_max_unpooling_has_a_deterministic_form():
    pooled, indices = F.max_pool2d(torch.randn(1, 2, 5, 6), 2, ceil_mode=True, return_indices=True)
    with pytest.raises(RuntimeError, match=r"max_unpool.* does not have a deterministic implementation"):
        F.max_unpool2d(pooled, indices, 2, output_size=(5, 6))
    max_unpool(pooled.requires_grad_(), indices, (5, 6)).sum().backward()
    assert torch.equal(pooled.grad, torch.ones_like(pooled))


@pytest.mark.parametrize("name", UPSAMPLING)
def test_every_operator_is_built_without_memory(name):
    with torch.device("meta"):
        assert upsampling(name, 512, 256, factor=8)(torch.empty(1, 512, 7, 9)).shape == (1, 256, 56, 72)


@pytest.mark.parametrize("name", ["deconvolution", "Bilinear", "", "max_unpool"])
def test_unknown_names_are_refused(name):
    with pytest.raises(UsageError, match=f"upsampling = {name}: choose one of nearest, bilinear, "):
        upsampling(name, 1, 1)


@pytest.mark.parametrize("factor", [-1, 0, 1, 65])
def test_factors_out_of_range_are_refused(factor):
    with pytest.raises(UsageError, match=f"factor = {factor}: choose a value from 2 to 64"):
        upsampling("nearest", 1, 1, factor=factor)
