from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stores import CLASSES, COLOURS, EVIDENCE, MICROMETRES, OBJECTS, SCORES, STAGES, make_plan

from pixelwise.data.store_plan import LabelColour, StorePlan, StoreStage, stage_of
from pixelwise.errors import UsageError
from pixelwise.tiles import TileGrid

# Layers and stages


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fill": 0}, "missing tile class 0"),
        ({"fill": 256}, "does not fit into uint8"),
        ({"fill": -1}, "does not fit into uint8"),
        ({"fill": 1.5}, "does not fit into uint8"),
        ({"fill": math.nan}, "does not fit into uint8"),
        ({"dtype": "float32", "fill": math.inf}, "does not fit into float32"),
        ({"dtype": "complex64"}, "choose one of uint8, uint16"),
        ({"name": "labels/Classes"}, "small letters"),
        ({"name": "../classes"}, "small letters"),
        ({"name": ".pixelwise"}, "small letters"),
        ({"name": "labels/0"}, "small letters"),
        ({"name": ""}, "small letters"),
        ({"channels": 0}, "give at least 1"),
        ({"colours": (LabelColour(256, (0, 0, 0), "x"),)}, "a value of uint8"),
        ({"colours": (LabelColour(1, (0, 300, 0), "x"),)}, "RGB from 0 to 255"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(change, said):
    with pytest.raises(UsageError, match=said):
        replace(CLASSES, **change)


def test_labels_are_what_lies_under_labels():
    assert CLASSES.is_labels
    assert OBJECTS.is_labels
    assert not SCORES.is_labels
    assert not replace(SCORES, name="labelsome").is_labels


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"core": 10}, "tiles of 10 pixels: choose a multiple of the 4"),
        ({"chunk": 0}, "choose a multiple of the 0"),
        ({"layers": (CLASSES, CLASSES)}, "give each another name"),
        ({"layers": (CLASSES, replace(OBJECTS, name="labels"))}, "would hold another layer"),
        ({"layers": (SCORES, replace(EVIDENCE, name="scores/low"))}, "would hold another layer"),
        ({"layers": (replace(CLASSES, stage="paint"),)}, "'paint' is none of network, write"),
        ({"layers": (replace(CLASSES, stage="join"),)}, "'join' is none of network, write"),
        ({"stages": (*STAGES, StoreStage("pyramid"))}, "not the word pyramid"),
        ({"stages": (*STAGES, StoreStage("a/b"))}, "small letters"),
        ({"stages": (*STAGES, STAGES[0])}, "give each another name"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change, said):
    with pytest.raises(UsageError, match=said):
        make_plan(**change)


def test_names_of_files_are_safe():
    with pytest.raises(UsageError, match="use small letters"):
        StoreStage("join", files=("../roots.npz",))


def test_layers_and_stages_are_found_by_name():
    plan = make_plan()
    assert plan.layer("evidence") == EVIDENCE
    assert plan.stage("pyramid/labels/objects/2") == StoreStage("pyramid/labels/objects/2", level=2)
    with pytest.raises(UsageError, match="no layer 'classes'; choose one of labels/classes, evidence"):
        plan.layer("classes")
    with pytest.raises(UsageError, match="no stage 'finish'; choose one of network, join, write, pyramid"):
        plan.stage("finish")


