"""What every network and every encoder promises, what is known of a published one, and how arguments are checked.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from pixelwise.errors import UsageError


class Model(Protocol):
    """A network: one image tensor in, one tensor of logits out, of the same height and width, whatever they are.

    stride      total stride: images whose origins differ by a multiple of it are treated alike
    supervised  names of its parts whose maps may have a loss of their own while training (auxiliary heads, deep
                supervision); "encoder:-2" is the last but one map of a part that gives several

    A part that may start from pretrained weights, be frozen or learn more slowly is called `encoder`.
    """

    stride: int
    supervised: tuple[str, ...]

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        """Raw logits_BKHW: no softmax, no tuple, no dictionary."""


class Encoder(Protocol):
    """The contracting half of a network: an image in, feature maps out, from shallow to deep.

    channels   channels of each feature map
    strides    pixels of the image per pixel of each feature map
    timm_name  the network of timm whose pretrained weights fit; empty where there is none
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    timm_name: str

    def __call__(self, image_BCHW: Tensor) -> list[Tensor]:
        """One feature map per stride; odd sizes are rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What is known exactly of a network as its paper has it: its inputs, its arguments, its learnable parameters."""

    in_channels: int = 3
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int]
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """An entry of MODELS.

    build      makes the network: build(in_channels, classes, *, further arguments with defaults)
    paper      authors, title, venue
    year       of publication
    link       arXiv number or DOI
    published  the network as in the paper
    small      arguments of a copy that is trained in seconds
    """

    build: Callable[..., nn.Module]
    paper: str
    year: int
    link: str
    published: Published
    small: Mapping[str, Any]


def check_argument(name: str, value: int | float, *, lowest: float, highest: float) -> None:
    """Refuse an argument of a network outside its range, before any memory is taken.

    >>> check_argument("depth", 99, lowest=1, highest=8)
    Traceback (most recent call last):
    pixelwise.errors.UsageError: depth = 99: choose a value from 1 to 8
    """
    if not lowest <= value <= highest:
        raise UsageError(f"{name} = {value}: choose a value from {lowest:g} to {highest:g}")


def check_choice(name: str, value: int | str, choices: Collection[int | str]) -> None:
    """Refuse an argument of a network that is none of its choices.

    >>> check_choice("output_stride", 7, (8, 16))
    Traceback (most recent call last):
    pixelwise.errors.UsageError: output_stride = 7: choose one of 8, 16
    """
    if value not in choices:
        raise UsageError(f"{name} = {value}: choose one of {', '.join(map(str, choices))}")
