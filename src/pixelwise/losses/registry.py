"""The losses by name, and sums of them such as `0.5*ce+tversky(missed=0.8,invented=0.2)`."""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.compound import combo, exponential_logarithmic
from pixelwise.losses.cross_entropy import balanced_cross_entropy, cross_entropy
from pixelwise.losses.distance import distance_cross_entropy, hausdorff_distance_loss, shape_aware
from pixelwise.losses.focal import balanced_focal, focal
from pixelwise.losses.lovasz import lovasz
from pixelwise.losses.regression import l1, l2
from pixelwise.losses.structural import structural
from pixelwise.losses.tversky import (
    dice,
    focal_tversky,
    generalised_dice,
    jaccard,
    log_cosh_dice,
    sensitivity_specificity,
    tversky,
)
from pixelwise.task import Task

Loss = Callable[[Tensor, Tensor, Task, Tensor | None], Tensor]
Argument = float | bool | str
LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "balanced_ce": balanced_cross_entropy,
    "focal": focal,
    "balanced_focal": balanced_focal,
    "dice": dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "log_cosh_dice": log_cosh_dice,
    "generalised_dice": generalised_dice,
    "sensitivity_specificity": sensitivity_specificity,
    "combo": combo,
    "exp_log": exponential_logarithmic,
    "distance_ce": distance_cross_entropy,
    "hausdorff": hausdorff_distance_loss,
    "shape_aware": shape_aware,
    "structural": structural,
    "lovasz": lovasz,
    "l1": l1,
    "l2": l2,
}
EXAMPLE = "0.5*ce+focal(gamma=3)"
PLUS_BETWEEN_TERMS = re.compile(r"\+(?![^()]*\))")


def parse_loss(text: str) -> Loss:
    """The sum that `text` describes: names of LOSSES joined by `+`, each with an optional factor before a `*`.

    A name may be followed by arguments in brackets, `focal(gamma=3)`: numbers, `true` or `false`, or a word; those of
    `loss_arguments`. Raises UsageError, naming the nearest, for a name or an argument that does not exist, and for a
    value outside its range.

    >>> logits, mask, task = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), Task.of(["a", "b"])
    >>> round(parse_loss("0.5*ce + dice")(logits, mask, task, None).item(), 4)
    0.6132
    >>> round(parse_loss("ce(reduction=sum)+dice(smooth=1, squared=true)")(logits, mask, task, None).item(), 4)
    0.7872
    """
    terms = [_parse_term(term.strip(), text) for term in PLUS_BETWEEN_TERMS.split(text)]

    def weighted_sum_of_losses(
        logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None
    ) -> Tensor:
        losses = [factor * loss(logits_BKHW, mask_BHW, task, weight_BHW) for factor, loss in terms]
        return sum(losses[1:], start=losses[0])

    return weighted_sum_of_losses


def loss_arguments(name: str) -> dict[str, Any]:
    """The arguments of a loss of LOSSES that may be set, with their defaults; raises UsageError for an unknown name.

    >>> loss_arguments("balanced_focal")
    {'gamma': 2.0, 'alpha': None}
    """
    if name not in LOSSES:
        raise UsageError(f"there is no loss {name!r}; {_nearest(name, list(LOSSES), 'choose from')}")
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _parse_term(term: str, text: str) -> tuple[float, Loss]:
    head, bracket, tail = term.partition("(")
    factor, star, name = (part.strip() for part in head.rpartition("*"))
    if name not in LOSSES:
        raise UsageError(f"there is no loss {name!r} in {text!r}; {_nearest(name, list(LOSSES), 'choose from')}")
    if bracket and not tail.endswith(")"):
        raise UsageError(
            f"{term!r} in the loss {text!r} has no closing bracket at its end; write for example {EXAMPLE}"
        )
    arguments = _parse_arguments(name, tail.removesuffix(")").strip(), text)
    return (_parse_factor(factor, text) if star else 1.0), _bound(name, arguments)


def _parse_factor(factor: str, text: str) -> float:
    value = _number(factor)
    if not 0 < value < math.inf:
        raise UsageError(f"{factor!r} in the loss {text!r} is not a number above 0; write for example 0.5*ce+dice")
    return value


def _parse_arguments(name: str, listed: str, text: str) -> dict[str, Argument]:
    known, found = loss_arguments(name), dict[str, Argument]()
    for part in listed.split(",") if listed else ():
        key, equals, word = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UsageError(f"{part.strip()!r} in the loss {text!r}: write arguments as name=value, such as {EXAMPLE}")
        if key not in known:
            hint = _nearest(key, list(known), "it has") if known else "it has none"
            raise UsageError(f"the loss {name} has no argument {key!r} in {text!r}; {hint}")
        if key in found:
            raise UsageError(f"the argument {key!r} is given twice in the loss {text!r}; leave one out")
        found[key] = _parse_value(word, known[key], f"{key}={word} in the loss {text!r}")
    return found


def _parse_value(word: str, default: Any, place: str) -> Argument:
    """A value of the kind of the default; an argument that is None by default is a number."""
    if type(default) is str and re.fullmatch(r"[A-Za-z_]\w*", word):
        return word
    if type(default) is bool and word in ("true", "false"):
        return word == "true"
    if type(default) is int and re.fullmatch(r"[+-]?\d{1,9}", word):
        return int(word)
    if type(default) not in (str, bool, int) and math.isfinite(_number(word)):
        return _number(word)
    wanted = {str: "a word", bool: "true or false", int: "a whole number"}.get(type(default), "a number")
    example = "" if default is None else f", such as {str(default).lower()}"
    raise UsageError(f"{place}: give {wanted}{example}")


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _bound(name: str, arguments: dict[str, Argument]) -> Loss:
    """The loss with its arguments set. One pixel is tried, so that a value out of range is refused before training."""
    if not arguments:
        return LOSSES[name]
    loss: Loss = partial(LOSSES[name], **arguments)
    loss(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), Task.of(["any"], kind="overlapping"), None)
    return loss


def _nearest(word: str, known: list[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(known)}"
