"""Receptive fields: how much of the image one output can see.

    closed_form       of a chain of layers, from their kernels, strides and dilations
    receptive_field   of any network, measured: the pixels at which the gradient of one output is not zero
    effective_field   of any network with its weights: how much each pixel counts (Luo, Li, Urtasun, Zemel,
                      "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
                      NeurIPS 2016, arXiv 1701.04128)

What is measured is the worst case over all weights, see `dependence.py`. Global pooling, attention and norms by the
statistics of the image see the whole image. B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pixelwise.errors import UsageError
from pixelwise.inference.dependence import dependent_outputs, evaluating, one_thread, positive_kernel

LENGTHS = (512, 2048, 8192)  # of the images on which fields are measured; one larger than the last is called whole
ROWS, COLUMNS = -2, -1
POINTWISE = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity)
EFFECTIVE_SHARE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceptiveField:
    """The pixels of the image that one output can see.

    rows     smallest and largest number of rows: behind up-sampling, outputs side by side may see differently many
    columns  the same, for the columns
    reach    how far beyond its own place an output can see, pixels; None for a map that is smaller than the image
    margin   the same for blocks of `stride` pixels that begin on multiples of it: how far beyond them their outputs see
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    reach: int | None = None
    margin: int | None = None

    def __str__(self) -> str:
        rows, columns = (f"{low}" if low == high else f"{low}–{high}" for low, high in (self.rows, self.columns))
        return rows if rows == columns else f"{rows} × {columns}"

    def covers(self, other: ReceptiveField | None) -> bool:
        """Whether another one is no smaller and no larger than the fields of which this one is made."""
        return other is not None and all(
            low <= other_low and other_high <= high
            for (low, high), (other_low, other_high) in ((self.rows, other.rows), (self.columns, other.columns))
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"rows": list(self.rows), "columns": list(self.columns), "reach": self.reach, "margin": self.margin}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainField:
    """The receptive field of a chain of layers and the distance between the fields of neighbours: (rows, columns)."""

    field: tuple[int, int]
    stride: tuple[int, int]


def closed_form(chain: nn.Sequential) -> ChainField:
    """The receptive field at the end of a chain of convolutions, poolings and functions of single values.

    Each layer of kernel k and dilation d adds (k - 1) d times the product of the strides before it. Raises UsageError
    naming a layer for which that does not hold.

    >>> closed_form(nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, dilation=2)))
    ChainField(field=(12, 12), stride=(2, 2))
    """
    field, jump = [1, 1], [1, 1]
    for kernel, stride, dilation in _windows(chain):
        for axis in (0, 1):
            field[axis] += (kernel[axis] - 1) * dilation[axis] * jump[axis]
            jump[axis] *= stride[axis]
    return ChainField(field=(field[0], field[1]), stride=(jump[0], jump[1]))


def receptive_field(
    network: nn.Module, in_channels: int, *, layer: str = "", stride: int = 1, smallest: int = 1
) -> ReceptiveField | None:
    """The receptive field of an output in the middle of the image, or of the map of a `layer`; None: the whole image.

    `stride` is the total stride of the network: so many neighbours are looked at, as they may see differently much.
    `smallest` is the smallest image that the network takes, in pixels, if it does not take all.

    >>> receptive_field(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 2, (3, 5), padding=(1, 2))), 1)
    ReceptiveField(rows=(5, 5), columns=(7, 7), reach=3, margin=3)
    """
    return receptive_fields(network, in_channels, {layer: stride}, stride=stride, smallest=smallest)[layer]


