"""How much of the image around an output a network must see for that output to be as in the whole image.

Networks of convolutions, poolings and up-sampling see a window. With that window around it, and cut on multiples of the
network's total stride so that pooling groups the same pixels, a part of an image gets the same logits as in the whole.
A network with a part that sees everything (attention, pooling over the whole image, norms by the statistics of the
image) has no such window: its logits change with every pixel of the image, and with where the image ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pixelwise.inference.dependence import evaluating
from pixelwise.inference.receptive_field import receptive_field

PROBE_SIDE = 64
SEES_ALL = {
    "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention",
    "softmax": "attention",
    "instance_norm": "instance norm",
    "group_norm": "group norm",
}
POOLING = "pooling over the whole image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a network needs around a part of an image.

    stride  the total stride: parts begin on multiples of it
    halo    pixels on each side, a multiple of the stride; None: the whole image
    reason  what in the network sees the whole image; empty where nothing does
    """

    stride: int
    halo: int | None
    reason: str = ""

    def describe(self) -> str:
        """One line for a person.

        >>> Context(stride=16, halo=96).describe()
        'sees 96 pixels around each; stride 16'
        """
        if self.halo is None:
            return f"sees the whole image ({self.reason}); stride {self.stride}"
        return f"sees {self.halo} pixels around each; stride {self.stride}"


def context_of(network: nn.Module, in_channels: int) -> Context:
    """The context that a network needs; the same network is measured once.

    It is the worst case over all weights: what an output could depend on, not what it does depend on with these.

    >>> context_of(_Strided(nn.Conv2d(1, 2, 5, padding=2)), 1)
    Context(stride=4, halo=4, reason='')
    """
    found = _known.get(network)
    if found is None:
        with torch.inference_mode(mode=False), torch.enable_grad():
            found = _known[network] = _measure(network, in_channels)
    return found


def _measure(network: nn.Module, in_channels: int) -> Context:
    stride = int(network.stride)  # type: ignore[arg-type]
    reasons = [SEES_ALL[name] for name in sorted(_functions_of(network, in_channels)) if name in SEES_ALL]
    if reasons:
        return Context(stride=stride, halo=None, reason=reasons[0])
    field = receptive_field(network, in_channels, stride=stride)
    if field is None or field.margin is None:
        return Context(stride=stride, halo=None, reason=POOLING)
    return Context(stride=stride, halo=math.ceil(field.margin / stride) * stride)


def _functions_of(network: nn.Module, in_channels: int) -> set[str]:
    """The names of the functions of torch that a network calls."""
    parameter = next(iter(network.parameters()), torch.empty(0))
    image_BCHW = torch.zeros(1, in_channels, PROBE_SIDE, PROBE_SIDE, device=parameter.device, dtype=parameter.dtype)
    mode = _Names()
    with torch.no_grad(), evaluating(network), mode:
        network(image_BCHW)
    return mode.names


class _Names(TorchFunctionMode):
    """Notes the names of all functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the name and go on."""
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


class _Strided(nn.Sequential):
    """Layers with a total stride, for the example."""

    stride = 4


_known: WeakKeyDictionary[nn.Module, Context] = WeakKeyDictionary()
