from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.upsample import (
    BilinearDeconvolution,
    bed_of_nails,
    bilinear_filter,
    resize_to,
    start_bilinear,
    transposed_convolution,
    upsampling,
)

KERNEL = [[1, 0, -1], [2, 1, 0], [0, 1, 2]]


def image(rows: list[list[float]]) -> Tensor:
    """One image of one channel."""
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def same(found: Tensor, expected: list[list[float]], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, image(expected), atol=tolerance, rtol=0)


# Transposed convolution


def test_convolution_as_a_matrix_and_transposed_convolution_as_its_transpose():
    kernel = image([[1, 4, 1], [1, 4, 3], [3, 3, 1]])
    rows = []
    for top, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row = torch.zeros(4, 4)
        row[top : top + 3, left : left + 3] = kernel[0, 0]
        rows.append(row.flatten())
    matrix = torch.stack(rows)
    assert matrix.int().tolist() == [
        [1, 4, 1, 0, 1, 4, 3, 0, 3, 3, 1, 0, 0, 0, 0, 0],
        [0, 1, 4, 1, 0, 1, 4, 3, 0, 3, 3, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 4, 1, 0, 1, 4, 3, 0, 3, 3, 1, 0],
        [0, 0, 0, 0, 0, 1, 4, 1, 0, 1, 4, 3, 0, 3, 3, 1],
    ]
    signal = image([[4, 5, 8, 7], [1, 8, 8, 8], [3, 6, 6, 4], [6, 5, 7, 8]])
    same((matrix @ signal.flatten()).view(1, 1, 2, 2), [[122, 148], [126, 134]])
    same(F.conv2d(signal, kernel), [[122, 148], [126, 134]])
    for small, expected in (
        ([[2, 1], [4, 4]], [[2, 9, 6, 1], [6, 29, 30, 7], [10, 29, 33, 13], [12, 24, 16, 4]]),
        ([[1, 2], [3, 4]], [[1, 6, 9, 2], [4, 22, 30, 10], [6, 25, 32, 14], [9, 21, 15, 4]]),
    ):
        same((matrix.T @ image(small).flatten()).view(1, 1, 4, 4), expected)
        same(F.conv_transpose2d(image(small), kernel), expected)


