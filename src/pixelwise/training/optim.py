"""Optimisers, learning rates as pure functions of the step, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from pixelwise.config import TrainingConfig

POLY_POWER = 0.9
ONE_CYCLE_START, ONE_CYCLE_PEAK = 1 / 25, 0.3


def make_optimizer(
    network: nn.Module,
    settings: TrainingConfig,
    *,
    heads: nn.Module | None = None,
    rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov momentum; biases and norms do not decay.

    `heads` are trained with the network. `rates` holds the share of the learning rate at which a parameter of the
    network learns, by its name; without one it learns at the full rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    others = () if heads is None else heads.named_parameters(prefix="heads")
    for name, parameter in chain(network.named_parameters(), others):
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((decay, (rates or {}).get(name, 1.0)), []).append(parameter)
    listed = [{"params": those, "weight_decay": decay, "share": share} for (decay, share), those in groups.items()]
    match settings.optimizer:
        case "adamw":
            return torch.optim.AdamW(listed, lr=settings.learning_rate, betas=(settings.momentum, 0.999))
        case "sgd":
            nesterov = settings.momentum > 0
            return torch.optim.SGD(listed, lr=settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0; `progress` runs from 0 to 1.

    >>> cosine(0.0), round(cosine(0.5), 6), cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


def poly(progress: float) -> float:
    """(1 - progress) ** 0.9, the course of DeepLab (Chen et al. 2018, section 4.1).

    >>> poly(0.0), poly(1.0)
    (1.0, 0.0)
    """
    return float((1 - progress) ** POLY_POWER)


def one_cycle(progress: float) -> float:
    """Up from 1/25 to 1 over the first 30 %, then down to 0, both half cosines (Smith and Topin 2018).

    >>> one_cycle(0.0), one_cycle(0.3), one_cycle(1.0)
    (0.04, 1.0, 0.0)
    """
    if progress < ONE_CYCLE_PEAK:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - cosine(progress / ONE_CYCLE_PEAK))
    return cosine((progress - ONE_CYCLE_PEAK) / (1 - ONE_CYCLE_PEAK))


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": cosine, "poly": poly, "onecycle": one_cycle}


def learning_rate(step: int, steps: int, settings: TrainingConfig) -> float:
    """The learning rate of a step (0-based) of a training of `steps` steps.

    It rises in a straight line over the warm-up, then follows the schedule; one cycle has its own rise.
    """
    warmup = 0 if settings.schedule == "onecycle" else round(settings.warmup * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * SCHEDULES[settings.schedule](progress)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step, or the share of it that a group of parameters has."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


class MovingAverage:
    """The exponential moving average of a network's weights and running statistics.

    The decay grows with the step, min(decay, (1 + step) / (10 + step)), so that the first weights are soon forgotten.
    With decay 0 it is a copy of the weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the network's weights after a step (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.values[name])
                current.append(value)
            else:
                self.values[name].copy_(value)
        torch._foreach_lerp_(averaged, current, 1 - decay)
