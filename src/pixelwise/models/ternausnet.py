"""TernausNet: Iglovikov, Shvets, "TernausNet: U-Net with VGG11 Encoder Pre-Trained on ImageNet for Image Segmentation",
2018, arXiv 1801.05746; with VGG16: Shvets, Rakhlin, Kalinin, Iglovikov, "Automatic Instrument Segmentation in
Robot-Assisted Surgery Using Deep Learning", ICMLA 2018, arXiv 1803.01207.

Figure 1 in words: a U-Net whose way down is VGG, so that it may start from what VGG learned on ImageNet. After the
fifth pooling comes the first step up; each step doubles the size and is joined by the map of the same size from the way
down. One more convolution, then 1x1. There is no batch norm.

    ternausnet11   VGG11; a step is a convolution, then a transposed convolution (kernel 3)
    ternausnet16   VGG16; a step is bilinear interpolation, then two convolutions; or, as with VGG11, a convolution,
                   then a transposed convolution (kernel 4, a multiple of the stride: all pixels weigh alike)

Without pretrained weights all start as in He et al. (ICCV 2015): without batch norm, values would else fade on the way
through so many layers.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.contracts import Architecture, Published, check_argument, check_choice
from pixelwise.models.convolution import conv_relu
from pixelwise.models.unet import initialise
from pixelwise.models.upsample import upsampling as upsampling_operator
from pixelwise.models.vgg import VGGStages

# Channels after the convolution in the middle of each step up, deepest first, in units of the width.
MIDDLE = (8, 8, 8, 4, 2)


def ternausnet11(in_channels: int, classes: int, *, width: int = 64) -> TernausNet:
    """TernausNet on VGG11.

    `width` is the number of channels of VGG's first stage, to which all others are in proportion.

    >>> ternausnet11(3, 1, width=4)(torch.zeros(1, 3, 5, 7)).shape
    torch.Size([1, 1, 5, 7])
    """
    check_argument("width", width, lowest=2, highest=1024)
    encoder = VGGStages(in_channels, layers=11, width=width)
    channels = (4 * width, 4 * width, 2 * width, width, width // 2)
    return TernausNet(encoder, classes, channels=channels, step=partial(transposed_step, kernel=3))


def ternausnet16(in_channels: int, classes: int, *, width: int = 64, upsampling: str = "bilinear") -> TernausNet:
    """TernausNet on VGG16.

    width       channels of VGG's first stage, to which all others are in proportion
    upsampling  "bilinear" or "transposed": how a step up doubles the size

    >>> ternausnet16(3, 1, width=4)(torch.zeros(1, 3, 5, 7)).shape
    torch.Size([1, 1, 5, 7])
    """
    check_argument("width", width, lowest=2, highest=1024)
    check_choice("upsampling", upsampling, STEPS)
    encoder = VGGStages(in_channels, layers=16, width=width)
    channels = (4 * width, 4 * width, 4 * width, width, width // 2)
    return TernausNet(encoder, classes, channels=channels, step=STEPS[upsampling])


class TernausNet(nn.Module):
    """A U-Net on the stages of VGG.

    channels  channels after each of the five steps up, deepest first
    step      makes a step up: (channels in, in the middle, out) to a module that doubles the size
    """

    def __init__(
        self, encoder: VGGStages, classes: int, *, channels: tuple[int, ...], step: Callable[[int, int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.stride = 32
        self.supervised = ()
        self.encoder = encoder
        width, skips = encoder.channels[0], encoder.channels[::-1]
        joined = (encoder.channels[-1], *map(sum, zip(channels, skips, strict=True)))
        self.decoder = nn.ModuleList(
            step(before, width * factor, after)
            for before, factor, after in zip(joined[:-1], MIDDLE, channels, strict=True)
        )
        self.last = conv_relu(joined[-1], channels[-1])
        self.head = nn.Conv2d(channels[-1], classes, 1)
        initialise(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        # The way down.
        skips, feature = [], image_BCHW
        for stage in self.encoder:
            skips.append(stage(feature))
            feature = F.max_pool2d(skips[-1], 2, ceil_mode=True)

        # The way up.
        for step, skip in zip(self.decoder, reversed(skips), strict=True):
            height, width = skip.shape[-2:]
            up = step(feature)[..., :height, :width]  # a level of odd size was rounded up on the way down
            feature = torch.cat([up, skip], dim=1)
        logits_BKHW: Tensor = self.head(self.last(feature))
        return logits_BKHW


def transposed_step(in_channels: int, middle: int, channels: int, *, kernel: int) -> nn.Sequential:
    """Convolution, ReLU, transposed convolution of stride 2 with a kernel of 3 or 4, ReLU."""
    return nn.Sequential(
        conv_relu(in_channels, middle),
        nn.ConvTranspose2d(middle, channels, kernel, stride=2, padding=1, output_padding=kernel % 2),
        nn.ReLU(inplace=True),
    )


def bilinear_step(in_channels: int, middle: int, channels: int) -> nn.Sequential:
    """Bilinear interpolation, then twice convolution and ReLU."""
    return nn.Sequential(
        upsampling_operator("bilinear", in_channels, in_channels),
        conv_relu(in_channels, middle),
        conv_relu(middle, channels),
    )


STEPS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "bilinear": bilinear_step,
    "transposed": partial(transposed_step, kernel=4),
}

TERNAUSNET11 = Architecture(
    build=ternausnet11,
    paper="Iglovikov, Shvets: TernausNet: U-Net with VGG11 Encoder Pre-Trained on ImageNet for Image Segmentation. "
    "arXiv 2018",
    year=2018,
    link="arXiv 1801.05746",
    published=Published(classes=1, size=(256, 256), parameters=22_927_393),
    small={"width": 6},
)
TERNAUSNET16 = Architecture(
    build=ternausnet16,
    paper="Shvets, Rakhlin, Kalinin, Iglovikov: Automatic Instrument Segmentation in Robot-Assisted Surgery Using Deep "
    "Learning. ICMLA 2018",
    year=2018,
    link="arXiv 1803.01207",
    published=Published(classes=1, size=(256, 256), parameters=29_306_465),
    small={"width": 6},
)
