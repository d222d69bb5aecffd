"""Two small U-Nets that were published as Keras programs, by which many have learned segmentation.

    unet_tgs           Lamba, "Understanding Semantic Segmentation with UNET", Towards Data Science 2019: 16 to 256
                       channels, batch norm, little dropout; made for the salt bodies of the TGS challenge
    unet_line_by_line  Zhang, "UNet: Line by Line Explanation", Towards Data Science 2019: the same without batch norm,
                       with much dropout

Both follow Ronneberger, Fischer, Brox (MICCAI 2015, arXiv 1505.04597) with padded convolutions and with 3x3 transposed
convolutions of stride 2. The skip connections are joined, not added. In the program behind `unet_tgs` the second
convolution of each pair reads the input of the first, whose work is lost (1,179,121 numbers in the network, where
2,164,305 were meant); here the second reads the first.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.contracts import Architecture, Published, check_argument
from pixelwise.models.convolution import BatchNorm, conv_relu
from pixelwise.models.enlarge import cut_to
from pixelwise.models.unet import initialise

DEPTH = 4


class KerasUNet(nn.Module):
    """Four levels down and up.

    width       channels of the first level, doubled at each level below
    dropouts    share of values dropped while training: after the first pooling, after each other pooling and joining
    batch_norm  after each convolution of a pair, before its ReLU

    >>> KerasUNet(1, 2, width=4, dropouts=(0.0, 0.0), batch_norm=False)(torch.zeros(1, 1, 5, 7)).shape
    torch.Size([1, 2, 5, 7])
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int, dropouts: tuple[float, float], batch_norm: bool
    ) -> None:
        check_argument("width", width, lowest=1, highest=1024)
        check_argument("dropout", dropouts[1], lowest=0, highest=0.95)
        super().__init__()
        self.stride = 2**DEPTH
        self.supervised = ()
        self.encoder = KerasEncoder(in_channels, width=width, dropouts=dropouts, batch_norm=batch_norm)
        self.decoder = nn.ModuleList(
            KerasUpBlock(skip, dropout=dropouts[1], batch_norm=batch_norm) for skip in self.encoder.channels[-2::-1]
        )
        self.head = nn.Conv2d(width, classes, 1)
        initialise(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        *skips, feature = self.encoder(image_BCHW)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            feature = block(feature, skip)
        logits_BKHW: Tensor = self.head(feature)
        return logits_BKHW


class KerasEncoder(nn.Module):
    """The way down: two convolutions, then 2x2 max-pooling and dropout, at strides 1 to 16."""

    def __init__(self, in_channels: int, *, width: int, dropouts: tuple[float, float], batch_norm: bool) -> None:
        super().__init__()
        self.timm_name = ""
        self.channels = tuple(width * 2**level for level in range(DEPTH + 1))
        self.strides = tuple(2**level for level in range(DEPTH + 1))
        self.levels = nn.ModuleList(
            convolution_pair(before, after, batch_norm=batch_norm)
            for before, after in zip((in_channels, *self.channels), self.channels, strict=False)
        )
        self.dropouts = nn.ModuleList(nn.Dropout(dropouts[level > 0]) for level in range(DEPTH))

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        features = [self.levels[0](image_BCHW)]
        for level, dropout in zip(self.levels[1:], self.dropouts, strict=True):
            features.append(level(dropout(F.max_pool2d(features[-1], 2, ceil_mode=True))))
        return features


class KerasUpBlock(nn.Module):
    """One step up: double the size, halve the channels, join the skip connection, dropout, two convolutions.

    The transposed convolution is that of Keras (3x3, stride 2, "same") in a mirror: of the odd row and column too many,
    Keras drops the last, this drops the first. Learned from scratch they are the same.
    """

    def __init__(self, skip_channels: int, *, dropout: float, batch_norm: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * skip_channels, skip_channels, 3, stride=2, padding=1, output_padding=1)
        self.dropout = nn.Dropout(dropout)
        self.convolutions = convolution_pair(2 * skip_channels, skip_channels, batch_norm=batch_norm)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        up = cut_to(self.up(deep), skip.shape[-2:])
        joined: Tensor = self.convolutions(self.dropout(torch.cat([up, skip], dim=1)))
        return joined


def convolution_pair(in_channels: int, channels: int, *, batch_norm: bool) -> nn.Sequential:
    """Twice: 3x3 convolution with bias, batch norm where wanted, ReLU.

    >>> sum(p.numel() for p in convolution_pair(1, 16, batch_norm=True).parameters())
    2544
    """
    pair = nn.Sequential()
    for before in (in_channels, channels):
        convolution, activation = conv_relu(before, channels)
        pair.extend([convolution, BatchNorm(channels), activation] if batch_norm else [convolution, activation])
    return pair


def unet_tgs(in_channels: int, classes: int, *, width: int = 16, dropout: float = 0.05) -> KerasUNet:
    """The U-Net of the salt bodies, as it was trained."""
    return KerasUNet(in_channels, classes, width=width, dropouts=(dropout, dropout), batch_norm=True)


def unet_line_by_line(in_channels: int, classes: int, *, width: int = 16, dropout: float = 0.5) -> KerasUNet:
    """The U-Net explained line by line; half as much dropout after the first pooling as elsewhere."""
    return KerasUNet(in_channels, classes, width=width, dropouts=(dropout / 2, dropout), batch_norm=False)


UNET_TGS = Architecture(
    build=unet_tgs,
    paper="Lamba: Understanding Semantic Segmentation with UNET. Towards Data Science 2019",
    year=2019,
    link="arXiv 1505.04597",
    published=Published(in_channels=1, classes=1, size=(128, 128), parameters=2_161_361),
    small={"width": 4},
)
UNET_LINE_BY_LINE = Architecture(
    build=unet_line_by_line,
    paper="Zhang: UNet: Line by Line Explanation. Towards Data Science 2019",
    year=2019,
    link="arXiv 1505.04597",
    published=Published(in_channels=1, classes=1, size=(128, 128), parameters=2_158_417),
    small={"width": 6, "dropout": 0.1},
)
