"""Every way to make a feature map larger, and the one argument that chooses among them: `upsampling(name, ...)`.

    nearest         each value repeated
    bilinear        straight lines between the values
    bicubic         cubic curves through the values (Keys 1981, a = -0.75)
    bed_of_nails    the values at the upper left of blocks of zeros
    max_unpool      the values where max-pooling found them, zeros elsewhere (needs the indices; SegNet)
    transposed      transposed convolution, kernel 2 f and stride f, started as bilinear interpolation (FCN); also
                    called deconvolution, up-convolution, fractionally strided convolution
    resize_conv     nearest, then a 3x3 convolution: no checkerboard (Odena et al. 2016, Distill)
    pixel_shuffle   1x1 convolution to f x f times the channels, rearranged in space, started as nearest (ICNR)

`upsampling` has all but max_unpool, which takes a second tensor. B batch, C channels, H rows, W columns, f the factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.contracts import check_argument, check_choice

Curve = Literal["nearest", "bilinear", "bicubic"]


def upsampling(name: str, in_channels: int, channels: int, *, factor: int = 2) -> nn.Module:
    """The operator `name` of UPSAMPLING as a module: (B, in_channels, H, W) to (B, channels, factor H, factor W).

    Operators that do not learn are followed by a 1x1 convolution where the number of channels changes.
    Raises UsageError for an unknown name, or a factor outside 2 to 64.

    >>> upsampling("pixel_shuffle", 8, 4)(torch.zeros(1, 8, 3, 5)).shape
    torch.Size([1, 4, 6, 10])
    """
    check_choice("upsampling", name, UPSAMPLING)
    check_argument("factor", factor, lowest=2, highest=64)
    return UPSAMPLING[name](in_channels, channels, factor)


def resize_to(
    feature_BCHW: Tensor, size: torch.Size | tuple[int, int], *, curve: Curve = "bilinear", align_corners: bool = False
) -> Tensor:
    """The map at `size` (height, width).

    The outer edges of the corner pixels stay in place, or, with `align_corners`, their centres. Nearest has no choice.

    >>> resize_to(torch.tensor([[[[1.0, 2.0]]]]), (1, 4)).tolist()
    [[[[1.0, 1.25, 1.75, 2.0]]]]
    >>> resize_to(torch.tensor([[[[1.0, 4.0]]]]), (1, 4), align_corners=True).tolist()
    [[[[1.0, 2.0, 3.0, 4.0]]]]
    """
    if feature_BCHW.shape[-2:] == size:
        return feature_BCHW
    aligned = None if curve == "nearest" else align_corners
    return F.interpolate(feature_BCHW, size=tuple(size), mode=curve, align_corners=aligned)


def bed_of_nails(feature_BCHW: Tensor, factor: int = 2) -> Tensor:
    """Each value at the upper left of a block of `factor` x `factor`, zeros elsewhere.

    >>> bed_of_nails(torch.tensor([[[[1, 2]]]])).tolist()
    [[[[1, 0, 2, 0], [0, 0, 0, 0]]]]
    """
    batch, channels, height, width = feature_BCHW.shape
    nails = feature_BCHW.new_zeros(batch, channels, height * factor, width * factor)
    nails[..., ::factor, ::factor] = feature_BCHW
    return nails


def max_unpool(feature_BCHW: Tensor, indices_BCHW: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Each value where max-pooling found its maximum, zeros elsewhere, in a map of `size` (height, width).

    `indices_BCHW` are those of `F.max_pool2d(..., return_indices=True)`, with windows that do not overlap.

    >>> pooled, indices = F.max_pool2d(torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]), 2, return_indices=True)
    >>> max_unpool(pooled, indices, (2, 2)).tolist()
    [[[[0.0, 0.0], [4.0, 0.0]]]]
    """
    batch, channels = feature_BCHW.shape[:2]
    height, width = size
    values, indices = (x.permute(0, 2, 3, 1).flatten(1, 2) for x in (feature_BCHW, indices_BCHW))
    unpooled = feature_BCHW.new_zeros(batch, height * width, channels).scatter(1, indices, values)
    return unpooled.view(batch, height, width, channels).permute(0, 3, 1, 2)


