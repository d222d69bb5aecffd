"""Labels, objects and scores of an image of any size: read window by window, written tile by tile, gone on with.

    network   each tile   scores of its core -> labels, evidence of objects, scores where they are wanted
    ...                   the stages of `merge.py`, where the model finds objects
    pyramid   each tile   the smaller sizes, each from the one before

The tile is the unit of writing: one file per layer, one writer. Every stage can be done again for any tile and gives
the same bytes, so that a run that was killed goes on where it was, on this machine or on any number of workers. Memory
is set by the tile and the budget, not by the image.

H rows, W columns, K outputs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pixelwise.bundle import Bundle
from pixelwise.data.large_source import LargeImage
from pixelwise.data.pyramid import halve_tile
from pixelwise.data.store_plan import PRIVATE, stage_of
from pixelwise.data.tile_store import Damage, TileStore
from pixelwise.errors import DataError, printable
from pixelwise.files import file_hash, write_json
from pixelwise.inference.cores import fill_unmeasured, scores_of_part, tiles_within
from pixelwise.inference.large_plan import CLASSES, EVIDENCE, MERGE_FILE, NETWORK, SCORES, LargeJob, merge_of, open_job
from pixelwise.inference.merge import Stage, stages_of
from pixelwise.inference.merge_store import StoreOfMerge, damaged_parts
from pixelwise.inference.predict import Predictor, labels_of
from pixelwise.inference.regions import write_regions
from pixelwise.inference.runners import Runner
from pixelwise.inference.tiling import Tiling
from pixelwise.inference.verify import seam_score
from pixelwise.postprocess.instances import evidence_of
from pixelwise.runtime import LackOfMemoryError, memory_refusals, prepare
from pixelwise.task import VOID
from pixelwise.tiles import TileGrid, Window

Note = Literal["", "flat", "small"]
"""flat: taken as the first class, without the network; small: seen in smaller windows, as memory was lacking"""
TABLE = f"{PRIVATE}/table.json"
FLAT_STEP = 16
NEAR = 64
FLAT_SHARE = 0.02
"""of the standard deviation over the training images: a core that varies less than this is flat"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of the work as `do_step` does it, and the tiles for which it is not done yet."""

    stage: str
    missing: tuple[int, ...]
    tiles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TileDone:
    """What became of one tile of one stage: its pixels, a note of what was special, why it failed."""

    stage: str
    index: int
    pixels: int
    note: Note = ""
    failure: str = ""


def steps_left(job: LargeJob) -> Iterator[Step]:
    """What is still to be done, stage by stage; each stage is looked at when the one before is done."""
    store = TileStore.join(job.store)
    for stage in (*store.plan.stages, *store.plan.pyramid):
        yield Step(stage=stage.name, missing=tuple(store.missing(stage.name)), tiles=len(store.plan.tiles(stage)))


def run_step(job: LargeJob, step: Step, runner: Runner) -> Iterator[TileDone]:
    """Do what is missing of a stage; yields what became of each tile, in the order in which they are done."""
    grid = TileStore.join(job.store).plan
    tiles = grid.tiles(grid.stage(step.stage))
    for outcome in runner.run(partial(do_step, job, step.stage), step.missing):
        yield TileDone(
            stage=step.stage,
            index=outcome.task,
            pixels=math.prod(tiles.window(outcome.task).shape),
            note=outcome.result or "",
            failure=outcome.failure,
        )


def do_step(job: LargeJob, stage: str, index: int) -> Note:
    """Do one stage of one tile, wherever this runs; returns a note of what was special."""
    store = TileStore.join(job.store)
    if stage == NETWORK:
        return _see_tile(job, store, index)
    planned = store.plan.stage(stage)
    if planned.level:
        (layer,) = (layer.name for layer in store.plan.kept if stage_of(layer, planned.level) == stage)
        halve_tile(store, layer, planned.level, index)
        return ""
    step = _merge_stages(job)[stage]
    kept = StoreOfMerge(store, stage, index)
    merge = merge_of(job, kept, grid=store.plan.grid)
    step.run(*((merge, index) if step.by_core else (merge,)))
    kept.finish()
    return ""


