"""Enlarging a map by its stride without moving what is in it.

On the way down every network rounds sizes up: an image of 33 pixels has 3 at stride 16, which stand for 48. On the way
up the 3 become 48, and the last 15 are cropped. Resizing the 3 to 33 instead would shrink the map and move every object
a little, by an amount that depends on the size of the image: a tile would then differ from the whole.

B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.models.upsample import Curve, resize_to


def enlarge(
    feature_BCHW: Tensor, size: torch.Size | tuple[int, int], *, factor: float, curve: Curve = "bilinear"
) -> Tensor:
    """The map `factor` times larger, cut to `size` (height, width).

    The factor may be a fraction, as between strides of 4 and 6. `curve` is that of the interpolation.

    >>> enlarge(torch.tensor([[[[0.0, 1.0]]]]), (1, 3), factor=2, curve="nearest").tolist()
    [[[[0.0, 0.0, 1.0]]]]
    """
    if factor == 1:
        return cut_to(feature_BCHW, size)
    if not float(factor).is_integer():  # the enlarged map is rounded down, and would end too early
        feature_BCHW = F.pad(feature_BCHW, (0, 1, 0, 1), mode="replicate")
    aligned = None if curve == "nearest" else False
    larger = F.interpolate(feature_BCHW, scale_factor=factor, mode=curve, align_corners=aligned)
    return cut_to(larger, size)


def cut_to(feature_BCHW: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """The upper left of the map, of `size` (height, width); stretched where the map has less, as after rounding down.

    >>> cut_to(torch.tensor([[[[1.0, 2.0]]]]), (2, 1)).tolist()
    [[[[1.0], [1.0]]]]
    """
    height, width = size
    return resize_to(feature_BCHW[..., :height, :width], size, curve="nearest")
