"""U-Net: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
arXiv 1505.04597.

Figure 1 in words: go down four times (two 3x3 convolutions, then 2x2 max-pooling), doubling the channels; go up four
times (2x2 up-convolution that halves the channels, join the map of the same level from the way down, two 3x3
convolutions); a 1x1 convolution gives the logits. Two forms:

    UNet        padded convolutions with batch norm: logits of the image's own size, for any size
    UNetValid   the paper's: convolutions without padding, 572 pixels in, 388 out; `unet_paper` wraps it with the
                paper's mirrored border, so that it too gives logits of the image's own size

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.contracts import Architecture, Published, check_argument, check_choice
from pixelwise.models.mirror import mirror_padded
from pixelwise.models.upsample import UPSAMPLING, upsampling

UP_CONVOLUTION = "up_convolution"


class UNet(nn.Module):
    """The padded U-Net.

    width       channels of the first level, doubled at each level below
    depth       number of times the image is halved
    dropout     share of channels dropped at the bottom while training
    upsampling  how a map is doubled on the way up: the paper's up-convolution, or another operator of `up_operator`

    >>> UNet(3, 2, width=8, depth=2)(torch.zeros(1, 3, 5, 7)).shape
    torch.Size([1, 2, 5, 7])
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: int = 32,
        depth: int = 4,
        dropout: float = 0.0,
        upsampling: str = UP_CONVOLUTION,
    ) -> None:
        check_argument("width", width, lowest=1, highest=1024)
        check_argument("depth", depth, lowest=1, highest=8)
        check_argument("dropout", dropout, lowest=0, highest=0.95)
        super().__init__()
        self.stride = 2**depth
        self.supervised = tuple(f"decoder.{level}" for level in range(depth - 1))
        self.encoder = UNetEncoder(in_channels, width=width, depth=depth)
        self.dropout = nn.Dropout2d(dropout)
        self.decoder = nn.ModuleList(
            UpBlock(deep, skip, upsampling)
            for deep, skip in zip(self.encoder.channels[:0:-1], self.encoder.channels[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(width, classes, 1)
        initialise(
            self, keep=[] if upsampling == UP_CONVOLUTION else [block.get_submodule("up") for block in self.decoder]
        )

    def forward(self, image_BCHW: Tensor) -> Tensor:
        *skips, feature = self.encoder(image_BCHW)
        feature = self.dropout(feature)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            feature = block(feature, skip)
        logits_BKHW: Tensor = self.head(feature)
        return logits_BKHW


class UNetEncoder(nn.Module):
    """The way down: feature maps at strides 1, 2, 4, ... with `width`, 2 `width`, 4 `width`, ... channels."""

    def __init__(self, in_channels: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.timm_name = ""
        self.channels = tuple(width * 2**level for level in range(depth + 1))
        self.strides = tuple(2**level for level in range(depth + 1))
        self.levels = nn.ModuleList(
            two_convolutions(before, after)
            for before, after in zip((in_channels, *self.channels), self.channels, strict=False)
        )

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        features = [self.levels[0](image_BCHW)]
        for level in self.levels[1:]:
            features.append(level(F.max_pool2d(features[-1], 2, ceil_mode=True)))
        return features


class UpBlock(nn.Module):
    """One step up: double the size, halve the channels, join the skip connection, two convolutions."""

    def __init__(self, channels: int, skip_channels: int, upsampling: str = UP_CONVOLUTION) -> None:
        super().__init__()
        self.up = up_operator(upsampling, channels, skip_channels)
        self.convolutions = two_convolutions(2 * skip_channels, skip_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        height, width = skip.shape[-2:]
        up = self.up(deep)[..., :height, :width]  # a level of odd size was rounded up on the way down
        joined: Tensor = self.convolutions(torch.cat([skip, up], dim=1))
        return joined


def up_operator(name: str, in_channels: int, channels: int, *, factor: int = 2) -> nn.Module:
    """The operator that makes a map `factor` times larger and changes its channels.

    `up_convolution` is the paper's: each value becomes a block of `factor` x `factor`, learned, without overlap. The
    other names are those of UPSAMPLING. Raises UsageError for an unknown name.

    >>> up_operator("up_convolution", 8, 4)
    ConvTranspose2d(8, 4, kernel_size=(2, 2), stride=(2, 2))
    """
    check_choice("upsampling", name, (UP_CONVOLUTION, *UPSAMPLING))
    if name == UP_CONVOLUTION:
        return nn.ConvTranspose2d(in_channels, channels, factor, stride=factor)
    return upsampling(name, in_channels, channels, factor=factor)


def two_convolutions(in_channels: int, channels: int) -> nn.Sequential:
    """Twice: 3x3 convolution that keeps the size, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class UNetValid(nn.Module):
    """The U-Net of the paper: no padding, no batch norm, `width` to 16 `width` channels, 64 to 1024 in the paper.

    It has 31,030,658 parameters for 1 channel and 2 classes. It crops: logits are 184 pixels smaller than the image in
    height and width, 92 on each side. Valid sizes are 188, 204, 220, ...: 16 k + 60 with k of at least 8. Raises
    UsageError, naming the next valid size, for any other.
    """

    margin = 92

    def __init__(self, in_channels: int, classes: int, *, width: int = 64, dropout: float = 0.5) -> None:
        check_argument("width", width, lowest=1, highest=1024)
        check_argument("dropout", dropout, lowest=0, highest=0.95)
        super().__init__()
        self.stride = 16
        self.supervised = ()
        channels = tuple(width * 2**level for level in range(5))
        self.down = nn.ModuleList(
            two_valid_convolutions(before, after)
            for before, after in zip((in_channels, *channels), channels, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, deep // 2, 2, stride=2) for deep in channels[:0:-1])
        self.joined = nn.ModuleList(two_valid_convolutions(deep, deep // 2) for deep in channels[:0:-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(channels[0], classes, 1)
        initialise(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits (B, K, H - 184, W - 184)."""
        _check_valid_size(image_BCHW.shape[-2:])

        # The way down; the release drops out after the fourth and the fifth level.
        skips = [self.down[0](image_BCHW)]
        for convolutions in self.down[1:-1]:
            skips.append(convolutions(F.max_pool2d(skips[-1], 2)))
        skips[-1] = self.dropout(skips[-1])
        feature = self.dropout(self.down[-1](F.max_pool2d(skips[-1], 2)))

        # The way up: each map of the way down is cropped in the middle to the size of its partner.
        for up, convolutions, skip in zip(self.up, self.joined, reversed(skips), strict=True):
            feature = up(feature)
            feature = convolutions(torch.cat([crop_middle(skip, feature.shape[-2:]), feature], dim=1))
        logits_BKHW: Tensor = self.head(feature)
        return logits_BKHW


def two_valid_convolutions(in_channels: int, channels: int) -> nn.Sequential:
    """Twice: 3x3 convolution without padding, ReLU; the map loses 2 pixels on each side."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3),
        nn.ReLU(inplace=True),
    )


def crop_middle(feature_BCHW: Tensor, size: torch.Size) -> Tensor:
    """The middle of a feature map, of `size` (height, width).

    >>> crop_middle(torch.zeros(1, 1, 64, 64), torch.Size([56, 56])).shape
    torch.Size([1, 1, 56, 56])
    """
    top, left = ((have - want) // 2 for have, want in zip(feature_BCHW.shape[-2:], size, strict=True))
    return feature_BCHW[..., top : top + size[0], left : left + size[1]]


def unet_paper(in_channels: int, classes: int, *, width: int = 64, dropout: float = 0.5) -> MirrorPadded:
    """The paper's network within its overlap-tile strategy: any image in, logits of the same size out."""
    return MirrorPadded(UNetValid(in_channels, classes, width=width, dropout=dropout))


class MirrorPadded(nn.Module):
    """A valid-convolution network that sees the image continued by mirroring, so that its logits cover the whole image.

    Section 2 of the paper: "missing input data is extrapolated by mirroring".
    """

    def __init__(self, network: UNetValid) -> None:
        super().__init__()
        self.network = network
        self.stride = network.stride
        self.supervised = ()

    def forward(self, image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[-2:]
        margin = self.network.margin
        rows, columns = ((margin, valid_size(n + 2 * margin) - n - margin) for n in (height, width))
        logits_BKHW: Tensor = self.network(mirror_padded(image_BCHW, rows=rows, columns=columns))
        return logits_BKHW[..., :height, :width]


def initialise(network: nn.Module, *, keep: Iterable[nn.Module] = ()) -> None:
    """Weights from N(0, sqrt(2 / N)), N the incoming nodes of one neuron (section 3 of the paper); biases 0.

    The parts in `keep`, such as operators that start as an interpolation, stay as they are.
    """
    kept = {layer for part in keep for layer in part.modules()}
    for layer in (layer for layer in network.modules() if layer not in kept):
        match layer:
            case nn.Conv2d():
                incoming = layer.in_channels * math.prod(layer.kernel_size)
            case nn.ConvTranspose2d():
                incoming = layer.in_channels * math.prod(layer.kernel_size) // math.prod(layer.stride)
            case _:
                continue
        nn.init.normal_(layer.weight, std=math.sqrt(2 / incoming))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def valid_size(length: int) -> int:
    """The smallest valid input size of UNetValid that is at least `length`, pixels.

    >>> valid_size(572), valid_size(573)
    (572, 588)
    """
    return 60 + 16 * max(8, math.ceil((length - 60) / 16))


def _check_valid_size(size: torch.Size) -> None:
    for length in size:
        if valid_size(length) != length:
            raise UsageError(
                f"the valid U-Net takes sizes of 16 k + 60 pixels with k of at least 8, not {length}; "
                f"the next is {valid_size(length)}, or use unet_paper, which takes any size"
            )


PAPER = "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015"

UNET = Architecture(
    build=UNet,
    paper=PAPER,
    year=2015,
    link="arXiv 1505.04597",
    published=Published(classes=2, options={"width": 64}, size=(256, 256), parameters=31_037_698),
    small={"width": 8, "depth": 3},
)
UNET_PAPER = Architecture(
    build=unet_paper,
    paper=PAPER,
    year=2015,
    link="arXiv 1505.04597",
    published=Published(in_channels=1, classes=2, size=(572, 572), parameters=31_030_658),
    small={"width": 8},
)