# Sizes


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 64))
def test_sizes_halve_down_to_one_chunk(height, width, chunk):
    plan = make_plan((height, width), chunk, chunk)
    shapes = [(height, width)]
    while max(shapes[-1]) > chunk:
        shapes.append(tuple((side + 1) // 2 for side in shapes[-1]))
    assert [plan.level_grid(level).shape for level in range(plan.levels)] == shapes


def test_only_layers_that_stay_have_sizes():
    plan = make_plan((9, 20))  # 9 x 20, 5 x 10, 3 x 5, 2 x 3
    names = [f"pyramid/labels/{name}/{level}" for name in ("classes", "objects") for level in (1, 2, 3)]
    assert [stage.name for stage in plan.pyramid] == names
    assert plan.array(OBJECTS, 2).shape == (3, 5)
    assert plan.array(OBJECTS, 2).path == "labels/objects/2"
    assert plan.array(EVIDENCE).path == ".pixelwise/work/arrays/evidence"
    assert plan.array(EVIDENCE).shape == (2, 9, 20)


def test_tiles_of_a_stage():
    plan = make_plan((9, 20))
    assert plan.tiles(STAGES[0]) == TileGrid((9, 20), 8)
    assert len(plan.tiles(STAGES[1])) == 1
    assert plan.tiles(STAGES[1]).window(0).shape == (9, 20)
    assert plan.tiles(plan.pyramid[1]) == TileGrid((3, 5), 8)


def test_what_a_stage_writes():
    plan = make_plan()
    assert list(plan.arrays(STAGES[0])) == ["labels/classes", "evidence"]
    assert plan.arrays(STAGES[1]) == {}
    assert {name: a.path for name, a in plan.arrays(plan.pyramid[0]).items()} == {"labels/classes": "labels/classes/1"}
    assert stage_of(CLASSES, 0) == "network"


# Kept as JSON


@pytest.mark.parametrize("layers", [(CLASSES,), (CLASSES, EVIDENCE, OBJECTS, SCORES)])
@pytest.mark.parametrize("pixel_size", [None, MICROMETRES])
def test_a_plan_survives_json_and_pickle(layers, pixel_size):
    plan = make_plan(layers=layers, pixel_size=pixel_size)
    again = StorePlan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
    assert again.fingerprint == plan.fingerprint
    assert again.differences(plan) == []
    assert again.to_dict() == plan.to_dict()
    assert again.layers[0].colours == COLOURS
    assert pickle.loads(pickle.dumps(plan)).to_dict() == plan.to_dict()  # noqa: S301
    assert all(math.isnan(layer.fill) for layer in again.layers if layer.dtype == "float32")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: values.pop("grid"),
        lambda values: values.update(format=2),
        lambda values: values["layers"][0].update(surprise=1),
        lambda values: values["layers"][0].update(fill=0),
        lambda values: values["stages"][0].pop("name"),
        lambda values: values.update(grid={"shape": [3], "core": 4}),
        lambda values: values.update(layers=7),
    ],
)
def test_anything_else_is_refused(spoil):
    values = make_plan().to_dict()
    spoil(values)
    with pytest.raises(UsageError, match="not the plan of a store"):
        StorePlan.from_dict(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"job": {"model": "b2", "settings": {"tile": 8}}}, ['model is "a1", not "b2"']),
        ({"job": {"model": "a1", "settings": {"tile": 9}}}, ["settings.tile is 8, not 9"]),
        ({"job": {"model": "a1", "settings": {"tile": 8}, "x": None}}, ["x is absent, not null"]),
        ({"job": {"settings": {"tile": 8}}}, ['model is "a1", not absent']),
        ({"core": 16, "chunk": 8}, ["grid.core is 8, not 16", "chunk is 4, not 8"]),
        ({"shape": (20, 28)}, ["grid.shape is [20, 27], not [20, 28]"]),
        ({"pixel_size": MICROMETRES}, ["pixel_size is null, not absent", "pixel_size.height is absent, not 0.5"]),
    ],
)
def test_differences_name_what_is_another(change, said):
    plan, other = make_plan(), make_plan(**change)
    assert plan.differences(other)[: len(said)] == said
    assert plan.fingerprint != other.fingerprint
    assert len(other.differences(plan)) == len(plan.differences(other))


def test_long_values_are_cut_in_messages():
    other = make_plan(job={"model": "x" * 500, "settings": {"tile": 8}})
    assert len(make_plan().differences(other)[0]) < 120


def test_tuples_and_lists_are_the_same_job():
    assert make_plan(job={"sizes": (1, 2)}).differences(make_plan(job={"sizes": [1, 2]})) == []
