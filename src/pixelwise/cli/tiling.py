"""Predicting within the memory that is there: what it takes, and smaller windows where there is too little."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pixelwise.cli.screen import Screen, counted
from pixelwise.data.images import read_header
from pixelwise.data.layouts import Sample
from pixelwise.errors import ImageFileError
from pixelwise.inference.estimate import estimate_prediction, with_smaller_tile
from pixelwise.inference.predict import Predictor
from pixelwise.runtime import LackOfMemoryError, byte_text, memory_refusals

T = TypeVar("T")
UNKNOWN_SIZE = (1, 1)


def within_memory(
    predictor: Predictor, work: Callable[[Predictor], T], *, samples: Sequence[Sample], screen: Screen
) -> T:
    """Do the work with the predictor; where memory is lacking, once more from the beginning with smaller windows.

    So all images are cut alike. Raises LackOfMemoryError where the windows cannot be smaller.
    """
    while True:
        try:
            with memory_refusals():
                return work(predictor)
        except LackOfMemoryError as error:
            largest = max(image_sizes(samples), key=math.prod, default=UNKNOWN_SIZE)
            predictor = with_smaller_tile(predictor, largest)
            tiling = predictor.tiling(largest)
            assert tiling is not None, "smaller windows hold no image of that size"
            screen.warn(
                f"{str(error).partition(';')[0]}: beginning again with {tiling.describe()}; the model keeps its own "
                "(predict.tile)"
            )


def image_sizes(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Height and width of the images, from their headers; those that cannot be read are left to the prediction."""
    found = []
    for sample in samples:
        try:
            header = read_header(sample.image.path, page=sample.image.page)
        except ImageFileError:
            continue
        found.append((header.height, header.width))
    return found


def show_prediction(
    samples: Sequence[Sample], predictor: Predictor, *, folder: Path, bytes_per_pixel: float, screen: Screen
) -> None:
    """Say what would be read and written, and what it would take; write nothing."""
    sizes = image_sizes(samples)
    with memory_refusals():
        estimate = estimate_prediction(sizes, predictor, bytes_per_pixel=bytes_per_pixel)
    bad = len(samples) - len(sizes)
    unreadable = f"; {counted(bad, 'file')} cannot be read" if bad else ""
    screen.say(f"would read: {counted(len(sizes), 'image')}{unreadable}", f"would write: to {folder}/")
    screen.say(*estimate.describe())
    warn_of_disk(folder, estimate.disk, screen)
    screen.result({"folder": str(folder), "estimate": estimate.to_dict()})


def warn_of_disk(folder: Path, needed: int, screen: Screen) -> None:
    """Say where the disk has less room than is needed."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        screen.warn(f"the disk of {there} has {byte_text(free)} left, and {byte_text(needed)} are needed")
