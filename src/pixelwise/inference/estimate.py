"""What a prediction will take, from one window that is predicted as a probe; and smaller windows for less memory.

C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pixelwise.inference.folder import Outputs
from pixelwise.inference.predict import Predictor, predict
from pixelwise.inference.scales import scaled
from pixelwise.inference.tiling import USUAL_SIDE
from pixelwise.runtime import LackOfMemoryError, byte_text, duration, peak_memory, reset_peak

LEAST_TILE = 128
"""pixels: of a smaller window most is the margin that the next one sees better"""
FILE_BYTES = {"labels": 0.05, "instances": 0.03, "overlays": 1.5}
CLASS_BYTES = {"geojson": 0.7, "scores": 1.5}
"""bytes per pixel of an image, and of a class in it, as measured on DSB2018 and CamVid (the larger of the two)"""
VIEWS = 8
BYTES_OF_REAL = 4
MAPS = 3
"""maps of K numbers for every pixel of the image at once: the sum of the logits, the scores, and their mean"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionEstimate:
    """What the prediction of some images takes: seconds, and bytes of memory at the peak and of results on the disk."""

    images: int
    seconds: float
    memory: int
    disk: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def describe(self) -> list[str]:
        """Lines for a person."""
        return [
            f"time: about {duration(self.seconds)} for {self.images} images",
            f"memory: {byte_text(self.memory)} at the peak",
            f"disk: about {byte_text(self.disk)}",
        ]


def estimate_prediction(
    sizes: Sequence[tuple[int, int]], predictor: Predictor, *, bytes_per_pixel: float
) -> PredictionEstimate:
    """What images of these sizes (height, width) take, of which each pixel leaves so many bytes on the disk.

    One window of the largest of them is predicted twice, without flips and scales; these are counted.
    """
    if not sizes:
        return PredictionEstimate(images=0, seconds=0.0, memory=peak_memory(predictor.runtime.device), disk=0)
    channels = predictor.normalisation.channels
    largest = max(sizes, key=math.prod)
    tiling = predictor.tiling(largest)
    probed = largest if tiling is None else (min(largest[0], tiling.side), min(largest[1], tiling.side))
    plain = predictor.settings.model_copy(update={"flips": False, "scales": ()})
    once = replace(predictor, instances=None, settings=plain)
    reset_peak(predictor.runtime.device)
    seconds = min(_seconds(np.zeros((*probed, channels), np.float32), once) for _ in range(2))
    beyond = max(0, math.prod(largest) - math.prod(probed))
    return PredictionEstimate(
        images=len(sizes),
        seconds=seconds / math.prod(probed) * sum(seen_pixels(size, predictor) for size in sizes),
        memory=peak_memory(predictor.runtime.device)
        + beyond * BYTES_OF_REAL * (channels + MAPS * predictor.task.outputs),
        disk=math.ceil(bytes_per_pixel * sum(math.prod(size) for size in sizes)),
    )


def seen_pixels(size: tuple[int, int], predictor: Predictor) -> int:
    """How many pixels go through the network for an image of that size: in all windows, at all scales, in all views."""
    settings, total = predictor.settings, 0
    for scale in settings.scales or (1.0,):
        shape = scaled(size, scale)
        tiling = predictor.tiling(shape)
        total += sum(math.prod(window.shape) for window in tiling.seen(shape)) if tiling else math.prod(shape)
    return total * (VIEWS if settings.flips else 1)


def bytes_per_pixel(outputs: Outputs, predictor: Predictor) -> float:
    """What each pixel of an image leaves on the disk, about, by the kinds of files that are wanted."""
    kinds = outputs.paths("image", objects=predictor.instances is not None)
    classes = {"geojson": 1 if predictor.instances else predictor.task.outputs, "scores": predictor.task.outputs}
    return sum(FILE_BYTES.get(kind, 0.0) + CLASS_BYTES.get(kind, 0.0) * classes.get(kind, 0) for kind in kinds)


def with_smaller_tile(predictor: Predictor, size: tuple[int, int]) -> Predictor:
    """The predictor with windows of half the side, or smaller where an image of that size would still be seen whole.

    Raises LackOfMemoryError where they are as small as they may be.
    """
    tiling = predictor.tiling(size)
    tile = tiling.side if tiling else predictor.settings.tile or USUAL_SIDE
    side = min(tile, math.ceil(math.sqrt(math.prod(size)))) // 2
    if side < LEAST_TILE:
        raise LackOfMemoryError(
            f"not enough memory for windows of {tile} pixels, and smaller ones would not help; "
            "free memory, or use a machine with more"
        )
    return replace(predictor, settings=predictor.settings.model_copy(update={"tile": side}))


def _seconds(image_HWC: np.ndarray[Any, Any], predictor: Predictor) -> float:
    began = time.perf_counter()
    predict(image_HWC, predictor)
    return time.perf_counter() - began
