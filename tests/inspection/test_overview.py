from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from pixelwise.inspection.overview import look_at, sees
from pixelwise.inspection.summary import Layer
from pixelwise.models.registry import build_model


def overview_of(name: str, **options):
    with torch.device("meta"):
        network = build_model(name, in_channels=1, classes=2, options=options)
    return look_at(network, 1, (64, 96), stride=network.stride)


def test_a_unet_is_known_layer_by_layer():
    overview = overview_of("unet", width=4, depth=2)
    assert overview.stride == 4
    assert overview.summary.shape == (2, 64, 96)
    assert overview.field.rows == overview.field.columns == (44, 44)
    names = [layer.name for layer in overview.summary.layers]
    assert [sees(overview, layer) for layer in overview.summary.layers][:5] == ["3", "5", "10", "14", "24"]
    assert set(overview.fields) == set(names)
    assert {name: board.score for name, board in overview.checkerboards.items()} == {
        "decoder.0.up": 0,
        "decoder.1.up": 0,
    }


def test_the_small_unet_sees_what_was_worked_out_by_hand():
    # Down: two convolutions 5, pooling 6, two at stride 2: 14, pooling 16, two at stride 4: 32. Up: five pixels of the
    # image are three places of stride 2, with two convolutions there seven, and these are four of stride 4.
    overview = overview_of("unet", width=4, depth=2)
    assert overview.fields["encoder.levels.1.3"].rows == (14, 14)
    assert overview.fields["encoder.levels.2.3"].rows == (32, 32)
    assert overview.field.rows == (32 + 3 * 4, 32 + 3 * 4)


def test_what_sees_all_and_what_is_no_map_are_marked():
    overview = overview_of("parsenet", width=2)
    marks = {layer.name: sees(overview, layer) for layer in overview.summary.layers}
    assert "all" in marks.values()
    assert overview.field is None
    no_map = Layer(name="a", kind="linear", shape=(1, 2), parameters=0, multiply_adds=0)
    assert sees(overview, no_map) == "–"


@pytest.mark.parametrize(("name", "options"), [("unet", {"width": 2, "depth": 1}), ("parsenet", {"width": 2})])
def test_an_overview_is_json(name, options):
    overview = overview_of(name, **options)
    values = json.loads(json.dumps(overview.to_dict(), allow_nan=False))
    assert values["parameters"] == overview.summary.parameters
    assert len(values["layers"]) == len(overview.summary.layers)
    assert (values["receptive_field"] is None) == (overview.field is None)
    first = values["layers"][0]
    assert first["receptive_field"]["rows"] == [3, 3]
    assert first["shape"] == [2, 64, 96]


def test_a_network_of_one_layer():
    with torch.device("meta"):
        network = nn.Conv2d(1, 2, 3, padding=1)
    overview = look_at(network, 1, (9, 9), stride=1)
    assert overview.field.rows == (3, 3)
    assert [layer.name for layer in overview.summary.layers] == ["(network)"]
