"""Optimisers, learning rates as pure functions of the step, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pixelwise.config import TrainingConfig

POLY_POWER = 0.9
ONE_CYCLE_START, ONE_CYCLE_PEAK = 1 / 25, 0.3


def make_optimizer(network: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov momentum; biases and norms do not decay."""
    decaying = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decaying, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    match settings.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999))
        case "sgd":
            nesterov = settings.momentum > 0
            return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)


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
    """Use `rate` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


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
