"""Deep ResUnet: Zhang, Liu, Wang, "Road Extraction by Deep Residual U-Net", IEEE GRSL 15(5), 2018, arXiv 1711.10684.

Figure 2 in words: a U-Net of seven levels whose units are residual: two 3x3 convolutions, their result added to what
they were given. Nothing is pooled: on the way down the first convolution of a unit has a stride of 2. On the way up the
map is enlarged, joined to the map of the same level from the way down, and goes through one unit. A 1x1 convolution
gives the logits; the paper has a single output, road.

    level     1     2     3     4 (bridge)    5     6     7     output
    stride    1     2     4     8             4     2     1     1
    channels  64    128   256   512           256   128   64    1

The units are those of He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027:
batch norm and ReLU before each convolution, nothing after the sum ("pre"). Those of their "Deep Residual Learning for
Image Recognition", CVPR 2016, arXiv 1512.03385, with batch norm after each convolution and ReLU after the sum ("post"),
are there to compare. Where the shape changes, a 1x1 convolution with batch norm stands for the identity. The first unit
takes the image as it is: no batch norm and ReLU before its convolutions, no batch norm on its 1x1 convolution.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pixelwise.models.contracts import Architecture, Published, check_argument, check_choice
from pixelwise.models.convolution import BatchNorm
from pixelwise.models.unet import initialise
from pixelwise.models.upsample import upsampling as upsampling_operator


class ResUNet(nn.Module):
    """The residual U-Net.

    width       channels of the first level, doubled at each level below
    activation  "pre" or "post": where batch norm and ReLU stand in a residual unit
    upsampling  how the way up doubles the size: a name of upsample.UPSAMPLING; the paper's does not learn

    >>> ResUNet(3, 1, width=8)(torch.zeros(1, 3, 5, 7)).shape
    torch.Size([1, 1, 5, 7])
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 64, activation: str = "pre", upsampling: str = "bilinear"
    ) -> None:
        check_argument("width", width, lowest=1, highest=1024)
        check_choice("activation", activation, RESIDUAL_UNITS)
        super().__init__()
        self.stride = 8
        self.supervised = ()
        _, unit = RESIDUAL_UNITS[activation]
        self.encoder = ResUNetEncoder(in_channels, width=width, activation=activation)
        self.decoder = nn.ModuleList(
            ResidualUpBlock(upsampling_operator(upsampling, deep, deep), unit(deep + skip, skip, 1))
            for deep, skip in zip(self.encoder.channels[:0:-1], self.encoder.channels[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(width, classes, 1)
        initialise(self, keep=[block.get_submodule("up") for block in self.decoder])

    def forward(self, image_BCHW: Tensor) -> Tensor:
        *skips, feature = self.encoder(image_BCHW)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            feature = block(feature, skip)
        logits_BKHW: Tensor = self.head(feature)
        return logits_BKHW


class ResUNetEncoder(nn.Module):
    """The way down and the bridge: feature maps at strides 1, 2, 4, 8 with 1, 2, 4, 8 times `width` channels."""

    def __init__(self, in_channels: int, *, width: int, activation: str) -> None:
        super().__init__()
        self.timm_name = ""
        self.strides = (1, 2, 4, 8)
        self.channels = tuple(width * stride for stride in self.strides)
        first, unit = RESIDUAL_UNITS[activation]
        self.units = nn.ModuleList([first(in_channels, width, 1)])
        self.units.extend(unit(channels, 2 * channels, 2) for channels in self.channels[:-1])

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        features, feature = [], image_BCHW
        for unit in self.units:
            feature = unit(feature)
            features.append(feature)
        return features


class ResidualUpBlock(nn.Module):
    """One step up: double the size, join the skip connection, one residual unit."""

    def __init__(self, up: nn.Module, unit: nn.Module) -> None:
        super().__init__()
        self.up = up
        self.unit = unit

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        height, width = skip.shape[-2:]
        up = self.up(deep)[..., :height, :width]  # a level of odd size was rounded up on the way down
        joined: Tensor = self.unit(torch.cat([up, skip], dim=1))
        return joined


class PreActivationUnit(nn.Module):
    """Residual unit whose batch norm and ReLU come before each convolution (He et al. 2016b, figure 4e).

    stride    of the first convolution and of the shortcut
    on_image  whether it is the first of a network, which leaves out all that would come before its convolutions

    >>> PreActivationUnit(8, 16, 2)(torch.zeros(1, 8, 5, 7)).shape
    torch.Size([1, 16, 3, 4])
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, on_image: bool = False) -> None:
        super().__init__()
        before = [] if on_image else [BatchNorm(in_channels), nn.ReLU(inplace=True)]
        self.residual = nn.Sequential(
            *before,
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1),
            BatchNorm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut = shortcut(in_channels, channels, stride, norm=not on_image)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        total: Tensor = self.shortcut(feature_BCHW) + self.residual(feature_BCHW)
        return total


class PostActivationUnit(nn.Module):
    """Residual unit whose batch norm comes after each convolution and whose last ReLU after the sum (He et al. 2016a).

    >>> PostActivationUnit(8, 16, 2)(torch.zeros(1, 8, 5, 7)).shape
    torch.Size([1, 16, 3, 4])
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1),
            BatchNorm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            BatchNorm(channels),
        )
        self.shortcut = shortcut(in_channels, channels, stride)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        total: Tensor = self.shortcut(feature_BCHW) + self.residual(feature_BCHW)
        return total.relu()


def shortcut(in_channels: int, channels: int, stride: int, *, norm: bool = True) -> nn.Module:
    """The identity where the shape stays, else a 1x1 convolution, with batch norm unless told otherwise."""
    if in_channels == channels and stride == 1:
        return nn.Identity()
    projection = SparseProjection(in_channels, channels, every=stride)
    return nn.Sequential(projection, BatchNorm(channels)) if norm else projection


class SparseProjection(nn.Conv2d):
    """1x1 convolution of one row and column in `every`: a 1x1 convolution with that stride.

    The rows and columns are taken first, because the gradient of a 1x1 convolution with stride, channels last, writes
    beyond its memory on CPUs for some numbers of channels (torch 2.15: 8 to 16 at 128 x 128 ends the process).

    >>> SparseProjection(2, 3, every=2)(torch.zeros(1, 2, 5, 4)).shape
    torch.Size([1, 3, 3, 2])
    """

    def __init__(self, in_channels: int, channels: int, *, every: int) -> None:
        super().__init__(in_channels, channels, 1)
        self.every = every

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        return super().forward(feature_BCHW[..., :: self.every, :: self.every])


# The unit that takes the image, and all others: (in_channels, channels, stride) to a module.
RESIDUAL_UNITS: dict[str, tuple[Callable[[int, int, int], nn.Module], Callable[[int, int, int], nn.Module]]] = {
    "pre": (partial(PreActivationUnit, on_image=True), PreActivationUnit),
    "post": (PostActivationUnit, PostActivationUnit),
}

RESUNET = Architecture(
    build=ResUNet,
    paper="Zhang, Liu, Wang: Road Extraction by Deep Residual U-Net. IEEE Geoscience and Remote Sensing Letters 2018",
    year=2018,
    link="arXiv 1711.10684",
    published=Published(classes=1, size=(224, 224), parameters=8_223_681),
    small={"width": 8},
)
