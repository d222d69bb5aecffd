"""Small stores with maps that are different everywhere, and a full run of their stages, for tests of large results."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.pyramid import build_pyramid
from pixelwise.data.store_plan import LabelColour, PixelSize, StoreLayer, StorePlan, StoreStage
from pixelwise.data.tile_store import TileStore
from pixelwise.tiles import TileGrid, Window

COLOURS = (LabelColour(0, (0, 0, 0), "background"), LabelColour(1, (230, 69, 69), "cell"))
CLASSES = StoreLayer(name="labels/classes", dtype="uint8", fill=255, stage="network", colours=COLOURS)
EVIDENCE = StoreLayer(name="evidence", dtype="float32", fill=float("nan"), stage="network", channels=2, work=True)
OBJECTS = StoreLayer(name="labels/objects", dtype="uint64", fill=2**64 - 1, stage="write")
SCORES = StoreLayer(name="scores", dtype="uint8", fill=255, stage="network", channels=2)
STAGES = (StoreStage("network", files=("faces.npz",)), StoreStage("join", True, ("roots.npz",)), StoreStage("write"))


def make_plan(
    shape: tuple[int, int] = (20, 27),
    core: int = 8,
    chunk: int = 4,
    layers: Iterable[StoreLayer] = (CLASSES, EVIDENCE, OBJECTS),
    **changes: Any,
) -> StorePlan:
    settings = {"job": {"model": "a1", "settings": {"tile": 8}}, "stages": STAGES} | changes
    return StorePlan(grid=TileGrid(shape, core), chunk=chunk, layers=tuple(layers), **settings)


def simple_plan(shape: tuple[int, int], core: int, chunk: int, layer: StoreLayer) -> StorePlan:
    """One layer, one stage."""
    return make_plan(shape, core, chunk, [layer], stages=(StoreStage(layer.stage),))


def true_map(plan: StorePlan, layer: StoreLayer) -> NDArray[Any]:
    """What a layer is to hold: noise, which is another one in every layer and every tile."""
    noise = np.random.default_rng([*plan.grid.shape, len(layer.name)])
    shape = plan.array(layer).shape
    if layer.dtype == "float32":
        return noise.random(shape, np.float32)
    return noise.integers(0, 200, shape).astype(layer.dtype)


def core_of(values: NDArray[Any], window: Window) -> NDArray[Any]:
    return values[(..., *window.slices)]


def write_tile(store: TileStore, stage: StoreStage, index: int) -> None:
    """What the real stages do, with maps that are known."""
    window = store.plan.tiles(stage).window(index)
    layers = [layer for layer in store.plan.layers if layer.stage == stage.name]
    arrays = {layer.name: core_of(true_map(store.plan, layer), window) for layer in layers}
    store.write(index, stage.name, arrays, {name: content(stage, index) for name in stage.files})


def content(stage: StoreStage, index: int) -> bytes:
    file = io.BytesIO()
    np.savez(file, numbers=np.arange(index + 3))
    return stage.name.encode() + file.getvalue()


def finish(store: TileStore) -> None:
    """All that is missing of the stages and of the smaller sizes."""
    for stage in store.plan.stages:
        for index in store.missing(stage.name):
            write_tile(store, stage, index)
    for layer in store.plan.kept:
        build_pyramid(store, layer.name)


def files_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the lock, by its path."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


MICROMETRES = PixelSize(0.5, 0.25, "micrometer")
