"""FC-DenseNet: Jégou, Drozdzal, Vázquez, Romero, Bengio, "The One Hundred Layers Tiramisu: Fully Convolutional
DenseNets for Semantic Segmentation", CVPR Workshops 2017, arXiv 1611.09326.

Figure 1 in words: a U-Net whose levels are dense blocks. A layer of a dense block adds a few maps (the growth) to all
that came before it in the block. On the way down the pile of maps grows from block to block, and is halved in size
between them. On the way up only the new maps of the block below are enlarged and joined to the pile of the same level
from the way down: else the pile would grow beyond memory.

    fc_densenet56    growth 12, 4 layers in each of the 11 blocks
    fc_densenet67    growth 16, 5 layers in each block
    fc_densenet103   growth 16, 4 to 12 layers in the five blocks down, 15 at the bottom, the same up

The number counts the convolutions: one at first, those of the blocks, one per halving and doubling, one at the end.
Odd sizes are rounded up at each halving (the release rounds down).

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.contracts import Architecture, Published, check_argument
from pixelwise.models.convolution import BatchNorm


def fc_densenet56(
    in_channels: int, classes: int, *, growth: int = 12, width: int = 48, dropout: float = 0.2
) -> FCDenseNet:
    """FC-DenseNet with 56 layers; the arguments are those of DensePlan.

    >>> fc_densenet56(3, 11, growth=2, width=4).eval()(torch.zeros(1, 3, 5, 7)).shape
    torch.Size([1, 11, 5, 7])
    """
    plan = DensePlan(down=(4, 4, 4, 4, 4), bottom=4, growth=growth, width=width, dropout=dropout)
    return FCDenseNet(in_channels, classes, plan)


def fc_densenet67(
    in_channels: int, classes: int, *, growth: int = 16, width: int = 48, dropout: float = 0.2
) -> FCDenseNet:
    """FC-DenseNet with 67 layers; the arguments are those of DensePlan."""
    plan = DensePlan(down=(5, 5, 5, 5, 5), bottom=5, growth=growth, width=width, dropout=dropout)
    return FCDenseNet(in_channels, classes, plan)


def fc_densenet103(
    in_channels: int, classes: int, *, growth: int = 16, width: int = 48, dropout: float = 0.2
) -> FCDenseNet:
    """FC-DenseNet with 103 layers; the arguments are those of DensePlan."""
    plan = DensePlan(down=(4, 5, 7, 10, 12), bottom=15, growth=growth, width=width, dropout=dropout)
    return FCDenseNet(in_channels, classes, plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class DensePlan:
    """What a FC-DenseNet is made of.

    down     layers of each dense block on the way down, shallow to deep; on the way up the same, mirrored
    bottom   layers of the block between them
    growth   maps that each layer adds
    width    channels of the first convolution
    dropout  share of values dropped while training after each convolution of a block and each halving
    """

    down: tuple[int, ...]
    bottom: int
    growth: int
    width: int
    dropout: float

    def __post_init__(self) -> None:
        check_argument("growth", self.growth, lowest=1, highest=256)
        check_argument("width", self.width, lowest=1, highest=1024)
        check_argument("dropout", self.dropout, lowest=0, highest=0.95)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the pile at the end of each block on the way down.

        >>> DensePlan(down=(4, 5), bottom=1, growth=16, width=48, dropout=0.2).channels
        (112, 192)
        """
        _, *piles = accumulate(self.down, lambda pile, layers: pile + layers * self.growth, initial=self.width)
        return tuple(piles)


