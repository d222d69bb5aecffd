from __future__ import annotations

import inspect

import pytest
from torch import nn

from pixelwise.errors import UsageError
from pixelwise.models.registry import MODELS, build_model, model_options


def test_a_model_is_built_with_its_options():
    network = build_model("unet", in_channels=3, classes=5, options={"width": 2, "depth": 1, "dropout": 0})
    assert network.encoder.channels == (2, 4)  # type: ignore[union-attr]
    assert network.head.out_channels == 5  # type: ignore[union-attr]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_options_with_defaults_in_range(name):
    assert all(default is not inspect.Parameter.empty for default in model_options(name).values())
    positional = [
        p.name for p in inspect.signature(MODELS[name].build).parameters.values() if p.kind is not p.KEYWORD_ONLY
    ]
    assert positional == ["in_channels", "classes"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("unett", {}, "there is no model 'unett'; did you mean 'unet'?"),
        ("zzz", {}, "there is no model 'zzz'; choose one of patch_classifier, "),
        ("unet", {"widht": 3}, "the model unet has no argument 'widht'; did you mean 'width'?"),
        ("unet", {"in_channels": 3}, "no argument 'in_channels'"),
        ("unet", {"width": "8"}, "width = '8': give a value of type int, such as 32"),
        ("unet", {"width": 8.0}, "width = 8.0: give a value of type int"),
        ("unet", {"width": True}, "width = True: give a value of type int"),
        ("unet", {"dropout": None}, "dropout = None: give a value of type float"),
        ("unet", {"width": 10**9}, "width = 1000000000: choose a value from 1 to 1024"),
        ("unet", {"depth": 10**6}, "depth = 1000000: choose a value from 1 to 8"),
    ],
)
def test_what_cannot_be_built_is_refused(name, options, said):
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        build_model(name, in_channels=1, classes=2, options=options)


@pytest.mark.parametrize("sizes", [{"in_channels": 0}, {"in_channels": 10**9}, {"classes": 0}, {"classes": -1}])
def test_channels_out_of_range_are_refused_before_memory_is_taken(sizes):
    with pytest.raises(UsageError, match=f"{next(iter(sizes))} = "):
        build_model("unet", **({"in_channels": 1, "classes": 2} | sizes))


def test_models_without_options_are_the_default_ones():
    network = build_model("unet", in_channels=1, classes=2)
    assert isinstance(network, nn.Module)
    assert network.encoder.channels[0] == model_options("unet")["width"]  # type: ignore[union-attr]
