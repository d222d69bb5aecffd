"""The convolutions of VGG, on which many papers build: Simonyan and Zisserman, "Very Deep Convolutional Networks for
Large-Scale Image Recognition", ICLR 2015, arXiv 1409.1556, table 1 (A: 11 layers, B: 13, D: 16, E: 19).

Stages of 3x3 convolutions with ReLU; the papers differ in how they pool between the stages, so each of them pools
itself. B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from torch import nn

from pixelwise.models.contracts import check_choice

VGG_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
VGG_WIDTHS = (1, 2, 4, 8, 8)


class VGGStages(nn.ModuleList):
    """The five stages of VGG, without the pooling between them.

    layers     11, 13, 16 or 19
    width      channels of the first stage, 64 in the paper; the others have 2, 4, 8 and 8 times as many
    border     zeros added around the image by the first convolution; 1 keeps the size, FCN has 100
    dilations  rate of the convolutions of each stage
    channels   channels that each stage gives

    `timm_name` is the network of timm whose pretrained convolutions have the same order and, at width 64, shapes.
    Raises UsageError for another number of layers.

    >>> sum(p.numel() for p in VGGStages(3).parameters())
    14714688
    """

    def __init__(
        self,
        in_channels: int,
        *,
        layers: int = 16,
        width: int = 64,
        border: int = 1,
        dilations: tuple[int, ...] = (1, 1, 1, 1, 1),
    ) -> None:
        check_choice("layers", layers, VGG_CONVOLUTIONS)
        super().__init__()
        self.timm_name = f"vgg{layers}"
        self.channels = tuple(width * factor for factor in VGG_WIDTHS)
        before = in_channels
        for count, channels, dilation in zip(VGG_CONVOLUTIONS[layers], self.channels, dilations, strict=True):
            stage = nn.Sequential()
            for _ in range(count):
                stage.append(nn.Conv2d(before, channels, 3, padding=dilation, dilation=dilation))
                stage.append(nn.ReLU(inplace=True))
                before = channels
            self.append(stage)
        first = next(layer for layer in self.modules() if isinstance(layer, nn.Conv2d))
        first.padding = (border, border)
