"""The networks by name, and building one from a name and its arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from pixelwise.errors import UsageError
from pixelwise.models import (
    deeplab,
    deeplabv3,
    dynamic_unet,
    fc_densenet,
    fcn,
    fpn,
    hypercolumns,
    parsenet,
    patch_classifier,
    pspnet,
    resunet,
    segnet,
    ternausnet,
    unet,
    unet_encoder,
    unet_keras,
)
from pixelwise.models.contracts import Architecture, check_argument

MODELS: dict[str, Architecture] = {
    "patch_classifier": patch_classifier.PATCH_CLASSIFIER,
    "fcn32s": fcn.FCN32S,
    "fcn16s": fcn.FCN16S,
    "fcn8s": fcn.FCN8S,
    "fcn8s_at_once": fcn.FCN8S_AT_ONCE,
    "unet": unet.UNET,
    "unet_paper": unet.UNET_PAPER,
    "hypercolumns": hypercolumns.HYPERCOLUMNS,
    "deeplabv1": deeplab.DEEPLABV1,
    "parsenet": parsenet.PARSENET,
    "pspnet": pspnet.PSPNET,
    "segnet": segnet.SEGNET,
    "segnet_basic": segnet.SEGNET_BASIC,
    "fc_densenet56": fc_densenet.FC_DENSENET56,
    "fc_densenet67": fc_densenet.FC_DENSENET67,
    "fc_densenet103": fc_densenet.FC_DENSENET103,
    "deeplabv3": deeplabv3.DEEPLABV3,
    "deeplabv2": deeplab.DEEPLABV2,
    "deeplabv2_vgg16": deeplab.DEEPLABV2_VGG16,
    "deeplabv3plus": deeplabv3.DEEPLABV3PLUS,
    "resunet": resunet.RESUNET,
    "ternausnet11": ternausnet.TERNAUSNET11,
    "ternausnet16": ternausnet.TERNAUSNET16,
    "unet_encoder": unet_encoder.UNET_ENCODER,
    "unet_tgs": unet_keras.UNET_TGS,
    "unet_line_by_line": unet_keras.UNET_LINE_BY_LINE,
    "fpn": fpn.SEMANTIC_FPN,
    "dynamic_unet": dynamic_unet.DYNAMIC_UNET,
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
    return MODELS[name].build(in_channels, classes, **(options or {}))


def model_options(name: str) -> dict[str, Any]:
    """The further arguments of a network with their defaults; raises UsageError for an unknown name.

    >>> model_options("unet")
    {'width': 32, 'depth': 4, 'dropout': 0.0, 'upsampling': 'up_convolution'}
    """
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; {_suggestion(name, list(MODELS))}")
    parameters = inspect.signature(MODELS[name].build).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _check_type(key: str, value: Any, default: Any) -> None:
    allowed = (int, float) if type(default) is float else (type(default),)
    if type(value) not in allowed:
        raise UsageError(f"{key} = {value!r}: give a value of type {type(default).__name__}, such as {default!r}")


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
