"""Masks for a folder of images: one bad image never stops the others, and no file that is there is replaced unasked.

A model that finds objects also leaves their numbers for every image, and a table of all images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pixelwise.data.images import read_image
from pixelwise.data.layouts import Folder, Sample
from pixelwise.data.pictures import (
    MOST_IN_PNG,
    object_overlay,
    overlay,
    write_instances,
    write_mask,
    write_picture,
    write_scores,
)
from pixelwise.errors import DataError, UsageError, printable
from pixelwise.files import make_folder, write_json, write_text
from pixelwise.inference.predict import Prediction, Predictor, predict
from pixelwise.postprocess.polygons import instances_to_geojson, mask_to_geojson
from pixelwise.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What to write for every image, under `folder`, each with the image's name.

    labels     <name>.png: indexed PNG with the task's colours, of the image's displayed size
    instances  instances/<name>.png: 16-bit PNG of the objects' numbers, or <name>.tif of 32 bits from 65,536 objects
               on; and one counts.csv. Always where the predictor finds objects, else never
    scores     scores/<name>.tif: 16 bits per score, one page per class
    overlays   overlays/<name>.png: the objects' outlines, or the labels, drawn over the image, to look at
    geojson    geojson/<name>.geojson: polygons of the objects, or of all classes but the first, in pixels
    replace    whether files that are there already may be replaced; an input never is
    """

    folder: Path
    scores: bool = False
    overlays: bool = False
    geojson: bool = False
    replace: bool = False

    def paths(self, name: str, *, objects: bool = False) -> dict[str, Path]:
        """Where what is wanted of an image may go, by kind; `objects` says whether they are found."""
        wanted = {
            "labels": (True, f"{name}.png"),
            "instances": (objects, f"instances/{name}.png"),
            "many instances": (objects, f"instances/{name}.tif"),
            "scores": (self.scores, f"scores/{name}.tif"),
            "overlays": (self.overlays, f"overlays/{name}.png"),
            "geojson": (self.geojson, f"geojson/{name}.geojson"),
        }
        return {kind: self.folder / path for kind, (asked, path) in wanted.items() if asked}

    @property
    def counts(self) -> Path:
        """The table of the objects of all images."""
        return self.folder / "counts.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectCount:
    """The objects of one image: how many, their areas in pixels (empty where there is none), their share of the image.

    >>> ObjectCount.of(np.array([[0, 1, 2, 2]]))
    ObjectCount(objects=2, mean_area=1.5, median_area=1.5, smallest_area=1, largest_area=2, covered=0.75)
    """

    objects: int
    mean_area: float | str
    median_area: float | str
    smallest_area: int | str
    largest_area: int | str
    covered: float

    @classmethod
    def of(cls, instances_HW: np.ndarray[Any, Any]) -> ObjectCount:
        """Count the objects of an image numbered from 1."""
        areas = np.bincount(instances_HW.ravel())[1:]
        areas = areas[areas > 0]
        covered = round(int(areas.sum()) / instances_HW.size, 6)
        if not areas.size:
            return cls(objects=0, mean_area="", median_area="", smallest_area="", largest_area="", covered=covered)
        return cls(
            objects=areas.size,
            mean_area=round(float(areas.mean()), 2),
            median_area=float(np.median(areas)),
            smallest_area=int(areas.min()),
            largest_area=int(areas.max()),
            covered=covered,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one image: `failure` says why there are no labels for it, `count` how many objects it has."""

    name: str
    labels: Path | None = None
    count: ObjectCount | None = None
    failure: str | None = None


def predict_folder(images: Folder, predictor: Predictor, outputs: Outputs) -> Iterator[Done]:
    """Write labels for every image, one at a time, and say what became of each; then the table of objects.

    Raises UsageError before any work where an output would replace an input, or another file without `replace`, and
    OutputError where the disk refuses.
    """
    finds_objects = predictor.instances is not None
    _protect_files(images, outputs, finds_objects)
    make_folder(outputs.folder)
    counts: dict[str, ObjectCount] = {}
    for sample in images.samples:
        try:
            done = _predict_one(sample, predictor, outputs)
        except DataError as error:
            where, why = str(sample.image), str(error)
            done = Done(name=sample.name, failure=why if where in why else f"{where}: {why}")
        if done.count is not None:
            counts[done.name] = done.count
        yield done
    if finds_objects:
        write_text(outputs.counts, count_table(counts))


def count_table(counts: dict[str, ObjectCount]) -> str:
    """The objects of images as CSV, with a head, one line per image.

    >>> print(count_table({"a": ObjectCount.of(np.zeros((1, 1), int))}), end="")
    image,objects,mean_area,median_area,smallest_area,largest_area,covered
    a,0,,,,,0.0
    """
    text = io.StringIO()
    columns = [field.name for field in fields(ObjectCount)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *columns])
    writer.writerows([name, *(getattr(one, column) for column in columns)] for name, one in counts.items())
    return text.getvalue()


def _predict_one(sample: Sample, predictor: Predictor, outputs: Outputs) -> Done:
    image_HWC = read_image(sample.image.path, page=sample.image.page)
    prediction = predict(image_HWC, predictor)
    instances_HW = prediction.instances_HW
    paths = outputs.paths(sample.name, objects=instances_HW is not None)
    if "scores" in paths:
        write_scores(paths["scores"], prediction.scores_KHW, predictor.task)
    if "overlays" in paths:
        picture = (
            overlay(image_HWC, prediction.labels, predictor.task)
            if instances_HW is None
            else object_overlay(image_HWC, instances_HW)
        )
        write_picture(paths["overlays"], picture)
    if "geojson" in paths:
        write_json(paths["geojson"], _polygons(prediction, predictor.task))
    if instances_HW is not None:
        many = instances_HW.max() > MOST_IN_PNG
        write_instances(paths["many instances" if many else "instances"], instances_HW)
    write_mask(paths["labels"], prediction.labels, predictor.task)
    count = None if instances_HW is None else ObjectCount.of(instances_HW)
    return Done(name=sample.name, labels=paths["labels"], count=count)


def _polygons(prediction: Prediction, task: Task) -> dict[str, Any]:
    """The objects as GeoJSON; without objects, the pieces of each class but the background."""
    if prediction.instances_HW is None:
        return mask_to_geojson(prediction.labels, task, classes=range(task.object_class, task.outputs))
    numbers = range(1, int(prediction.instances_HW.max()) + 1)
    return instances_to_geojson(prediction.instances_HW, task, classes=dict.fromkeys(numbers, task.object_class))


def _protect_files(images: Folder, outputs: Outputs, finds_objects: bool) -> None:
    inputs = {sample.image.path.resolve() for sample in images.samples}
    written = [path for s in images.samples for path in outputs.paths(s.name, objects=finds_objects).values()]
    for path in [*written, *([outputs.counts] if finds_objects else [])]:
        if path.resolve() in inputs:
            raise UsageError(f"{printable(path)} is an input and would be replaced; choose another --out")
        if not outputs.replace and path.exists():
            raise UsageError(
                f"{printable(path)} is there already; choose another --out, or replace such files with --replace"
            )
