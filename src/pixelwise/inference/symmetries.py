"""The eight symmetries of the square, of tensors and of windows: an image can be seen mirrored and turned.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelwise.tiles import Window

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """First mirrored, left to right, or not; then turned to the left by so many quarters."""

    quarter_turns: int = 0
    mirrored: bool = False

    def turn(self, values: Tensor) -> Tensor:
        """A tensor seen so, by its last two axes."""
        return torch.rot90(values.flip(-1) if self.mirrored else values, self.quarter_turns, (-2, -1))

    def back(self, values: Tensor) -> Tensor:
        """The inverse of `turn`."""
        turned = torch.rot90(values, -self.quarter_turns, (-2, -1))
        return turned.flip(-1) if self.mirrored else turned

    def turned_shape(self, shape: Shape) -> Shape:
        """Height and width of an image seen so."""
        return (shape[1], shape[0]) if self.quarter_turns % 2 else shape

    def turn_window(self, window: Window, shape: Shape) -> Window:
        """Where a window of an image of `shape` lies in the image seen so.

        >>> Symmetry(quarter_turns=1).turn_window(Window(0, 1, 2, 5), (4, 9))
        Window(top=4, left=0, bottom=8, right=2)
        """
        window = _mirror(window, shape) if self.mirrored else window
        for _ in range(self.quarter_turns):
            window, shape = _quarter_turn(window, shape), (shape[1], shape[0])
        return window

    def window_back(self, window: Window, shape: Shape) -> Window:
        """The inverse of `turn_window`; `shape` is that of the image as it is.

        >>> Symmetry(quarter_turns=1).window_back(Window(4, 0, 8, 2), (4, 9))
        Window(top=0, left=1, bottom=2, right=5)
        """
        turned = self.turned_shape(shape)
        for _ in range(-self.quarter_turns % 4):
            window, turned = _quarter_turn(window, turned), (turned[1], turned[0])
        return _mirror(window, shape) if self.mirrored else window


def symmetries() -> Iterator[Symmetry]:
    """All eight, the image as it is first."""
    for quarter_turns in range(4):
        for mirrored in (False, True):
            yield Symmetry(quarter_turns, mirrored)


def _mirror(window: Window, shape: Shape) -> Window:
    return Window(window.top, shape[1] - window.right, window.bottom, shape[1] - window.left)


def _quarter_turn(window: Window, shape: Shape) -> Window:
    """To the left: columns become rows, the last one first; rows become columns."""
    return Window(shape[1] - window.right, window.top, shape[1] - window.left, window.bottom)
