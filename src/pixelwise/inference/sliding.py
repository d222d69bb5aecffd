"""Logits of an image of any size: whole where it fits, else from windows.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pixelwise.inference.tiling import Tiling
from pixelwise.tiles import fading_weights


def sliding_logits(image_BCHW: Tensor, *, network: Callable[[Tensor], Tensor], tiling: Tiling | None) -> Tensor:
    """Logits (B, K, H, W) in float32, of windows as `tiling` says; None: the image goes through the network whole.

    Exact windows and inner parts are copied side by side, each pixel once. Windows that fade into one another or are
    averaged are added up, and divided by the sum of their weights.
    """
    if tiling is None:
        return network(image_BCHW).float()
    if tiling.way in ("exact", "inner"):
        return _side_by_side(image_BCHW, network, tiling)
    return _blended(image_BCHW, network, tiling)


def _side_by_side(image_BCHW: Tensor, network: Callable[[Tensor], Tensor], tiling: Tiling) -> Tensor:
    joined_BKHW: Tensor | None = None
    for tile in tiling.tiles((image_BCHW.shape[-2], image_BCHW.shape[-1])):
        logits_BKHW = network(image_BCHW[(..., *tile.read.slices)])
        if joined_BKHW is None:
            joined_BKHW = logits_BKHW.new_empty(*logits_BKHW.shape[:2], *image_BCHW.shape[-2:], dtype=torch.float32)
        joined_BKHW[(..., *tile.write.slices)] = logits_BKHW[(..., *tile.write.within(tile.read).slices)]
    assert joined_BKHW is not None, "the tiles cover every image"
    return joined_BKHW


def _blended(image_BCHW: Tensor, network: Callable[[Tensor], Tensor], tiling: Tiling) -> Tensor:
    shape = (image_BCHW.shape[-2], image_BCHW.shape[-1])
    weights_of = fading_weights if tiling.way == "fading" else _equal_weights
    total_BKHW: Tensor | None = None
    weights_HW = image_BCHW.new_zeros(shape, dtype=torch.float32)
    for window in tiling.seen(shape):
        rows, columns = window.slices
        logits_BKHW = network(image_BCHW[..., rows, columns]).float()
        weight_HW = torch.from_numpy(weights_of(window.shape)).to(logits_BKHW.device)
        if total_BKHW is None:
            total_BKHW = logits_BKHW.new_zeros(*logits_BKHW.shape[:2], *shape)
        total_BKHW[..., rows, columns] += logits_BKHW * weight_HW
        weights_HW[rows, columns] += weight_HW
    assert total_BKHW is not None, "windows() covers every image"
    return total_BKHW / weights_HW


def _equal_weights(shape: tuple[int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.ones(shape, np.float32)