def flat(image_HWC: NDArray[Any], std: tuple[float, ...]) -> bool:
    """Whether nothing is to be seen in a part of an image: seen coarsely, no channel varies.

    std: of each channel over the training images

    >>> flat(np.full((64, 64, 1), 240), (50.0,)), flat(np.eye(64)[..., None] * 255, (50.0,))
    (True, False)
    """
    height, width, channels = image_HWC.shape
    rows, columns = (-(-side // FLAT_STEP) for side in (height, width))
    padded = np.pad(
        image_HWC.astype(np.float32),
        ((0, rows * FLAT_STEP - height), (0, columns * FLAT_STEP - width), (0, 0)),
        mode="edge",
    )
    coarse = padded.reshape(rows, FLAT_STEP, columns, FLAT_STEP, channels).mean((1, 3))
    return bool((coarse.reshape(-1, channels).std(axis=0) < FLAT_SHARE * np.array(std)).all())


def _see_tile(job: LargeJob, store: TileStore, index: int) -> Note:
    """What the network says of a core, and what follows from each pixel alone."""
    predictor, core = load_predictor(job), store.plan.grid.window(index)
    with open_job(job) as image:
        seen = fill_unmeasured(image.read(core), image, predictor.normalisation) if job.skip_flat else None
        note: Note = ""
        if seen is not None and flat(seen, predictor.normalisation.std):
            scores_KHW, note = _flat_scores(core, predictor), "flat"
        else:
            scores_KHW, note = _affordable_scores(job, image, core, predictor)
        void_HW = _void(image, core)
    store.write(index, NETWORK, _layers(job, scores_KHW, void_HW, predictor))
    return note


def _affordable_scores(
    job: LargeJob, image: LargeImage, core: Window, predictor: Predictor
) -> tuple[NDArray[np.float32], Note]:
    """The scores of a core; where memory is lacking after all, in smaller windows, as long as these are exact."""
    tiling = job.tiling
    while True:
        try:
            with memory_refusals():
                return _scores(tiling, image, core, predictor), "" if tiling == job.tiling else "small"
        except LackOfMemoryError:
            side = (tiling.core // 2) // tiling.stride * tiling.stride + 2 * tiling.halo
            if tiling.way != "exact" or side < 2 * tiling.halo + tiling.stride:
                raise
            tiling = replace(tiling, side=side)


def _scores(tiling: Tiling, image: LargeImage, core: Window, predictor: Predictor) -> NDArray[np.float32]:
    def read(window: Window) -> NDArray[Any]:
        return fill_unmeasured(image.read(window), image, predictor.normalisation)

    scores_BKHW = scores_of_part(read, core, shape=image.shape, predictor=predictor, tiling=tiling)
    scores_KHW: NDArray[np.float32] = scores_BKHW[0].float().cpu().numpy()
    return scores_KHW


def _flat_scores(core: Window, predictor: Predictor) -> NDArray[np.float32]:
    """Those of the first class, or of no class where classes overlap."""
    scores_KHW = np.zeros((predictor.task.outputs, *core.shape), np.float32)
    if predictor.task.kind == "exclusive":
        scores_KHW[0] = 1
    return scores_KHW


def _void(image: LargeImage, core: Window) -> NDArray[np.bool_]:
    if image.place is None or image.place.nodata is None:
        return np.zeros(core.shape, np.bool_)
    return image.place.void(image.read(core))


def _layers(
    job: LargeJob, scores_KHW: NDArray[np.float32], void_HW: NDArray[np.bool_], predictor: Predictor
) -> dict[str, NDArray[Any]]:
    """What of the scores is written, by layer."""
    labels_HW = labels_of(torch.from_numpy(scores_KHW)[None], predictor.task)[0].numpy()
    layers: dict[str, NDArray[Any]] = {CLASSES: np.where(void_HW, np.uint8(VOID), labels_HW)}
    if job.instances is not None:
        evidence_2HW = evidence_of(scores_KHW, job.instances)
        evidence_2HW[0][void_HW] = 0
        layers[EVIDENCE] = evidence_2HW
    if job.scores:
        highest = np.iinfo(job.scores).max
        layers[SCORES] = np.rint(scores_KHW * highest).clip(0, highest).astype(job.scores)
    return layers


@lru_cache(maxsize=1)
def load_predictor(job: LargeJob) -> Predictor:
    """The network of a job, ready in this process; loaded once."""
    return Predictor.of(Bundle.load(job.model), prepare(job.runtime), job.settings)


def _merge_stages(job: LargeJob) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages_of(merge_of(job, None))}


def write_table(job: LargeJob, store: TileStore, path: Path, *, class_name: str) -> int:
    """Write the table of the objects as CSV (see regions.py), and what it is known again by; returns their number."""
    merge = merge_of(job, StoreOfMerge(store, "", 0), grid=store.plan.grid)
    objects = write_regions(path, merge, class_name=class_name)
    facts = {"name": path.name, "size": path.stat().st_size, "hash": file_hash(path)}
    write_json(store.folder / TABLE, facts)
    return objects


def table_is_whole(store: TileStore, path: Path, *, every_byte: bool) -> bool:
    """Whether the table is there as `write_table` wrote it, by its size or, on request, by every byte."""
    try:
        kept = json.loads((store.folder / TABLE).read_text("utf-8"))
        same = path.is_file() and (kept["name"], kept["size"]) == (path.name, path.stat().st_size)
        return same and (not every_byte or kept["hash"] == file_hash(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_source(job: LargeJob, store: TileStore) -> None:
    """Raise DataError where the image is another one than when the job was planned: some tiles may be of either."""
    with open_job(job) as image:
        if image.identity != store.plan.job["source"]:
            raise DataError(
                f"{printable(job.source)} was changed while it was predicted, and tiles of both may be in "
                f"{printable(job.store)}; remove that, and run again"
            )


def damage_of(store: TileStore) -> list[Damage]:
    """What is not as it was written: what the store itself finds, and the parts of the merging."""
    found = store.check()
    for stage in store.plan.stages:
        if MERGE_FILE in stage.files:
            damaged = {damage.index for damage in found if damage.stage == stage.name}
            for index in sorted(store.finished(stage.name) - damaged):
                found += [
                    Damage(stage.name, index, path, "changed") for path in damaged_parts(store, stage.name, index)
                ]
    return found


def seam_of(job: LargeJob, grid: TileGrid) -> float | None:
    """The seam score between two neighbouring windows in the upper left of the image; None where there is one window.

    See `verify.seam_score`. Where windows are not exact it says how much they show.
    """
    (height, width), first = grid.shape, next(tiles_within(grid.window(0), grid.shape, job.tiling)).write
    beside = Window(first.top, first.right, first.bottom, min(2 * first.right, width))
    below = Window(first.bottom, first.left, min(2 * first.bottom, height), first.right)
    second, axis = (beside, 2) if first.right < width else (below, 1)
    if axis == 1 and first.bottom >= height:
        return None
    predictor = load_predictor(job)
    with open_job(job) as image:
        one, other = (_scores(job.tiling, image, part, predictor).swapaxes(axis, 2) for part in (first, second))
    near = np.concatenate([one[..., -NEAR:], other[..., :NEAR]], axis=2)
    return seam_score(near, rows=[], columns=[min(one.shape[2], NEAR) - 1])


def count_objects(table: Path) -> int:
    """How many objects a table that `write_table` wrote has."""
    with table.open("rb") as file:
        return max(0, sum(1 for _ in file) - 1)
