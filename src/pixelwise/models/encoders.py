"""Encoders: any network of timm by its name, or a network of your own, as feature maps from shallow to deep.

Every map i has ceil(H / stride_i) rows and ceil(W / stride_i) columns, for any image from 1 x 1 on. Where the channels
are, which sizes the network takes and how its maps lie on the image is measured (map_fit.py), never told from its name:
a twin of a timm network on the meta device, which has shapes but no weights, is run on a few sizes.

B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, get_deprecated_models, is_model_in_modules
from torch import Tensor, nn

from pixelwise.errors import UsageError
from pixelwise.models.contracts import check_argument, check_choice
from pixelwise.models.map_fit import SAMPLE, MapFit, Shapes, first_line, fit_maps

Arguments = dict[str, Any]  # values are numbers, words, true and false

DILATED_STRIDES = (8, 16)
OWN_STRIDE = 32  # stands for the stride that a network has without dilation
DILATED_FAMILIES = (
    *("byoanet", "byobnet", "convnext", "cspnet", "cspnext", "efficientnet", "hardcorenas", "inception_next"),
    *("mobilenetv3", "mobilevit", "nfnet", "regnet", "res2net", "resnest", "resnet", "resnetv2", "rexnet", "sknet"),
    "xception_aligned",
)
"""The families, modules of timm, whose networks can be dilated to the DILATED_STRIDES."""

ANY_SIZE: tuple[Arguments, ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""What timm calls the argument that lets a network of fixed input size take others."""

RESERVED = {
    *inspect.signature(timm.create_model).parameters,
    *inspect.signature(build_model_with_cfg).parameters,
    *("features_only", "out_indices", "feature_cls", "in_chans", "num_classes", "output_stride", "device", "dtype"),
}
"""Arguments of timm that are pixelwise's to give, or that would read a file of any kind."""

LARGEST_ARGUMENT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPlan:
    """What a network of timm is as an encoder.

    fit         how its maps lie on the image
    channels    of each map
    parameters  learnable ones
    options     arguments for timm besides those in the name
    """

    fit: MapFit
    channels: tuple[int, ...]
    parameters: int
    options: Arguments


class TimmEncoder(nn.Module):
    """A network of timm as an encoder, with random weights.

    name           of timm, with or without the tag of its weights, and with arguments of its own where wanted:
                   "resnet18", "resnet18.a1_in1k", "mobilenetv1_100(pad_type=same, bn_eps=1e-3)"
    in_channels    channels of the image
    output_stride  stride of the deepest map: 32, its own; or 16 or 8, by dilation, for a network of DILATED_FAMILIES

    Raises UsageError for a name or an argument that timm does not know, and for a network that cannot give maps of
    images of every size. The message says what can be chosen.

    >>> encoder = TimmEncoder("resnet18", 3)
    >>> encoder.channels, encoder.strides
    ((64, 64, 128, 256, 512), (2, 4, 8, 16, 32))
    >>> [tuple(feature.shape[-2:]) for feature in encoder(torch.zeros(1, 3, 33, 1))]
    [(17, 1), (9, 1), (5, 1), (3, 1), (2, 1)]
    """

    def __init__(self, name: str, in_channels: int, *, output_stride: int = OWN_STRIDE) -> None:
        check_argument("in_channels", in_channels, lowest=1, highest=4096)
        check_choice("output_stride", output_stride, (*DILATED_STRIDES, OWN_STRIDE))
        super().__init__()
        self.timm_name = parse_encoder(name)[0]
        plan = plan_encoder(name, in_channels, output_stride=output_stride)
        self.fit, self.channels, self.strides = plan.fit, plan.channels, plan.fit.strides
        self.network = _create(name, in_channels, plan.options)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        return self.fit.cut(self.network(self.fit.pad(image_BCHW)), image_BCHW.shape[-2:])