class BedOfNails(nn.Module):
    """`bed_of_nails` as a module."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        return bed_of_nails(feature_BCHW, self.factor)


def bilinear_filter(kernel: int) -> Tensor:
    """The filter (kernel, kernel) with which a transposed convolution interpolates bilinearly.

    Long, Shelhamer, Darrell, CVPR 2015, section 3.3; the formula is that of their release.

    >>> bilinear_filter(4)[1].tolist()
    [0.1875, 0.5625, 0.5625, 0.1875]
    """
    factor = (kernel + 1) // 2
    centre = factor - 1 if kernel % 2 else factor - 0.5
    line = 1 - (torch.arange(kernel) - centre).abs() / factor
    return torch.outer(line, line)


class BilinearDeconvolution(nn.Module):
    """Transposed convolution of each channel by itself with the fixed `bilinear_filter(2 f)` and stride f, f even.

    (B, C, H, W) to (B, C, f (H + 1), f (W + 1)); nothing is learned. It is computed as interpolation within a border of
    zeros, which gives the same numbers many times as fast on a processor.

    >>> BilinearDeconvolution(2)(torch.tensor([[[[16.0]]]]))[0, 0, 1].tolist()
    [3.0, 9.0, 9.0, 3.0]
    """

    def __init__(self, factor: int) -> None:
        assert factor % 2 == 0, "an odd factor has a filter of another size"
        super().__init__()
        self.factor = factor

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        half = self.factor // 2
        bordered = F.pad(feature_BCHW, (1, 1, 1, 1))
        larger = F.interpolate(bordered, scale_factor=self.factor, mode="bilinear")
        return larger[..., half:-half, half:-half]


def transposed_convolution(in_channels: int, channels: int, factor: int = 2) -> nn.ConvTranspose2d:
    """Transposed convolution with kernel 2 f and stride f, cropped to f times the size.

    The kernel is divisible by the stride, so that every pixel is reached by as many weights: no checkerboard of
    overlaps. Where the number of channels stays, it starts as bilinear interpolation of each channel; else at random.
    """
    layer = nn.ConvTranspose2d(
        in_channels, channels, 2 * factor, stride=factor, padding=(factor + 1) // 2, output_padding=factor % 2
    )
    if in_channels == channels:
        start_bilinear(layer)
    return layer


@torch.no_grad()
def start_bilinear(layer: nn.ConvTranspose2d) -> None:
    """Weights that interpolate each channel by itself, for a layer with as many channels out as in; biases 0.

    The filter of an odd stride f has 2 f - 1 rows: a larger kernel begins with zeros.
    """
    stride = layer.stride[0]
    weights = bilinear_filter(2 * stride - stride % 2).to(layer.weight)
    channels = torch.arange(layer.in_channels, device=layer.weight.device)
    layer.weight.zero_()
    layer.weight[channels, channels, -len(weights) :, -len(weights) :] = weights
    if layer.bias is not None:
        layer.bias.zero_()


def resize_convolution(in_channels: int, channels: int, factor: int = 2) -> nn.Sequential:
    """Nearest neighbours, then a 3x3 convolution."""
    return nn.Sequential(
        nn.Upsample(scale_factor=factor, mode="nearest"), nn.Conv2d(in_channels, channels, 3, padding=1)
    )


def pixel_shuffle(in_channels: int, channels: int, factor: int = 2) -> nn.Sequential:
    """1x1 convolution to `factor` squared times the channels, then each block of channels laid out in space.

    Shi et al., CVPR 2016, arXiv 1609.05158; started by ICNR (Aitken et al. 2017, arXiv 1707.02937): the sub-pixels of
    a block begin equal, so that there is no checkerboard before training.
    """
    convolution = nn.Conv2d(in_channels, channels * factor**2, 1)
    with torch.no_grad():
        start = torch.empty(channels, in_channels, 1, 1, device=convolution.weight.device)
        nn.init.kaiming_normal_(start)
        convolution.weight.copy_(start.repeat_interleave(factor**2, dim=0))
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.PixelShuffle(factor))


def _interpolation(curve: Curve) -> Callable[[int, int, int], nn.Module]:
    def build(in_channels: int, channels: int, factor: int) -> nn.Module:
        return _with_channels(nn.Upsample(scale_factor=factor, mode=curve), in_channels, channels)

    return build


def _nails(in_channels: int, channels: int, factor: int) -> nn.Module:
    return _with_channels(BedOfNails(factor), in_channels, channels)


def _with_channels(operator: nn.Module, in_channels: int, channels: int) -> nn.Module:
    if in_channels == channels:
        return operator
    return nn.Sequential(operator, nn.Conv2d(in_channels, channels, 1))


UPSAMPLING: dict[str, Callable[[int, int, int], nn.Module]] = {
    "nearest": _interpolation("nearest"),
    "bilinear": _interpolation("bilinear"),
    "bicubic": _interpolation("bicubic"),
    "bed_of_nails": _nails,
    "transposed": transposed_convolution,
    "resize_conv": resize_convolution,
    "pixel_shuffle": pixel_shuffle,
}
