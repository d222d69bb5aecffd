"""U-Net on any encoder: the way down is a network that was made, and perhaps trained, for recognition.

Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, arXiv 1505.04597, whose contracting path is replaced as Iglovikov and
Shvets did, "TernausNet: U-Net with VGG11 Encoder Pre-Trained on ImageNet for Image Segmentation", 2018, arXiv
1801.05746. With resnet34 the decoder is the one that segmentation_models_pytorch made common.

The figure in words: the encoder gives maps from shallow to deep; from the deepest, each step up enlarges the map to
the size of the next shallower one, joins the two, and applies two 3x3 convolutions with batch norm; where the encoder's
shallowest map is already smaller than the image, a last step without a partner leads to the full size; a 3x3
convolution gives the logits.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pixelwise.models.contracts import Architecture, Encoder, Published, check_argument
from pixelwise.models.convolution import conv_norm_relu
from pixelwise.models.encoders import build_encoder
from pixelwise.models.enlarge import enlarge
from pixelwise.models.unet import UP_CONVOLUTION, initialise, up_operator

KEEPS_CHANNELS = ("nearest", "bilinear", "bicubic", "bed_of_nails")


class UNetOnEncoder(nn.Module):
    """A U-Net whose way down is `encoder`.

    width       channels of the last step of the decoder, doubled at each step before it
    upsampling  how a map is enlarged on the way up: an operator of `up_operator`

    >>> network = UNetOnEncoder(build_encoder("resnet18", 3), 2)
    >>> network.supervised
    ('decoder.0', 'decoder.1', 'decoder.2', 'decoder.3')
    """

    def __init__(self, encoder: Encoder, classes: int, *, width: int = 16, upsampling: str = "nearest") -> None:
        check_argument("width", width, lowest=1, highest=1024)
        super().__init__()
        self.encoder = encoder
        self.stride = math.lcm(*encoder.strides)

        # A step for each skip connection, from deep to shallow, and one to the size of the image where that is missing.
        strides, skips = [*encoder.strides[::-1]], [*encoder.channels[-2::-1]]
        if strides[-1] > 1:
            strides, skips = [*strides, 1], [*skips, 0]
        widths = [width * 2**level for level in reversed(range(len(skips)))]
        self.decoder = nn.ModuleList(
            UpStep(deep, skip, channels, enlarged=before / after, upsampling=upsampling)
            for deep, skip, channels, before, after in zip(
                [encoder.channels[-1], *widths[:-1]], skips, widths, strides[:-1], strides[1:], strict=True
            )
        )
        self.supervised = tuple(f"decoder.{step}" for step in range(len(skips) - 1))
        self.head = nn.Conv2d(width, classes, 3, padding=1)
        operators = [step.get_submodule("up") for step in self.decoder]
        initialise(self.decoder, keep=[] if upsampling == UP_CONVOLUTION else operators)
        initialise(self.head)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        *skips, feature = self.encoder(image_BCHW)
        for step, skip in zip(self.decoder, [*reversed(skips), None], strict=False):
            size = image_BCHW.shape[-2:] if skip is None else skip.shape[-2:]
            feature = step(feature, skip, size)
        logits_BKHW: Tensor = self.head(feature)
        return logits_BKHW


class UpStep(nn.Module):
    """One step up: enlarge the map, join the skip connection where there is one, two convolutions.

    `enlarged` is how many times larger the map is to be; where that is no whole number, the operator enlarges by the
    nearest one, and bilinear interpolation does the rest. Operators that do not learn leave the channels of the map as
    they are; the others bring them down to `channels` first.
    """

    def __init__(
        self, deep_channels: int, skip_channels: int, channels: int, *, enlarged: float, upsampling: str
    ) -> None:
        super().__init__()
        factor = max(1, round(enlarged))
        self.stretch = enlarged / factor
        up_channels = deep_channels if upsampling in KEEPS_CHANNELS or factor == 1 else channels
        self.up = up_operator(upsampling, deep_channels, up_channels, factor=factor) if factor > 1 else nn.Identity()
        self.convolutions = nn.Sequential(
            conv_norm_relu(up_channels + skip_channels, channels), conv_norm_relu(channels, channels)
        )

    def forward(self, deep: Tensor, skip: Tensor | None, size: torch.Size) -> Tensor:
        """The map at `size` (height, width)."""
        up = enlarge(self.up(deep), size, factor=self.stretch)
        joined: Tensor = self.convolutions(up if skip is None else torch.cat([up, skip], dim=1))
        return joined


def unet_on_encoder(
    in_channels: int, classes: int, *, encoder: str = "resnet34", width: int = 16, upsampling: str = "nearest"
) -> UNetOnEncoder:
    """A U-Net on the encoder of that name, a network of timm."""
    return UNetOnEncoder(build_encoder(encoder, in_channels), classes, width=width, upsampling=upsampling)


UNET_ENCODER = Architecture(
    build=unet_on_encoder,
    paper="Iglovikov, Shvets: TernausNet: U-Net with VGG11 Encoder Pre-Trained on ImageNet for Image Segmentation. "
    "arXiv 2018",
    year=2018,
    link="arXiv 1801.05746",
    published=Published(classes=1, size=(224, 224), parameters=24_436_369),
    small={"encoder": "test_efficientnet", "width": 8},
)
