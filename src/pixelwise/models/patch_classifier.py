"""Sliding-window classification: Ciresan, Giusti, Gambardella, Schmidhuber, "Deep Neural Networks Segment Neuronal
Membranes in Electron Microscopy Images", NIPS 2012.

Table 1 in words, network N4: convolution and 2x2 max-pooling four times, until the window of 95 x 95 pixels around a
pixel has become 3 x 3 values of each of 48 maps; a fully connected layer of 200 and one of the classes name that pixel.
The window is moved over the image, which is continued by mirroring. Two forms with the same weights:

    PatchClassifier  a batch of windows in, the class of the middle pixel of each out
    PatchScanner     an image in, the classes of all its pixels out, at a small part of the work

Neighbouring windows share nearly all of their pixels. So PatchScanner pools at every position, with stride 1, and
spreads the weights of all later layers (atrous convolution) by the factor 2 that the pooling would have divided by:
Giusti et al., "Fast Image Scanning with Deep Max-Pooling Convolutional Neural Networks", ICIP 2013, arXiv 1302.1700;
Sermanet et al., "OverFeat", ICLR 2014, arXiv 1312.6229. B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.errors import UsageError
from pixelwise.models.contracts import Architecture, Published, check_argument
from pixelwise.models.mirror import mirror_padded
from pixelwise.models.unet import initialise

KERNELS = (4, 5, 4, 4)  # of the convolutions, from shallow to deep
LAST = 3  # rows and columns that the last pooling leaves of a window


class PatchClassifier(nn.Module):
    """The class of the middle pixel of a window: (B, C, window, window) to (B, K).

    width   maps of each convolution
    hidden  units of the fully connected layer
    depth   number of convolutions and poolings; with fewer than 4 the window is smaller

    Raises UsageError for windows of another size.

    >>> PatchClassifier(1, 2).window
    95
    """

    def __init__(self, in_channels: int, classes: int, *, width: int = 48, hidden: int = 200, depth: int = 4) -> None:
        check_argument("width", width, lowest=1, highest=1024)
        check_argument("hidden", hidden, lowest=1, highest=65536)
        check_argument("depth", depth, lowest=1, highest=len(KERNELS))
        super().__init__()
        self.window = window_of(KERNELS[:depth])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(in_channels if level == 0 else width, width, kernel)
            for level, kernel in enumerate(KERNELS[:depth])
        )
        self.hidden = nn.Conv2d(width, hidden, LAST)
        self.head = nn.Conv2d(hidden, classes, 1)
        initialise(self)

    def forward(self, patch_BCHW: Tensor) -> Tensor:
        """Logits (B, K)."""
        height, width = patch_BCHW.shape[-2:]
        if (height, width) != (self.window, self.window):
            raise UsageError(
                f"this patch classifier takes windows of {self.window} x {self.window} pixels, not {height} x {width}; "
                "for whole images, wrap it in PatchScanner"
            )
        feature = patch_BCHW
        for convolution in self.convolutions:
            feature = F.max_pool2d(convolution(feature), 2).relu()
        logits_BK11: Tensor = self.head(self.hidden(feature).relu())
        return logits_BK11.flatten(1)


class PatchScanner(nn.Module):
    """The patch classifier at every pixel of an image of any size, all at once.

    Beyond the border it sees mirror images.

    >>> import torch
    >>> PatchScanner(PatchClassifier(1, 2, width=4))(torch.zeros(1, 1, 5, 7)).shape
    torch.Size([1, 2, 5, 7])
    """

    def __init__(self, classifier: PatchClassifier) -> None:
        super().__init__()
        self.stride = 1
        self.supervised = ()
        self.classifier = classifier

    def forward(self, image_BCHW: Tensor) -> Tensor:
        margin = self.classifier.window // 2
        feature = mirror_padded(image_BCHW, rows=(margin, margin), columns=(margin, margin))
        rate = 1
        for convolution in self.classifier.convolutions:
            feature = _atrous(convolution, feature, rate)
            feature = F.max_pool2d(feature, 2, stride=1, dilation=rate).relu()
            rate *= 2
        feature = _atrous(self.classifier.hidden, feature, rate).relu()
        logits_BKHW: Tensor = self.classifier.head(feature)
        return logits_BKHW


def _atrous(layer: nn.Module, feature_BCHW: Tensor, rate: int) -> Tensor:
    """A convolution whose weights are `rate` pixels apart."""
    weight, bias = layer.parameters()
    return F.conv2d(feature_BCHW, weight, bias, dilation=rate)


def window_of(kernels: tuple[int, ...]) -> int:
    """Rows of the window of which convolutions of those kernels, each followed by 2x2 pooling, leave LAST.

    >>> [window_of(KERNELS[:depth]) for depth in (1, 2, 3, 4)]
    [9, 23, 47, 95]
    """
    rows = LAST
    for kernel in reversed(kernels):
        rows = 2 * rows + kernel - 1
    return rows


def patch_scanner(
    in_channels: int, classes: int, *, width: int = 48, hidden: int = 200, depth: int = 4
) -> PatchScanner:
    """The network N4 as a network for images; the arguments are those of PatchClassifier."""
    return PatchScanner(PatchClassifier(in_channels, classes, width=width, hidden=hidden, depth=depth))


PATCH_CLASSIFIER = Architecture(
    build=patch_scanner,
    paper="Ciresan, Giusti, Gambardella, Schmidhuber: Deep Neural Networks Segment Neuronal Membranes in Electron "
    "Microscopy Images. NIPS 2012",
    year=2012,
    link="arXiv 1302.1700",  # of the scanning
    published=Published(in_channels=1, classes=2, size=(512, 512), parameters=219_290),
    small={"width": 8, "hidden": 16, "depth": 3},
)