class ModuleEncoder(nn.Module):
    """A network of your own as an encoder; its stages are found by running a copy of it once.

    A stage ends with the last layer before the maps become smaller, as in the DynamicUnet of fastai (Howard and Gugger,
    Information 11(2), 2020, arXiv 2002.04688). Layers are the children of the network, those of `nn.Sequential` one by
    one. What follows the deepest map, such as a classifier, is run and not used: better leave it out. A module that
    returns a list of maps and has `channels`, `strides` and `timm_name` is an encoder already.

    Raises UsageError for a network that cannot run on images of every size, or gives no maps.

    >>> body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1))
    >>> encoder = ModuleEncoder(body, 3)
    >>> encoder.stages, encoder.channels, encoder.strides
    (('1', '3'), (8, 16), (1, 2))
    """

    def __init__(self, module: nn.Module, in_channels: int) -> None:
        super().__init__()
        twin = copy.deepcopy(module).eval()  # running it leaves no trace in the network itself
        self.timm_name = ""
        self.network = module
        self.stages, self.channels, self.strides = _stages(twin, in_channels)

        def run(height: int, width: int) -> Shapes:
            maps = _run_layers(twin, self.stages, _blank(twin, in_channels, height, width))
            return [tuple(maps[stage].shape) for stage in self.stages]

        self.fit = fit_maps(run, self.channels, self.strides)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        maps = _run_layers(self.network, self.stages, self.fit.pad(image_BCHW))
        return self.fit.cut([maps[stage] for stage in self.stages], image_BCHW.shape[-2:])


def build_encoder(name: str, in_channels: int, *, output_stride: int = OWN_STRIDE) -> TimmEncoder:
    """The encoder of that name, as `TimmEncoder` describes it."""
    return TimmEncoder(name, in_channels, output_stride=output_stride)


def parse_encoder(name: str) -> tuple[str, Arguments]:
    """The name of timm and the arguments in an encoder's name; raises UsageError for what cannot be one.

    Values are numbers, true, false and words; nothing is evaluated.

    >>> parse_encoder("mobilenetv1_100(pad_type=same, bn_eps=1e-3)")
    ('mobilenetv1_100', {'pad_type': 'same', 'bn_eps': 0.001})
    """
    written = re.fullmatch(r"\s*([\w.]+)\s*(?:\((.*)\))?\s*", name)
    if not written:
        raise UsageError(
            f"{name!r} is not the name of an encoder; write for example resnet18, or resnet18(act_layer=silu)"
        )
    _check_name(written[1])
    arguments: Arguments = {}
    for term in filter(str.strip, (written[2] or "").split(",")):
        key, value = _parse_argument(term, name)
        if key in arguments:
            raise UsageError(f"{key} is given twice in {name!r}; leave one out")
        arguments[key] = value
    return written[1], arguments


def dilates(timm_name: str) -> bool:
    """Whether an encoder exists with output strides of 8 and 16.

    >>> dilates("resnet18"), dilates("vgg16")
    (True, False)
    """
    return is_model_in_modules(timm_name, DILATED_FAMILIES)


def _check_name(timm_name: str) -> None:
    """Refuse a name or a tag that timm does not have, naming the nearest."""
    architecture, _, tag = timm_name.partition(".")
    renamed = get_deprecated_models()
    if not timm.is_model(architecture) or architecture in renamed:
        near = renamed.get(architecture) or _nearest(architecture)
        hint = f"did you mean {near!r}?" if near else "`pixelwise encoders` lists them"
        raise UsageError(f"there is no encoder {architecture!r}; {hint}")
    if tag and timm_name not in (known := timm.list_models(f"{architecture}.*", include_tags=True)):
        choices = f"choose one of {', '.join(known)}" if known else "it has none"
        raise UsageError(f"there are no weights {tag!r} of {architecture}; {choices}")


def _nearest(architecture: str) -> str | None:
    return next(iter(difflib.get_close_matches(architecture, timm.list_models(), n=1)), None)


def _parse_argument(term: str, name: str) -> tuple[str, Any]:
    key, equals, text = (part.strip(" '\"") for part in term.partition("="))
    if not equals or not key.isidentifier() or not re.fullmatch(r"[\w.+-]+", text):
        raise UsageError(f"cannot understand {term.strip()!r} in {name!r}; write for example resnet18(act_layer=silu)")
    if key in RESERVED:
        raise UsageError(f"{key} in {name!r} is not an argument of the network; leave it out")
    return key, _parse_argument_value(key, text)


