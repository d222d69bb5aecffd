"""Objects as polygons (GeoJSON) and as annotations (COCO JSON), as plain dictionaries ready to be written.

Outlines run along the edges of the pixels, not through their centres: pixel (row r, column c) is the square from (c, r)
to (c + 1, r + 1), x to the right and y down. So a polygon's area is its number of pixels, and filling the polygon gives
the same pixels back. Rings turn so that the area, sum of (x1 y2 - x2 y1) / 2, is positive outside and negative for
holes, the right-hand rule of GeoJSON (Butler et al.: The GeoJSON format. RFC 7946, 2016) in the numbers as they stand.

Every 4-connected piece is one polygon. Then no ring visits a corner twice, whatever the pixels: pieces that touch at a
corner are two polygons, a hole that touches the outside at a corner stays a hole, and all polygons are valid in the
sense of the OGC.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError, UsageError
from pixelwise.postprocess.morphology import check_labels, objects, pieces
from pixelwise.postprocess.rle import box_counts, compress_counts
from pixelwise.task import Task

Array = NDArray[Any]
Ring = NDArray[np.int32]
Polygon = list[Ring]
Flat = NDArray[np.intp]
LONGEST_TOLERANCE = 1000.0
RIGHT = 0
STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
"""Rows and columns that an edge advances: right, down, left, up."""
INNER, OUTER = ((0, 0), (0, -1), (-1, -1), (-1, 0)), ((-1, 0), (0, 0), (0, -1), (-1, -1))
"""The pixel ahead of a vertex in each direction, on the right-hand side and on the left-hand side of the way."""


def outlines(labels_HW: Array, *, tolerance: float = 0.0) -> dict[int, list[Polygon]]:
    """The polygons of every object. A polygon is its outer ring and then its holes; a ring is int32 (N, 2) of x, y.

    Rings are not closed: the last corner is joined to the first. tolerance is by how many pixels the rings may depart
    from the edges to have fewer corners (Douglas and Peucker 1973), each by itself: from 0.5 or so, outlines of objects
    that touch no longer agree, and areas are no longer exact.

    >>> outlines(np.array([[0, 5, 5]]))[5][0][0].tolist()
    [[1, 0], [3, 0], [3, 1], [1, 1]]
    """
    check_labels(labels_HW)
    if not 0 <= tolerance <= LONGEST_TOLERANCE:
        raise UsageError(f"tolerance = {tolerance}: choose 0 to {LONGEST_TOLERANCE:g} pixels")
    pieces_HW = pieces(labels_HW, connectivity=4)
    polygons: dict[int, Polygon] = {}
    for piece, ring in _rings(pieces_HW):
        polygons.setdefault(piece, []).append(ring)

    found: dict[int, list[Polygon]] = {}
    for piece in sorted(polygons):
        # The outer ring has the highest and leftmost corner, where tracing begins: it comes first.
        rings = polygons[piece]
        column, row = rings[0][0]
        label = int(labels_HW[row, column])
        found.setdefault(label, []).append([_simplified(ring, tolerance) for ring in rings])
    return found


def instances_to_geojson(
    instances_HW: Array, task: Task, *, classes: Mapping[int, int] | None = None, tolerance: float = 0.0
) -> dict[str, Any]:
    """A GeoJSON FeatureCollection with a Polygon (or MultiPolygon) per object, in pixels.

    classes gives the class index of each object; without it all are of the task's last class. Properties: `id` and
    `area` in pixels, and the class's name and colour as QuPath reads them (`objectType`, `classification`).

    >>> cells = instances_to_geojson(np.array([[0, 1]]), Task.of(["background", "cell"]))
    >>> cells["features"][0]["geometry"]["coordinates"]
    [[[1, 0], [2, 0], [2, 1], [1, 1], [1, 0]]]
    """
    check_labels(instances_HW)
    areas = np.bincount(instances_HW.ravel())
    features = []
    for label, polygons in outlines(instances_HW, tolerance=tolerance).items():
        class_index = _class_of(label, classes, task)
        features.append(_feature(polygons, task, class_index, {"id": label, "area": int(areas[label])}))
    return {"type": "FeatureCollection", "features": features}


def mask_to_geojson(
    mask_HW: Array, task: Task, *, classes: Iterable[int] | None = None, tolerance: float = 0.0
) -> dict[str, Any]:
    """A GeoJSON FeatureCollection with one feature per class that is in the mask; void has none.

    classes are those to write; without them all, the background too. Properties as in `instances_to_geojson`, but
    without `id`.
    """
    features = []
    for class_index in sorted(set(range(task.outputs) if classes is None else classes)):
        _check_class(class_index, task)
        there_HW = _where(mask_HW, class_index, task)
        if there_HW.any():
            found = outlines(there_HW.astype(np.int32), tolerance=tolerance)
            features.append(_feature(found[1], task, class_index, {"area": int(there_HW.sum())}))
    return {"type": "FeatureCollection", "features": features}


def _where(mask_HW: Array, class_index: int, task: Task) -> NDArray[np.bool_]:
    """Where a mask has a class: its index, or its bit where classes overlap."""
    if task.kind != "overlapping":
        return np.asarray(mask_HW == class_index)
    void_HW = mask_HW == task.ignore_index
    return np.asarray((mask_HW >> class_index & 1 > 0) & ~void_HW)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectImage:
    """The objects of one image for `to_coco`.

    classes  class index of each object; None: all are of the task's last class
    """

    file_name: str
    instances_HW: Array
    classes: Mapping[int, int] | None = None


def to_coco(images: Iterable[ObjectImage], task: Task) -> dict[str, Any]:
    """COCO's JSON of objects: `images`, `categories` (ids are class indices) and `annotations`.

    An annotation has its segmentation as compressed run lengths, its area in pixels, and its box [x, y, width, height].
    Images and annotations are numbered from 1.

    >>> image = ObjectImage(file_name="a.png", instances_HW=np.array([[0, 3], [0, 3]]))
    >>> to_coco([image], Task.of(["background", "cell"]))["annotations"][0]["bbox"]
    [1, 0, 1, 2]
    """
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        check_labels(image.instances_HW)
        height, width = image.instances_HW.shape
        listed.append({"id": image_id, "file_name": image.file_name, "height": height, "width": width})
        for label, box in objects(image.instances_HW):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0}
            annotation["category_id"] = _class_of(label, image.classes, task)
            annotations.append(annotation | _region(image.instances_HW, label, box))
    categories = [{"id": index, "name": name} for index, name in enumerate(task.names)]
    return {"images": listed, "categories": categories, "annotations": annotations}


def _region(instances_HW: Array, label: int, box: tuple[slice, slice]) -> dict[str, Any]:
    rows, columns = box
    object_HW = instances_HW[box] == label
    height, width = instances_HW.shape
    counts = box_counts(object_HW, top=rows.start, left=columns.start, size=(height, width))
    return {
        "segmentation": {"size": [height, width], "counts": compress_counts(counts)},
        "area": int(object_HW.sum()),
        "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
    }


def _feature(polygons: list[Polygon], task: Task, class_index: int, properties: dict[str, Any]) -> dict[str, Any]:
    closed = [[[*ring.tolist(), ring[0].tolist()] for ring in rings] for rings in polygons]
    single = len(closed) == 1
    classification = {"name": task.names[class_index], "color": list(task.colours[class_index])}
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": closed[0] if single else closed,
        },
        "properties": {"objectType": "annotation", "classification": classification, **properties},
    }


def _class_of(label: int, classes: Mapping[int, int] | None, task: Task) -> int:
    if classes is None:
        return task.outputs - 1
    if label not in classes:
        raise DataError(f"object {label} has no class; give the class of each object")
    _check_class(classes[label], task)
    return classes[label]


def _check_class(class_index: int, task: Task) -> None:
    if not 0 <= class_index < task.outputs:
        raise UsageError(f"class {class_index}: the task has the classes 0 to {task.outputs - 1}")


def _rings(pieces_HW: Array) -> Iterator[tuple[int, Ring]]:
    """Every ring with the piece that it belongs to; it starts at the first of its highest corners."""
    vertices, directions, following = _edges(pieces_HW)
    corners = (directions[following] != directions).tolist()
    ahead, seen = following.tolist(), bytearray(len(corners))
    for first in np.flatnonzero(directions == RIGHT).tolist():
        if seen[first]:
            continue
        ring, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            if corners[edge]:
                ring.append(ahead[edge])
            edge = ahead[edge]
        found = vertices[[ring[-1], *ring[:-1]]]
        yield int(pieces_HW[tuple(found[0])]), found[:, ::-1].astype(np.int32)


def _edges(pieces_HW: Array) -> tuple[Flat, Flat, Flat]:
    """Sides of pixels where a piece ends: the vertex (row, column) they start from, direction, number of the next.

    They are directed so that the piece lies on the right as one sees it, and ordered by vertex, then by direction.
    """
    around = np.pad(pieces_HW, 1)
    rows, columns = (length + 1 for length in pieces_HW.shape)
    inner, outer = (
        np.stack([around[1 + down :, 1 + right :][:rows, :columns] for down, right in beside], axis=2)
        for beside in (INNER, OUTER)
    )
    exists = (inner != outer) & (inner > 0)
    numbers = exists.ravel().cumsum().reshape(exists.shape) - 1
    row, column, direction = np.nonzero(exists)

    # At its end an edge turns away from its piece where the piece goes on ahead, outside; else it goes straight on
    # where the piece goes on ahead, inside; else it turns around its own pixel.
    own = inner[row, column, direction]
    end = row + STEPS[direction, 0], column + STEPS[direction, 1]
    turn = np.where(outer[*end, direction] == own, -1, np.where(inner[*end, direction] == own, 0, 1))
    following = numbers[*end, (direction + turn) % 4]
    return np.stack([row, column], axis=1), direction, following


def _simplified(ring: Ring, tolerance: float) -> Ring:
    """The ring with fewer corners; a ring that would vanish stays as it is."""
    if not tolerance:
        return ring
    simpler: Ring = cv2.approxPolyDP(ring[:, None], tolerance, closed=True)[:, 0].astype(np.int32)
    return simpler if len(simpler) > 2 and _area(simpler) * _area(ring) > 0 else ring


def _area(ring: Ring) -> float:
    """Area by the shoelace formula; negative for a hole."""
    x, y = ring.astype(np.int64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
