"""ParseNet: Liu, Rabinovich, Berg, "ParseNet: Looking Wider to See Better", 2015, arXiv 1506.04579.

Figure 1 (e) in words: the average of a map over the whole image is laid out at every position and put beside the map;
as the two differ in scale, each is first brought to length 1 over its channels, then multiplied by learned factors. A
1x1 convolution on both gives the logits (early fusion).

The network beneath is DeepLab-LargeFOV, whose fc7 is the map. B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.contracts import Architecture, Encoder, Published, check_argument
from pixelwise.models.deeplab import AtrousVGG, atrous_fully_connected, enlarge_aligned, start_small

EPSILON = 1e-10


class ParseNet(nn.Module):
    """A classifier with a large field of view that also sees the average of the whole image.

    channels  of fc6 and fc7
    scale     length of the normalised vectors at the start

    >>> ParseNet(AtrousVGG(3, width=4), 21, channels=16).eval()(torch.zeros(1, 3, 31, 33)).shape
    torch.Size([1, 21, 31, 33])
    """

    def __init__(self, encoder: Encoder, classes: int, *, channels: int = 1024, scale: float = 10.0) -> None:
        super().__init__()
        self.stride = encoder.strides[-1]
        self.supervised = ()
        self.encoder = encoder
        self.fully_connected = atrous_fully_connected(encoder.channels[-1], channels)
        self.context = GlobalContext(channels, scale=scale)
        self.head = nn.Conv2d(2 * channels, classes, 1)
        start_small(self.head)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        averaged = F.avg_pool2d(self.encoder(image_BCHW)[-1], 3, stride=1, padding=1)
        feature = self.fully_connected(averaged)
        logits_BKHW = self.head(self.context(feature))
        return enlarge_aligned(logits_BKHW, image_BCHW.shape[-2:], factor=self.stride)


class GlobalContext(nn.Module):
    """The map and, at each of its positions, its average over the whole image, both normalised: (B, 2 C, H, W).

    Section 3.1.
    """

    def __init__(self, channels: int, *, scale: float = 10.0) -> None:
        super().__init__()
        self.normalise_map = L2Norm(channels, scale=scale)
        self.normalise_average = L2Norm(channels, scale=scale)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        height, width = feature_BCHW.shape[-2:]
        average = self.normalise_average(feature_BCHW.mean((-2, -1), keepdim=True))
        return torch.cat([self.normalise_map(feature_BCHW), average.expand(-1, -1, height, width)], dim=1)


class L2Norm(nn.Module):
    """Vectors over the channels brought to length 1, then each channel times a factor that is learned (section 3.3).

    scale  of all channels at the start; with 1 the network hardly trains, 10 to 20 do well, says the paper

    >>> L2Norm(2)(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).flatten().tolist()
    [6.0, 8.0]
    """

    def __init__(self, channels: int, *, scale: float = 10.0) -> None:
        check_argument("scale", scale, lowest=1e-3, highest=1e3)
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), float(scale)))

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        squares = feature_BCHW.float().square().sum(1, keepdim=True)
        return feature_BCHW * torch.rsqrt(squares + EPSILON) * self.scale


def parsenet(in_channels: int, classes: int, *, scale: float = 10.0, width: int = 64) -> ParseNet:
    """ParseNet on DeepLab-LargeFOV.

    scale  length of the normalised vectors at the start
    width  channels of VGG's first stage; all others follow
    """
    return ParseNet(AtrousVGG(in_channels, width=width), classes, channels=16 * width, scale=scale)


PARSENET = Architecture(
    build=parsenet,
    paper="Liu, Rabinovich, Berg: ParseNet: Looking Wider to See Better. arXiv 2015",
    year=2015,
    link="arXiv 1506.04579",
    published=Published(classes=21, size=(321, 321), parameters=20_528_981),
    small={"width": 6},
)
