"""The scores of a part of an image that is read window by window: what the whole image would give there.

The part is seen with the halo that the network needs, cut into as many windows as memory asks for, from all sides where
that is wanted. No more of the image is ever read.

C channels, K outputs, H rows, W columns; h, w those of the part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixelwise.data.large_source import LargeImage
from pixelwise.data.normalise import Normalisation
from pixelwise.inference.predict import Predictor
from pixelwise.inference.symmetries import Shape, Symmetry, symmetries
from pixelwise.inference.tiling import Tiling
from pixelwise.tiles import Tile, Window

Read = Callable[[Window], NDArray[np.generic]]


@torch.inference_mode()
def scores_of_part(read: Read, part: Window, *, shape: Shape, predictor: Predictor, tiling: Tiling) -> Tensor:
    """Scores (1, K, h, w) of the window `part` of an image of `shape`; `read` gives any window of it as (h, w, C).

    `tiling` is exact or of inner parts; what is exact gives the scores of the whole image.
    """
    assert tiling.way in ("exact", "inner"), "windows that overlap would need the scores of their neighbours"
    views = list(symmetries()) if predictor.settings.flips else [Symmetry()]
    total: Tensor | None = None
    for view in views:
        scores_BKHW = view.back(_seen(view, read, part, shape, predictor, tiling))
        total = scores_BKHW if total is None else total + scores_BKHW
    assert total is not None, "there is at least one view"
    return total / len(views)


def fill_unmeasured(values_HWC: NDArray[Any], image: LargeImage, normalisation: Normalisation) -> NDArray[Any]:
    """Part of an image with the mean of the training images where nothing was measured: there may be any number."""
    if image.place is None or image.place.nodata is None:
        return values_HWC
    means = np.asarray(normalisation.mean).astype(values_HWC.dtype)
    return np.where(image.place.void(values_HWC)[..., None], means, values_HWC)


def tiles_within(part: Window, shape: Shape, tiling: Tiling) -> Iterator[Tile]:
    """The windows in which a part of an image of `shape` is seen: at most the tiling's side, row by row.

    >>> tiling = Tiling(way="exact", side=24, halo=4, stride=4)
    >>> [(tile.read.top, tile.read.bottom) for tile in tiles_within(Window(8, 0, 30, 4), (100, 4), tiling)]
    [(4, 28), (20, 36)]
    """
    step = tiling.core
    for top in range(part.top // tiling.stride * tiling.stride, part.bottom, step):
        for left in range(part.left // tiling.stride * tiling.stride, part.right, step):
            write = Window(top, left, top + step, left + step).overlap(part)
            if write is not None:
                yield Tile(read=write.grown(tiling.halo, shape, align=tiling.stride), write=write)


def _seen(view: Symmetry, read: Read, part: Window, shape: Shape, predictor: Predictor, tiling: Tiling) -> Tensor:
    """The scores of a part as one view of the image sees it, turned as that."""
    turned, turned_shape = view.turn_window(part, shape), view.turned_shape(shape)
    scores_BKHW: Tensor | None = None
    for tile in tiles_within(turned, turned_shape, tiling):
        image_HWC = read(view.window_back(tile.read, shape))
        found_BKHW = _scores(view.turn(_as_tensor(image_HWC, predictor)), predictor)
        if scores_BKHW is None:
            scores_BKHW = found_BKHW.new_empty(*found_BKHW.shape[:2], *turned.shape)
        kept_BKHW = found_BKHW[(..., *tile.write.within(tile.read).slices)]
        scores_BKHW[(..., *tile.write.within(turned).slices)] = kept_BKHW
    assert scores_BKHW is not None, "a part has at least one pixel"
    return scores_BKHW


def _as_tensor(image_HWC: NDArray[np.generic], predictor: Predictor) -> Tensor:
    image_CHW = predictor.normalisation.apply(image_HWC).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(image_CHW))[None]


def _scores(image_BCHW: Tensor, predictor: Predictor) -> Tensor:
    with predictor.runtime.autocast():
        logits_BKHW = predictor.network(predictor.runtime.place_image(image_BCHW)).float()
    return predictor.task.activate(logits_BKHW)