def receptive_fields(
    network: nn.Module, in_channels: int, places: Mapping[str, int], *, stride: int = 1, smallest: int = 1
) -> dict[str, ReceptiveField | None]:
    """The receptive fields of several layers at once; the network's own output has the empty name.

    `places` says of each layer how many neighbours are looked at, at most `stride`, the total stride of the network.
    A field that grows with the image (of pooling to a fixed number of bins, say) counts as the whole image.
    """
    probe = _Probe(network=network, in_channels=in_channels, stride=stride, smallest=smallest)
    found: dict[str, ReceptiveField | None] = {}
    for length in LENGTHS:
        fields = probe.fields(length, {layer: count for layer, count in places.items() if layer not in found})
        again = probe.fields(probe.longer(length), dict.fromkeys(fields, 1)) if fields else {}
        found |= {layer: field if field.covers(again.get(layer)) else None for layer, field in fields.items()}
        if len(found) == len(places):
            break
    return {layer: found.get(layer) for layer in places}


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveField:
    """How much each pixel counts for the output in the middle of an image, at row H // 2 and column W // 2.

    weight_HW  share of the gradient that falls on each pixel; sums to 1
    side       of the square around the output that holds 95 % of it, pixels
    rows       first and last row that this output can see, whatever the weights
    columns    the same, of the columns
    """

    weight_HW: NDArray[np.float64]
    side: int
    rows: tuple[int, int]
    columns: tuple[int, int]


def effective_field(network: nn.Module, image_BCHW: Tensor, *, seed: int = 0) -> EffectiveField:
    """How much each pixel of the images counts for the output in their middle, with the weights as they are.

    The mean over the images of the absolute gradient of a sum of the logits there, with random signs.
    The images should be larger than the receptive field. Raises UsageError where the gradient is zero everywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    total_HW = np.zeros(image_BCHW.shape[-2:])
    with evaluating(network), torch.enable_grad():
        for index in range(len(image_BCHW)):
            image = image_BCHW[index : index + 1].detach().clone().requires_grad_()
            logits_BKHW = network(image)
            middle_BK = logits_BKHW[..., logits_BKHW.shape[-2] // 2, logits_BKHW.shape[-1] // 2]
            signs = torch.randint(0, 2, middle_BK.shape, generator=generator) * 2 - 1
            (gradient,) = torch.autograd.grad((middle_BK * signs.to(middle_BK)).sum(), image)
            total_HW += gradient.abs().double().sum((0, 1)).cpu().numpy()
    if not total_HW.sum() > 0:
        raise UsageError("the logits do not depend on the image: their gradient is zero, so there is no field to show")
    weight_HW = total_HW / total_HW.sum()
    rows, columns = (_ends_from_middle(network, image_BCHW[:1], axis) for axis in (ROWS, COLUMNS))
    return EffectiveField(
        weight_HW=weight_HW, side=_side_holding(weight_HW, EFFECTIVE_SHARE), rows=rows, columns=columns
    )


# -------------------------------------------------------------------------------------------------------- closed form


def _windows(chain: nn.Sequential) -> Iterable[tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]:
    """Kernel, stride and dilation of each layer of a chain."""
    for layer in chain:
        match layer:
            case nn.Sequential():
                yield from _windows(layer)
            case nn.Conv2d() | nn.MaxPool2d():
                yield _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation)
            case nn.AvgPool2d():
                yield _pair(layer.kernel_size), _pair(layer.stride), (1, 1)
            case _ if isinstance(layer, POINTWISE):
                continue
            case _:
                raise UsageError(
                    f"the receptive field of {type(layer).__name__} has no closed form; measure it: receptive_field"
                )


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# ----------------------------------------------------------------------------------------------------------- measured


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """A network of which fields are measured, on narrow images."""

    network: nn.Module
    in_channels: int
    stride: int
    smallest: int

    def fields(self, length: int, places: Mapping[str, int]) -> dict[str, ReceptiveField]:
        """The fields that an image of about that length holds."""
        size = self._size(length)
        with one_thread():
            rows = _seen(self.network, (1, self.in_channels, size, self.smallest), ROWS, places)
            wanted = {layer: places[layer] for layer in rows}
            columns = _seen(self.network, (1, self.in_channels, self.smallest, size), COLUMNS, wanted)
        return {layer: _joined((*rows[layer], *columns[layer]), len(rows[layer]), self.stride) for layer in columns}

    def longer(self, length: int) -> int:
        """About a quarter more, in the middle of which an output lies among its neighbours as it did before."""
        return self._size(length) + 2 * self.stride * max(1, length // (8 * self.stride))

    def _size(self, length: int) -> int:
        return self.smallest + self.stride * math.ceil(max(0, length - self.smallest) / self.stride)


def _seen(
    network: nn.Module, shape: Sequence[int], axis: int, wanted: Mapping[str, int]
) -> dict[str, list[tuple[int, int, int | None]]]:
    """Per layer and place: first and last row (or column) seen, and the place itself where maps have the image's size.

    A layer that sees the first or the last row may see further than this image goes, and is left out.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(tuple(shape), generator=generator, dtype=torch.float64, device="cpu") + 0.5
    image.requires_grad_()
    outputs = dependent_outputs(network, image, kernel=positive_kernel, layers=[name for name in wanted if name])
    found = {}
    for layer, count in wanted.items():
        places = _places(outputs[layer], image, axis, count)
        ends = list(takewhile(_within(shape[axis]), (_ends(outputs[layer], image, axis, place) for place in places)))
        if len(ends) == len(places):
            found[layer] = ends
    return found


