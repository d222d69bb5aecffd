"""What a network is made of: its layers with output shapes, parameters and multiply-adds.

Convention: a convolution does one multiply-add per weight and output position (a transposed one per weight and input
position), also where the window hangs over the border; biases, norms, activations and interpolation count nothing.

Nothing is computed but shapes: the network and the image have no memory behind them (the meta device). B batch, C
channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pixelwise.inference.dependence import evaluating, last_map

Norm = nn.BatchNorm2d | nn.InstanceNorm2d | nn.GroupNorm | nn.LayerNorm
MapLayer = nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.InstanceNorm2d


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer, or several that belong together.

    name           in the network, such as encoder.levels.0.3
    kind           what it does, in a few words; a norm right behind a convolution is part of it
    shape          of its output, without the batch: channels, rows, columns
    parameters     that are learned; shared weights count where they are first used
    multiply_adds  for one image
    source         name of the layer that gave the output, if that is a map of channels, rows and columns; else empty
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A network, for one image of `image_shape` (channels, rows, columns).

    layers             in the order in which they run
    shape              of the logits: outputs, rows, columns
    parameters         that are learned, in the whole network
    multiply_adds      for one image, those between the layers (attention, fixed filters) with them
    """

    image_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int

    @property
    def idle_parameters(self) -> int:
        """Parameters of no layer that ran: used in training only, or through their weights and not as layers."""
        return self.parameters - sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds_between(self) -> int:
        """Multiply-adds that are of no layer: attention, fixed filters, layers used through their weights."""
        return self.multiply_adds - sum(layer.multiply_adds for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "image": list(self.image_shape),
            "output": list(self.shape),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "idle_parameters": self.idle_parameters,
            "multiply_adds_between": self.multiply_adds_between,
            "layers": [asdict(layer) for layer in self.layers],
        }


def summarise(network: nn.Module, in_channels: int, size: tuple[int, int]) -> Summary:
    """Run a network of the meta device on one image of `size` (rows, columns) and write down what its layers do.

    >>> with torch.device("meta"):
    ...     network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    >>> summarise(network, 3, (10, 20)).layers
    (Layer(name='0', kind='conv 3×3 + norm', shape=(8, 10, 20), parameters=232, multiply_adds=43200, source='0'),)
    """
    journal = _Journal()
    handles = [
        module.register_forward_hook(journal.hook(name))
        for name, module in network.named_modules()
        if list(module.parameters(recurse=False))
    ]
    try:
        with evaluating(network), torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
            logits_BKHW = network(torch.empty(1, in_channels, *size))
    finally:
        for handle in handles:
            handle.remove()
    return Summary(
        image_shape=(in_channels, *size),
        layers=tuple(_with_their_norms(journal)),
        shape=tuple(logits_BKHW.shape[1:]),
        parameters=learnable(network),
        multiply_adds=counter.get_total_flops() // 2,
    )


def learnable(network: nn.Module) -> int:
    """The number of parameters that are learned.

    >>> learnable(nn.Conv2d(3, 8, 3))
    224
    """
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def folded(layers: Sequence[Layer], depth: int) -> list[Layer]:
    """Layers summed up where the first `depth` parts of their names are the same; in the order of the first of each.

    >>> convolution = Layer(name="encoder.0", kind="conv 3×3", shape=(8, 9, 9), parameters=10, multiply_adds=20)
    >>> folded([convolution, replace(convolution, name="encoder.1", shape=(16, 9, 9))], 1)
    [Layer(name='encoder', kind='2 layers', shape=(16, 9, 9), parameters=20, multiply_adds=40, source='')]
    """

    def start(layer: Layer) -> str:
        return ".".join(layer.name.split(".")[:depth])

    order = {name: place for place, name in reversed([*enumerate(start(layer) for layer in layers)])}
    groups = groupby(sorted(layers, key=lambda layer: order[start(layer)]), key=start)
    return [_sum(name, list(group)) for name, group in groups]


