"""SegNet: Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", PAMI 2017, arXiv 1511.00561.

Figure 2 in words: the convolutions of VGG16, then the same in reverse. No map is carried across: each max-pooling on
the way down remembers only where its maxima were, and the way up puts its values back at those places, zeros
elsewhere; the convolutions that follow make the map dense again. Two forms:

    SegNet        13 convolutions of 3x3 down, 13 up, 5 poolings
    SegNetBasic   4 convolutions of 7x7 down, 4 up, 4 poolings: the small one on which the paper compares decoders

Both can drop out where Bayesian SegNet does (Kendall, Badrinarayanan, Cipolla, BMVC 2017, arXiv 1511.02680), with a
share of 0.5 there. Pooling rounds odd sizes up, unpooling gives them back. The convolutions have biases as in the
release; the paper has none, and batch norm makes them idle.

In bfloat16 values that differ by less than 0.4 % are equal, and a maximum may be found at its neighbour: logits of
single pixels then differ more from those of float32 than in other networks; labels of a trained network hardly do.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.contracts import Architecture, Published, check_argument
from pixelwise.models.convolution import BatchNorm
from pixelwise.models.unet import initialise
from pixelwise.models.upsample import max_unpool

# Channels after each convolution, in units of the width; a line of the paper's figure per stage.
SEGNET_DOWN = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
SEGNET_UP = ((8, 8, 8), (8, 8, 4), (4, 4, 2), (2, 1), (1,))
BASIC_STAGES = ((1,), (1,), (1,), (1,))


class SegNet(nn.Module):
    """VGG16 with batch norm, and its mirror image.

    width    channels of the first stage, doubled at each stage to 8 times as many
    bias     whether the convolutions before a batch norm have biases
    dropout  share of values dropped while training after each of the three deepest poolings and decoder stages

    >>> import torch
    >>> SegNet(3, 11, width=4)(torch.zeros(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 64, bias: bool = True, dropout: float = 0.0
    ) -> None:
        check_argument("width", width, lowest=1, highest=1024)
        check_argument("dropout", dropout, lowest=0, highest=0.95)
        super().__init__()
        self.stride = 32
        self.supervised = ()
        self.encoder = NormalisedStages(in_channels, _times(width, SEGNET_DOWN), bias=bias)
        self.encoder.timm_name = "vgg16_bn" if bias else ""
        self.decoder = NormalisedStages(8 * width, _times(width, SEGNET_UP), bias=bias)
        self.dropouts = nn.ModuleList(nn.Dropout(share) for share in (0, 0, dropout, dropout, dropout))
        self.head = nn.Conv2d(width, classes, 3, padding=1)
        _start(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        feature = down_and_up(image_BCHW, self.encoder, self.decoder, self.dropouts)
        logits_BKHW: Tensor = self.head(feature)
        return logits_BKHW


class SegNetBasic(nn.Module):
    """Four stages of one 7x7 convolution each; no ReLU on the way up.

    The image first goes through `local_response_norm`, as in the release.

    width    channels of every stage
    bias     whether the convolutions before a batch norm have biases
    dropout  share of values dropped while training after each of the two deepest poolings and decoder stages

    >>> import torch
    >>> SegNetBasic(3, 11, width=4)(torch.zeros(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 64, bias: bool = True, dropout: float = 0.0
    ) -> None:
        check_argument("width", width, lowest=1, highest=1024)
        check_argument("dropout", dropout, lowest=0, highest=0.95)
        super().__init__()
        self.stride = 16
        self.supervised = ()
        widths = _times(width, BASIC_STAGES)
        self.encoder = NormalisedStages(in_channels, widths, kernel=7, bias=bias)
        self.decoder = NormalisedStages(width, widths, kernel=7, bias=bias, relu=False)
        self.dropouts = nn.ModuleList(nn.Dropout(share) for share in (0, 0, dropout, dropout))
        self.head = nn.Conv2d(width, classes, 1)
        _start(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        feature = down_and_up(local_response_norm(image_BCHW), self.encoder, self.decoder, self.dropouts)
        logits_BKHW: Tensor = self.head(feature)
        return logits_BKHW


class NormalisedStages(nn.ModuleList):
    """Stages of convolutions that keep the size, each followed by batch norm and ReLU; no pooling between the stages.

    widths     channels after each convolution, one tuple per stage
    timm_name  the network of timm whose pretrained layers have the same order and, at width 64, shapes
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[Sequence[int]],
        *,
        kernel: int = 3,
        bias: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.timm_name = ""
        before = in_channels
        for stage_widths in widths:
            stage = nn.Sequential()
            for channels in stage_widths:
                stage.append(nn.Conv2d(before, channels, kernel, padding=kernel // 2, bias=bias))
                stage.append(BatchNorm(channels))
                if relu:
                    stage.append(nn.ReLU(inplace=True))
                before = channels
            self.append(stage)


def down_and_up(
    feature_BCHW: Tensor, encoder: nn.ModuleList, decoder: nn.ModuleList, dropouts: nn.ModuleList
) -> Tensor:
    """Through the encoder, remembering where each maximum was; through the decoder, putting each value back there.

    Each of `dropouts` follows a pooling, shallow to deep, and the decoder stage of the same level.
    """
    # The way down: of each level only the places of its maxima and its size are kept.
    feature, places = feature_BCHW, []
    for stage, dropout in zip(encoder, dropouts, strict=True):
        feature = stage(feature)
        size = feature.shape[-2:]
        feature, indices = F.max_pool2d(feature, 2, ceil_mode=True, return_indices=True)
        feature = dropout(feature)
        places.append((indices, size))

    # The way up.
    for stage, dropout, (indices, size) in zip(decoder, reversed(dropouts), reversed(places), strict=True):
        feature = dropout(stage(max_unpool(feature, indices, size)))
    return feature


def local_response_norm(image_BCHW: Tensor) -> Tensor:
    """Each value divided by (1 + 0.0001 times the mean square of the 5 channels around it) to the power of 0.75.

    Channels beyond the first and the last count as zeros. Krizhevsky, Sutskever, Hinton, NIPS 2012, section 3.3, with
    the constants of SegNet's release. It dims bright pixels of images with values up to 255; images that were brought
    to a mean of 0 and a standard deviation of 1 it hardly changes.

    >>> import torch
    >>> local_response_norm(torch.tensor([10.0, 100.0, 255.0]).view(1, 1, 1, 3)).flatten().round().tolist()
    [10.0, 87.0, 137.0]
    """
    channels = image_BCHW.shape[1]
    squares = F.pad(image_BCHW.square(), (0, 0, 0, 0, 2, 2))
    around = sum(squares[:, shift : shift + channels] for shift in range(5))
    return image_BCHW / (1 + 1e-4 / 5 * around) ** 0.75


def _times(width: int, stages: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[width * factor for factor in stage] for stage in stages]


def _start(network: nn.Module) -> None:
    """As the release does: weights of He et al. (ICCV 2015), the shift of each batch norm just above zero."""
    initialise(network)
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            nn.init.constant_(layer.bias, 0.001)


PAPER = (
    "Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image "
    "Segmentation. PAMI 2017"
)

SEGNET = Architecture(
    build=SegNet,
    paper=PAPER,
    year=2017,
    link="arXiv 1511.00561",
    published=Published(classes=11, size=(360, 480), parameters=29_449_355),
    small={"width": 4},
)
SEGNET_BASIC = Architecture(
    build=SegNetBasic,
    paper=PAPER,
    year=2017,
    link="arXiv 1511.00561",
    published=Published(classes=11, size=(360, 480), parameters=1_416_587),
    small={"width": 16},
)
