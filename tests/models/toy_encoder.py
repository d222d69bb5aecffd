"""An encoder written by hand, with whatever strides a test wants."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ToyEncoder(nn.Module):
    """Means over blocks of `stride` x `stride`, sizes rounded up, then a 1x1 convolution, for each stride."""

    def __init__(self, in_channels: int = 2, *, strides: tuple[int, ...] = (3, 6, 12)) -> None:
        super().__init__()
        self.timm_name = ""
        self.strides = strides
        self.channels = tuple(4 + index for index in range(len(strides)))
        self.mixers = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for channels in self.channels)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        blocks = (F.avg_pool2d(image_BCHW, stride, ceil_mode=True) for stride in self.strides)
        return [mixer(block) for mixer, block in zip(self.mixers, blocks, strict=True)]


def top_of_image_and_of_longer_image(network: nn.Module, rows: int = 90) -> tuple[Tensor, Tensor]:
    """Logits of the same upper rows in an image of 145 rows and in one of 150: equal where nothing is stretched."""
    torch.manual_seed(0)
    image = torch.randn(1, 2, 150, 31)
    with torch.inference_mode():
        return network.eval()(image[..., :145, :])[..., :rows, :], network(image)[..., :rows, :]
