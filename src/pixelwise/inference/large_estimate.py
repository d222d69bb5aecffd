"""What a large prediction will take, from one window that is predicted as a probe."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pixelwise.data.store_plan import StorePlan
from pixelwise.inference.cores import scores_of_part, tiles_within
from pixelwise.inference.estimate import VIEWS
from pixelwise.inference.footprint import footprint_of
from pixelwise.inference.large import load_predictor
from pixelwise.inference.large_plan import CLASSES, EVIDENCE, MAPS_OF_CORE, OBJECTS, LargeJob, open_job
from pixelwise.runtime import byte_text, duration, peak_memory
from pixelwise.tiles import Window

PYRAMID = 4 / 3
BYTES = {CLASSES: 0.05, OBJECTS: 0.1, EVIDENCE: 0.6}
"""per pixel, compressed, as measured on images of cells"""
PROBED = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeEstimate:
    """Tiles, windows that the network sees, seconds, and bytes of memory per worker and of disk."""

    tiles: int
    windows: int
    seconds: float
    memory: int
    disk: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def describe(self) -> list[str]:
        """Lines for a person."""
        return [
            f"tiles: {self.tiles}; windows that the network sees: {self.windows}",
            f"time: about {duration(self.seconds)} for the network",
            f"memory: about {byte_text(self.memory)} at the peak, in each worker",
            f"disk: about {byte_text(self.disk)}",
        ]


def estimate_large(job: LargeJob, plan: StorePlan, *, workers: int) -> LargeEstimate:
    """What the job takes with so many workers that do not hinder one another; one window is predicted twice for it."""
    predictor, shape = load_predictor(job), plan.grid.shape
    cores = [plan.grid.window(index) for index in range(len(plan.grid))]
    seen = [tile.read for core in cores for tile in tiles_within(core, shape, job.tiling)]
    views = VIEWS if job.settings.flips else 1
    with open_job(job) as image:
        channels, itemsize = image.channels, image.dtype.itemsize

    # A window in the middle, without halo, of zeros.
    part = Window(0, 0, min(PROBED, shape[0]), min(PROBED, shape[1]))
    halo = sum(math.prod(tile.read.shape) for tile in tiles_within(part, part.shape, job.tiling)) * views
    seconds = min(_seconds(part, job, channels) for _ in range(2)) / halo

    core = min(plan.grid.core**2, math.prod(shape))
    footprint = footprint_of(predictor.network, channels, predictor.runtime)
    maps = core * (4 * MAPS_OF_CORE * predictor.task.outputs + channels * (4 + itemsize))
    per_pixel = sum(BYTES.get(layer.name, 0.0) * (1 if layer.work else PYRAMID) for layer in plan.layers)
    per_pixel += PYRAMID * predictor.task.outputs * {"": 0, "uint8": 1, "uint16": 2}[job.scores]
    return LargeEstimate(
        tiles=len(cores),
        windows=len(seen) * views,
        seconds=seconds * sum(math.prod(window.shape) for window in seen) * views / workers,
        memory=peak_memory(predictor.runtime.device) + footprint.memory(max(math.prod(w.shape) for w in seen)) + maps,
        disk=math.ceil(per_pixel * math.prod(shape)),
    )


def _seconds(part: Window, job: LargeJob, channels: int) -> float:
    began = time.perf_counter()
    scores_of_part(
        lambda window: np.zeros((*window.shape, channels), np.uint8),
        part,
        shape=part.shape,
        predictor=load_predictor(job),
        tiling=job.tiling,
    )
    return time.perf_counter() - began
