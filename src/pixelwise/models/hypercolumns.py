"""Hypercolumns: Hariharan, Arbelaez, Girshick, Malik, "Hypercolumns for Object Segmentation and Fine-grained
Localization", CVPR 2015, arXiv 1411.5752.

In words: the hypercolumn of a pixel is the stack of all activations above it, those of coarse maps interpolated
bilinearly. A linear classifier of hypercolumns is a 1x1 convolution of each map whose scores are enlarged and summed
(section 5): the stack itself is never made. Where a place matters, as within the box of an object, a grid of
classifiers covers the image, and each pixel is judged by those around it, interpolated (section 3.2).

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.contracts import Architecture, Encoder, Published, check_argument
from pixelwise.models.convolution import conv_relu
from pixelwise.models.encoders import build_encoder
from pixelwise.models.enlarge import enlarge
from pixelwise.models.vgg import VGGStages

VGG16_COLUMNS = "vgg16_fc7"


class Hypercolumns(nn.Module):
    """A linear classifier of the hypercolumns of all maps of `encoder`.

    grid    classifiers in each direction; the paper has 5 and 10 for boxes of objects. With more than 1 a pixel is
            judged by its place in the image, so that a tile is judged unlike the same pixels of the whole.

    The paper interpolates the probabilities of neighbouring classifiers, this their logits.

    >>> Hypercolumns(build_encoder("resnet18", 3), 2, grid=5)(torch.zeros(1, 3, 33, 1)).shape
    torch.Size([1, 2, 33, 1])
    """

    def __init__(self, encoder: Encoder, classes: int, *, grid: int = 1) -> None:
        check_argument("grid", grid, lowest=1, highest=32)
        super().__init__()
        self.encoder = encoder
        self.stride = math.lcm(*encoder.strides)
        self.supervised = ()
        self.grid = grid
        self.classifiers = nn.ModuleList(
            nn.Conv2d(channels, grid**2 * classes, 1, bias=index == 0)  # one bias serves the sum
            for index, channels in enumerate(encoder.channels)
        )

    def forward(self, image_BCHW: Tensor) -> Tensor:
        size = image_BCHW.shape[-2:]
        scores = [classify(f) for classify, f in zip(self.classifiers, self.encoder(image_BCHW), strict=True)]
        if self.grid == 1:
            return self._summed(scores, size)

        # Cell by cell, as all cells at the size of the image would take grid squared times the memory.
        cells = zip(*(map_BCHW.chunk(self.grid**2, dim=1) for map_BCHW in scores), strict=True)
        shares = grid_shares(self.grid, size, device=image_BCHW.device).to(scores[0].dtype)
        weighted: list[Tensor] = [
            share_HW * self._summed(cell, size) for share_HW, cell in zip(shares, cells, strict=True)
        ]
        return sum(weighted[1:], start=weighted[0])

    def _summed(self, scores: list[Tensor] | tuple[Tensor, ...], size: torch.Size) -> Tensor:
        enlarged = [
            enlarge(map_BKHW, size, factor=stride)
            for map_BKHW, stride in zip(scores, self.encoder.strides, strict=True)
        ]
        return sum(enlarged[1:], start=enlarged[0])


def grid_shares(grid: int, size: torch.Size | tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """How much each classifier of a `grid` x `grid` counts at each pixel: (grid squared, H, W), of sum 1.

    At the centre of a cell its own classifier counts alone, between centres the nearest four, bilinearly.

    >>> grid_shares(2, (1, 4))[:2, 0].tolist()
    [[0.5, 0.375, 0.125, 0.0], [0.0, 0.125, 0.375, 0.5]]
    """
    each = torch.eye(grid**2, device=device).view(1, grid**2, grid, grid)
    return F.interpolate(each, size=tuple(size), mode="bilinear", align_corners=False)[0]


class VGG16Columns(nn.Module):
    """VGG16 for hypercolumns: its maps pool2, conv4_3 and fc7, the fully connected layers made convolutions.

    fc6 is padded so that fc7 has a value for every pixel of pool5. The weights of timm's vgg16 fit in their order.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.timm_name = "vgg16"
        self.channels: tuple[int, ...] = (128, 512, 4096)
        self.strides: tuple[int, ...] = (4, 8, 32)
        self.stages = VGGStages(in_channels)
        self.fc6 = conv_relu(512, 4096, 7)
        self.fc7 = conv_relu(4096, 4096, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        conv1, conv2, conv3, conv4, conv5 = self.stages
        pool2 = _pool(conv2(_pool(conv1(image_BCHW))))
        map4 = conv4(_pool(conv3(pool2)))
        pool5 = _pool(conv5(_pool(map4)))
        return [pool2, map4, self.fc7(self.dropout(self.fc6(pool5)))]


def _pool(feature_BCHW: Tensor) -> Tensor:
    return F.max_pool2d(feature_BCHW, 2, ceil_mode=True)


def hypercolumns(in_channels: int, classes: int, *, encoder: str = VGG16_COLUMNS, grid: int = 1) -> Hypercolumns:
    """Hypercolumns of the paper's maps of VGG16 ("vgg16_fc7"), or of the encoder of that name, a network of timm."""
    columns = VGG16Columns(in_channels) if encoder == VGG16_COLUMNS else build_encoder(encoder, in_channels)
    return Hypercolumns(columns, classes, grid=grid)


HYPERCOLUMNS = Architecture(
    build=hypercolumns,
    paper="Hariharan, Arbelaez, Girshick, Malik: Hypercolumns for Object Segmentation and Fine-grained Localization. "
    "CVPR 2015",
    year=2015,
    link="arXiv 1411.5752",
    published=Published(classes=21, size=(224, 224), parameters=134_360_021),
    small={"encoder": "mobilenetv3_small_050"},
)
