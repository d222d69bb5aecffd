"""DynamicUNet: Howard and Gugger, "fastai: A Layered API for Deep Learning", Information 11(2), 2020, arXiv 2002.04688.

A U-Net whose decoder is made to fit whatever encoder it is given. In words: batch norm, ReLU and two 3x3 convolutions
at the bottom, which double and halve the channels; for each size of the encoder's maps, from deep to shallow, a pixel
shuffle that doubles the map and halves its channels, the encoder's map with a batch norm of its own, ReLU of the two
joined, two 3x3 convolutions that keep the channels (the last step halves them); a pixel shuffle to the full size; the
image itself joined to that, a residual block, a 1x1 convolution. Convolutions have biases and no batch norm.

The pixel shuffle is that of Shi et al. (CVPR 2016, arXiv 1609.05158), started by ICNR (Aitken et al. 2017, arXiv
1707.02937); its blur is that of Sugawara, Shiota, Kiya (2018, arXiv 1806.02658). Self-attention is that of Zhang,
Goodfellow, Metaxas, Odena, "Self-Attention Generative Adversarial Networks" (ICML 2019, arXiv 1805.08318, section 3).

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.contracts import Architecture, Encoder, Published
from pixelwise.models.convolution import BatchNorm, conv_relu
from pixelwise.models.encoders import build_encoder
from pixelwise.models.enlarge import enlarge
from pixelwise.models.unet import initialise
from pixelwise.models.upsample import pixel_shuffle


class DynamicUNet(nn.Module):
    """The decoder of fastai around `encoder`, which reads images of `in_channels`.

    blur            smooth each shuffled map with a 2x2 mean
    self_attention  let the positions of one map of the decoder, the third from the end, look at one another
    last_cross      join the image itself at the end

    Raises UsageError for self-attention with an encoder of fewer than four sizes, which has no third map.

    >>> DynamicUNet(build_encoder("resnet18", 3), 3, 2)(torch.zeros(1, 3, 33, 1)).shape
    torch.Size([1, 2, 33, 1])
    """

    def __init__(
        self,
        encoder: Encoder,
        in_channels: int,
        classes: int,
        *,
        blur: bool = False,
        self_attention: bool = False,
        last_cross: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.stride = math.lcm(*encoder.strides)
        self.supervised = ()
        self.sizes = last_of_each_size(encoder.strides)
        if self_attention:
            _check_sizes(len(self.sizes))
        strides = [encoder.strides[index] for index in self.sizes]
        self.stretches = [deep / shallow / 2 for shallow, deep in pairwise(strides)]  # what a doubling leaves to do
        self.last_stretch = max(1.0, strides[0] / 2)

        *skips, channels = (encoder.channels[index] for index in self.sizes)
        self.middle = bottom(channels)
        self.decoder = nn.ModuleList()
        for above, skip in reversed(list(enumerate(skips))):  # `above` counts the steps that follow
            step = ShuffleStep(channels, skip, halve=above == 0, blur=blur, attend=self_attention and above == 2)
            self.decoder.append(step)
            channels = step.channels
        self.full_size = shuffle_up(channels, channels) if strides[0] > 1 else nn.Identity()
        self.crossed = last_cross
        channels += in_channels if last_cross else 0
        self.cross = ResidualPair(channels) if last_cross else nn.Identity()
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        features = self.encoder(image_BCHW)
        *skips, feature = (features[index] for index in self.sizes)
        feature = self.middle(feature)
        for step, skip, stretch in zip(self.decoder, reversed(skips), reversed(self.stretches), strict=True):
            feature = step(feature, skip, stretch)
        feature = enlarge(self.full_size(feature), image_BCHW.shape[-2:], factor=self.last_stretch, curve="nearest")
        if self.crossed:
            feature = torch.cat([feature, image_BCHW], dim=1)
        logits_BKHW: Tensor = self.head(self.cross(feature))
        return logits_BKHW


def _check_sizes(sizes: int) -> None:
    if sizes < 4:
        raise UsageError(
            f"self_attention = True: the encoder has maps of {sizes} sizes, and self-attention needs 4; "
            "choose another encoder, or self_attention = False"
        )


def bottom(channels: int) -> nn.Sequential:
    """Batch norm, ReLU, and two 3x3 convolutions with ReLU that double the channels and halve them again.

    >>> sum(p.numel() for p in bottom(512).parameters())
    9439744
    """
    middle = nn.Sequential(
        BatchNorm(channels), nn.ReLU(), conv_relu(channels, 2 * channels), conv_relu(2 * channels, channels)
    )
    initialise(middle)
    return middle


def last_of_each_size(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Which maps of an encoder are the last ones of their size: those that the decoder joins.

    >>> last_of_each_size((2, 4, 8, 8, 8))
    (0, 1, 4)
    """
    changes = [index for index, (one, other) in enumerate(pairwise(strides)) if one != other]
    return (*changes, len(strides) - 1)


