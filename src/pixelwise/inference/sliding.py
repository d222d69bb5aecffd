"""Logits of an image of any size: whole where it fits, else from overlapping windows that fade into one another.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelwise.tiles import fading_weights, windows


def sliding_logits(
    image_BCHW: Tensor, *, network: Callable[[Tensor], Tensor], tile: int, overlap: float, stride: int
) -> Tensor:
    """Logits (B, K, H, W) in float32.

    An image of no more than tile x tile pixels goes through the network whole, of any shape. A larger one is cut into
    windows of `tile` pixels that begin on multiples of `stride`; where they overlap, their logits are averaged with
    weights that fall from the middle to the edge of each window, where the network saw the least context.
    """
    height, width = image_BCHW.shape[-2:]
    if height * width <= tile * tile:
        return network(image_BCHW).float()

    total_BKHW: Tensor | None = None
    weights_HW = image_BCHW.new_zeros(height, width, dtype=torch.float32)
    for window in windows((height, width), (tile, tile), overlap, align=stride):
        rows, columns = window.slices
        logits_BKHW = network(image_BCHW[..., rows, columns]).float()
        fading_HW = torch.from_numpy(fading_weights(window.shape)).to(logits_BKHW.device)
        if total_BKHW is None:
            total_BKHW = logits_BKHW.new_zeros(*logits_BKHW.shape[:2], height, width)
        total_BKHW[..., rows, columns] += logits_BKHW * fading_HW
        weights_HW[rows, columns] += fading_HW
    assert total_BKHW is not None, "windows() covers every image"
    return total_BKHW / weights_HW
