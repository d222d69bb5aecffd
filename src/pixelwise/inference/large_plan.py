"""What a large prediction is: its job, what its store holds, and how its tiles are cut.

H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pixelwise.bundle import Bundle
from pixelwise.config import PredictConfig, RuntimeConfig
from pixelwise.data.large_images import Missing, open_large
from pixelwise.data.large_source import LargeImage
from pixelwise.data.store_plan import LabelColour, PixelSize, StoreLayer, StorePlan, StoreStage
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import DataError, UsageError
from pixelwise.files import file_hash
from pixelwise.inference.divide import MEMORY_PER_PIXEL
from pixelwise.inference.merge import stages_of
from pixelwise.inference.parts import Merge, MergeStore
from pixelwise.inference.predict import Predictor
from pixelwise.inference.tiling import Tiling, choose_tiling, usual_memory
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.runtime import LackOfMemoryError, byte_text, prepare, resident_memory
from pixelwise.task import VOID, Task
from pixelwise.tiles import TileGrid

NETWORK, CLASSES, OBJECTS, SCORES, EVIDENCE = "network", "labels/classes", "labels/objects", "scores", "evidence"
MERGE_FILE = "parts"
CHUNK = 512
CORES = tuple(range(CHUNK, 3073, CHUNK))
NO_OBJECT = 2**64 - 1
MAPS_OF_CORE = 4
"""arrays of float32 per pixel and output that a core takes beside the network: scores of two views, labels, copies"""
OBJECT_BYTES = 350
"""per pixel of a core, while its objects are made with what they reach beyond it"""
SAFE_SHARE = 0.85
"""of the memory that may be taken; the rest is for what cannot be foreseen"""
ScoreType = Literal["", "uint8", "uint16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeJob:
    """A prediction of one image, as small values that can be sent to any process.

    source    the image, a level of its pyramid, the page where there are several, and what missing chunks are
    model     file of the model
    store     folder of the result
    settings  of the prediction; `tiling` is what they came to: how a core is cut into windows
    runtime   with the kind of device and the precision that were chosen, so that all workers compute alike
    instances how objects are made; None: the model finds none
    scores    type of the scores that are kept; empty: none
    skip_flat whether cores in which nothing is to be seen are taken as the first class, without the network
    largest   pixels of the largest box of touching objects that may be divided at once
    """

    source: Path
    model: Path
    store: Path
    settings: PredictConfig
    runtime: RuntimeConfig
    tiling: Tiling
    instances: InstanceSettings | None
    scores: ScoreType = ""
    skip_flat: bool = False
    level: int = 0
    page: int | None = None
    missing_chunks: Missing = "refuse"
    largest: int = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of a large prediction before anything is opened; see LargeJob. `memory`: bytes of the process."""

    source: Path
    model: Path
    store: Path
    settings: PredictConfig | None = None
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    scores: ScoreType = ""
    skip_flat: bool = False
    level: int = 0
    page: int | None = None
    missing_chunks: Missing = "refuse"
    memory: int | None = None