def fitting_depth(layers: Sequence[Layer], lines: int) -> int:
    """The greatest depth at which `folded` leaves no more than so many layers; at least 1.

    >>> layer = Layer(name="a.0", kind="conv 3×3", shape=(1, 1, 1), parameters=0, multiply_adds=0)
    >>> fitting_depth([layer, replace(layer, name="a.1")], 2), fitting_depth([layer, replace(layer, name="a.1")], 1)
    (2, 1)
    """
    deepest = max((layer.name.count(".") + 1 for layer in layers), default=1)
    return next((depth for depth in range(deepest, 1, -1) if len(folded(layers, depth)) <= lines), 1)


def _sum(name: str, layers: list[Layer]) -> Layer:
    if len(layers) == 1:
        return layers[0]
    return Layer(
        name=name,
        kind=f"{len(layers)} layers",
        shape=layers[-1].shape,
        parameters=sum(layer.parameters for layer in layers),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        source=layers[-1].source,
    )


class _Journal:
    """What ran: every module with parameters of its own, in order, with the shapes of its input and output."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """A forward hook that writes down one call."""

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            result = last_map(output)
            self.calls.append((name, module, inputs[0] if inputs else result, result))

        return note


def _with_their_norms(journal: _Journal) -> list[Layer]:
    """The layers; a norm that takes what a convolution just gave, as it is, belongs to it."""
    layers: list[Layer] = []
    counted: set[nn.Parameter] = set()
    before: Tensor | None = None
    for name, module, given, output in journal.calls:
        layer = _layer(name, module, given, output, counted)
        if isinstance(module, Norm) and given is before:
            kind, parameters = f"{layers[-1].kind} + norm", layers[-1].parameters + layer.parameters
            layers[-1] = replace(layers[-1], kind=kind, parameters=parameters)
            before = None
        else:
            layers.append(layer)
            before = output
        counted.update(module.parameters(recurse=False))
    return layers


def _layer(name: str, module: nn.Module, given: Tensor, output: Tensor, counted: set[nn.Parameter]) -> Layer:
    new = {parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad} - counted
    return Layer(
        name=name or "(network)",
        kind=_kind(module),
        shape=tuple(output.shape[1:]),
        parameters=sum(parameter.numel() for parameter in new),
        multiply_adds=_multiply_adds(module, given, output),
        source=name if isinstance(module, MapLayer) else "",
    )


def _kind(module: nn.Module) -> str:
    match module:
        case nn.Conv2d() | nn.ConvTranspose2d():
            return _kind_of_convolution(module)
        case nn.Linear():
            return "linear"
        case _ if isinstance(module, Norm):
            return "norm"
        case _:
            return type(module).__name__


def _kind_of_convolution(layer: nn.Conv2d | nn.ConvTranspose2d) -> str:
    """Such as `conv 3×3 /2 rate 4`: stride 2, dilation 4."""
    name = "up-conv" if isinstance(layer, nn.ConvTranspose2d) else "conv"
    if layer.groups > 1:
        name = "depthwise" if layer.groups == layer.in_channels else f"{layer.groups} groups"
    words = [name, "×".join(str(side) for side in layer.kernel_size)]
    if max(layer.stride) > 1:
        words.append(f"/{layer.stride[0]}")
    if max(layer.dilation) > 1:
        words.append(f"rate {layer.dilation[0]}")
    return " ".join(words)


def _multiply_adds(module: nn.Module, given: Tensor, output: Tensor) -> int:
    match module:
        case nn.Conv2d():
            return module.weight.numel() * output.shape[0] * math.prod(output.shape[-2:])
        case nn.ConvTranspose2d():
            return module.weight.numel() * given.shape[0] * math.prod(given.shape[-2:])
        case nn.Linear():
            return module.weight.numel() * math.prod(given.shape[:-1])
        case _:
            return 0