def scattered(feature: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Transposed convolution as it is drawn: a copy of the kernel at each place, times the value there, all added."""
    (rows, columns), size = feature.shape, len(kernel)
    out = torch.zeros((rows - 1) * stride + size, (columns - 1) * stride + size)
    for i in range(rows):
        for j in range(columns):
            out[i * stride : i * stride + size, j * stride : j * stride + size] += feature[i, j] * kernel
    return out


SCATTERED = [[1, 2, 1, 0], [-1, 1, 0, 1], [0, 2, -2, 1], [1, 1, 2, -1]]
STRIDE_1 = [
    [1, 2, 0, -2, -1, 0],
    [1, 6, 5, 1, 0, -1],
    [-2, 4, 3, 6, 5, -1],
    [1, 4, -2, 0, 0, 3],
    [2, 3, 7, 2, -4, 2],
    [0, 1, 3, 4, 3, -2],
]
STRIDE_2 = [
    [1, 0, 1, 0, -1, 0, -1, 0, 0],
    [2, 1, 4, 2, 2, 1, 0, 0, 0],
    [-1, 1, 4, 2, 3, 1, 3, 0, -1],
    [-2, -1, 2, 1, 0, 0, 2, 1, 0],
    [0, -1, 0, 1, -2, 0, 3, 1, 1],
    [0, 0, 4, 2, -4, -2, 2, 1, 0],
    [1, 0, 0, 2, 5, -2, -7, 1, 3],
    [2, 1, 2, 1, 4, 2, -2, -1, 0],
    [0, 1, 2, 1, 2, 2, 4, -1, -2],
]


@pytest.mark.parametrize(("stride", "expected"), [(1, STRIDE_1), (2, STRIDE_2)])
def test_transposed_convolution_by_hand(stride, expected):
    same(F.conv_transpose2d(image(SCATTERED), image(KERNEL), stride=stride), expected)
    same(scattered(image(SCATTERED)[0, 0], image(KERNEL)[0, 0], stride)[None, None], expected)


def test_transposed_convolution_after_its_first_six_values():
    first = image(SCATTERED).flatten()
    first[6:] = 0
    expected = [[1, 2, 0, -2, -1, 0], [1, 6, 5, 0, 0, 0], [-2, 2, 5, 5, 2, 0], [0, -1, -1, 2, 0, 0], [0] * 6, [0] * 6]
    same(scattered(first.view(4, 4), image(KERNEL)[0, 0], 1)[None, None], expected)


def test_padding_of_a_transposed_convolution_crops():
    found = F.conv_transpose2d(image(SCATTERED), image(KERNEL), padding=1)
    same(found, [[6, 5, 1, 0], [4, 3, 6, 5], [4, -2, 0, 0], [3, 7, 2, -4]])
    found = F.conv_transpose2d(image(SCATTERED), image(KERNEL), stride=2, padding=1, output_padding=1)
    same(found, [row[1:9] for row in STRIDE_2[1:9]])


def test_transposed_convolution_of_two_channels_adds_them_up():
    second = [[2, 1, 0, -1], [0, 1, 2, 2], [1, -2, 1, 2], [0, 2, 1, 1]]
    kernels = torch.cat([image(KERNEL), image([[2, -1, 1], [0, 1, 2], [-2, 0, 1]])])
    expected = [
        [5, 2, 1, -3, 0, -1],
        [1, 10, 13, 6, -1, -1],
        [-4, -3, 11, 14, 10, 4],
        [1, 7, -6, -3, 6, 10],
        [0, 7, 8, 1, 0, 6],
        [0, -3, 1, 4, 4, -1],
    ]
    same(F.conv_transpose2d(torch.cat([image(SCATTERED), image(second)], dim=1), kernels), expected)


def test_stride_2_padding_1_of_a_smoothing_filter():
    feature, kernel = image([[0.2, 0.5], [0.1, 0.3]]), image([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    expected = [[0.8, 1.4, 2, 1], [0.6, 1.1, 1.6, 0.8], [0.4, 0.8, 1.2, 0.6], [0.2, 0.4, 0.6, 0.3]]
    same(F.conv_transpose2d(feature, kernel, stride=2, padding=1, output_padding=1), expected)
    same(F.conv_transpose2d(feature, kernel, stride=2, padding=1), [row[:3] for row in expected[:3]])
    whole = [
        [0.2, 0.4, 0.7, 1, 0.5],
        [0.4, 0.8, 1.4, 2, 1],
        [0.3, 0.6, 1.1, 1.6, 0.8],
        [0.2, 0.4, 0.8, 1.2, 0.6],
        [0.1, 0.2, 0.4, 0.6, 0.3],
    ]
    same(F.conv_transpose2d(feature, kernel, stride=2), whole)


def test_transposed_convolution_is_a_convolution_of_a_bed_of_nails():
    feature, kernel = torch.randn(1, 1, 4, 5), torch.randn(1, 1, 3, 3)
    nails = bed_of_nails(feature)[..., :-1, :-1]
    expected = F.conv2d(F.pad(nails, (2, 2, 2, 2)), kernel.flip(-1, -2))
    torch.testing.assert_close(F.conv_transpose2d(feature, kernel, stride=2), expected)


@pytest.mark.parametrize(
    ("n", "kernel", "stride", "padding", "out"),
    [(3, 3, 1, 0, 5), (2, 2, 2, 0, 4), (224, 3, 2, 1, 447), (2, 3, 2, 0, 5), (3, 3, 2, 1, 5), (5, 3, 1, 1, 5)],
)
def test_size_of_a_transposed_convolution(n, kernel, stride, padding, out):
    layer = nn.ConvTranspose2d(1, 1, kernel, stride=stride, padding=padding, device="meta")
    assert layer(torch.empty(1, 1, n, n, device="meta")).shape[-2:] == (out, out)


# Checkerboards


def overlaps(kernel: int, stride: int, n: int = 5) -> list[int]:
    """How many copies of a kernel reach each output of a transposed convolution of n values."""
    counts = F.conv_transpose1d(torch.ones(1, 1, n), torch.ones(1, 1, kernel), stride=stride)
    return [int(count) for count in counts.flatten()]


def test_overlaps_of_transposed_convolutions():
    assert overlaps(3, 2) == [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]
    assert overlaps(4, 2)[1:-1] == [1, 2, 2, 2, 2, 2, 2, 2, 2, 1]
    assert overlaps(2, 2) == [1] * 10
    plane = F.conv_transpose2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), stride=2)
    assert plane.shape[-2:] == (7, 7)
    assert set(plane.flatten().tolist()) == {1, 2, 4}


@given(st.integers(1, 12), st.integers(1, 6))
@settings(max_examples=72, deadline=None)
def test_overlaps_are_even_exactly_where_the_stride_divides_the_kernel(kernel, stride):
    counts = overlaps(kernel, stride, n=3 * kernel)
    inside = counts[kernel - 1 : len(counts) - kernel + 1]
    assert (len(set(inside)) == 1) is (kernel % stride == 0)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_our_transposed_convolution_has_even_overlaps(factor):
    layer = transposed_convolution(1, 2, factor)
    assert all(kernel % stride == 0 for kernel, stride in zip(layer.kernel_size, layer.stride, strict=True))
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    found = layer(torch.ones(1, 1, 5, 5))
    assert found.shape == (1, 2, 5 * factor, 5 * factor)
    inner = found[..., factor:-factor, factor:-factor]
    assert set(inner.flatten().tolist()) == {4.0}


def unevenness(name: str, factor: int) -> float:
    """How uneven the answer to a constant map is, inside the border, with random weights."""
    torch.manual_seed(0)
    answer = upsampling(name, 3, 2, factor=factor)(torch.ones(1, 3, 9, 9))
    inner = answer[..., 3 * factor : -3 * factor, 3 * factor : -3 * factor]
    return float((inner.amax((2, 3)) - inner.amin((2, 3))).detach().abs().max())


@pytest.mark.parametrize("factor", [2, 3])
def test_resize_convolution_and_pixel_shuffle_begin_without_a_checkerboard(factor):
    assert unevenness("resize_conv", factor) < 1e-5
    assert unevenness("pixel_shuffle", factor) < 1e-5
    assert unevenness("transposed", factor) > 1e-3  # equal counts, unequal weights: it must be learned away


# The bilinear filter


def test_the_bilinear_filter():
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(bilinear_filter(4), torch.outer(line, line))
    line = torch.tensor([1, 2, 3, 2, 1]) / 3
    torch.testing.assert_close(bilinear_filter(5), torch.outer(line, line))
    assert bilinear_filter(1).tolist() == [[1.0]]


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16, 32])
def test_the_bilinear_filter_keeps_the_mean(factor):
    kernel = bilinear_filter(2 * factor)
    assert kernel.sum().item() == pytest.approx(factor**2)
    phases = kernel.unflatten(0, (2, factor)).unflatten(2, (2, factor)).sum((0, 2))
    torch.testing.assert_close(phases, torch.ones(factor, factor))


def test_the_bilinear_filter_is_the_formula_of_the_release():
    for size in range(1, 12):
        factor = (size + 1) // 2
        centre = factor - 1 if size % 2 else factor - 0.5
        expected = [
            [(1 - abs(i - centre) / factor) * (1 - abs(j - centre) / factor) for j in range(size)] for i in range(size)
        ]
        torch.testing.assert_close(bilinear_filter(size), torch.tensor(expected))


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
def test_a_fresh_transposed_convolution_interpolates(factor):
    feature = torch.randn(2, 3, 6, 7)
    layer = transposed_convolution(3, 3, factor)
    found, expected = layer(feature), resize_to(feature, (6 * factor, 7 * factor))
    inner = slice(factor // 2, -(factor // 2))
    torch.testing.assert_close(found[..., inner, inner], expected[..., inner, inner], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, expected)  # at the border it sees zeros, not the edge


def test_a_layer_without_bias_is_started_too():
    layer = nn.ConvTranspose2d(2, 2, 4, stride=2, bias=False)
    start_bilinear(layer)
    assert torch.equal(layer.weight[0, 0], bilinear_filter(4))
    assert torch.equal(layer.weight[1, 1], bilinear_filter(4))
    assert not layer.weight[0, 1].any()
    assert not layer.weight[1, 0].any()


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3)])
def test_the_fixed_deconvolution_is_a_transposed_convolution(factor, size):
    feature = torch.randn(2, 3, *size)
    kernel = bilinear_filter(2 * factor).expand(3, 1, -1, -1)
    expected = F.conv_transpose2d(feature, kernel, stride=factor, groups=3)
    layer = BilinearDeconvolution(factor)
    assert [*layer.parameters()] == [*layer.buffers()] == []
    torch.testing.assert_close(layer(feature), expected, atol=1e-5, rtol=1e-5)
