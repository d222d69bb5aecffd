"""Masks for a folder of images: one bad image never stops the others, and no file that is there is replaced unasked."""

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
    replace   whether files that are there already may be replaced; an input never is
    """

    folder: Path
    scores: bool = False
    overlays: bool = False
    replace: bool = False

    def paths(self, name: str) -> dict[str, Path]:
        """Where what is wanted of an image goes, by `labels`, `scores` and `overlays`."""
        paths = {"labels": self.folder / f"{name}.png"}
        if self.scores:
            paths["scores"] = self.folder / "scores" / f"{name}.tif"
        if self.overlays:
            paths["overlays"] = self.folder / "overlays" / f"{name}.png"
        return paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one image: `failure` says why there are no labels for it."""

    name: str
    labels: Path | None = None
    failure: str | None = None


def predict_folder(images: Folder, predictor: Predictor, outputs: Outputs) -> Iterator[Done]:
    """Write labels for every image, one at a time, and say what became of each.

    Raises UsageError before any work where an output would replace an input, or another file without `replace`, and
    OutputError where the disk refuses.
    """
    _protect_files(images, outputs)
    make_folder(outputs.folder)
    for sample in images.samples:
        try:
            yield _predict_one(sample, predictor, outputs)
        except DataError as error:
            where, why = str(sample.image), str(error)
            yield Done(name=sample.name, failure=why if where in why else f"{where}: {why}")


def _predict_one(sample: Sample, predictor: Predictor, outputs: Outputs) -> Done:
    image_HWC = read_image(sample.image.path, page=sample.image.page)
    prediction = predict(image_HWC, predictor)
    paths = outputs.paths(sample.name)
    if "scores" in paths:
        write_scores(paths["scores"], prediction.scores_KHW, predictor.task)
    if "overlays" in paths:
        write_picture(paths["overlays"], overlay(image_HWC, prediction.labels, predictor.task))
    write_mask(paths["labels"], prediction.labels, predictor.task)
    return Done(name=sample.name, labels=paths["labels"])


def _protect_files(images: Folder, outputs: Outputs) -> None:
    inputs = {sample.image.path.resolve() for sample in images.samples}
    for sample in images.samples:
        for path in outputs.paths(sample.name).values():
            if path.resolve() in inputs:
                raise UsageError(f"{printable(path)} is an input and would be replaced; choose another --out")
            if not outputs.replace and path.exists():
                raise UsageError(
                    f"{printable(path)} is there already; choose another --out, or replace such files with --replace"
                )
