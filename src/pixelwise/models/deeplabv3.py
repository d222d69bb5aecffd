"""DeepLab v3 and v3+: Chen, Papandreou, Schroff, Adam; Chen, Zhu, Papandreou, Schroff, Adam.

    v3   "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv 1706.05587
    v3+  "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018,
         arXiv 1802.02611

Figure 5 of v3 in words: an encoder that stops shrinking at a sixteenth (or an eighth) of the image; side by side on its
last map a 1x1 convolution, three 3x3 convolutions with taps at different distances, and the average of the whole map;
the five are joined by a 1x1 convolution; another gives the logits, bilinear interpolation their size. Figure 2 of v3+:
the joined map is enlarged to the encoder's map at a quarter of the image, put beside its 48 projected channels, and two
3x3 convolutions bring back the outlines.

Maps are enlarged as torchvision does, with the outer edges of the corners in place; the release aligns their centres,
for images of 16 k + 1 pixels.

v1 and v2 are in `deeplab.py`, which v3 would make longer than a file may be; of their ASPP, a sum of classifiers, only
the name and the idea are left here.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from pixelwise.errors import UsageError
from pixelwise.models.contracts import Architecture, Encoder, Published, check_argument, check_choice
from pixelwise.models.convolution import conv_norm_relu, separable_conv_norm_relu
from pixelwise.models.deeplab import rates_at
from pixelwise.models.encoders import TimmEncoder, build_encoder
from pixelwise.models.enlarge import enlarge

RATES, RATES_STRIDE = (6, 12, 18), 16
MULTI_GRID = (1, 2, 4)
LOW_LEVEL_STRIDE, LOW_LEVEL_CHANNELS = 4, 48


class DeepLabV3(nn.Module):
    """ASPP on the last map of an encoder.

    The rates are 6, 12 and 18 at stride 16, doubled at stride 8, halved at 32; see `rates_at`.

    channels   of each branch of the ASPP and of what it gives
    separable  whether its 3x3 convolutions are depthwise separable, as v3+ has them
    dropout    share of values dropped while training after the ASPP, 0.1 in the authors' release

    >>> from pixelwise.models.deeplab import AtrousVGG
    >>> DeepLabV3(AtrousVGG(3, width=4), 21, channels=8).eval()(torch.zeros(1, 3, 31, 33)).shape
    torch.Size([1, 21, 31, 33])
    """

    def __init__(
        self, encoder: Encoder, classes: int, *, channels: int = 256, separable: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.stride = encoder.strides[-1]
        self.supervised = ()
        self.encoder = encoder
        self.aspp = _aspp(encoder, channels, separable=separable, dropout=dropout)
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        feature = self.encoder(image_BCHW)[-1]
        return enlarge(self.head(self.aspp(feature)), image_BCHW.shape[-2:], factor=self.stride)


class DeepLabV3Plus(nn.Module):
    """DeepLab v3 with a decoder, on the encoder's map at stride 4 (or the one before, or the shallowest it has).

    Arguments as in `DeepLabV3`; `separable` holds for the 3x3 convolutions of the decoder too.

    >>> from pixelwise.models.deeplab import AtrousVGG
    >>> DeepLabV3Plus(AtrousVGG(3, width=4), 21, channels=8).eval()(torch.zeros(1, 3, 31, 33)).shape
    torch.Size([1, 21, 31, 33])
    """

    def __init__(
        self, encoder: Encoder, classes: int, *, channels: int = 256, separable: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.level = low_level_index(encoder.strides)
        self.strides = (encoder.strides[self.level], encoder.strides[-1])
        self.stride = math.lcm(*self.strides)
        self.supervised = ()
        self.encoder = encoder
        self.aspp = _aspp(encoder, channels, separable=separable, dropout=dropout)
        self.low_level = conv_norm_relu(encoder.channels[self.level], LOW_LEVEL_CHANNELS, 1)
        convolution = separable_conv_norm_relu if separable else conv_norm_relu
        self.decoder = nn.Sequential(
            convolution(channels + LOW_LEVEL_CHANNELS, channels), convolution(channels, channels)
        )
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        features = self.encoder(image_BCHW)
        low_stride, deep_stride = self.strides
        low = self.low_level(features[self.level])
        deep = enlarge(self.aspp(features[-1]), low.shape[-2:], factor=deep_stride / low_stride)
        logits_BKHW = self.head(self.decoder(torch.cat([deep, low], dim=1)))
        return enlarge(logits_BKHW, image_BCHW.shape[-2:], factor=low_stride)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling of v3: five branches, each with batch norm and ReLU, joined by a 1x1 convolution.

    rates  distances of the taps of its 3x3 convolutions

    The image-level branch averages the whole map; a map of one value trains too, see `BatchNorm`.

    >>> sum(p.numel() for p in ASPP(2048, 256, (6, 12, 18)).parameters())
    15535104
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: tuple[int, ...],
        *,
        separable: bool = False,
        dropout: float = 0.1,
    ) -> None:
        check_argument("channels", channels, lowest=1, highest=4096)
        check_argument("dropout", dropout, lowest=0, highest=0.95)
        super().__init__()
        convolution = separable_conv_norm_relu if separable else conv_norm_relu
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, channels, 1)])
        self.branches.extend(convolution(in_channels, channels, dilation=rate) for rate in rates)
        self.image_level = conv_norm_relu(in_channels, channels, 1)
        self.project = conv_norm_relu((len(rates) + 2) * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        height, width = feature_BCHW.shape[-2:]
        average = self.image_level(feature_BCHW.mean((-2, -1), keepdim=True))
        maps = [branch(feature_BCHW) for branch in self.branches]
        joined = torch.cat([*maps, average.expand(-1, -1, height, width)], dim=1)
        projected: Tensor = self.dropout(self.project(joined))
        return projected


def low_level_index(strides: tuple[int, ...]) -> int:
    """Which of an encoder's maps v3+ takes for the outlines: the deepest of stride 4 or less, else the first.

    >>> low_level_index((2, 4, 8, 16, 16)), low_level_index((3, 6)), low_level_index((8, 16))
    (1, 0, 0)
    """
    return max(bisect.bisect_right(strides, LOW_LEVEL_STRIDE) - 1, 0)


def set_multi_grid(blocks: Sequence[nn.Module], *, rate: int) -> None:
    """Give the convolutions of three residual blocks the rates `rate`, 2 `rate` and 4 `rate` (v3, section 3.2.1).

    1x1 convolutions, which have no taps to set apart, and strides stay as they are, and so do the sizes of all maps.
    """
    for block, factor in zip(blocks, MULTI_GRID, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size > (1, 1):
                layer.dilation = (rate * factor, rate * factor)
                layer.padding = tuple(rate * factor * (kernel // 2) for kernel in layer.kernel_size)


def last_resnet_stage(encoder: nn.Module) -> list[nn.Module]:
    """The residual blocks of the last stage of a ResNet of timm; none for networks made of other blocks.

    >>> len(last_resnet_stage(build_encoder("resnet18", 3)))
    2
    """
    found: list[nn.Module] = []
    for module in encoder.modules():
        blocks = list(module.children())
        if blocks and all(isinstance(block, BasicBlock | Bottleneck) for block in blocks):
            found = blocks
    return found


def deeplabv3(
    in_channels: int,
    classes: int,
    *,
    encoder: str = "resnet101",
    output_stride: int = 16,
    multi_grid: str = "auto",
    channels: int = 256,
    separable: bool = False,
    dropout: float = 0.1,
) -> DeepLabV3:
    """DeepLab v3 on an encoder of timm.

    output_stride  of the encoder's last map: 8, 16 or 32; encoders that always shrink by 32 only have the last
    multi_grid     "on" sets the taps of the three last blocks of a ResNet apart as the paper does, and refuses other
                   encoders; "off" leaves them evenly spaced; "auto" is "on" where it can be done and "off" elsewhere,
                   as for Xception in v3+

    Further arguments as in `DeepLabV3`. Raises UsageError for an output stride that the encoder does not have.
    """
    network = _encoder(encoder, in_channels, output_stride=output_stride, multi_grid=multi_grid)
    return DeepLabV3(network, classes, channels=channels, separable=separable, dropout=dropout)


def deeplabv3plus(
    in_channels: int,
    classes: int,
    *,
    encoder: str = "resnet101",
    output_stride: int = 16,
    multi_grid: str = "auto",
    channels: int = 256,
    separable: bool = False,
    dropout: float = 0.1,
) -> DeepLabV3Plus:
    """DeepLab v3+ on an encoder of timm. Arguments as in `deeplabv3`."""
    network = _encoder(encoder, in_channels, output_stride=output_stride, multi_grid=multi_grid)
    return DeepLabV3Plus(network, classes, channels=channels, separable=separable, dropout=dropout)


def _encoder(name: str, in_channels: int, *, output_stride: int, multi_grid: str) -> TimmEncoder:
    check_choice("output_stride", output_stride, (8, 16, 32))
    check_choice("multi_grid", multi_grid, ("auto", "on", "off"))
    encoder = build_encoder(name, in_channels, output_stride=output_stride)
    blocks = last_resnet_stage(encoder)
    if len(blocks) == len(MULTI_GRID) and multi_grid != "off":
        set_multi_grid(blocks, rate=32 // output_stride)
    elif multi_grid == "on":
        raise UsageError(
            f"multi_grid = on: the encoder {name} does not end in three blocks of a ResNet; choose auto or off"
        )
    return encoder


def _aspp(encoder: Encoder, channels: int, *, separable: bool, dropout: float) -> ASPP:
    rates = rates_at(encoder.strides[-1], RATES, paper_stride=RATES_STRIDE)
    return ASPP(encoder.channels[-1], channels, rates, separable=separable, dropout=dropout)


DEEPLABV3 = Architecture(
    build=deeplabv3,
    paper="Chen, Papandreou, Schroff, Adam: Rethinking Atrous Convolution for Semantic Image Segmentation. arXiv 2017",
    year=2017,
    link="arXiv 1706.05587",
    published=Published(classes=21, size=(513, 513), parameters=58_040_661),
    small={"encoder": "mobilenetv3_small_050", "channels": 32},
)
DEEPLABV3PLUS = Architecture(
    build=deeplabv3plus,
    paper="Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution for Semantic Image "
    "Segmentation. ECCV 2018",
    year=2018,
    link="arXiv 1802.02611",
    published=Published(classes=21, size=(513, 513), parameters=59_344_309),
    small={"encoder": "mobilenetv3_small_050", "channels": 32},
)
