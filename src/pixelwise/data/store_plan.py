"""What the store of a large result is to hold: its job, tiles, layers and stages, as plain values that JSON can keep.

    StoreLayer   a map of the image that is written tile by tile: classes, objects, scores, or something in between
    StoreStage   a step of the work that leaves something for every tile, or once for the whole image
    StorePlan    all of it; two plans that are equal are the same work

H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pixelwise.data.zarr_array import ZarrArray, fill_in_json
from pixelwise.errors import UsageError
from pixelwise.tiles import TileGrid

FORMAT = 1
PRIVATE = ".pixelwise"
WORK = f"{PRIVATE}/work"
WORK_ARRAYS, WORK_FILES = f"{WORK}/arrays", f"{WORK}/files"
PYRAMID = "pyramid"
LABELS = "labels"
WORD = re.compile(r"[a-z0-9][a-z0-9_-]*")
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")


@dataclass(frozen=True, slots=True)
class LabelColour:
    """How one value of a layer of labels is shown, and what it means; the colour is RGB, 0 to 255."""

    value: int
    colour: tuple[int, int, int]
    name: str


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Height and width of a pixel in the world; `unit` is a full word such as `micrometer`, as OME-Zarr has it."""

    height: float
    width: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLayer:
    """A map of the whole image, (H, W) or (channels, H, W), written core by core.

    name      its folder in the store; those under `labels/` hold labels, which are never averaged
    fill      what other programs show where no tile is written yet: never 0, which would be a class
    stage     the stage that writes it
    channels  None for one number per pixel
    work      whether it is for later stages alone: hidden, and without smaller sizes
    colours   how its values are shown; for labels of classes

    >>> StoreLayer(name="labels/classes", dtype="uint8", fill=0, stage="network")
    Traceback (most recent call last):
    pixelwise.errors.UsageError: layer labels/classes: fill 0 would make a missing tile class 0; choose another value
    """

    name: str
    dtype: str
    fill: float
    stage: str
    channels: int | None = None
    work: bool = False
    colours: tuple[LabelColour, ...] = ()

    def __post_init__(self) -> None:
        if not all(WORD.fullmatch(part) and not part.isdigit() for part in self.name.split("/")):
            raise UsageError(f"layer {self.name!r}: use small letters, digits, - and _, in parts divided by /")
        if self.dtype not in DTYPES:
            raise UsageError(f"layer {self.name}: type {self.dtype!r}; choose one of {', '.join(DTYPES)}")
        if self.channels is not None and self.channels < 1:
            raise UsageError(f"layer {self.name}: {self.channels} channels; give at least 1, or None for a flat map")
        if self.fill == 0:
            raise UsageError(f"layer {self.name}: fill 0 would make a missing tile class 0; choose another value")
        if not _fits(self.fill, self.dtype):
            raise UsageError(f"layer {self.name}: fill {self.fill} does not fit into {self.dtype}; choose another")
        for one in self.colours:
            if not _fits(one.value, self.dtype) or not all(0 <= part <= 255 for part in one.colour):
                raise UsageError(f"layer {self.name}: {one}; give a value of {self.dtype} and RGB from 0 to 255")

    @property
    def is_labels(self) -> bool:
        """Whether a mean of two of its values would mean nothing."""
        return self.name.split("/")[0] == LABELS


