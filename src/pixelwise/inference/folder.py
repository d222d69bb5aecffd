"""Masks for one image of a folder: what is written for it, and what became of it; `folder_run.py` does all of them.

A model that finds objects also leaves their numbers for every image, and a table of all images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pixelwise.bundle import Bundle
from pixelwise.config import PredictConfig, RuntimeConfig
from pixelwise.data.images import read_image
from pixelwise.data.layouts import Sample
from pixelwise.data.pictures import (
    MOST_IN_PNG,
    object_overlay,
    overlay,
    write_instances,
    write_mask,
    write_picture,
    write_scores,
)
from pixelwise.errors import DataError, OutputError, PixelwiseError
from pixelwise.files import system_refusals, write_json
from pixelwise.inference.folder_journal import FileFacts
from pixelwise.inference.predict import Prediction, Predictor, predict
from pixelwise.postprocess.polygons import instances_to_geojson, mask_to_geojson
from pixelwise.runtime import LackOfMemoryError, memory_refusals, prepare
from pixelwise.task import Task

SEVERAL = ("instances", "many instances")
"""kinds of files of which an image has one"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What to write for every image, under `folder`, each with the image's name.

    labels     <name>.png: indexed PNG with the task's colours, of the image's displayed size
    instances  instances/<name>.png: 16-bit PNG of the objects' numbers, or <name>.tif of 32 bits from 65,536 objects
               on; and one counts.csv. Always where the predictor finds objects, else never
    scores     scores/<name>.tif: 16 bits per score, one page per class
    overlays   overlays/<name>.png: the objects' outlines, or the labels, drawn over the image, to look at
    geojson    geojson/<name>.geojson: polygons of the objects, or of all classes but the first, in pixels
    replace    whether files that are there already, and not ours, may be replaced; an input never is
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
    """What became of one image.

    failure  why there are no labels for it
    refusal  what no other image would pass either
    count    how many objects it has
    files    what was written, by kind
    """

    name: str
    labels: Path | None = None
    count: ObjectCount | None = None
    failure: str | None = None
    refusal: PixelwiseError | None = None
    files: Mapping[str, FileFacts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderJob:
    """The prediction of images as small values that can be sent to any process.

    model   its file
    memory  budget in bytes for what the network takes at once; None: see `choose_tiling`
    """

    model: Path
    outputs: Outputs
    settings: PredictConfig
    runtime: RuntimeConfig
    memory: int | None = None


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


def predict_image(predictor: Predictor, outputs: Outputs, sample: Sample) -> Done:
    """Write what is wanted of one image.

    One that cannot be read, or that the model does not take, is a failure. Raises OutputError where the disk refuses,
    and LackOfMemoryError.
    """
    try:
        with memory_refusals():
            return _write_image(predictor, outputs, sample)
    except (OutputError, LackOfMemoryError):
        raise
    except DataError as error:
        where, why = str(sample.image), str(error)
        return Done(name=sample.name, failure=why if where in why else f"{where}: {why}")
    except PixelwiseError as error:
        return Done(name=sample.name, refusal=error)


def predict_by_job(job: FolderJob, sample: Sample) -> Done:
    """What `predict_image` does, on a worker; the model is loaded once."""
    try:
        with memory_refusals():
            predictor = _load(job)
    except LackOfMemoryError:
        raise
    except PixelwiseError as error:
        return Done(name=sample.name, refusal=error)
    return predict_image(predictor, job.outputs, sample)


@lru_cache(maxsize=1)
def _load(job: FolderJob) -> Predictor:
    predictor = Predictor.of(Bundle.load(job.model), prepare(job.runtime), job.settings)
    return replace(predictor, memory=job.memory)


def _write_image(predictor: Predictor, outputs: Outputs, sample: Sample) -> Done:
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
        _write_instances(paths, instances_HW)
    write_mask(paths["labels"], prediction.labels, predictor.task)
    return Done(
        name=sample.name,
        labels=paths["labels"],
        count=None if instances_HW is None else ObjectCount.of(instances_HW),
        files={kind: FileFacts.of(path) for kind, path in paths.items()},
    )


def _write_instances(paths: dict[str, Path], instances_HW: np.ndarray[Any, Any]) -> None:
    """Write the objects as the one kind of file that holds so many, and leave none of the other kind."""
    few, many = SEVERAL
    kind, other = (many, few) if instances_HW.max() > MOST_IN_PNG else (few, many)
    write_instances(paths[kind], instances_HW)
    needless = paths.pop(other)
    with system_refusals(needless):
        needless.unlink(missing_ok=True)


def _polygons(prediction: Prediction, task: Task) -> dict[str, Any]:
    """The objects as GeoJSON; without objects, the pieces of each class but the background."""
    if prediction.instances_HW is None:
        return mask_to_geojson(prediction.labels, task, classes=range(task.object_class, task.outputs))
    numbers = range(1, int(prediction.instances_HW.max()) + 1)
    return instances_to_geojson(prediction.instances_HW, task, classes=dict.fromkeys(numbers, task.object_class))
