"""How an image that is too large for the network at once is cut into windows, and how their logits are joined.

    exact    each window has the halo around it that the network needs: the same logits as of the whole image
    fading   windows overlap and fade into one another, with weights that fall from the middle to the edge
    average  windows overlap, and their logits are averaged
    inner    windows overlap, and of each only the inner part is kept

The last three are approximations: near the edges of a window the network lacks what lies beyond. They are for networks
that see the whole image, for which nothing is exact but the whole image (see `context.py`).

H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pixelwise.config import PredictConfig
from pixelwise.errors import UsageError
from pixelwise.inference.context import Context, context_of
from pixelwise.inference.footprint import footprint_of
from pixelwise.runtime import LackOfMemoryError, Runtime, byte_text, memory_limit
from pixelwise.tiles import Tile, TileGrid, Window, windows

USUAL_SIDE = 1024
"""windows that are not exact have it where none is given, so that results do not depend on the memory of a machine"""
LARGEST_SIDE = 4096
"""larger exact windows save less than 5 % of the work"""
USUAL_MEMORY = 4_000_000_000
SHARE_OF_FREE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How images are cut that have more than `side` x `side` pixels.

    way     how the logits of windows are joined
    side    pixels that the network sees at once, in each direction
    halo    exact and inner: pixels on each side of a window that are seen and not kept
    overlap fading and average: share of a window that the next one covers again
    stride  windows begin on multiples of it, the total stride of the network
    """

    way: Literal["exact", "fading", "average", "inner"]
    side: int
    halo: int = 0
    overlap: float = 0.0
    stride: int = 1

    @property
    def core(self) -> int:
        """Exact and inner: the side of what is kept of a window."""
        return (self.side - 2 * self.halo) // self.stride * self.stride

    def holds(self, shape: tuple[int, int]) -> bool:
        """Whether an image of that height and width goes through the network whole."""
        return math.prod(shape) <= self.side**2

    def tiles(self, shape: tuple[int, int]) -> Iterator[Tile]:
        """Exact and inner: what is read and what of it is kept, row by row."""
        return TileGrid(shape, self.core).tiles(self.halo, align=self.stride)

    def seen(self, shape: tuple[int, int]) -> list[Window]:
        """What the network sees of an image of that height and width, window by window."""
        if self.way in ("exact", "inner"):
            return [tile.read for tile in self.tiles(shape)]
        return windows(shape, (self.side, self.side), self.overlap, align=self.stride)

    def describe(self) -> str:
        """One line for a person.

        >>> Tiling(way="exact", side=1024, halo=96, stride=16).describe()
        'windows of 1024 pixels with a halo of 96: exactly as the whole image'
        """
        if self.way == "exact":
            return f"windows of {self.side} pixels with a halo of {self.halo}: exactly as the whole image"
        shared = f"a margin of {self.halo}" if self.way == "inner" else f"{self.overlap:.0%} of overlap"
        return f"windows of {self.side} pixels with {shared} ({self.way}): not exactly as the whole image"


def choose_tiling(
    network: nn.Module, in_channels: int, *, settings: PredictConfig, runtime: Runtime, memory: int | None = None
) -> Tiling:
    """How that network is to see images that are too large for it.

    `memory` is the budget in bytes for one window; None: half of what is free, and no more than 4 GB. It matters for
    exact windows without a size of their own alone. `auto` is exact where the network allows it and predict.tile is
    not too small for it, else fading. Raises UsageError where exact windows are asked for and cannot be, or are too
    small, and LackOfMemoryError where the budget allows none.
    """
    context = context_of(network, in_channels)
    if context.halo is not None and _may_be_exact(settings, context):
        side = settings.tile or _affordable_side(network, in_channels, context, runtime, memory)
        _check_side(side, context)
        return Tiling(way="exact", side=side, halo=context.halo, stride=context.stride)
    if settings.tiling == "exact":
        raise UsageError(
            f"predict.tiling=exact: the network {context.describe()}, so no window is exact; leave it out for windows "
            "that fade into one another, or predict images whole with a larger predict.tile"
        )
    side, stride = settings.tile or USUAL_SIDE, context.stride
    if settings.tiling == "inner":
        halo = round(side * settings.overlap / 2 / stride) * stride
        _check_side(side, Context(stride=stride, halo=halo))
        return Tiling(way="inner", side=side, halo=halo, stride=stride)
    way: Literal["fading", "average"] = "average" if settings.tiling == "average" else "fading"
    return Tiling(way=way, side=side, overlap=settings.overlap, stride=stride)


def smallest_side(context: Context) -> int:
    """The smallest window, pixels: of it at least a core of one stride is kept.

    >>> smallest_side(Context(stride=16, halo=96))
    208
    """
    return 2 * (context.halo or 0) + context.stride


def usual_memory(device: torch.device) -> int:
    """The budget for a window where none is given, bytes."""
    limit = memory_limit(device)
    return USUAL_MEMORY if limit is None else min(USUAL_MEMORY, int(SHARE_OF_FREE * limit))


def _may_be_exact(settings: PredictConfig, context: Context) -> bool:
    fits = not settings.tile or settings.tile >= smallest_side(context)
    return settings.tiling == "exact" or (settings.tiling == "auto" and fits)


def _affordable_side(
    network: nn.Module, in_channels: int, context: Context, runtime: Runtime, memory: int | None
) -> int:
    """The largest window within the memory, on whole strides."""
    budget = usual_memory(runtime.device) if memory is None else memory
    footprint = footprint_of(network, in_channels, runtime)
    largest = LARGEST_SIDE + 2 * (context.halo or 0)
    side = min(footprint.largest_side(budget), largest) // context.stride * context.stride
    if side < smallest_side(context):
        needed = footprint.memory(smallest_side(context) ** 2)
        raise LackOfMemoryError(
            f"{byte_text(budget)} of memory are too little for one window of this network, which {context.describe()}: "
            f"the smallest, {smallest_side(context)} pixels, takes about {byte_text(needed)}; give more (--memory)"
        )
    return side


def _check_side(side: int, context: Context) -> None:
    if side < smallest_side(context):
        raise UsageError(
            f"predict.tile={side}: the network needs {context.halo} pixels on each side of a window, so windows must "
            f"have at least {smallest_side(context)}, better {4 * smallest_side(context)}; give more, or 0 for as many "
            "as memory allows, or predict.tiling=fading for windows that are not exact"
        )
