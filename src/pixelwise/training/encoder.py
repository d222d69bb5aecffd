"""How the encoder of a network learns: not at all for a while, or more slowly than the rest, its early stages slowest.

B batch, C channels, H rows, W columns.

Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification" (ULMFiT), ACL 2018, arXiv 1801.06146:
gradual unfreezing, and discriminative fine-tuning (section 3.2), here for the encoders of images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelwise.config import TrainingConfig

ENCODER = "encoder"


def find_encoder(network: nn.Module) -> nn.Module | None:
    """The part of a network that is called encoder, None where there is none."""
    return dict(network.named_children()).get(ENCODER)


def timm_name(network: nn.Module) -> str:
    """The network of timm whose weights fit the encoder of a network; empty where there is none."""
    encoder = find_encoder(network)
    return "" if encoder is None else str(encoder.timm_name)


def frozen_steps(settings: TrainingConfig) -> int:
    """How many steps, at the beginning, the encoder does not learn; none where the steps are not fixed yet.

    >>> frozen_steps(TrainingConfig(steps=10, freeze=0.25))
    2
    """
    return round(settings.freeze * (settings.steps or 0))


def rates_by_name(blueprint: nn.Module, example_BCHW: Tensor, settings: TrainingConfig) -> dict[str, float]:
    """The share of the learning rate at which each parameter of the encoder learns, by its name in the network.

    In stage i of S, counted from the shallowest, from 0, it is encoder_rate * stage_rate ** (S - 1 - i). All other
    parameters learn at the full rate. Network and image are on the meta device.
    """
    encoder = find_encoder(blueprint)
    if encoder is None:
        return {}
    if settings.stage_rate == 1:
        return {f"{ENCODER}.{name}": settings.encoder_rate for name, _ in encoder.named_parameters()}
    stages = stages_by_name(encoder, example_BCHW)
    deepest = max(stages.values())
    return {
        f"{ENCODER}.{name}": settings.encoder_rate * settings.stage_rate ** (deepest - stage)
        for name, stage in stages.items()
    }


def stages_by_name(encoder: nn.Module, example_BCHW: Tensor) -> dict[str, int]:
    """The stage of each parameter of an encoder, the shallowest is 0; encoder and image are on the meta device.

    It is the first of the encoder's maps that depends on the parameter, the last one where none does; or, in an
    encoder that is a list of stages, the place in that list.
    """
    if isinstance(encoder, nn.ModuleList):
        parts = [dict(stage.named_parameters(prefix=str(number))) for number, stage in enumerate(encoder)]
        return {name: number for number, part in enumerate(parts) for name in part}
    named = dict(encoder.named_parameters())
    maps = encoder.eval()(example_BCHW)
    stages = dict.fromkeys(named, len(maps) - 1)
    for number, feature_BCHW in reversed(list(enumerate(maps))):
        gradients = torch.autograd.grad(feature_BCHW.sum(), list(named.values()), retain_graph=True, allow_unused=True)
        stages |= {name: number for name, found in zip(named, gradients, strict=True) if found is not None}
    return stages
