"""Overlapping windows over a large image: where to read, where to write, and weights that fade to the edge.

H rows, W columns. A window is a box of pixels inside the image; every pixel lies in at least one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import UsageError


@dataclass(frozen=True, slots=True)
class Window:
    """A box of an image: rows `top` to `bottom`, columns `left` to `right` (the ends excluded)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index into the last two axes of an array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the box."""
        return self.bottom - self.top, self.right - self.left


def starts(length: int, size: int, step: int, align: int = 1) -> list[int]:
    """First pixels of windows of `size` that cover `length` pixels, at most `step` apart, on multiples of `align`.

    >>> starts(100, 64, 48, align=16)
    [0, 48]
    """
    last = max(0, length - size)
    last = -(-last // align) * align
    step = max(align, step // align * align)
    return [*range(0, last, step), last]


def windows(shape: tuple[int, int], size: tuple[int, int], overlap: float = 0.25, align: int = 1) -> list[Window]:
    """Windows of at most `size` (height, width) that cover an image of `shape`, row by row.

    `overlap` is the share of a window that the next one covers again. Windows begin on multiples of `align` (the total
    stride of the network), so that pooling groups the same pixels as in the whole image; the last ones may be smaller.
    Raises UsageError for windows smaller than `align`, which would leave gaps.

    >>> [(w.top, w.left, w.bottom, w.right) for w in windows((10, 4), (8, 8), overlap=0.5)]
    [(0, 0, 8, 4), (2, 0, 10, 4)]
    """
    if not 0 <= overlap < 1:
        raise UsageError(f"overlap {overlap}: give a share of the window from 0 to less than 1")
    if min(size) < 1 or align < 1:
        raise UsageError(f"windows of {size[0]}x{size[1]} pixels on multiples of {align}: all must be at least 1")
    if min(size) < align:
        raise UsageError(
            f"windows of {size[0]}x{size[1]} pixels on multiples of {align}, the total stride of the network, "
            f"leave gaps; choose windows of at least {align} pixels"
        )
    rows, columns = (
        starts(length, side, max(1, round(side * (1 - overlap))), align)
        for length, side in zip(shape, size, strict=True)
    )
    return [
        Window(top, left, min(top + size[0], shape[0]), min(left + size[1], shape[1]))
        for top, left in product(rows, columns)
    ]


def fading_weights(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Weights (H, W) of a window: highest in the middle, falling as a Gaussian to the edges, never 0.

    The standard deviation is a quarter of the side, so no weight is below exp(-4), about 1/55.
    """
    rows, columns = (
        np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 4)) ** 2).astype(np.float32) for side in shape
    )
    weights: NDArray[np.float32] = np.outer(rows, columns)
    return weights
