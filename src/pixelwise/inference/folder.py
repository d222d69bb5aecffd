"""Masks for a folder of images: one bad image never stops the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pixelwise.data.images import read_image
from pixelwise.data.layouts import Folder, Sample
from pixelwise.data.pictures import overlay, write_mask, write_picture, write_scores
from pixelwise.errors import DataError, UsageError, printable
from pixelwise.files import make_folder
from pixelwise.inference.predict import Predictor, predict


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What to write for every image, under `folder`, each with the image's name.

    labels    <name>.png: indexed PNG with the task's colours, of the image's displayed size
    scores    scores/<name>.tif: 16 bits per score, one page per class
    overlays  overlays/<name>.png: the labels drawn over the image, to look at
    """

    folder: Path
    scores: bool = False
    overlays: bool = False

    def label_path(self, name: str) -> Path:
        """Where the labels of an image go."""
        return self.folder / f"{name}.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one image: `failure` says why there are no labels for it."""

    name: str
    labels: Path | None = None
    failure: str | None = None


def predict_folder(images: Folder, predictor: Predictor, outputs: Outputs) -> Iterator[Done]:
    """Write labels for every image, one at a time, and say what became of each.

    Raises UsageError before any work where an output would replace an input, OutputError where the disk refuses.
    """
    _protect_inputs(images, outputs)
    make_folder(outputs.folder)
    for sample in images.samples:
        try:
            yield _predict_one(sample, predictor, outputs)
        except DataError as error:
            yield Done(name=sample.name, failure=str(error))


def _predict_one(sample: Sample, predictor: Predictor, outputs: Outputs) -> Done:
    image_HWC = read_image(sample.image.path, page=sample.image.page)
    prediction = predict(image_HWC, predictor)
    if outputs.scores:
        write_scores(outputs.folder / "scores" / f"{sample.name}.tif", prediction.scores_KHW, predictor.task)
    if outputs.overlays:
        picture = overlay(image_HWC, prediction.labels, predictor.task)
        write_picture(outputs.folder / "overlays" / f"{sample.name}.png", picture)
    path = outputs.label_path(sample.name)
    write_mask(path, prediction.labels, predictor.task)
    return Done(name=sample.name, labels=path)


def _protect_inputs(images: Folder, outputs: Outputs) -> None:
    inputs = {sample.image.path.resolve() for sample in images.samples}
    for sample in images.samples:
        path = outputs.label_path(sample.name).resolve()
        if path in inputs:
            raise UsageError(f"{printable(path)} would be replaced by its own labels; choose another folder with --out")