class FCDenseNet(nn.Module):
    """The network of a plan."""

    def __init__(self, in_channels: int, classes: int, plan: DensePlan) -> None:
        super().__init__()
        self.stride = 2 ** len(plan.down)
        self.supervised = ()
        self.encoder = DenseEncoder(in_channels, plan)
        self.up = nn.ModuleList()
        self.blocks = nn.ModuleList()
        new = self.encoder.channels[-1]
        for layers, skip in zip(reversed(plan.down), reversed(plan.channels), strict=True):
            self.up.append(nn.ConvTranspose2d(new, new, 3, stride=2))
            self.blocks.append(DenseBlock(new + skip, layers, plan))
            pile, new = new + skip, layers * plan.growth
        self.head = nn.Conv2d(pile + new, classes, 1)
        _start(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        *skips, new = self.encoder(image_BCHW)
        for up, block, skip in zip(self.up, self.blocks, reversed(skips), strict=True):
            pile = join_upsampled(up(new), skip)
            new = block(pile)
        logits_BKHW: Tensor = self.head(torch.cat([pile, new], dim=1))
        return logits_BKHW


class DenseEncoder(nn.Module):
    """The way down: the piles at strides 1, 2, 4, ..., and last the new maps of the block at the bottom."""

    def __init__(self, in_channels: int, plan: DensePlan) -> None:
        super().__init__()
        self.timm_name = ""
        self.channels = (*plan.channels, plan.bottom * plan.growth)
        self.strides = tuple(2**level for level in range(len(self.channels)))
        before = (plan.width, *plan.channels)
        self.first = nn.Conv2d(in_channels, plan.width, 3, padding=1)
        self.blocks = nn.ModuleList(
            DenseBlock(pile, layers, plan) for pile, layers in zip(before, (*plan.down, plan.bottom), strict=True)
        )
        self.down = nn.ModuleList(norm_relu_conv(pile, pile, 1, dropout=plan.dropout) for pile in plan.channels)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        *blocks, bottom = self.blocks
        pile, features = self.first(image_BCHW), []
        for block, down in zip(blocks, self.down, strict=True):
            features.append(torch.cat([pile, block(pile)], dim=1))
            pile = F.max_pool2d(down(features[-1]), 2, ceil_mode=True)
        return [*features, bottom(pile)]


class DenseBlock(nn.Module):
    """Layers of which each sees the maps given and those of all layers before it; gives the new maps of all layers.

    >>> plan = DensePlan(down=(4,), bottom=4, growth=12, width=48, dropout=0.2)
    >>> DenseBlock(48, 4, plan)(torch.zeros(1, 48, 5, 7)).shape
    torch.Size([1, 48, 5, 7])
    """

    def __init__(self, in_channels: int, layers: int, plan: DensePlan) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            norm_relu_conv(in_channels + layer * plan.growth, plan.growth, 3, dropout=plan.dropout)
            for layer in range(layers)
        )

    def forward(self, pile_BCHW: Tensor) -> Tensor:
        new: list[Tensor] = []
        for layer in self.layers:
            new.append(layer(torch.cat([pile_BCHW, *new], dim=1)))
        return torch.cat(new, dim=1)


def norm_relu_conv(in_channels: int, channels: int, kernel: int, *, dropout: float) -> nn.Sequential:
    """Batch norm, ReLU, convolution with bias that keeps the size, dropout (the paper's table 1)."""
    return nn.Sequential(
        BatchNorm(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2),
        nn.Dropout(dropout),
    )


def join_upsampled(up_BCHW: Tensor, skip_BCHW: Tensor) -> Tensor:
    """The enlarged maps, cut to the size of the skip connection, and the skip connection.

    A transposed convolution with kernel 3, stride 2 and no padding makes 2 n + 1 pixels of n: one more than 2 n, two
    more than the 2 n - 1 that were rounded up to n. They are cut off at the end. For 2 n that is what the release's cut
    in the middle does; for all sizes alike, it keeps each pixel in its place whatever the size of the image.

    >>> join_upsampled(torch.zeros(1, 8, 5, 7), torch.zeros(1, 2, 4, 5)).shape
    torch.Size([1, 10, 4, 5])
    """
    height, width = skip_BCHW.shape[-2:]
    return torch.cat([up_BCHW[..., :height, :width], skip_BCHW], dim=1)


def _start(network: nn.Module) -> None:
    """Weights of He et al. (ICCV 2015) drawn uniformly, biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


PAPER = (
    "Jégou, Drozdzal, Vázquez, Romero, Bengio: The One Hundred Layers Tiramisu: Fully Convolutional DenseNets for "
    "Semantic Segmentation. CVPR Workshops 2017"
)

FC_DENSENET56 = Architecture(
    build=fc_densenet56,
    paper=PAPER,
    year=2017,
    link="arXiv 1611.09326",
    published=Published(classes=11, size=(224, 224), parameters=1_376_795),
    small={"growth": 4, "width": 16},
)
FC_DENSENET67 = Architecture(
    build=fc_densenet67,
    paper=PAPER,
    year=2017,
    link="arXiv 1611.09326",
    published=Published(classes=11, size=(224, 224), parameters=3_463_243),
    small={"growth": 4, "width": 16},
)
FC_DENSENET103 = Architecture(
    build=fc_densenet103,
    paper=PAPER,
    year=2017,
    link="arXiv 1611.09326",
    published=Published(classes=11, size=(224, 224), parameters=9_322_091),
    small={"growth": 2, "width": 16},
)
