"""The smaller sizes of a layer, each half of the one before, made core by core so that an image of any size can be.

Labels take every second pixel: a mean of two classes is no class. Other layers take the mean of four pixels (two, or
one, at an edge that is left over).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.store_plan import stage_of
from pixelwise.data.tile_store import TileStore
from pixelwise.tiles import Window


def build_pyramid(store: TileStore, layer: str) -> None:
    """Make what is missing of all smaller sizes of a layer that stays; each tile is kept as soon as it is made.

    To share the work between processes, give them `halve_tile`, one size after another. Raises DataError, naming the
    tiles, where the full size is not finished.
    """
    for level in range(1, store.plan.levels):
        for index in store.missing(stage_of(store.plan.layer(layer), level)):
            halve_tile(store, layer, level, index)


def halve_tile(store: TileStore, layer: str, level: int, index: int) -> None:
    """Make one tile of a smaller size from the size before; holds the tile, and a strip of what it is made of."""
    planned = store.plan.layer(layer)
    core = store.plan.level_grid(level).window(index)
    below = store.plan.level_grid(level - 1).shape
    front = () if planned.channels is None else (planned.channels,)
    values = np.empty((*front, *core.shape), planned.dtype)
    reduce = every_second if planned.is_labels else mean_of_four
    for top in range(core.top, core.bottom, store.plan.chunk):
        strip = Window(top, core.left, min(top + store.plan.chunk, core.bottom), core.right)
        source = Window(2 * strip.top, 2 * strip.left, min(2 * strip.bottom, below[0]), min(2 * strip.right, below[1]))
        values[(..., *strip.within(core).slices)] = reduce(store.read(layer, source, level=level - 1))
    store.write(index, stage_of(planned, level), {layer: values})


def every_second(values: NDArray[Any]) -> NDArray[Any]:
    """Every second row and column of the last two axes, from the first on.

    >>> every_second(np.arange(9).reshape(3, 3)).tolist()
    [[0, 2], [6, 8]]
    """
    return values[..., ::2, ::2]


def mean_of_four(values: NDArray[Any]) -> NDArray[Any]:
    """The mean of blocks of 2 x 2 over the last two axes, smaller at an odd edge; whole numbers round half to even.

    >>> mean_of_four(np.array([[1, 2, 9], [3, 4, 10]], np.uint8)).tolist()
    [[2, 10]]
    """
    height, width = values.shape[-2:]
    edge = [(0, 0)] * (values.ndim - 2) + [(0, height % 2), (0, width % 2)]
    even = np.pad(values, edge, mode="edge")
    mean = even[..., ::2, ::2].astype(np.float64)
    for down, right in ((0, 1), (1, 0), (1, 1)):
        mean += even[..., down::2, right::2]
    mean /= 4
    return (mean if values.dtype.kind == "f" else np.rint(mean)).astype(values.dtype)
