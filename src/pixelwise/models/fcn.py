"""FCN: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, arXiv 1411.4038
(PAMI 2017, arXiv 1605.06211).

Figures 2 and 3 in words: a classifier of images, VGG16, whose fully connected layers are read as convolutions of 7x7
and 1x1, so that it gives scores of the classes everywhere, at stride 32. Transposed convolutions that interpolate
bilinearly enlarge the scores to the image. On the way, finer scores, predicted from earlier poolings, may be added:

    fcn32s         scores of stride 32, enlarged 32 times
    fcn16s         doubled, those of pool4 added, enlarged 16 times
    fcn8s          doubled, those of pool4 added, doubled, those of pool3 added, enlarged 8 times
    fcn8s_at_once  the same, trained in one go: pool4 and pool3 are scaled down first (PAMI version)

The first convolution adds 100 zeros around the image, so that even an image of one pixel survives five poolings and the
7x7 convolution; every map is then cropped where it lies on the image. The scores start at zero; start the encoder from
pretrained weights, as the paper does. B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.contracts import Architecture, Published, check_argument
from pixelwise.models.unet import initialise
from pixelwise.models.upsample import BilinearDeconvolution, start_bilinear
from pixelwise.models.vgg import VGGStages

BORDER = 100

# Where the maps lie: the first row and column of the enlarged scores that is on the image, by the factor of the last
# enlargement, and the first of pool4 and of pool3 that is on the scores they are added to.
IMAGE_OFFSETS = {32: 19, 16: 27, 8: 31}
POOL_OFFSETS = (5, 9)


class FCN(nn.Module):
    """A fully convolutional network: any size in, logits of that size out.

    encoder     the stages of VGG16, with BORDER zeros around the image
    classifier  scores of the classes from pool5
    fusions     doubles the scores and adds those of pool4, then of pool3, as far as they are used

    >>> import torch
    >>> fcn8s(3, 21, width=4, hidden=8)(torch.zeros(1, 3, 5, 70)).shape
    torch.Size([1, 21, 5, 70])
    """

    def __init__(self, encoder: VGGStages, classifier: nn.Sequential, fusions: Sequence[Fusion] = ()) -> None:
        super().__init__()
        self.stride = 32
        self.supervised = ()
        self.encoder = encoder
        self.classifier = classifier
        self.fusions = nn.ModuleList(fusions)
        self.upsampling = BilinearDeconvolution(32 // 2 ** len(fusions))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        # Down: the five poolings.
        pools = [image_BCHW]
        for stage in self.encoder:
            pools.append(F.max_pool2d(stage(pools[-1]), 2, ceil_mode=True))

        # Up: the coarse scores, those of pool4, those of pool3, as far as they are used, and the rest by interpolation.
        scores = self.classifier(pools.pop())
        for fusion, offset in zip(self.fusions, POOL_OFFSETS, strict=False):
            scores = fusion(scores, pools.pop()[..., offset:, offset:])
        offset = IMAGE_OFFSETS[self.upsampling.factor]
        height, width = image_BCHW.shape[-2:]
        logits_BKHW: Tensor = self.upsampling(scores)[..., offset : offset + height, offset : offset + width]
        return logits_BKHW


class Fusion(nn.Module):
    """Scores at twice the resolution: the coarse ones, doubled, plus those predicted from the map of a pooling.

    channels          of that map
    scale             factor of its values
    learn_upsampling  whether the doubling is learned; it starts as bilinear interpolation
    """

    def __init__(self, channels: int, classes: int, *, scale: float, learn_upsampling: bool) -> None:
        super().__init__()
        self.scale = scale
        self.doubling = learned_doubling(classes) if learn_upsampling else BilinearDeconvolution(2)
        self.score = score_layer(channels, classes)

    def forward(self, scores_BKHW: Tensor, pool_BCHW: Tensor) -> Tensor:
        """The map begins where the doubled scores begin, and may go on after their end."""
        doubled: Tensor = self.doubling(scores_BKHW)
        height, width = doubled.shape[-2:]
        finer: Tensor = self.score(self.scale * pool_BCHW[..., :height, :width])
        return doubled + finer


def pool_fusions(
    encoder: VGGStages, classes: int, scales: tuple[float, ...], *, learn_upsampling: bool
) -> list[Fusion]:
    """Fusions with pool4 and pool3, as many as there are scales."""
    return [
        Fusion(channels, classes, scale=scale, learn_upsampling=learn_upsampling)
        for channels, scale in zip(encoder.channels[3:1:-1], scales, strict=False)
    ]


def learned_doubling(classes: int) -> nn.ConvTranspose2d:
    """Transposed convolution that starts as bilinear interpolation of each class and is learned."""
    layer = nn.ConvTranspose2d(classes, classes, 4, stride=2, bias=False)
    start_bilinear(layer)
    return layer


def score_layer(channels: int, classes: int) -> nn.Conv2d:
    """1x1 convolution to the scores of the classes, which starts at zero."""
    layer = nn.Conv2d(channels, classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def fcn32s(in_channels: int, classes: int, *, width: int = 64, hidden: int = 4096, dropout: float = 0.5) -> FCN:
    """One stream: the scores of stride 32, enlarged 32 times.

    width    channels of the first stage of VGG16; the others have 2, 4, 8 and 8 times as many
    hidden   channels of the two layers that were fully connected
    dropout  share of their values dropped while training
    """
    return FCN(*_parts(in_channels, classes, width, hidden, dropout))


def fcn16s(
    in_channels: int,
    classes: int,
    *,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    learn_upsampling: bool = False,
) -> FCN:
    """Two streams: pool4 is fused at stride 16. Arguments: see fcn32s and FCN."""
    encoder, classifier = _parts(in_channels, classes, width, hidden, dropout)
    return FCN(encoder, classifier, pool_fusions(encoder, classes, (1,), learn_upsampling=learn_upsampling))


def fcn8s(
    in_channels: int,
    classes: int,
    *,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    learn_upsampling: bool = False,
) -> FCN:
    """Three streams: pool4 is fused at stride 16, pool3 at stride 8. Arguments: see fcn32s and FCN.

    The CVPR version learns the two doublings, the release keeps them fixed.
    """
    encoder, classifier = _parts(in_channels, classes, width, hidden, dropout)
    return FCN(encoder, classifier, pool_fusions(encoder, classes, (1, 1), learn_upsampling=learn_upsampling))


def fcn8s_at_once(
    in_channels: int,
    classes: int,
    *,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    learn_upsampling: bool = False,
) -> FCN:
    """Three streams trained in one go, not one after the other: pool4 times 0.01 and pool3 times 0.0001 are fused.

    The factors bring their values, which are larger the earlier the pooling, to the size of those of the last layer.
    """
    encoder, classifier = _parts(in_channels, classes, width, hidden, dropout)
    return FCN(encoder, classifier, pool_fusions(encoder, classes, (0.01, 0.0001), learn_upsampling=learn_upsampling))


def _parts(in_channels: int, classes: int, width: int, hidden: int, dropout: float) -> tuple[VGGStages, nn.Sequential]:
    """The encoder and the classifier on top of it."""
    check_argument("width", width, lowest=1, highest=1024)
    check_argument("hidden", hidden, lowest=1, highest=65536)
    check_argument("dropout", dropout, lowest=0, highest=0.95)
    encoder = VGGStages(in_channels, width=width, border=BORDER)
    classifier = nn.Sequential(
        nn.Conv2d(encoder.channels[-1], hidden, 7),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
    )
    initialise(encoder)
    initialise(classifier)
    return encoder, classifier.append(score_layer(hidden, classes))


def _architecture(build: Callable[..., FCN], parameters: int) -> Architecture:
    return Architecture(
        build=build,
        paper="Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation. CVPR 2015",
        year=2015,
        link="arXiv 1411.4038",
        published=Published(classes=21, size=(500, 500), parameters=parameters),
        small={"width": 4, "hidden": 32},
    )


FCN32S = _architecture(fcn32s, 134_346_581)
FCN16S = _architecture(fcn16s, 134_357_354)
FCN8S = _architecture(fcn8s, 134_362_751)
FCN8S_AT_ONCE = _architecture(fcn8s_at_once, 134_362_751)
