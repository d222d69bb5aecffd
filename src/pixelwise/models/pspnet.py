"""PSPNet: Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017, arXiv 1612.01105.

Figure 3 in words: an encoder that stops shrinking at an eighth of the image; its last map is averaged in 1, 2x2, 3x3
and 6x6 regions (pyramid pooling); each set of averages is projected, interpolated to the size of the map and put beside
it; a 3x3 convolution joins them and a 1x1 convolution gives the logits. While training, a second classifier may look at
the last but one map of the encoder (section 4); it is not part of the network.

The ResNets of the authors begin with three 3x3 convolutions (64, 64 and 128 channels) in the place of one of 7x7.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pixelwise.models.contracts import Architecture, Encoder, Published, check_argument, check_choice
from pixelwise.models.convolution import conv_norm_relu
from pixelwise.models.deeplab import enlarge_aligned
from pixelwise.models.encoders import build_encoder
from pixelwise.models.upsample import resize_to

BINS = (1, 2, 3, 6)


class PSPNet(nn.Module):
    """Pyramid pooling on the last map of an encoder.

    bins      rows (and columns) of regions of each level of the pyramid
    channels  of the map that joins the levels
    dropout   share of the joined channels dropped while training

    >>> from pixelwise.models.deeplab import AtrousVGG
    >>> network = PSPNet(AtrousVGG(3, width=4), 21, channels=8)
    >>> network(torch.zeros(1, 3, 31, 33)).shape, network.supervised
    (torch.Size([1, 21, 31, 33]), ('encoder:-2',))
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        bins: Sequence[int] = BINS,
        channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        check_argument("channels", channels, lowest=1, highest=65536)
        check_argument("dropout", dropout, lowest=0, highest=0.95)
        super().__init__()
        self.stride = encoder.strides[-1]
        self.supervised = ("encoder:-2",) if len(encoder.channels) > 1 else ()
        self.encoder = encoder
        self.pyramid = PyramidPooling(encoder.channels[-1], bins)
        self.join = conv_norm_relu(self.pyramid.channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        feature = self.encoder(image_BCHW)[-1]
        joined = self.dropout(self.join(self.pyramid(feature)))
        return enlarge_aligned(self.head(joined), image_BCHW.shape[-2:], factor=self.stride)


class PyramidPooling(nn.Module):
    """The map beside its averages in regions, from one region to many.

    Each level has the channels of the map divided by the number of levels, so that all of them together have as many.

    channels  of what it gives

    >>> PyramidPooling(8, (1, 2)).eval()(torch.zeros(1, 8, 5, 3)).shape
    torch.Size([1, 16, 5, 3])
    """

    def __init__(self, in_channels: int, bins: Sequence[int] = BINS) -> None:
        for count in bins:
            check_argument("bins", count, lowest=1, highest=64)
        super().__init__()
        level_channels = max(in_channels // len(bins), 1)
        self.bins = tuple(bins)
        self.channels = in_channels + level_channels * len(bins)
        self.levels = nn.ModuleList(conv_norm_relu(in_channels, level_channels, 1) for _ in bins)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        size = feature_BCHW.shape[-2:]
        maps = [feature_BCHW]
        for count, level in zip(self.bins, self.levels, strict=True):
            maps.append(resize_to(level(region_averages(feature_BCHW, count)), size, align_corners=True))
        return torch.cat(maps, dim=1)


def region_averages(feature_BCHW: Tensor, count: int) -> Tensor:
    """Averages of `count` x `count` regions that cover the map: (B, C, count, count).

    Region i of n takes the rows from floor(i H / n) to ceil((i + 1) H / n): neighbours share a row where n does not
    divide H, and none is empty, however small the map. These are the regions of torch's adaptive average pooling, which
    has no deterministic gradient on GPUs and is exported wrongly where sizes are to stay open.

    >>> region_averages(torch.tensor([[[[1.0, 2.0, 6.0]]]]), 2).tolist()
    [[[[1.5, 4.0], [1.5, 4.0]]]]
    """
    return _averages(_averages(feature_BCHW, count, dim=-2), count, dim=-1)


def _averages(feature_BCHW: Tensor, count: int, *, dim: int) -> Tensor:
    """One dimension of `region_averages`: a region is a rectangle, so that the average of averages is exact."""
    length = feature_BCHW.shape[dim]
    starts = [index * length // count for index in range(count)]
    ends = [((index + 1) * length + count - 1) // count for index in range(count)]
    regions = [feature_BCHW.narrow(dim, start, end - start) for start, end in zip(starts, ends, strict=True)]
    return torch.cat([region.mean(dim, keepdim=True) for region in regions], dim=dim)


def pspnet(
    in_channels: int,
    classes: int,
    *,
    encoder: str = "resnet101s",
    output_stride: int = 8,
    channels: int = 512,
    dropout: float = 0.1,
) -> PSPNet:
    """PSPNet on an encoder of timm.

    output_stride  of the encoder's last map: 8, 16 or 32; encoders that always shrink by 32 only have the last

    Further arguments as in `PSPNet`. Raises UsageError for an output stride that the encoder does not have.
    """
    check_choice("output_stride", output_stride, (8, 16, 32))
    network = build_encoder(encoder, in_channels, output_stride=output_stride)
    return PSPNet(network, classes, channels=channels, dropout=dropout)


PSPNET = Architecture(
    build=pspnet,
    paper="Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network. CVPR 2017",
    year=2017,
    link="arXiv 1612.01105",
    published=Published(classes=21, size=(473, 473), parameters=65_708_501),
    small={"encoder": "mobilenetv3_small_050", "channels": 32},
)