def plan_large(wish: Wish) -> tuple[LargeJob, StorePlan]:
    """The job, and what its store is to hold.

    Where the store is there already, its tiles are kept as they are, so that a machine with other memory goes on with
    the same. Raises UsageError for settings that cannot be, and all that opening the model and the image raises.
    """
    bundle = Bundle.load(wish.model)
    _check(bundle.task, wish)
    predictor = Predictor.of(bundle, prepare(wish.runtime), wish.settings)
    with open_job(wish) as image:
        _check_channels(image, predictor)
        stored = _stored(wish.store)
        budget = window_budget(wish.memory, predictor.runtime.device)
        if stored:
            core, tiling = stored.grid.core, Tiling(**stored.job["tiling"])
        else:
            cores = _cores(image.shape, budget, objects=bundle.instances is not None)
            with _explained(wish.memory, predictor.runtime.device):
                core, tiling = _cheapest(predictor, cores, image.channels, budget)
        job = LargeJob(
            source=wish.source.resolve(),
            model=wish.model.resolve(),
            store=wish.store.resolve(),
            settings=predictor.settings,
            runtime=wish.runtime.model_copy(
                update={"device": predictor.runtime.device.type, "precision": predictor.runtime.precision}
            ),
            tiling=tiling,
            instances=bundle.instances,
            scores=wish.scores,
            skip_flat=wish.skip_flat,
            level=wish.level,
            page=wish.page,
            missing_chunks=wish.missing_chunks,
            largest=max(core**2, budget // MEMORY_PER_PIXEL),
        )
        return job, _store_plan(job, image, bundle.task, core, predictor)


def open_job(job: LargeJob | Wish) -> AbstractContextManager[LargeImage]:
    """The image of a job, to be read while the context is open."""
    return open_large(job.source, level=job.level, page=job.page, missing_chunks=job.missing_chunks)


def merge_of(job: LargeJob, store: MergeStore | None, *, grid: TileGrid | None = None) -> Merge:
    """The merging of the objects of a job; without a store it can only say what its stages are."""
    assert job.instances is not None, "the model finds objects"
    return Merge(
        store=store,  # type: ignore[arg-type]
        grid=grid or TileGrid((1, 1), 1),
        settings=job.instances,
        largest=job.largest,
    )


def _check(task: Task, wish: Wish) -> None:
    if task.kind == "values":
        raise UsageError("a model of values gives no labels; predict images that fit into memory, one by one")
    if task.codes > VOID:
        raise UsageError(f"{task.codes} classes: a large result holds at most {VOID}, as {VOID} means void")
    scales = (wish.settings or PredictConfig()).scales
    if scales:
        raise UsageError("predict.scales sees the whole image at several sizes; leave it out for large images")


def _check_channels(image: LargeImage, predictor: Predictor) -> None:
    wanted = predictor.normalisation.channels
    if image.channels != wanted:
        raise DataError(
            f"the image has {image.channels} channels, the model takes {wanted}; give an image like those that the "
            "model was trained on"
        )


def window_budget(memory: int | None, device: torch.device) -> int:
    """What windows may take, bytes, of the `memory` of the whole process; None: see `usual_memory`."""
    return usual_memory(device) if memory is None else max(1, int(SAFE_SHARE * memory) - resident_memory(device))


@contextmanager
def _explained(memory: int | None, device: torch.device) -> Iterator[None]:
    """Say of a lack of memory what part of the budget the program takes by itself."""
    try:
        yield
    except LackOfMemoryError as error:
        if memory is None:
            raise
        resident = resident_memory(device)
        raise LackOfMemoryError(
            f"{byte_text(memory)} of memory are too little: the program itself takes {byte_text(resident)} of it, and "
            f"a tile and its windows come on top; give at least {byte_text(2 * resident)} (--memory)"
        ) from error


def _stored(folder: Path) -> StorePlan | None:
    """What the store holds that is there; None where there is none. One that is none is refused when it is opened."""
    try:
        return TileStore.join(folder).plan
    except DataError:
        return None


def _cores(shape: tuple[int, int], budget: int, *, objects: bool) -> list[int]:
    """The sides that a core may have, on whole chunks: what memory allows, and no more than holds the whole image.

    >>> _cores((9000, 9000), 10**9, objects=True), _cores((1000, 700), 10**9, objects=False)
    ([512, 1024, 1536], [512, 1024])
    """
    affordable = math.isqrt(budget // OBJECT_BYTES) if objects else CORES[-1]
    largest = min(affordable, math.ceil(max(shape) / CHUNK) * CHUNK)
    return [core for core in CORES if core <= largest] or [CORES[0]]


def _cheapest(predictor: Predictor, cores: Sequence[int], channels: int, budget: int) -> tuple[int, Tiling]:
    """The core, and its windows, of which the network sees the fewest pixels more than there are; else the largest."""
    choices = []
    for core in cores:
        try:
            tiling = _tiling(predictor, core, channels, budget)
        except LackOfMemoryError:
            if core == cores[0]:
                raise
            break
        choices.append((core, tiling))
    return min(reversed(choices), key=lambda choice: _pixels_seen(*choice))


def _pixels_seen(core: int, tiling: Tiling) -> float:
    """How many pixels the network sees for each pixel of a core.

    >>> _pixels_seen(2048, Tiling(way="exact", side=1216, halo=96, stride=16))
    1.41015625
    """
    side = min(tiling.side, core + 2 * tiling.halo)
    return (math.ceil(core / tiling.core) * side / core) ** 2


def _tiling(predictor: Predictor, core: int, channels: int, budget: int) -> Tiling:
    """How a core is cut into windows: exactly, or where that cannot be, into the inner parts of windows."""
    settings = predictor.settings
    taken = core**2 * 4 * (channels + MAPS_OF_CORE * predictor.task.outputs)
    wanted = choose_tiling(
        predictor.network, channels, settings=settings, runtime=predictor.runtime, memory=max(1, budget - taken)
    )
    if wanted.way in ("fading", "average"):
        inner = settings.model_copy(update={"tiling": "inner"})
        return choose_tiling(predictor.network, channels, settings=inner, runtime=predictor.runtime)
    return _evened(wanted, core) if wanted.way == "exact" else wanted


def _evened(tiling: Tiling, core: int) -> Tiling:
    """Smaller windows where that cuts a core into as many parts, all alike.

    >>> _evened(Tiling(way="exact", side=1632, halo=16, stride=16), 2048).core
    1024
    """
    parts = math.ceil(core / tiling.core)
    step = math.ceil(core / parts / tiling.stride) * tiling.stride
    return replace(tiling, side=min(tiling.side, step + 2 * tiling.halo))


def _store_plan(job: LargeJob, image: LargeImage, task: Task, core: int, predictor: Predictor) -> StorePlan:
    names = list(task.names) if task.kind == "exclusive" else [f"classes {code:b}" for code in range(task.codes)]
    colours = tuple(
        LabelColour(value=value, colour=colour, name=names[value]) for value, colour in enumerate(task.code_colours())
    )
    layers = [StoreLayer(name=CLASSES, dtype="uint8", fill=VOID, stage=NETWORK, colours=colours)]
    stages = [StoreStage(NETWORK)]
    if job.scores:
        highest = {"uint8": 2**8 - 1, "uint16": 2**16 - 1}[job.scores]
        layers.append(StoreLayer(name=SCORES, dtype=job.scores, fill=highest, stage=NETWORK, channels=task.outputs))
    if job.instances is not None:
        merging = stages_of(merge_of(job, None))
        layers.append(StoreLayer(name=EVIDENCE, dtype="uint8", fill=VOID, stage=NETWORK, channels=2, work=True))
        layers.append(StoreLayer(name=OBJECTS, dtype="uint64", fill=NO_OBJECT, stage=merging[-1].name))
        stages += [StoreStage(stage.name, whole=not stage.by_core, files=(MERGE_FILE,)) for stage in merging]
    size = image.pixel_size
    return StorePlan(
        job=_identity(job, image, predictor),
        grid=TileGrid(image.shape, core),
        layers=tuple(layers),
        stages=tuple(stages),
        chunk=CHUNK,
        pixel_size=None if size is None else PixelSize(height=size[0], width=size[1], unit="micrometer"),
    )


def _identity(job: LargeJob, image: LargeImage, predictor: Predictor) -> Mapping[str, Any]:
    """All that decides the pixels of the result."""
    return {
        "model": file_hash(job.model),
        "source": image.identity,
        "flips": job.settings.flips,
        "tiling": asdict(job.tiling),
        "objects": None if job.instances is None else job.instances.to_dict(),
        "scores": job.scores,
        "skip_flat": job.skip_flat,
        "missing_chunks": job.missing_chunks,
        "device": predictor.runtime.device.type,
        "precision": predictor.runtime.precision,
    }
