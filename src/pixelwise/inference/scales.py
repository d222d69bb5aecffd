"""Seeing an image at several sizes.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelwise.models.upsample import resize_to


def seen_at(scale: float, image_BCHW: Tensor, see: Callable[[Tensor], Tensor]) -> Tensor:
    """What `see` makes of the image at `scale` times its size, BKHW, interpolated to the image's own size.

    >>> seen_at(0.5, torch.zeros(1, 3, 9, 4), lambda image_BCHW: image_BCHW + image_BCHW.shape[-2])[0, 0, :2, 0]
    tensor([4., 4.])
    """
    if scale == 1:
        return see(image_BCHW)
    size = image_BCHW.shape[-2:]
    return resize_to(see(resize_to(image_BCHW, scaled(size, scale))), size)


def scaled(size: torch.Size | tuple[int, int], scale: float) -> tuple[int, int]:
    """A size (height, width) times a scale, at least 1x1.

    >>> scaled((65, 1), 0.5)
    (32, 1)
    """
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width
