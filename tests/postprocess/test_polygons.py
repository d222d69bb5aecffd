"""Outlines along pixel edges: areas, the way back to pixels, validity; GeoJSON and COCO JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import DataError, UsageError
from pixelwise.postprocess import polygons as pg
from pixelwise.postprocess.morphology import pieces
from pixelwise.postprocess.rle import from_coco_rle
from pixelwise.task import Task

TASK = Task.of(["background", "cell", "dirt"])


@st.composite
def label_images(draw):
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    return np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, draw(st.integers(1, 4)), shape)


def shoelace(ring):
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True)) / 2


def filled(rings, shape):
    """Pixels whose centre has an odd number of vertical sides of the rings to its left."""
    changes = np.zeros((shape[0], shape[1] + 1), int)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if x1 == x2:
                changes[min(y1, y2) : max(y1, y2), x1] += 1
    return changes.cumsum(axis=1)[:, :-1] % 2 == 1


@given(labels=label_images())
@settings(max_examples=150, deadline=None)
def test_polygons_have_the_pixels_and_the_area_of_their_objects(labels):
    found = pg.outlines(labels)
    assert sorted(found) == sorted(set(labels.ravel().tolist()) - {0})
    for label, polygons in found.items():
        areas = [shoelace(ring.tolist()) for rings in polygons for ring in rings]
        assert sum(areas) == (labels == label).sum()
        again = sum(filled([ring.tolist() for ring in rings], labels.shape).astype(int) for rings in polygons)
        assert (again == (labels == label)).all()


@given(labels=label_images())
@settings(max_examples=150, deadline=None)
def test_polygons_are_valid(labels):
    for label, polygons in pg.outlines(labels).items():
        assert len(polygons) == pieces((labels == label).astype(int)).max()
        for outer, *holes in polygons:
            assert shoelace(outer.tolist()) > 0
            assert all(shoelace(hole.tolist()) < 0 for hole in holes)
            # No ring meets a corner twice, and every corner is a turn by a right angle.
            for ring in (outer, *holes):
                assert len({tuple(corner) for corner in ring.tolist()}) == len(ring)
                sides = np.roll(ring, -1, axis=0) - ring
                assert ((sides == 0).sum(axis=1) == 1).all()
                assert ((sides * np.roll(sides, -1, axis=0)).sum(axis=1) == 0).all()


def test_pieces_that_touch_at_a_corner_are_two_polygons():
    found = pg.outlines(np.eye(2, dtype=int))[1]
    assert [[ring.tolist() for ring in rings] for rings in found] == [
        [[[0, 0], [1, 0], [1, 1], [0, 1]]],
        [[[1, 1], [2, 1], [2, 2], [1, 2]]],
    ]


def test_a_hole_that_touches_the_outside_at_a_corner_stays_a_hole():
    outer, hole = pg.outlines(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]]))[1][0]
    assert outer.tolist() == [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]]
    assert hole.tolist() == [[1, 2], [2, 2], [2, 1], [1, 1]]


def test_an_object_inside_a_hole_is_by_itself():
    labels = np.pad(np.pad(np.array([[2]]), 1), 1, constant_values=1)
    found = pg.outlines(labels)
    assert [len(rings) for rings in found[1]] == [2]
    assert found[2][0][0].tolist() == [[2, 2], [3, 2], [3, 3], [2, 3]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (40, 1)])
def test_the_smallest_images_pass(shape):
    assert pg.outlines(np.zeros(shape, int)) == {}
    height, width = shape
    whole = pg.outlines(np.ones(shape, int))
    assert whole[1][0][0].tolist() == [[0, 0], [width, 0], [width, height], [0, height]]


def test_a_tolerance_saves_corners_and_keeps_close():
    rows, columns = np.indices((60, 60))
    disc = ((rows - 30) ** 2 + (columns - 30) ** 2 < 25**2).astype(int)
    exact, simple = (pg.outlines(disc, tolerance=tolerance)[1][0][0] for tolerance in (0.0, 1.0))
    assert len(simple) < len(exact) / 3
    assert shoelace(simple.tolist()) == pytest.approx(disc.sum(), rel=0.04)
    assert {tuple(corner) for corner in simple.tolist()} <= {tuple(corner) for corner in exact.tolist()}
    # A pixel is not simplified away.
    assert len(pg.outlines(np.ones((1, 1), int), tolerance=5.0)[1][0][0]) >= 3


def test_geojson_of_instances_says_what_and_where():
    instances = np.array([[1, 1, 0, 2], [1, 0, 2, 0]])
    found = pg.instances_to_geojson(instances, TASK, classes={1: 1, 2: 2})
    json.dumps(found, allow_nan=False)
    first, second = found["features"]
    assert found["type"] == "FeatureCollection"
    assert first["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2], [0, 0]]],
    }
    assert first["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "cell", "color": list(TASK.colours[1])},
        "id": 1,
        "area": 3,
    }
    assert second["geometry"]["type"] == "MultiPolygon"
    assert len(second["geometry"]["coordinates"]) == 2
    assert second["properties"]["classification"]["name"] == "dirt"
    assert pg.instances_to_geojson(np.zeros((3, 3), int), TASK)["features"] == []


def test_geojson_of_a_mask_has_a_feature_per_class_and_none_for_void():
    mask = np.array([[0, 1, 255], [0, 1, 255]], np.uint8)
    found = pg.mask_to_geojson(mask, TASK)["features"]
    assert [(f["properties"]["classification"]["name"], f["properties"]["area"]) for f in found] == [
        ("background", 2),
        ("cell", 2),
    ]
    chosen = pg.mask_to_geojson(mask, TASK, classes=[1, 2])["features"]
    assert [f["geometry"]["coordinates"] for f in chosen] == [[[[1, 0], [2, 0], [2, 2], [1, 2], [1, 0]]]]
    assert pg.mask_to_geojson(np.full((2, 2), 255), TASK)["features"] == []


@given(labels=label_images())
@settings(max_examples=50, deadline=None)
def test_coco_json_gives_every_object_back(labels):
    classes = {label: 1 + label % 2 for label in range(1, 5)}
    images = [
        pg.ObjectImage(file_name="a.png", instances_HW=labels, classes=classes),
        pg.ObjectImage(file_name="b.png", instances_HW=np.ones((2, 5), int)),
    ]
    found = pg.to_coco(images, TASK)
    json.dumps(found, allow_nan=False)
    assert [c["id"] for c in found["categories"]] == [0, 1, 2]
    assert [(i["file_name"], i["height"], i["width"]) for i in found["images"]] == [
        ("a.png", *labels.shape),
        ("b.png", 2, 5),
    ]
    present = sorted(set(labels.ravel().tolist()) - {0})
    assert [a["id"] for a in found["annotations"]] == list(range(1, len(present) + 2))
    assert [a["image_id"] for a in found["annotations"]] == [1] * len(present) + [2]
    for label, annotation in zip(present, found["annotations"], strict=False):
        assert (from_coco_rle(annotation["segmentation"]) == (labels == label)).all()
        assert annotation["category_id"] == classes[label]
        assert annotation["area"] == (labels == label).sum()
        x, y, width, height = annotation["bbox"]
        box = labels[y : y + height, x : x + width] == label
        assert box.sum() == annotation["area"]
        assert all(side.any() for side in (box[0], box[-1], box[:, 0], box[:, -1]))
    assert found["annotations"][-1]["category_id"] == 2
    assert found["annotations"][-1]["bbox"] == [0, 0, 5, 2]


def test_wrong_arguments_are_refused():
    one = np.ones((1, 1), int)
    with pytest.raises(UsageError, match="tolerance"):
        pg.outlines(one, tolerance=-1.0)
    with pytest.raises(DataError, match="object 1 has no class"):
        pg.instances_to_geojson(one, TASK, classes={})
    with pytest.raises(UsageError, match="0 to 2"):
        pg.instances_to_geojson(one, TASK, classes={1: 3})
    with pytest.raises(UsageError, match="0 to 2"):
        pg.mask_to_geojson(one, TASK, classes=[255])
