"""How maps lie on the image: hand-worked networks of arithmetic, and the centres of what a cell sees."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.map_fit import MapFit, fit_maps

Sizes = Callable[[int], int]


def arithmetic(*sizes: Sizes, channels: int = 8) -> Callable[[int, int], list[tuple[int, ...]]]:
    """A network that only knows how many cells each of its maps has over a length; maps without cells are refused."""

    def run(height: int, width: int) -> list[tuple[int, ...]]:
        shapes = [(1, channels, cells(height), cells(width)) for cells in sizes]
        assert all(min(shape) > 0 for shape in shapes), "too small"
        return shapes

    return run


def test_a_network_that_rounds_up_takes_images_as_they_are():
    fit = fit_maps(arithmetic(lambda n: -(-n // 2), lambda n: -(-n // 8)), [8, 8], [2, 8])
    assert fit.takes_every_size
    image = torch.ones(1, 3, 5, 7)
    assert fit.pad(image) is image
    maps = [torch.rand(1, 8, 3, 4), torch.rand(1, 8, 1, 1)]
    assert all(torch.equal(a, b) for a, b in zip(fit.cut(maps, (5, 7)), maps, strict=True))


def test_a_network_that_rounds_down_gets_whole_multiples_of_its_deepest_stride():
    fit = fit_maps(arithmetic(lambda n: n // 2, lambda n: n // 8), [8, 8], [2, 8])
    assert (fit.unit, fit.before, fit.after, fit.skipped) == (8, 0, 0, (0, 0))
    padded = fit.pad(torch.ones(1, 1, 9, 16))
    assert padded.shape == (1, 1, 16, 16)
    assert padded[..., :9, :].min() == 1
    assert padded[..., 9:, :].max() == 0
    first, second = fit.cut([torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 2, 2)], (9, 16))
    assert first.shape[-2:] == (5, 8)
    assert second.shape[-2:] == (2, 2)


def test_a_network_that_loses_a_border_gets_it_back_on_both_sides():
    # Three 3x3 convolutions without padding lose 6 pixels, then a stride of 4 rounds down: 2 cells fewer.
    fit = fit_maps(arithmetic(lambda n: (n - 6) // 4), [8], [4])
    assert (fit.unit, fit.before, fit.after, fit.skipped) == (4, 4, 4, (0,))
    for length in range(1, 20):
        padded = fit.pad(torch.zeros(1, 1, length, 1)).shape[-2]
        cells = (padded - 6) // 4
        assert cells - fit.skipped[0] >= math.ceil(length / 4)


def test_strides_without_a_common_multiple_among_them():
    fit = fit_maps(arithmetic(lambda n: n // 4, lambda n: n // 6), [8, 8], [4, 6])
    assert fit.unit == 12


@pytest.mark.parametrize(("window", "unit"), [(2, 64), (7, 224), (12, 384)])
def test_windows_of_attention_need_whole_multiples_of_themselves(window: int, unit: int):
    def cells(length: int) -> int:
        assert length % (32 * window) == 0, "no whole windows"
        return length // 32

    assert fit_maps(arithmetic(cells), [8], [32]).unit == unit


def test_a_network_that_rounds_up_to_windows_gets_whole_windows():
    fit = fit_maps(arithmetic(lambda n: 2 * -(-n // 64)), [8], [32])
    assert fit.unit == 64
    assert fit.cut([torch.zeros(1, 8, 2, 2)], (20, 33))[0].shape == (1, 8, 1, 2)


def test_a_network_that_adds_a_cell_has_it_taken_away():
    fit = fit_maps(arithmetic(lambda n: n // 4 + 2), [8], [4])
    assert (fit.before, fit.after, fit.skipped) == (0, 0, (1,))
    assert fit_maps(arithmetic(lambda n: n + 2), [8], [1]).cut([torch.zeros(1, 8, 7, 8)], (5, 6))[0].shape[-2:] == (
        5,
        6,
    )


def test_channels_at_the_end_are_moved():
    fit = fit_maps(lambda h, w: [(1, -(-h // 4), -(-w // 4), 24)], [24], [4])
    assert fit.axes == (3,)
    assert fit.cut([torch.zeros(2, 3, 5, 24)], (12, 20))[0].shape == (2, 24, 3, 5)


@pytest.mark.parametrize("channels", [4, 32, 36])
def test_channels_are_told_from_rows_and_columns_of_the_same_number(channels: int):
    # At 128 x 132 pixels the map has 32 x 33 cells.
    first = fit_maps(lambda h, w: [(1, channels, h // 4, w // 4)], [channels], [4])
    last = fit_maps(lambda h, w: [(1, h // 4, w // 4, channels)], [channels], [4])
    assert (first.axes, last.axes) == ((1,), (3,))


def test_a_fixed_size_is_refused_with_the_reason_of_the_network():
    def run(height: int, width: int) -> list[tuple[int, ...]]:
        raise AssertionError(f"Input height ({height}) doesn't match model (224)\nand more")

    with pytest.raises(UsageError, match=r"every size \(Input height \(512\) doesn't match model \(224\)\)"):
        fit_maps(run, [8], [32])


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (lambda h, w: (1, 9, h // 4, w // 4), "8 channels at stride 4 were expected"),
        (lambda h, w: (1, 8, h // 8, w // 8), "8 channels at stride 4 were expected"),
        (lambda h, w: (1, 8, h * w // 16), "8 channels at stride 4 were expected"),
        (lambda h, w: (1, 8, 1, 1), "8 channels at stride 4 were expected"),
    ],
)
def test_maps_that_are_not_as_declared_are_refused(shape, said):
    with pytest.raises(UsageError, match=said):
        fit_maps(lambda h, w: [shape(h, w)], [8], [4])


def test_a_network_that_fails_on_small_images_only_is_refused():
    def cells(length: int) -> int:
        assert length > 60, "too small"
        return length // 4

    with pytest.raises(UsageError, match="small images"):
        fit_maps(arithmetic(cells), [8], [4])


def centres(network: nn.Module, fit: MapFit, length: int) -> Tensor:
    """The middle of what each cell in the middle row sees, as a column of an image of length x length pixels."""
    image = torch.rand(1, 1, length, length, dtype=torch.float64, requires_grad=True)
    (feature,) = fit.cut([network(fit.pad(image))], (length, length))
    columns = torch.arange(length, dtype=torch.float64)
    found = []
    for cell in range(feature.shape[-1]):
        (seen,) = torch.autograd.grad(feature[0, 0, feature.shape[-2] // 2, cell], image, retain_graph=True)
        found.append((seen.sum(dim=(0, 1, 2)) * columns).sum() / seen.sum())
    return torch.stack(found)


NETWORKS = {
    "loses 2": ((3, 2, 0), (3, 2, 0)),
    "loses much": ((3, 2, 0), (3, 1, 0), (3, 1, 0), (3, 2, 0), (5, 1, 0)),
    "loses even more": ((7, 2, 0), (7, 1, 0), (7, 1, 0), (7, 1, 0), (3, 2, 0)),
    "pools": ((2, 2, 0), (2, 2, 0)),
    "keeps": ((3, 2, 1), (3, 2, 1)),
    "adds": ((3, 2, 3), (3, 2, 3)),
}


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS.keys())
def test_every_cell_looks_at_its_own_pixels(layers: tuple[tuple[int, int, int], ...]):
    network = nn.Sequential(
        *(nn.Conv2d(1, 1, kernel, stride, padding, bias=False) for kernel, stride, padding in layers)
    )
    network.double().requires_grad_(False)
    for parameter in network.parameters():
        parameter.fill_(1)
    fit = fit_maps(lambda h, w: [tuple(network(torch.zeros(1, 1, h, w).double()).shape)], [1], [4])
    length = 81
    found = centres(network, fit, length)
    own = 4 * torch.arange(len(found)) + 1.5
    assert len(found) == 21
    inner = slice(6, -6)  # what lies beyond the border counts for nothing
    assert (found - own)[inner].abs().max() <= 2  # half a cell


def test_zeros_are_what_padded_convolutions_see():
    # A convolution without padding, given its border back, is the same convolution with padding.
    weight = torch.rand(1, 1, 3, 3)
    fit = fit_maps(lambda h, w: [tuple(F.conv2d(torch.zeros(1, 1, h, w), weight).shape)], [1], [1])
    image = torch.rand(1, 1, 6, 9)
    (found,) = fit.cut([F.conv2d(fit.pad(image), weight)], (6, 9))
    torch.testing.assert_close(found, F.conv2d(image, weight, padding=1))