def _within(length: int) -> Callable[[tuple[int, int, int | None]], bool]:
    """Whether neither end of a field lies at the border of an image of that length."""
    return lambda ends: ends[0] > 0 and ends[1] < length - 1


def _places(output: Tensor, image: Tensor, axis: int, count: int) -> range:
    """Neighbours from the middle on, no more than lie between two that see alike."""
    length = output.shape[axis]
    period = max(1, round(count * length / image.shape[axis]))
    return range(length // 2, min(length, length // 2 + period))


def _ends(output: Tensor, image: Tensor, axis: int, place: int) -> tuple[int, int, int | None]:
    (gradient,) = torch.autograd.grad(output.select(axis, place).sum(), image, retain_graph=True)
    other = ROWS if axis == COLUMNS else COLUMNS
    seen = gradient.ne(0).any(other)[0].any(0).nonzero()
    own = place if output.shape[axis] == image.shape[axis] else None
    return int(seen[0]), int(seen[-1]), own


def _ends_from_middle(network: nn.Module, image_BCHW: Tensor, axis: int) -> tuple[int, int]:
    """First and last row (or column) that the output in the middle can see."""
    image = torch.rand(image_BCHW.shape, dtype=torch.float64).add(0.5).requires_grad_()
    with one_thread():
        output = dependent_outputs(network, image, kernel=positive_kernel)[""]
        first, last, _ = _ends(output, image, axis, output.shape[axis] // 2)
    return first, last


def _joined(ends: Sequence[tuple[int, int, int | None]], rows: int, stride: int) -> ReceptiveField:
    """The field of what several outputs see: so many of them in rows, the others in columns."""
    sizes = [last - first + 1 for first, last, _ in ends]
    placed = [(first, last, own) for first, last, own in ends if own is not None]
    reaches = [max(own - first, last - own) for first, last, own in placed]
    blocks = [(first, last, own // stride * stride) for first, last, own in placed]
    margins = [max(0, begin - first, last - (begin + stride - 1)) for first, last, begin in blocks]
    return ReceptiveField(
        rows=(min(sizes[:rows]), max(sizes[:rows])),
        columns=(min(sizes[rows:]), max(sizes[rows:])),
        reach=max(reaches, default=None),
        margin=max(margins, default=None),
    )


def _side_holding(weight_HW: NDArray[np.float64], share: float) -> int:
    """The side of the smallest square around the middle that holds a share of the weight."""
    height, width = weight_HW.shape
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    distance_HW = np.maximum(rows[:, None], columns[None, :])
    held = np.cumsum(np.bincount(distance_HW.ravel(), weights=weight_HW.ravel()))
    return 2 * int(np.searchsorted(held, share)) + 1
