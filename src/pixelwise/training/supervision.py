"""More than one loss for one network, while it learns: on maps within it, and at several sizes of the image.

Auxiliary heads (Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, arXiv 1612.01105, section 4) and deep
supervision (Lee et al., "Deeply-Supervised Nets", AISTATS 2015, arXiv 1409.5185) put small heads on intermediate maps,
so that gradients reach the early layers by a short way. Multi-scale inputs (Chen et al., "DeepLab", TPAMI 2018, arXiv
1606.00915, section 3.2) show the network smaller copies of the image, and let the largest logit of each pixel count.

The network itself knows nothing of it and returns one tensor; what is here falls away with the end of the training.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from pixelwise.inference.scales import seen_at
from pixelwise.models.convolution import conv_norm_relu
from pixelwise.models.upsample import resize_to

DROPPED = 0.1


@dataclass(frozen=True, slots=True)
class SupervisedLogits:
    """All logits_BKHW of one image that have a loss of their own, at the size of the image.

    main       of the network: at each scale, and their maximum where there are several
    auxiliary  of the heads
    """

    main: list[Tensor]
    auxiliary: list[Tensor]

    def loss(self, of: Callable[[Tensor], Tensor], *, auxiliary: float) -> Tensor:
        """The sum of the losses `of` each tensor of logits, those of the heads with the weight `auxiliary`.

        >>> outputs = SupervisedLogits([torch.tensor(1.0), torch.tensor(2.0)], [torch.tensor(10.0)])
        >>> outputs.loss(lambda logits: logits, auxiliary=0.4)
        tensor(7.)
        """
        losses = [of(logits) for logits in self.main] + [auxiliary * of(logits) for logits in self.auxiliary]
        return sum(losses[1:], start=losses[0])


class SupervisedNetwork(nn.Module):
    """A network while it learns, with a head on each of the maps that it names in `supervised`, seen at `scales`.

    No heads: its own logits only. No scales: the size of the image only. While `resting`, that part of the network
    stays as it is in use: its batch norm keeps its statistics, and it drops out nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        heads: nn.ModuleList | None = None,
        *,
        scales: Sequence[float] = (),
        resting: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList() if heads is None else heads
        self.taps = supervised_parts(network) if len(self.heads) else ()
        self.scales = tuple(scales) or (1.0,)
        self.resting = () if resting is None else (resting,)  # a tuple, not a second place among the parts

    def train(self, mode: bool = True) -> SupervisedNetwork:
        """Training or use, as for every module; what rests stays in use."""
        super().train(mode)
        for part in self.resting:
            part.eval()
        return self

    def forward(self, image_BCHW: Tensor) -> SupervisedLogits:
        """The logits of an image, at its own size."""
        size = image_BCHW.shape[-2:]
        main: list[Tensor] = []
        auxiliary: list[Tensor] = []
        for scale in self.scales:
            with captured_maps(self.network, self.taps) as maps:
                main.append(seen_at(scale, image_BCHW, self.network))
            auxiliary += [resize_to(head(maps[tap]), size) for head, tap in zip(self.heads, self.taps, strict=True)]
        if len(main) > 1:
            main.append(reduce(torch.maximum, main))
        return SupervisedLogits(main, auxiliary)


def supervised_parts(network: nn.Module) -> tuple[str, ...]:
    """Names of the parts whose maps may have a loss of their own; see `models/contracts.py`."""
    names: tuple[str, ...] = network.supervised  # type: ignore[assignment]
    return names


def auxiliary_heads(blueprint: nn.Module, example_BCHW: Tensor, classes: int) -> nn.ModuleList:
    """A head with fresh weights for each supervised part of a network; network and image are on the meta device."""
    with captured_maps(blueprint, supervised_parts(blueprint)) as maps, torch.no_grad():
        blueprint.eval()(example_BCHW)
    return nn.ModuleList(auxiliary_head(maps[part].shape[1], classes) for part in supervised_parts(blueprint))


def auxiliary_head(channels: int, classes: int) -> nn.Sequential:
    """Logits from a map: 3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout, 1x1 convolution.

    >>> sum(p.numel() for p in auxiliary_head(1024, 21).parameters())
    2365205
    """
    between = max(1, channels // 4)
    return nn.Sequential(
        conv_norm_relu(channels, between),
        nn.Dropout(DROPPED),
        nn.Conv2d(between, classes, 1),
    )


@contextmanager
def captured_maps(network: nn.Module, parts: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """What parts of a network give while it runs within the context, by name; "encoder:-2" is one map of several.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    >>> with captured_maps(network, ["0"]) as maps:
    ...     logits = network(torch.zeros(2, 3, 4))
    >>> maps["0"].shape
    torch.Size([2, 12])
    """
    maps: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in parts:
            part, _, index = name.partition(":")
            hooks.enter_context(network.get_submodule(part).register_forward_hook(_keep(maps, name, index)))
        yield maps


def _keep(maps: dict[str, Tensor], name: str, index: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        maps[name] = output[int(index)] if index else output

    return hook
