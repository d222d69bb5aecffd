"""What every loss shares: how void and weights enter it, the mean over the pixels, and the checks of its arguments.

A loss is a pure function of (logits_BKHW, mask_BHW, task, weight_BHW=None) and of keyword-only arguments, and gives a
scalar. Void has no say and no gradient; a batch that is all void gives 0. Weights multiply: a pixel of weight 0 has no
gradient. Class weights, border weights and sample weights all enter as weight_BHW.

B batch, K outputs, H rows, W columns. Where B1HW stands for BKHW, one map holds for all the outputs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.task import Task

PIXELS = (0, 2, 3)


class Target(NamedTuple):
    """The truth as the losses see it.

    present_BKHW  bool: which classes are there
    counts_BKHW   bool, B1HW for exclusive classes: which pixels count
    weights_BKHW  0 where void, else the weight of the pixel; bool where no weights are given
    """

    present_BKHW: Tensor
    counts_BKHW: Tensor
    weights_BKHW: Tensor

    def pixels(self) -> Tensor:
        """How many pixels count for one class at least; 1 where none does, so that it may divide."""
        return self.counts_BKHW.any(dim=1).sum().clamp(min=1)


def target_of(mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None) -> Target:
    """The truth of a mask of class indices (exclusive) or of a mask_BKHW of 0 and 1 (overlapping)."""
    present_BKHW, counts_BKHW = task.truth(mask_BHW)
    weights_BKHW = counts_BKHW if weight_BHW is None else weight_BHW[:, None].where(counts_BKHW, 0.0)
    return Target(present_BKHW, counts_BKHW, weights_BKHW)


def mean_over_pixels(terms_BKHW: Tensor, target: Target) -> Tensor:
    """Sum of the weighted terms of all outputs, divided by the number of pixels that count (not by their weights)."""
    return weighted_sum(terms_BKHW, target) / target.pixels()


def mean_over_entries(terms_BKHW: Tensor, target: Target) -> Tensor:
    """Sum of the weighted terms, divided by the number of (class, pixel) pairs that count."""
    counted = target.counts_BKHW.expand_as(terms_BKHW).sum().clamp(min=1)
    return weighted_sum(terms_BKHW, target) / counted


def weighted_sum(terms_BKHW: Tensor, target: Target) -> Tensor:
    """Sum of the terms, each times the weight of its pixel; whatever stands at void pixels is left out."""
    return (terms_BKHW.where(target.counts_BKHW, 0.0) * target.weights_BKHW).sum()


def log_complements(logits_BKHW: Tensor, task: Task) -> Tensor:
    """Natural logarithm of 1 - score, finite and exact where the score is all but 1.

    >>> log_complements(torch.tensor([100.0, 0.0]).view(1, 2, 1, 1), Task.of(["a", "b"]))[0, 0].item()
    -100.0
    """
    if task.kind == "overlapping":
        return task.log_scores(-logits_BKHW)

    # Only one class of a pixel can have a score above 1/2: its complement is the sum of the other scores.
    log_p_BKHW = task.log_scores(logits_BKHW)
    leads_BKHW = log_p_BKHW.detach().exp() > 0.5
    others_B1HW = log_p_BKHW.masked_fill(leads_BKHW, -torch.inf).logsumexp(dim=1, keepdim=True)
    return others_B1HW.where(leads_BKHW, (-log_p_BKHW.masked_fill(leads_BKHW, -torch.inf).exp()).log1p())


def power(values: Tensor, exponent: float) -> Tensor:
    """values ** exponent for values from 0, with a gradient of 0 at 0 (where an exponent below 1 has none).

    >>> power(torch.tensor([0.0, 4.0]), 0.5).tolist()
    [0.0, 2.0]
    """
    positive = values > 0
    return values.where(positive, 1.0).pow(exponent).where(positive, 0.0)


def check_range(name: str, value: float, *, lowest: float, highest: float = torch.inf) -> None:
    """Refuse an argument of a loss outside its range.

    >>> check_range("gamma", -1.0, lowest=0)
    Traceback (most recent call last):
    pixelwise.errors.UsageError: gamma = -1: choose a number of at least 0
    """
    if not (lowest <= value <= highest and value < torch.inf):
        rule = f"from {lowest:g} to {highest:g}" if highest < torch.inf else f"of at least {lowest:g}"
        raise UsageError(f"{name} = {value:g}: choose a number {rule}")


def check_word(name: str, value: str, choices: Collection[str]) -> None:
    """Refuse an argument of a loss that is none of its choices."""
    if value not in choices:
        raise UsageError(f"{name} = {value}: choose one of {', '.join(choices)}")
