"""DeepLab v1 and v2: Chen, Papandreou, Kokkinos, Murphy, Yuille.

    v1  "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", ICLR 2015, arXiv 1412.7062
    v2  "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected
        CRFs", PAMI 2018, arXiv 1606.00915

The model of v1 in words: a classification network is stopped from shrinking the map beyond an eighth of the image; the
convolutions that follow have their taps set apart instead (atrous convolution), so that each still sees what it saw in
the classification network; a 1x1 convolution gives the logits, bilinear interpolation their size. That of v2: four
such classifiers side by side, with taps at different distances, summed (atrous spatial pyramid pooling, ASPP).

    DeepLabV1   VGG16, one field of view (LargeFOV: 3x3 taps, rate 12), with or without multi-scale branches (MSc)
    DeepLabV2   any encoder, the summed ASPP; ResNet-101 or VGG16 in the paper

v3 and v3+ have another ASPP, with batch norm, an image-level branch and a joining convolution, and other encoders; they
are in `deeplabv3.py`. The fully connected CRF that follows v1 and v2 acts on scores and is no part of the networks; nor
are the three image scales of v2, whose logits its authors join by the maximum.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.contracts import Architecture, Encoder, Published, check_argument, check_choice
from pixelwise.models.encoders import build_encoder
from pixelwise.models.enlarge import cut_to
from pixelwise.models.unet import initialise
from pixelwise.models.upsample import resize_to
from pixelwise.models.vgg import VGGStages

ASPP_RATES = {"L": (6, 12, 18, 24), "S": (2, 4, 8, 12)}
ASPP_STRIDE = 8


class DeepLabV1(nn.Module):
    """One classifier with a large field of view, after the average of 3x3 neighbours.

    kernel    taps of fc6 in height and width
    rate      distance of these taps, in values of the encoder's last map
    channels  of fc6 and fc7: 1024 with 3x3 taps, 4096 with the 4x4 and 7x7 taps of the paper's table 2
    branches  the multi-scale branches, where there are any

    Raises UsageError for a kernel and a rate with which the map cannot keep its size.

    >>> DeepLabV1(AtrousVGG(3, width=4), 21, channels=64)(torch.zeros(1, 3, 31, 33)).shape
    torch.Size([1, 21, 31, 33])
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        kernel: int = 3,
        rate: int = 12,
        channels: int = 1024,
        branches: MultiScaleBranches | None = None,
    ) -> None:
        super().__init__()
        self.stride = encoder.strides[-1]
        self.supervised = ()
        self.encoder = encoder
        self.fully_connected = atrous_fully_connected(encoder.channels[-1], channels, kernel=kernel, rate=rate)
        self.branches = branches
        self.head = nn.Conv2d(channels + (branches.channels if branches else 0), classes, 1)
        start_small(self.head)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        features = self.encoder(image_BCHW)
        averaged = F.avg_pool2d(features[-1], 3, stride=1, padding=1)
        joined = self.fully_connected(averaged)
        if self.branches is not None:
            joined = torch.cat([joined, self.branches(image_BCHW, features)], dim=1)
        return enlarge_aligned(self.head(joined), image_BCHW.shape[-2:], factor=self.stride)


class DeepLabV2(nn.Module):
    """Classifiers with different fields of view, side by side, summed.

    rates     distances of their 3x3 taps, one classifier each, at the paper's stride of 8; see `rates_at`
    channels  of fc6 and fc7 in each classifier, 1024 with the paper's VGG16; 0 for classifiers of a single convolution,
              as with its ResNet-101

    >>> DeepLabV2(AtrousVGG(3, width=4), 21, rates=(2, 4))(torch.zeros(1, 3, 31, 33)).shape
    torch.Size([1, 21, 31, 33])
    """

    def __init__(
        self, encoder: Encoder, classes: int, *, rates: Sequence[int] = ASPP_RATES["L"], channels: int = 0
    ) -> None:
        super().__init__()
        self.stride = encoder.strides[-1]
        self.supervised = ()
        self.encoder = encoder
        self.classifiers = nn.ModuleList(
            _classifier(encoder.channels[-1], classes, rate=rate, channels=channels)
            for rate in rates_at(self.stride, rates, paper_stride=ASPP_STRIDE)
        )

    def forward(self, image_BCHW: Tensor) -> Tensor:
        feature = self.encoder(image_BCHW)[-1]
        logits_BKHW = torch.stack([classifier(feature) for classifier in self.classifiers]).sum(dim=0)
        return enlarge_aligned(logits_BKHW, image_BCHW.shape[-2:], factor=self.stride)


