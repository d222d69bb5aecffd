"""The losses by name, and sums of them such as `0.5*ce+dice`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.cross_entropy import cross_entropy
from pixelwise.losses.regression import l1, l2
from pixelwise.losses.tversky import dice, jaccard
from pixelwise.task import Task

Loss = Callable[[Tensor, Tensor, Task, Tensor | None], Tensor]
LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "dice": dice,
    "jaccard": jaccard,
    "l1": l1,
    "l2": l2,
}


def parse_loss(text: str) -> Loss:
    """The sum that `text` describes: names of LOSSES joined by `+`, each with an optional factor before a `*`.

    >>> import torch
    >>> logits, mask, task = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), Task.of(["a", "b"])
    >>> round(parse_loss("0.5*ce + dice")(logits, mask, task, None).item(), 4)
    0.6132
    """
    terms = [_parse_term(term.strip(), text) for term in text.split("+")]

    def weighted_sum(logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None) -> Tensor:
        losses = [factor * loss(logits_BKHW, mask_BHW, task, weight_BHW) for factor, loss in terms]
        return sum(losses[1:], start=losses[0])

    return weighted_sum


def _parse_term(term: str, text: str) -> tuple[float, Loss]:
    factor, star, name = term.rpartition("*")
    if name.strip() not in LOSSES:
        near = difflib.get_close_matches(name.strip(), LOSSES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(LOSSES)}"
        raise UsageError(f"there is no loss {name.strip()!r} in {text!r}; {hint}")
    return (_parse_factor(factor, text) if star else 1.0), LOSSES[name.strip()]


def _parse_factor(factor: str, text: str) -> float:
    try:
        value = float(factor)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{factor!r} in the loss {text!r} is not a number above 0; write for example 0.5*ce+dice")
    return value
