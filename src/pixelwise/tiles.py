"""Windows over a large image: where to read, where to write, and weights that fade to the edge.

    TileGrid          an image cut into cores that do not overlap: what is written, each by one writer
    Tile              a core with the halo around it: what the network must see for the core to be as in the whole image
    windows           overlapping windows, for networks that see the whole image: their results fade into one another

H rows, W columns. A window is a box of pixels inside the image; every pixel lies in at least one.
"""

from __future__ import annotations

from collections.abc import Iterator
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

    def grown(self, margin: int, shape: tuple[int, int], *, align: int = 1) -> Window:
        """The box with `margin` pixels more on each side, within an image of `shape`.

        It is first widened to whole blocks of `align` pixels, counted from the upper left of the image.

        >>> Window(9, 0, 12, 3).grown(4, (18, 64), align=4)
        Window(top=4, left=0, bottom=16, right=8)
        """
        top, left = (max(0, begin // align * align - margin) // align * align for begin in (self.top, self.left))
        bottom, right = (-(-end // align) * align + margin for end in (self.bottom, self.right))
        return Window(top, left, min(bottom, shape[0]), min(right, shape[1]))

    def within(self, other: Window) -> Window:
        """This box as seen from the upper left of another one that holds it.

        >>> Window(8, 4, 12, 8).within(Window(5, 4, 20, 20))
        Window(top=3, left=0, bottom=7, right=4)
        """
        return Window(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)

    def overlap(self, other: Window) -> Window | None:
        """What both boxes cover; None where they have no pixel in common.

        >>> Window(0, 0, 4, 4).overlap(Window(2, 3, 9, 9)), Window(0, 0, 4, 4).overlap(Window(4, 0, 9, 9))
        (Window(top=2, left=3, bottom=4, right=4), None)
        """
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Window(top, left, bottom, right) if top < bottom and left < right else None


@dataclass(frozen=True, slots=True)
class Tile:
    """What is read and what of it is written: `write` lies within `read`."""

    read: Window
    write: Window


@dataclass(frozen=True, slots=True)
class TileGrid:
    """An image of `shape` (height, width) cut into cores of `core` x `core` pixels, the last ones smaller.

    The cores are counted row by row from 0; together they hold every pixel once. Raises UsageError for an image or
    cores without a pixel.

    >>> grid = TileGrid((5, 9), 4)
    >>> len(grid), grid.window(5), grid.touching(Window(3, 3, 5, 5))
    (6, Window(top=4, left=8, bottom=5, right=9), [0, 1, 3, 4])
    """

    shape: tuple[int, int]
    core: int

    def __post_init__(self) -> None:
        if min(*self.shape, self.core) < 1:
            raise UsageError(f"{self.shape[0]}x{self.shape[1]} pixels in tiles of {self.core}: all must be at least 1")

    def __len__(self) -> int:
        return self.rows * self.columns

    @property
    def rows(self) -> int:
        """How many cores there are one below another."""
        return -(-self.shape[0] // self.core)

    @property
    def columns(self) -> int:
        """How many cores there are side by side."""
        return -(-self.shape[1] // self.core)

    def window(self, index: int) -> Window:
        """The pixels of a core."""
        row, column = divmod(index, self.columns)
        top, left = row * self.core, column * self.core
        return Window(top, left, min(top + self.core, self.shape[0]), min(left + self.core, self.shape[1]))

    def touching(self, window: Window) -> list[int]:
        """The cores that have a pixel in common with a window of the image, in their order."""
        rows = range(window.top // self.core, -(-window.bottom // self.core))
        columns = range(window.left // self.core, -(-window.right // self.core))
        return [row * self.columns + column for row, column in product(rows, columns)]

    def tiles(self, halo: int, *, align: int = 1) -> Iterator[Tile]:
        """The cores in their order, each with what must be read for it: `halo` more on each side.

        Reading begins on multiples of `align`, the total stride of the network.
        """
        for index in range(len(self)):
            core = self.window(index)
            yield Tile(read=core.grown(halo, self.shape, align=align), write=core)


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