class AtrousVGG(nn.Module):
    """VGG16 stopped at an eighth of the image: maps after each of its five poolings, at strides 2, 4, 8, 8 and 8.

    All poolings take the maximum of 3x3 values, so that each value of a map is centred on a pixel: value (i, j) of the
    last one on pixel (8 i, 8 j). The last two do not shrink, and the taps of conv5 are two apart. 321 pixels give 41
    values, 513 give 65.

    >>> [tuple(feature.shape[1:]) for feature in AtrousVGG(1, width=4)(torch.zeros(1, 1, 321, 17))]
    [(4, 161, 9), (8, 81, 5), (16, 41, 3), (32, 41, 3), (32, 41, 3)]
    """

    def __init__(self, in_channels: int, *, width: int = 64) -> None:
        check_argument("width", width, lowest=1, highest=1024)
        super().__init__()
        self.stages = VGGStages(in_channels, width=width, dilations=(1, 1, 1, 1, 2))
        self.timm_name = self.stages.timm_name
        self.channels = self.stages.channels
        self.strides: tuple[int, ...] = (2, 4, 8, 8, 8)
        initialise(self)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        feature, features = image_BCHW, []
        for stage, stride in zip(self.stages, (2, 2, 2, 1, 1), strict=True):
            feature = F.max_pool2d(stage(feature), 3, stride=stride, padding=1)
            features.append(feature)
        return features


class MultiScaleBranches(nn.Module):
    """Two convolutions on the image and on each map of the encoder but the last, all to the size of the last (MSc).

    Section 4.3 of v1: 128 filters of 3x3, here with the stride that is missing, then 128 of 1x1. The release drops out
    half of the values after each.

    channels  of all branches together, 640 for the five of the paper

    Raises UsageError where the encoder's last stride is no multiple of the others.
    """

    def __init__(self, in_channels: int, encoder: Encoder, *, channels: int = 128) -> None:
        check_argument("channels", channels, lowest=1, highest=65536)
        super().__init__()
        last = encoder.strides[-1]
        self.branches = nn.ModuleList(
            _perceptron(nn.Conv2d(before, channels, 3, stride=_missing_stride(stride, last), padding=1))
            for before, stride in zip((in_channels, *encoder.channels), (1, *encoder.strides[:-1]), strict=False)
        )
        self.channels = channels * len(self.branches)

    def forward(self, image_BCHW: Tensor, features: Sequence[Tensor]) -> Tensor:
        sources = (image_BCHW, *features[:-1])
        return torch.cat([branch(source) for branch, source in zip(self.branches, sources, strict=True)], dim=1)