class ShuffleStep(nn.Module):
    """One step up: double the map and halve its channels, join the skip connection, two convolutions.

    `channels` is what it gives: all that are joined, or half of them.
    """

    def __init__(self, deep_channels: int, skip_channels: int, *, halve: bool, blur: bool, attend: bool) -> None:
        super().__init__()
        joined = deep_channels // 2 + skip_channels
        self.channels = joined // 2 if halve else joined
        self.up = shuffle_up(deep_channels, deep_channels // 2, blur=blur)
        self.norm = BatchNorm(skip_channels)
        self.convolutions = nn.Sequential(conv_relu(joined, self.channels), conv_relu(self.channels, self.channels))
        self.attention = SelfAttention(self.channels) if attend else nn.Identity()
        initialise(self.convolutions)

    def forward(self, deep: Tensor, skip: Tensor, stretch: float) -> Tensor:
        """`stretch` is how many times larger than the doubled map the skip connection is: 1, as a rule."""
        up = enlarge(self.up(deep), skip.shape[-2:], factor=stretch, curve="nearest")
        joined = F.relu(torch.cat([up, self.norm(skip)], dim=1))
        attended: Tensor = self.attention(self.convolutions(joined))
        return attended


def shuffle_up(in_channels: int, channels: int, *, blur: bool = False) -> nn.Sequential:
    """Pixel shuffle to twice the size, ReLU, and the blur where wanted.

    >>> shuffle_up(8, 4, blur=True)(torch.zeros(1, 8, 3, 5)).shape
    torch.Size([1, 4, 6, 10])
    """
    up = nn.Sequential(pixel_shuffle(in_channels, channels), nn.ReLU(inplace=True))
    return up.append(Blur()) if blur else up


class Blur(nn.Module):
    """The mean of each value with those above, to the left, and above to the left; the border is repeated.

    >>> Blur()(torch.tensor([[[[0.0, 4.0]]]])).tolist()
    [[[[0.0, 2.0]]]]
    """

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(feature_BCHW, (1, 0, 1, 0), mode="replicate"), 2, stride=1)


class SelfAttention(nn.Module):
    """x + gamma * o: o is, at each position j, a mean of h over all positions i with weights softmax_i(f_i . g_j).

    f and g have an eighth of the channels of x, h all of them; each is a 1x1 convolution under spectral norm. gamma
    starts at 0, so that the layer starts as the identity.

    >>> SelfAttention(16)(torch.ones(1, 16, 2, 3)).equal(torch.ones(1, 16, 2, 3))
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 8)
        self.f, self.g, self.h = (SpectralProjection(channels, after) for after in (narrow, narrow, channels))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        # The scaled dot product without the scale; positions are rows, so (B, C, H, W) becomes (B, HW, C) and back.
        keys, queries, values = (
            projection(feature_BCHW).flatten(2).transpose(1, 2) for projection in (self.f, self.g, self.h)
        )
        mean = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        attended: Tensor = feature_BCHW + self.gamma * mean.transpose(1, 2).reshape(feature_BCHW.shape)
        return attended


class SpectralProjection(nn.Module):
    """1x1 convolution without bias whose weight is divided by its largest singular value.

    Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for GANs", ICLR 2018, arXiv 1802.05957: the singular
    vectors `u` and `v` are kept, and drawn nearer to the true ones by one power iteration in each training step.
    """

    u: Tensor
    v: Tensor

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, in_channels) * math.sqrt(2 / in_channels))
        self.register_buffer("u", torch.ones(channels))
        self.register_buffer("v", torch.ones(in_channels))
        for _ in range(15):
            self._iterated()

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        u, v = self._iterated() if self.training else (self.u, self.v)
        largest = (self.weight * torch.outer(u, v)).sum()
        return F.conv2d(feature_BCHW, (self.weight / largest)[..., None, None])

    @torch.no_grad()
    def _iterated(self) -> tuple[Tensor, Tensor]:
        # Products and sums, not matrix products, whose precision autocast would lower. What is returned is not what is
        # kept: the next step overwrites that, and this one may not have been differentiated yet.
        v = F.normalize((self.weight * self.u[:, None]).sum(0), dim=0)
        u = F.normalize((self.weight * v).sum(1), dim=0)
        self.u.copy_(u)
        self.v.copy_(v)
        return u, v


class ResidualPair(nn.Module):
    """ReLU(x + convolution(ReLU(convolution(x)))), 3x3 with biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(conv_relu(channels, channels), nn.Conv2d(channels, channels, 3, padding=1))
        initialise(self.convolutions)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        return F.relu(feature_BCHW + self.convolutions(feature_BCHW))


def dynamic_unet(
    in_channels: int,
    classes: int,
    *,
    encoder: str = "resnet34",
    blur: bool = False,
    self_attention: bool = False,
    last_cross: bool = True,
) -> DynamicUNet:
    """A DynamicUNet on the encoder of that name, a network of timm."""
    return DynamicUNet(
        build_encoder(encoder, in_channels),
        in_channels,
        classes,
        blur=blur,
        self_attention=self_attention,
        last_cross=last_cross,
    )


DYNAMIC_UNET = Architecture(
    build=dynamic_unet,
    paper="Howard, Gugger: fastai: A Layered API for Deep Learning. Information 2020",
    year=2020,
    link="arXiv 2002.04688",
    published=Published(classes=1, size=(224, 224), parameters=41_221_068),
    small={"encoder": "test_efficientnet"},
)
