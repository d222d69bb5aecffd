"""FPN: Lin, Dollar, Girshick, He, Hariharan, Belongie, "Feature Pyramid Networks for Object Detection", CVPR 2017,
arXiv 1612.03144, with the semantic head of Kirillov, Girshick, He, Dollar, "Panoptic Feature Pyramid Networks", CVPR
2019, arXiv 1901.02446.

Figure 3 of each in words: 1x1 convolutions bring the maps of the encoder, but for the first at stride 2, to 256
channels; from the deepest, each is doubled by nearest neighbours and ADDED to the next shallower one, where a U-Net
joins them; a 3x3 convolution smooths each sum. In the head each level takes as many steps of 3x3 convolution to 128
channels, norm, ReLU and doubling, bilinear, as it needs to reach the size of the shallowest level, at stride 4; the
levels are summed, a 1x1 convolution gives the logits, enlarged 4 times. Batch norm here, where the paper has group norm
of as many parameters.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pixelwise.models.contracts import Architecture, Encoder, Published, check_argument
from pixelwise.models.convolution import conv_norm_relu
from pixelwise.models.encoders import build_encoder
from pixelwise.models.enlarge import enlarge
from pixelwise.models.unet import initialise

LARGEST_LEFT_OUT = 2  # maps of this stride and less are not in the pyramid


class FPN(nn.Module):
    """A feature pyramid on `encoder`, with the semantic head.

    width   channels of the pyramid; the head has half of them

    >>> FPN(build_encoder("resnet18", 3), 2)(torch.zeros(1, 3, 33, 1)).shape
    torch.Size([1, 2, 33, 1])
    """

    def __init__(self, encoder: Encoder, classes: int, *, width: int = 256) -> None:
        check_argument("width", width, lowest=2, highest=4096)
        super().__init__()
        self.encoder = encoder
        self.stride = math.lcm(*encoder.strides)
        self.supervised = ()
        levels = [index for index, stride in enumerate(encoder.strides) if stride > LARGEST_LEFT_OUT]
        self.first = levels[0] if levels else 0
        self.strides = encoder.strides[self.first :]
        self.pyramid = FeaturePyramid(encoder.channels[self.first :], self.strides, width=width)
        self.branches = nn.ModuleList(
            SemanticBranch(width, width // 2, self.strides[: level + 1]) for level in range(len(self.strides))
        )
        self.head = nn.Conv2d(width // 2, classes, 1)
        initialise(self.branches)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        pyramid = self.pyramid(self.encoder(image_BCHW)[self.first :])
        sizes = [level.shape[-2:] for level in pyramid]
        semantic = [branch(level, sizes) for branch, level in zip(self.branches, pyramid, strict=True)]
        logits_BKHW: Tensor = self.head(sum(semantic[1:], start=semantic[0]))
        return enlarge(logits_BKHW, image_BCHW.shape[-2:], factor=self.strides[0])


class FeaturePyramid(nn.Module):
    """The top-down pathway: maps of an encoder, shallow to deep, to as many maps of `width` channels, same sizes.

    The 1x1 convolutions are `lateral`, the 3x3 ones `smooth`; both have biases.
    """

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        self.ratios = [deep / shallow for shallow, deep in pairwise(strides)]
        self.lateral = nn.ModuleList(nn.Conv2d(before, width, 1) for before in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        for layer in (*self.lateral, *self.smooth):
            nn.init.kaiming_uniform_(layer.weight, a=1)  # nothing but sums follow: variance is kept without a ReLU
            nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        sums = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for level in reversed(range(len(self.ratios))):
            size = sums[level].shape[-2:]
            sums[level] = sums[level] + enlarge(sums[level + 1], size, factor=self.ratios[level], curve="nearest")
        return [smooth(total) for smooth, total in zip(self.smooth, sums, strict=True)]


class SemanticBranch(nn.Module):
    """One level of the pyramid brought to the size of the shallowest level.

    `strides` are those of the levels from the shallowest to its own. The shallowest has one convolution too.
    """

    def __init__(self, in_channels: int, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.ratios = [deep / shallow for shallow, deep in pairwise(strides)]
        befores = [in_channels, *[channels] * (len(strides) - 2)]
        self.convolutions = nn.ModuleList(conv_norm_relu(before, channels) for before in befores)

    def forward(self, level_BCHW: Tensor, sizes: list[torch.Size]) -> Tensor:
        """The level, at the first of `sizes`, those of all levels from the shallowest."""
        if not self.ratios:
            shallowest: Tensor = self.convolutions[0](level_BCHW)
            return shallowest
        for above, convolution in zip(reversed(range(len(self.ratios))), self.convolutions, strict=True):
            level_BCHW = enlarge(convolution(level_BCHW), sizes[above], factor=self.ratios[above])
        return level_BCHW


def fpn(in_channels: int, classes: int, *, encoder: str = "resnet50", width: int = 256) -> FPN:
    """A semantic FPN on the encoder of that name, a network of timm."""
    return FPN(build_encoder(encoder, in_channels), classes, width=width)


SEMANTIC_FPN = Architecture(
    build=fpn,
    paper="Kirillov, Girshick, He, Dollar: Panoptic Feature Pyramid Networks. CVPR 2019",
    year=2019,
    link="arXiv 1901.02446",
    published=Published(classes=19, size=(512, 1024), parameters=28_478_675),
    small={"encoder": "mobilenetv3_small_050", "width": 32},
)