def atrous_fully_connected(in_channels: int, channels: int, *, kernel: int = 3, rate: int = 12) -> nn.Sequential:
    """fc6 and fc7 of VGG as convolutions that keep the size, the taps of the first `rate` apart; each with dropout.

    Raises UsageError where (kernel - 1) x rate is odd, as no padding then keeps the size.

    >>> sum(p.numel() for p in atrous_fully_connected(512, 1024).parameters())
    5769216
    """
    check_argument("kernel", kernel, lowest=1, highest=15)
    check_argument("rate", rate, lowest=1, highest=64)
    check_argument("channels", channels, lowest=1, highest=65536)
    reach = rate * (kernel - 1)
    if reach % 2:
        raise UsageError(f"kernel = {kernel} and rate = {rate}: (kernel - 1) x rate must be even; choose an even rate")
    return _perceptron(nn.Conv2d(in_channels, channels, kernel, padding=reach // 2, dilation=rate))


def enlarge_aligned(feature_BCHW: Tensor, size: torch.Size | tuple[int, int], *, factor: int) -> Tensor:
    """The map `factor` times larger, value (i, j) on pixel (factor i, factor j), cut to `size` (height, width).

    It fits maps whose values are centred on pixels, as poolings and convolutions of 3x3 values leave them. The last row
    and column are continued. Where `size` is a multiple of the factor plus 1 it is the interpolation of the releases of
    DeepLab and PSPNet (align_corners=True); unlike that, it stretches no map of another size, so that a part of the
    image is treated like the whole.

    >>> enlarge_aligned(torch.tensor([[[[0.0, 4.0]]]]), (1, 7), factor=4).tolist()
    [[[[0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0]]]]
    """
    height, width = feature_BCHW.shape[-2:]
    continued = F.pad(feature_BCHW, (0, 1, 0, 1), mode="replicate")
    larger = resize_to(continued, (height * factor + 1, width * factor + 1), align_corners=True)
    return cut_to(larger, size)


def rates_at(stride: int, rates: Sequence[int], *, paper_stride: int) -> tuple[int, ...]:
    """The rates that reach as many pixels of the image at `stride` as `rates` do at the stride of the paper.

    >>> rates_at(8, (6, 12, 18), paper_stride=16)
    (12, 24, 36)
    """
    for rate in rates:
        check_argument("rate", rate, lowest=1, highest=1024)
    return tuple(max(1, round(rate * paper_stride / stride)) for rate in rates)


def start_small(layer: nn.Conv2d) -> None:
    """Weights from N(0, 0.01), biases 0: the last layer of v1, and all that v2 adds to a ResNet."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _classifier(in_channels: int, classes: int, *, rate: int, channels: int) -> nn.Sequential:
    if channels:
        head = nn.Conv2d(channels, classes, 1)
        start_small(head)
        return atrous_fully_connected(in_channels, channels, rate=rate).append(head)
    head = nn.Conv2d(in_channels, classes, 3, padding=rate, dilation=rate)
    start_small(head)
    return nn.Sequential(head)


def _perceptron(first: nn.Conv2d) -> nn.Sequential:
    """A convolution and one of 1x1 that keeps its channels, each with ReLU and dropout."""
    layers = nn.Sequential(
        first,
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(first.out_channels, first.out_channels, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
    )
    initialise(layers)
    return layers


def _missing_stride(stride: int, last: int) -> int:
    if last % stride:
        raise UsageError(f"the encoder's last stride, {last}, is no multiple of {stride}: use it without branches")
    return last // stride


def deeplabv1(
    in_channels: int, classes: int, *, kernel: int = 3, rate: int = 12, multi_scale: bool = False, width: int = 64
) -> DeepLabV1:
    """DeepLab-LargeFOV; with `multi_scale`, DeepLab-MSc-LargeFOV.

    kernel, rate  3 and 12 are LargeFOV; 4 and 4, 4 and 8, 7 and 4 the others of the paper's table 2, with 4 times as
                  many channels in fc6 and fc7
    multi_scale   whether the image and the first four poolings have branches of their own
    width         channels of VGG's first stage; all others follow
    """
    encoder = AtrousVGG(in_channels, width=width)
    branches = MultiScaleBranches(in_channels, encoder, channels=2 * width) if multi_scale else None
    channels = width * (16 if kernel == 3 else 64)
    return DeepLabV1(encoder, classes, kernel=kernel, rate=rate, channels=channels, branches=branches)


def deeplabv2(
    in_channels: int, classes: int, *, encoder: str = "resnet101", output_stride: int = 8, rates: str = "L"
) -> DeepLabV2:
    """DeepLab v2 on an encoder of timm.

    The ResNets of timm have their strides in the 3x3 convolution of a block (those of the paper's release in the 1x1
    before it). Where a stride is given up, that convolution keeps the rate of the stage before, so that pretrained
    weights meet the distances for which they were trained; all later ones have rate 2 (conv4) and 4 (conv5) at output
    stride 8. The parameters are the same.

    output_stride  8, 16 or 32, as far as the encoder has it
    rates          "L" for the large fields of view (6, 12, 18, 24), "S" for the small ones (2, 4, 8, 12)
    """
    check_choice("output_stride", output_stride, (8, 16, 32))
    check_choice("rates", rates, ASPP_RATES)
    return DeepLabV2(build_encoder(encoder, in_channels, output_stride=output_stride), classes, rates=ASPP_RATES[rates])


def deeplabv2_vgg16(in_channels: int, classes: int, *, rates: str = "L", width: int = 64) -> DeepLabV2:
    """DeepLab v2 on VGG16: each of the four classifiers has an fc6 and an fc7 of its own.

    rates  "L" for the large fields of view (6, 12, 18, 24), "S" for the small ones (2, 4, 8, 12)
    width  channels of VGG's first stage; all others follow
    """
    check_choice("rates", rates, ASPP_RATES)
    return DeepLabV2(AtrousVGG(in_channels, width=width), classes, rates=ASPP_RATES[rates], channels=16 * width)


PAPER_V1 = (
    "Chen, Papandreou, Kokkinos, Murphy, Yuille: Semantic Image Segmentation with Deep Convolutional Nets and Fully "
    "Connected CRFs. ICLR 2015"
)
PAPER_V2 = (
    "Chen, Papandreou, Kokkinos, Murphy, Yuille: DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, "
    "Atrous Convolution, and Fully Connected CRFs. PAMI 2018"
)

DEEPLABV1 = Architecture(
    build=deeplabv1,
    paper=PAPER_V1,
    year=2015,
    link="arXiv 1412.7062",
    published=Published(classes=21, size=(321, 321), parameters=20_505_429),
    small={"width": 6},
)
DEEPLABV2 = Architecture(
    build=deeplabv2,
    paper=PAPER_V2,
    year=2018,
    link="arXiv 1606.00915",
    published=Published(classes=21, size=(321, 321), parameters=44_048_532),
    small={"encoder": "mobilenetv3_small_050"},
)
DEEPLABV2_VGG16 = Architecture(
    build=deeplabv2_vgg16,
    paper=PAPER_V2,
    year=2018,
    link="arXiv 1606.00915",
    published=Published(classes=21, size=(321, 321), parameters=37_877_652),
    small={"width": 6},
)
