"""The convolutions that several papers share: with and without batch norm, atrous, depthwise separable.

Kernels are odd; then all of them keep the size of the map (divided by the stride, rounded up).
B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def conv_relu(in_channels: int, channels: int, kernel: int = 3, *, dilation: int = 1) -> nn.Sequential:
    """Convolution with bias, ReLU. `dilation` is the rate of the atrous convolution (Chen et al. 2015, section 3.1).

    >>> sum(p.numel() for p in conv_relu(512, 1024, dilation=12).parameters())
    4719616
    """
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation),
        nn.ReLU(inplace=True),
    )


def conv_norm_relu(
    in_channels: int, channels: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU.

    >>> sum(p.numel() for p in conv_norm_relu(2048, 256, 1).parameters())
    524800
    """
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=padding, dilation=dilation, bias=False),
        BatchNorm(channels),
        nn.ReLU(inplace=True),
    )


def separable_conv_norm_relu(in_channels: int, channels: int, kernel: int = 3, *, dilation: int = 1) -> nn.Sequential:
    """Depthwise separable convolution, batch norm, ReLU."""
    return nn.Sequential(
        SeparableConv(in_channels, channels, kernel, dilation=dilation),
        BatchNorm(channels),
        nn.ReLU(inplace=True),
    )


class SeparableConv(nn.Sequential):
    """Depthwise separable convolution: one `kernel` x `kernel` filter per channel, then a 1x1 convolution; no biases.

    Chollet, "Xception", CVPR 2017, arXiv 1610.02357.

    >>> sum(p.numel() for p in SeparableConv(2048, 256).parameters())
    542720
    """

    def __init__(self, in_channels: int, channels: int, kernel: int = 3, *, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(
                in_channels, in_channels, kernel, padding=padding, dilation=dilation, groups=in_channels, bias=False
            ),
            nn.Conv2d(in_channels, channels, 1, bias=False),
        )


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains where a channel has one value only: a map pooled to 1x1 in a batch of one.

    One value has no variance; it is then normalised by the running statistics, which stay as they are.
    """

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        batch, _, height, width = feature_BCHW.shape
        if self.training and batch * height * width == 1:
            return F.batch_norm(feature_BCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(feature_BCHW)
