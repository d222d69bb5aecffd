"""The networks by name, and building one from a name and its arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pixelwise.errors import UsageError
from pixelwise.models.contracts import check_argument
from pixelwise.models.unet import UNet, unet_paper

MODELS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "unet_paper": unet_paper,
}


def build_model(name: str, *, in_channels: int, classes: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The network of that name in MODELS; `options` are its further arguments, by name.

    Raises UsageError for an unknown name or argument, naming the nearest, and for values outside their range.

    >>> build_model("unet", in_channels=1, classes=2, options={"width": 4, "depth": 1}).stride
    2
    """
    check_argument("in_channels", in_channels, lowest=1, highest=4096)
    check_argument("classes", classes, lowest=1, highest=4096)
    known = model_options(name)
    for key, value in (options or {}).items():
        if key not in known:
            raise UsageError(f"the model {name} has no argument {key!r}; {_suggestion(key, list(known))}")
        _check_type(key, value, known[key])
    return MODELS[name](in_channels, classes, **(options or {}))


def model_options(name: str) -> dict[str, Any]:
    """The further arguments of a network with their defaults; raises UsageError for an unknown name.

    >>> model_options("unet")
    {'width': 32, 'depth': 4, 'dropout': 0.0}
    """
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; {_suggestion(name, list(MODELS))}")
    parameters = inspect.signature(MODELS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _check_type(key: str, value: Any, default: Any) -> None:
    allowed = (int, float) if type(default) is float else (type(default),)
    if type(value) not in allowed:
        raise UsageError(f"{key} = {value!r}: give a value of type {type(default).__name__}, such as {default!r}")


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