def _parse_argument_value(key: str, text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        check_argument(key, value, lowest=-LARGEST_ARGUMENT, highest=LARGEST_ARGUMENT)
        return value
    return text


@functools.cache
def plan_encoder(name: str, in_channels: int, *, output_stride: int = OWN_STRIDE) -> EncoderPlan:
    """What the encoder of that name will be, found without memory for its weights; raises UsageError as TimmEncoder."""
    timm_name, _ = parse_encoder(name)
    dilation: Arguments = {"output_stride": output_stride} if output_stride < OWN_STRIDE and dilates(timm_name) else {}
    config = timm.get_pretrained_cfg(timm_name)
    reason: UsageError | None = None
    for any_size in ANY_SIZE if config and config.fixed_input_size else ({},):
        try:
            plan = _plan(name, in_channels, {**dilation, **any_size})
        except UsageError as error:
            reason = error
            continue
        if max(plan.fit.strides) > output_stride < OWN_STRIDE:
            raise UsageError(
                f"output_stride = {output_stride}: {timm_name} has {max(plan.fit.strides)} only; "
                f"these families have 8, 16 and 32: {', '.join(DILATED_FAMILIES)}"
            )
        return plan
    raise UsageError(
        f"{name} cannot be an encoder of images of any size with {in_channels} channels: {reason}; "
        "`pixelwise encoders` lists others"
    ) from reason


def _plan(name: str, in_channels: int, options: Arguments) -> EncoderPlan:
    """Run a twin of the network on the meta device, which has shapes but no values."""
    with torch.device("meta"):
        twin = _create(name, in_channels, options).eval()
    channels, strides = twin.feature_info.channels(), twin.feature_info.reduction()  # type: ignore[union-attr, operator]

    def run(height: int, width: int) -> Shapes:
        with torch.no_grad(), torch.device("meta"):
            return [tuple(feature.shape) for feature in twin(torch.empty(1, in_channels, height, width))]

    fit = fit_maps(run, channels, strides)
    parameters = sum(p.numel() for p in twin.parameters())
    return EncoderPlan(fit=fit, channels=tuple(channels), parameters=parameters, options=options)


def _create(name: str, in_channels: int, options: Arguments) -> nn.Module:
    """The network of timm, giving maps. Arguments that it does not take are refused with errors of many kinds."""
    timm_name, arguments = parse_encoder(name)
    try:
        return timm.create_model(timm_name, features_only=True, in_chans=in_channels, **{**options, **arguments})
    except Exception as error:
        raise UsageError(f"timm refuses it ({first_line(error)})") from error


def _stages(twin: nn.Module, in_channels: int) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """The layers of a network that end its stages, and the channels and strides of their maps."""
    try:
        outputs = _run_layers(twin, list(_layers(twin)), _blank(twin, in_channels, SAMPLE, 2 * SAMPLE))
    except Exception as error:  # the network is the user's own
        raise UsageError(
            f"the network cannot be an encoder: it cannot run on {in_channels} x {SAMPLE} x {2 * SAMPLE} values "
            f"({first_line(error)}); give its convolutional part alone"
        ) from error
    stages: list[tuple[str, int, int]] = []
    for layer, feature in outputs.items():
        stride = _stride(feature)
        if stages and 0 < stride < stages[-1][2]:
            break  # the way up
        if stages and stride == stages[-1][2]:
            stages.pop()
        if stride:
            stages.append((layer, feature.shape[1], stride))
    if not stages:
        raise UsageError("the network cannot be an encoder: none of its layers gives maps; give its convolutional part")
    layers, channels, strides = zip(*stages, strict=True)
    return layers, channels, strides


def _layers(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """The names of a network's children; those of nn.Sequential in its place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _layers(child, f"{prefix}{name}.")
        else:
            yield prefix + name


def _stride(feature: Tensor) -> int:
    """Pixels per cell of a map of an image that is SAMPLE pixels wider than high; 0 where it is no such map."""
    more = feature.shape[3] - feature.shape[2] if feature.ndim == 4 else 0
    return SAMPLE // more if more > 0 and SAMPLE % more == 0 else 0


def _run_layers(network: nn.Module, layers: Sequence[str], image_BCHW: Tensor) -> dict[str, Tensor]:
    """What some layers of a network give, in the order in which they are run."""
    outputs: dict[str, Tensor] = {}

    def keep(layer: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _given: object, made: object) -> None:
            if isinstance(made, Tensor):
                outputs[layer] = made

        return hook

    with contextlib.ExitStack() as hooks:  # for this run only: a copied network must not fill the lists of the first
        for layer in layers:
            hooks.enter_context(network.get_submodule(layer).register_forward_hook(keep(layer)))
        network(image_BCHW)
    return outputs


def _blank(network: nn.Module, in_channels: int, height: int, width: int) -> Tensor:
    weights = next(network.parameters(), torch.empty(0))
    return weights.new_zeros(1, in_channels, height, width)
