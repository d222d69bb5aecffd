from __future__ import annotations

import json
import math

import numpy as np
import pytest
from small_stores import CLASSES, EVIDENCE, MICROMETRES, OBJECTS, SCORES, finish, make_plan, true_map

from pixelwise.data.ome_zarr import layer_attributes, store_metadata
from pixelwise.data.tile_store import TileStore


def scales(attributes: dict) -> list[list[float]]:
    datasets = attributes["multiscales"][0]["datasets"]
    return [dataset["coordinateTransformations"][0]["scale"] for dataset in datasets]


def test_every_group_and_array_is_described():
    files = store_metadata(make_plan((9, 20), layers=(CLASSES, EVIDENCE, SCORES)))
    assert list(files)[:4] == ["zarr.json", "labels/zarr.json", "labels/classes/zarr.json", "scores/zarr.json"]
    arrays = [name for name, value in files.items() if value["node_type"] == "array"]
    assert arrays == [
        ".pixelwise/work/arrays/evidence/zarr.json",
        *(f"labels/classes/{level}/zarr.json" for level in range(4)),
        *(f"scores/{level}/zarr.json" for level in range(4)),
    ]
    assert json.dumps(files, allow_nan=False)


def test_labels_say_what_they_are():
    attributes = layer_attributes(make_plan((9, 9)), CLASSES)
    assert attributes["version"] == "0.5"
    assert attributes["image-label"] == {
        "source": {"image": "../../"},
        "colors": [{"label-value": 0, "rgba": [0, 0, 0, 0]}, {"label-value": 1, "rgba": [230, 69, 69, 255]}],
        "properties": [{"label-value": 0, "name": "background"}, {"label-value": 1, "name": "cell"}],
    }
    assert layer_attributes(make_plan((9, 9)), OBJECTS)["image-label"] == {"source": {"image": "../../"}}
    assert "image-label" not in layer_attributes(make_plan((9, 9)), SCORES)


def test_the_scale_doubles_and_has_the_unit():
    plan = make_plan((9, 20), pixel_size=MICROMETRES)
    attributes = layer_attributes(plan, CLASSES)
    assert scales(attributes) == [[0.5, 0.25], [1.0, 0.5], [2.0, 1.0], [4.0, 2.0]]
    assert attributes["multiscales"][0]["axes"] == [
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    assert "unit" not in layer_attributes(make_plan(), CLASSES)["multiscales"][0]["axes"][0]


def test_a_mean_lies_between_the_pixels_it_is_of():
    # Pixels of 0.5 x 0.25: the first mean of four lies half a pixel from the first pixel, of sixteen one and a half.
    datasets = layer_attributes(make_plan(pixel_size=MICROMETRES), SCORES)["multiscales"][0]["datasets"]
    shifts = [dataset["coordinateTransformations"][1:] for dataset in datasets[:3]]
    assert shifts[0] == []
    assert shifts[1] == [{"type": "translation", "translation": [0.0, 0.25, 0.125]}]
    assert shifts[2] == [{"type": "translation", "translation": [0.0, 0.75, 0.375]}]
    for dataset in layer_attributes(make_plan(pixel_size=MICROMETRES), CLASSES)["multiscales"][0]["datasets"]:
        assert len(dataset["coordinateTransformations"]) == 1


@pytest.mark.parametrize(
    ("layers", "first"),
    [((CLASSES, SCORES), "scores/0"), ((CLASSES, OBJECTS), "labels/classes/0"), ((OBJECTS,), "labels/objects/0")],
)
def test_the_store_itself_opens_as_an_image(layers, first):
    attributes = store_metadata(make_plan(layers=layers))["zarr.json"]["attributes"]["ome"]
    assert attributes["multiscales"][0]["datasets"][0]["path"] == first


def test_a_store_without_anything_to_show():
    files = store_metadata(make_plan(layers=(EVIDENCE,)))
    assert files["zarr.json"]["attributes"] == {}
    assert "labels/zarr.json" not in files


def test_a_reader_of_zarr_follows_every_path(tmp_path):
    zarr = pytest.importorskip("zarr")
    plan = make_plan((9, 20), layers=(CLASSES, OBJECTS, EVIDENCE, SCORES), pixel_size=MICROMETRES)
    with TileStore.open(tmp_path / "o.zarr", plan) as store:
        finish(store)
    root = zarr.open_group(tmp_path / "o.zarr", mode="r")
    assert root["labels"].attrs["ome"]["labels"] == ["classes", "objects"]
    for layer in (CLASSES, OBJECTS, SCORES):
        group = root[layer.name]
        multiscale = group.attrs["ome"]["multiscales"][0]
        arrays = [group[dataset["path"]] for dataset in multiscale["datasets"]]
        axes = tuple(axis["name"] for axis in multiscale["axes"])
        assert np.array_equal(arrays[0][:], true_map(plan, layer))
        assert [array.metadata.dimension_names for array in arrays] == [axes] * plan.levels
        for level, array in enumerate(arrays):
            assert array.shape[-2:] == (math.ceil(9 / 2**level), math.ceil(20 / 2**level))
    for dataset in root.attrs["ome"]["multiscales"][0]["datasets"]:
        assert root[dataset["path"]].ndim == 3


@pytest.mark.filterwarnings("default")
def test_viewers_find_image_and_labels(tmp_path):
    io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
    plan = make_plan((9, 20), layers=(CLASSES, OBJECTS, SCORES))
    with TileStore.open(tmp_path / "o.zarr", plan) as store:
        finish(store)
    image, labels, classes, objects = reader.Reader(io.parse_url(str(tmp_path / "o.zarr")))()
    assert image.data[0].shape == (2, 9, 20)
    assert labels.data == []
    assert classes.metadata["color"][1] == [230 / 255, 69 / 255, 69 / 255, 1.0]
    assert np.array_equal(objects.data[0].compute(), true_map(plan, OBJECTS))