@dataclass(frozen=True, slots=True)
class StoreStage:
    """A step of the work: each tile is done or not; a stage of the `whole` image has one tile, number 0.

    files  names of the small files that it leaves for later stages, of each tile
    level  of the pyramid that it makes: 0 is the full size
    """

    name: str
    whole: bool = False
    files: tuple[str, ...] = ()
    level: int = 0

    def __post_init__(self) -> None:
        if not all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", file) for file in self.files):
            raise UsageError(f"stage {self.name}: files {self.files}; use small letters, digits, -, _ and .")


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """What a store is to hold; everything about it follows from this.

    job         what decides the pixels: hashes of model, settings and source, in plain JSON values
    grid        the cores; one is one shard of each layer
    stages      in the order of the work
    chunk       side in pixels of what is compressed at once; the core is a multiple of it
    pixel_size  None where it is not known

    >>> layer = StoreLayer(name="labels/classes", dtype="uint8", fill=255, stage="network")
    >>> plan = StorePlan(job={"model": "a1"}, grid=TileGrid((900, 2000), 512), layers=(layer,),
    ...                  stages=(StoreStage("network"),), chunk=256)
    >>> plan.levels, [stage.name for stage in plan.pyramid], plan == StorePlan.from_dict(plan.to_dict())
    (4, ['pyramid/labels/classes/1', 'pyramid/labels/classes/2', 'pyramid/labels/classes/3'], True)
    """

    job: Mapping[str, Any]
    grid: TileGrid
    layers: tuple[StoreLayer, ...]
    stages: tuple[StoreStage, ...]
    chunk: int = 512
    pixel_size: PixelSize | None = None

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.grid.core % self.chunk:
            raise UsageError(f"tiles of {self.grid.core} pixels: choose a multiple of the {self.chunk} of a chunk")
        _check_names([layer.name for layer in self.layers], [stage.name for stage in self.stages])
        tiled = [stage.name for stage in self.stages if not stage.whole]
        for layer in self.layers:
            if layer.stage not in tiled:
                raise UsageError(f"layer {layer.name}: its stage {layer.stage!r} is none of {', '.join(tiled)}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StorePlan:
        """The plan that `to_dict` wrote; raises UsageError on anything else."""
        try:
            if values["format"] != FORMAT:
                raise UsageError(f"format {values['format']!r}, where this version of pixelwise knows {FORMAT}")
            grid, size = values["grid"], values["pixel_size"]
            return cls(
                job=values["job"],
                grid=TileGrid((grid["shape"][0], grid["shape"][1]), grid["core"]),
                layers=tuple(_layer(layer) for layer in values["layers"]),
                stages=tuple(StoreStage(**s | {"files": tuple(s["files"])}) for s in values["stages"]),
                chunk=values["chunk"],
                pixel_size=None if size is None else PixelSize(**size),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UsageError(f"not the plan of a store: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        layers = [asdict(layer) | {"fill": fill_in_json(layer.fill)} for layer in self.layers]
        plain = {
            "format": FORMAT,
            "job": dict(self.job),
            "grid": asdict(self.grid),
            "chunk": self.chunk,
            "pixel_size": None if self.pixel_size is None else asdict(self.pixel_size),
            "stages": [asdict(stage) for stage in self.stages],
            "layers": layers,
        }
        values: dict[str, Any] = json.loads(json.dumps(plain, allow_nan=False))
        return values

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the whole plan: what every marker of a finished tile names."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @property
    def kept(self) -> tuple[StoreLayer, ...]:
        """The layers that are the result."""
        return tuple(layer for layer in self.layers if not layer.work)

    @property
    def levels(self) -> int:
        """How many sizes of a kept layer there are: each half of the one before, down to a single chunk."""
        chunks = -(-max(self.grid.shape) // self.chunk)
        return 1 + (chunks - 1).bit_length()

    @property
    def pyramid(self) -> tuple[StoreStage, ...]:
        """The stages that make the smaller sizes of the kept layers, each from the one before."""
        levels = range(1, self.levels)
        return tuple(StoreStage(stage_of(layer, n), level=n) for layer in self.kept for n in levels)

    def layer(self, name: str) -> StoreLayer:
        """The layer of a name; raises UsageError for any other."""
        names = {layer.name: layer for layer in self.layers}
        if name not in names:
            raise UsageError(f"there is no layer {name!r}; choose one of {', '.join(names)}")
        return names[name]

    def stage(self, name: str) -> StoreStage:
        """The stage of a name, one of a pyramid too; raises UsageError for any other."""
        names = {stage.name: stage for stage in (*self.stages, *self.pyramid)}
        if name not in names:
            raise UsageError(f"there is no stage {name!r}; choose one of {', '.join(names)}")
        return names[name]

    def tiles(self, stage: StoreStage) -> TileGrid:
        """The tiles of a stage."""
        return TileGrid(self.grid.shape, max(self.grid.shape)) if stage.whole else self.level_grid(stage.level)

    def level_grid(self, level: int) -> TileGrid:
        """The cores of a size of the image: half a pixel counts as one."""
        height, width = (-(-side // 2**level) for side in self.grid.shape)
        return TileGrid((height, width), self.grid.core)

    def array(self, layer: StoreLayer, level: int = 0) -> ZarrArray:
        """How one size of a layer is stored."""
        front = () if layer.channels is None else (layer.channels,)
        return ZarrArray(
            path=f"{WORK_ARRAYS}/{layer.name}" if layer.work else f"{layer.name}/{level}",
            shape=(*front, *self.level_grid(level).shape),
            dtype=layer.dtype,
            fill=layer.fill,
            shard=self.grid.core,
            chunk=self.chunk,
        )

    def arrays(self, stage: StoreStage) -> dict[str, ZarrArray]:
        """What a stage writes for each of its tiles, by the name of the layer."""
        return {
            layer.name: self.array(layer, stage.level)
            for layer in self.layers
            if stage_of(layer, stage.level) == stage.name
        }

    def differences(self, other: StorePlan) -> list[str]:
        """What another plan says otherwise, each in a few words: what it is here, and what there.

        Of a job, the names that `job` itself has; of the rest, the names of the fields.
        """
        here, there = _flat(self.to_dict()), _flat(other.to_dict())
        nothing = object()
        changed = [name for name in {**here, **there} if here.get(name, nothing) != there.get(name, nothing)]
        ours = [name for name in changed if name.startswith("job.")] or changed  # the rest follows from the job
        return [f"{name.removeprefix('job.')} is {_short(here, name)}, not {_short(there, name)}" for name in ours]


def stage_of(layer: StoreLayer, level: int) -> str:
    """The name of the stage that writes one size of a layer."""
    return f"{PYRAMID}/{layer.name}/{level}" if level else layer.stage


def _layer(values: dict[str, Any]) -> StoreLayer:
    colours = tuple(LabelColour(c["value"], tuple(c["colour"]), c["name"]) for c in values["colours"])
    fill = math.nan if values["fill"] == "NaN" else values["fill"]
    return StoreLayer(**values | {"colours": colours, "fill": fill})


def _check_names(layers: list[str], stages: list[str]) -> None:
    if len(set(layers)) != len(layers) or len(set(stages)) != len(stages):
        raise UsageError(f"layers {', '.join(layers)}, stages {', '.join(stages)}: give each another name")
    for name in layers:
        if name == LABELS or any(other.startswith(f"{name}/") for other in layers):
            raise UsageError(f"layer {name}: it would hold another layer; choose another name")
    for name in stages:
        if not WORD.fullmatch(name) or name == PYRAMID:
            raise UsageError(f"stage {name!r}: use small letters, digits, - and _, and not the word {PYRAMID}")


def _fits(fill: float, dtype: str) -> bool:
    if np.dtype(dtype).kind == "f":
        return math.isnan(fill) or math.isfinite(fill)
    limits = np.iinfo(dtype)
    return type(fill) is int and limits.min <= fill <= limits.max


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    return dict(_flattened(values, prefix))


def _flattened(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if type(value) is dict:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(values: dict[str, Any], name: str) -> str:
    text = json.dumps(values[name], ensure_ascii=False) if name in values else "absent"
    return text if len(text) <= 80 else f"{text[:77]}..."
