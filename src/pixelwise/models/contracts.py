"""What every network and every encoder promises, and how a network's arguments are checked.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pixelwise.errors import UsageError


class Model(Protocol):
    """A network: one image tensor in, one tensor of logits out, of the same height and width, whatever they are.

    stride  total stride: images whose origins differ by a multiple of it are treated alike
    """

    stride: int

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        """Raw logits_BKHW: no softmax, no tuple, no dictionary."""


class Encoder(Protocol):
    """The contracting half of a network: an image in, feature maps out, from shallow to deep.

    channels  channels of each feature map
    strides   pixels of the image per pixel of each feature map
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, image_BCHW: Tensor) -> list[Tensor]:
        """One feature map per stride; odd sizes are rounded up."""


def check_argument(name: str, value: int | float, *, lowest: float, highest: float) -> None:
    """Refuse an argument of a network outside its range, before any memory is taken.

    >>> check_argument("depth", 99, lowest=1, highest=8)
    Traceback (most recent call last):
    pixelwise.errors.UsageError: depth = 99: choose a value from 1 to 8
    """
    if not lowest <= value <= highest:
        raise UsageError(f"{name} = {value}: choose a value from {lowest:g} to {highest:g}")
