"""Time and memory of predicting a large image in tiles: ours, exactly as the whole image, and peers with their seams.

    pip install 'pixelwise[bench]' && pip install --no-deps pytorch-toolbelt
    python benchmarks/tiling.py [--side 4096] [--rounds 3] [--threads 2] [--memory 2GB]

One network (padded U-Net, width 16, depth 4, random weights) and one grey image. "our settings" are those that we ship:
channels last, bfloat16 where the processor computes in it, freed memory kept; peers get them as well. "as it ships" is
eager float32, NCHW, the system's allocator. Peers see windows of 512 pixels that overlap by a quarter; where batches
of 1 and of 4 windows are possible, the faster of the two is shown.

Each row is a fresh process that does its work twice, and the rows take turns over the rounds. `MB` is the peak of the
first time beyond what the imports and the network take, image and result included (what is streamed loads the network
within its time and its peak); `seconds` is the second time, when no row pays for fresh memory any more; both are
medians. `x whole` is the median of the ratios within each round to the network's own time for the whole image at our
settings.

`difference` is the largest difference of the logits to those of the whole image in the same precision, as a share of
their spread (highest less lowest); `other class` is the share of pixels that get another class. What is streamed goes
from a tiled TIFF to labels in OUT.zarr, as `pixelwise predict IMAGE -o OUT.zarr` does. Its classes are those of the
store; its logits, which nothing keeps, are made once more from the same windows.

pytorch-toolbelt asks for the package opencv-python, which has the same files as opencv-python-headless; --no-deps
leaves ours as it is.
"""

from __future__ import annotations

import argparse
import importlib
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
import torch
from measuring import in_own_process, print_limits, synchronise
from numpy.typing import NDArray
from torch import Tensor, nn

from pixelwise.bundle import Bundle, Network
from pixelwise.config import PredictConfig, RuntimeConfig
from pixelwise.data.large_images import open_large
from pixelwise.data.masks import Coding
from pixelwise.data.normalise import Normalisation
from pixelwise.data.synthetic import CELL_TASK, draw_cells
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import MissingExtraError, require
from pixelwise.inference.cores import scores_of_part
from pixelwise.inference.footprint import footprint_of
from pixelwise.inference.large import load_predictor, run_step, steps_left
from pixelwise.inference.large_plan import CLASSES, NETWORK, LargeJob, Wish, plan_large
from pixelwise.inference.runners import Here
from pixelwise.inference.sliding import sliding_logits
from pixelwise.inference.tiling import choose_tiling
from pixelwise.runtime import (
    LackOfMemoryError,
    Runtime,
    byte_text,
    memory_limit,
    parse_bytes,
    peak_memory,
    prepare,
    reset_peak,
    resident_memory,
)
from pixelwise.task import Task
from pixelwise.tiles import TileGrid, Window

WINDOW, STEP, OVERLAP = 512, 384, 0.25
BATCHES = (1, 4)
PICTURE, NOISE = 640, 8.0
"""pixels of the picture of cells that is repeated, and grey values of the noise that makes every place another one"""
OURS, PLAIN = "our settings", "as it ships"
WHOLE, WHOLE_PLAIN = "the whole image at once", "the whole image at once, plain"
EXACT = "pixelwise, exact"
STREAMED_NETWORK, STREAMED = "pixelwise, exact, streamed: the network", "pixelwise, exact, streamed: everything"
MONAI = "MONAI, gaussian"
REFERENCES = {OURS: "whole.npy", PLAIN: "plain.npy"}
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scene:
    """What all rows have in common."""

    folder: Path
    side: int
    threads: int
    memory: int

    @property
    def image(self) -> Path:
        return self.folder / "image.tif"

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    def settings(self, name: str) -> RuntimeConfig:
        if name == OURS:
            return RuntimeConfig(threads=self.threads)
        return RuntimeConfig(
            precision="fp32", channels_last=False, allocator=False, deterministic=False, threads=self.threads
        )

    def reference(self, settings: str) -> NDArray[np.float32] | None:
        """Logits (K, H, W) of the whole image; None where it does not fit into memory."""
        path = self.folder / REFERENCES[settings]
        return np.load(path, mmap_mode="r") if path.exists() else None


@dataclass(frozen=True)
class Difference:
    """To the logits of the whole image: the largest, as a share of their spread, and the share of other classes."""

    largest: float
    other_class: float


@dataclass(frozen=True)
class Taken:
    name: str
    setting: str
    seconds: float
    peak_mb: float
    difference: Difference | None = None


@dataclass(frozen=True)
class Given:
    """What a way of predicting is made of; the network is in place."""

    network: nn.Module
    runtime: Runtime
    scene: Scene


Build = Callable[[Given], tuple[Predict, str]]
"""Gives the function from an image to its logits, and its setting in words."""


@dataclass(frozen=True)
class Way:
    """A way of predicting an image in memory."""

    name: str
    settings: str
    build: Build


# ------------------------------------------------------------------------------------------------------------- the ways


def whole(given: Given) -> tuple[Predict, str]:
    device = given.runtime.device
    needed = footprint_of(given.network, 1, given.runtime).memory(given.scene.side**2)
    limit = memory_limit(device)
    if limit is not None and needed > limit:
        raise LackOfMemoryError(f"it may take {byte_text(needed)}, and {byte_text(limit)} are free")
    return lambda image_BCHW: given.network(image_BCHW).float(), ""


def exact(given: Given) -> tuple[Predict, str]:
    settings, memory = PredictConfig(), given.scene.memory
    tiling = choose_tiling(given.network, 1, settings=settings, runtime=given.runtime, memory=memory)
    setting = f"windows of {tiling.side}, halo {tiling.halo}"
    return lambda image_BCHW: sliding_logits(image_BCHW, network=given.network, tiling=tiling), setting


def monai(mode: str, batch: int) -> Build:
    """As its documentation shows: windows of one size, a share of overlap, so many windows at once."""

    def build(given: Given) -> tuple[Predict, str]:
        slide = require("monai.inferers", extra="bench").sliding_window_inference

        def see(windows_BCHW: Tensor) -> Tensor:
            logits_BKHW: Tensor = given.network(given.runtime.place_image(windows_BCHW))
            return logits_BKHW

        return lambda image_BCHW: slide(image_BCHW, (WINDOW, WINDOW), batch, see, OVERLAP, mode), f"batch {batch}"

    return build


def toolbelt(batch: int) -> Build:
    """As its documentation shows: cut the image, see so many tiles at once, add them up by the weights of a pyramid."""

    def build(given: Given) -> tuple[Predict, str]:
        try:
            tiles, runtime = importlib.import_module("pytorch_toolbelt.inference.tiles"), given.runtime
        except ImportError as error:
            raise MissingExtraError(f"{error}; pip install --no-deps pytorch-toolbelt") from error

        def predict(image_BCHW: Tensor) -> Tensor:
            image_HWC = image_BCHW[0].permute(1, 2, 0).cpu().numpy()
            slicer = tiles.ImageSlicer(image_HWC.shape, tile_size=WINDOW, tile_step=STEP, weight="pyramid")
            merger = tiles.TileMerger(slicer.target_shape, CELL_TASK.outputs, slicer.weight, device=runtime.device)
            cut = [torch.from_numpy(tile).permute(2, 0, 1) for tile in slicer.split(image_HWC)]
            for first in range(0, len(cut), batch):
                seen_BCHW = runtime.place_image(torch.stack(cut[first : first + batch]))
                merger.integrate_batch(given.network(seen_BCHW), slicer.crops[first : first + batch])
            merged_HWK = merger.merge().permute(1, 2, 0).cpu().numpy()
            return torch.from_numpy(slicer.crop_to_orignal_size(merged_HWK)).permute(2, 0, 1)[None]

        return predict, f"batch {batch}"

    return build


WAYS = (
    Way(WHOLE, OURS, whole),
    Way(WHOLE_PLAIN, PLAIN, whole),
    Way(EXACT, OURS, exact),
    *(Way(MONAI, OURS, monai("gaussian", batch)) for batch in BATCHES),
    *(Way("MONAI, constant", OURS, monai("constant", batch)) for batch in BATCHES),
    *(Way("pytorch-toolbelt, pyramid", OURS, toolbelt(batch)) for batch in BATCHES),
    *(Way(MONAI, PLAIN, monai("gaussian", batch)) for batch in BATCHES),
)


# ---------------------------------------------------------------------------------------------- measuring, in a process


@torch.inference_mode()
def measure(number: int, scene: Scene, compared: bool) -> Taken:
    """One way of predicting an image in memory."""
    way = WAYS[number]
    runtime = prepare(scene.settings(way.settings))
    bundle = Bundle.load(scene.model)
    predict, setting = way.build(Given(runtime.place(bundle.build_network()), runtime, scene))

    # The first time, in fresh memory.
    reset_peak(runtime.device)
    before = peak_memory(runtime.device)
    image_HWC = bundle.normalisation.apply(tifffile.imread(scene.image)[..., None])
    image_BCHW = runtime.place_image(torch.from_numpy(image_HWC).permute(2, 0, 1)[None])
    with runtime.autocast():
        predict(image_BCHW)
    peak = peak_memory(runtime.device) - before

    # The second time, against the clock.
    synchronise()
    began = time.perf_counter()
    with runtime.autocast():
        logits_BKHW = predict(image_BCHW)
    synchronise()
    seconds = time.perf_counter() - began

    logits_KHW = logits_BKHW[0].float().cpu().numpy()
    if way.name in (WHOLE, WHOLE_PLAIN) and compared:
        np.save(scene.folder / REFERENCES[way.settings], logits_KHW)
    found = [(Window(0, 0, scene.side, scene.side), logits_KHW, logits_KHW.argmax(axis=0))]
    difference = difference_of(found, scene.reference(way.settings)) if compared else None
    return Taken(f"{way.name}, {way.settings}", setting, seconds, peak / 2**20, difference)


def measure_streamed(scene: Scene, compared: bool) -> list[Taken]:
    """From a tiled TIFF to a store: the network's stage, and everything, from loading the model to the last level."""
    device = prepare(scene.settings(OURS)).device
    reset_peak(device)
    before = peak_memory(device)
    _, _, peaks = stream(scene, "first.zarr")
    job, seconds, _ = stream(scene, "second.zarr")
    difference = difference_of(streamed_parts(job), scene.reference(OURS)) if compared else None
    shutil.rmtree(scene.folder / "first.zarr")
    shutil.rmtree(scene.folder / "second.zarr")
    setting = f"windows of {job.tiling.side}, halo {job.tiling.halo}"
    return [
        Taken(f"{name}, {OURS}", setting, seconds[name], (peaks[name] - before) / 2**20, difference)
        for name in (STREAMED_NETWORK, STREAMED)
    ]


def stream(scene: Scene, name: str) -> tuple[LargeJob, dict[str, float], dict[str, int]]:
    """Predict into a new store; returns the job, and seconds and the peak of memory so far, by the name of the row."""
    device = prepare(scene.settings(OURS)).device
    wish = Wish(
        source=scene.image,
        model=scene.model,
        store=scene.folder / name,
        runtime=scene.settings(OURS),
        memory=resident_memory(device) + scene.memory,
    )
    began = time.perf_counter()
    job, plan = plan_large(wish)
    seconds, peaks = {}, {}
    with TileStore.open(job.store, plan):
        for step in steps_left(job):
            stage_began = time.perf_counter()
            failures = [done.failure for done in run_step(job, step, Here()) if done.failure]
            assert not failures, failures[0]
            if step.stage == NETWORK:
                seconds[STREAMED_NETWORK] = time.perf_counter() - stage_began
                peaks[STREAMED_NETWORK] = peak_memory(device)
    seconds[STREAMED], peaks[STREAMED] = time.perf_counter() - began, peak_memory(device)
    return job, seconds, peaks


# ------------------------------------------------------------------------------------------------------- how it differs

Part = tuple[Window, NDArray[np.float32], NDArray[np.generic]]
"""A window, its logits (K, h, w), and its classes (h, w)."""


def streamed_parts(job: LargeJob) -> Iterator[Part]:
    """Core by core the classes of the store, and logits of the same windows; scores of values are the logits."""
    store, predictor = TileStore.join(job.store), load_predictor(job)
    seeing = replace(predictor, task=Task.of(predictor.task.names, kind="values"))
    with open_large(job.source) as image:
        for index in range(len(store.plan.grid)):
            core = store.plan.grid.window(index)
            logits_BKHW = scores_of_part(image.read, core, shape=image.shape, predictor=seeing, tiling=job.tiling)
            yield core, logits_BKHW[0].cpu().numpy(), store.read(CLASSES, core)


def difference_of(parts: Iterable[Part], wanted_KHW: NDArray[np.float32] | None) -> Difference | None:
    """How parts of an image differ from the logits of the whole; None where there are none."""
    if wanted_KHW is None:
        return None
    largest, others = 0.0, 0
    for window, logits_KHW, classes_HW in parts:
        truth_KHW = wanted_KHW[(..., *window.slices)]
        largest = max(largest, float(np.abs(logits_KHW - truth_KHW).max()))
        others += int((classes_HW != truth_KHW.argmax(axis=0)).sum())
    spread = float(wanted_KHW.max() - wanted_KHW.min())
    return Difference(largest / spread, others / math.prod(wanted_KHW.shape[1:]))


# --------------------------------------------------------------------------------------------------------------- rounds


def draw_scene(scene: Scene) -> None:
    """The image, as a tiled TIFF, and the model."""
    picture_HW = draw_cells(size=(PICTURE, PICTURE), seed=0).image_HWC[..., 0]
    repeats = -(-scene.side // PICTURE)
    image_HW = np.tile(picture_HW, (repeats, repeats))[: scene.side, : scene.side]
    rng = np.random.default_rng(0)
    for window in map(TileGrid(image_HW.shape, 1024).window, range(len(TileGrid(image_HW.shape, 1024)))):
        noise_HW = NOISE * rng.standard_normal(window.shape, dtype=np.float32)
        image_HW[window.slices] = np.clip(image_HW[window.slices] + noise_HW + 0.5, 0, 255).astype(np.uint8)
    tifffile.imwrite(scene.image, image_HW, tile=(256, 256), compression="zlib")

    torch.manual_seed(0)
    network = Network(name="unet", in_channels=1, options={"width": 16, "depth": 4})
    bundle = Bundle(
        task=CELL_TASK,
        network=network,
        normalisation=Normalisation(mean=(float(image_HW.mean()),), std=(float(image_HW.std()),)),
        coding=Coding(kind="index", values=(0, 1)),
        predict=PredictConfig(),
        weights=network.build(CELL_TASK).state_dict(),
        provenance={},
    )
    bundle.save(scene.model)


def one_round(scene: Scene, missing: dict[str, str], compared: bool) -> dict[str, Taken]:
    """Every row once, by name and number; what cannot be measured goes to `missing`, with the reason."""
    taken: dict[str, Taken] = {}
    for number, way in enumerate(WAYS):
        name = f"{way.name}, {way.settings}"
        if name not in missing:
            try:
                taken[f"{name} {number}"] = in_own_process(measure, number, scene, compared)
            except (MissingExtraError, LackOfMemoryError) as error:
                missing[name] = str(error)
        if way.name == EXACT:
            taken |= {row.name: row for row in in_own_process(measure_streamed, scene, compared)}
    return taken


@dataclass(frozen=True)
class Row:
    """The medians of one row, and its seconds in each round."""

    name: str
    setting: str
    times: list[float]
    peak_mb: float
    difference: Difference | None

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)

    def ratio(self, other: Row) -> float:
        """How many times as long as another row, the median over the rounds."""
        return statistics.median(mine / its for mine, its in zip(self.times, other.times, strict=True))


def rows_of(rounds: list[dict[str, Taken]]) -> dict[str, Row]:
    """What every round measured, by name, in its order; of those that differ in the setting alone the fastest."""
    rows: dict[str, Row] = {}
    for key, first in rounds[0].items():
        taken = [one[key] for one in rounds if key in one]
        if len(taken) < len(rounds):
            continue
        peak = statistics.median(one.peak_mb for one in taken)
        row = Row(first.name, first.setting, [one.seconds for one in taken], peak, first.difference)
        if row.name not in rows or row.seconds < rows[row.name].seconds:
            rows[row.name] = row
    return rows


# ------------------------------------------------------------------------------------------------------------ the table


def print_table(rows: dict[str, Row]) -> None:
    """Markdown; times against the whole image, where it fits into memory."""
    unit = rows.get(f"{WHOLE}, {OURS}")
    print("\n| way | setting | seconds | x whole | MB | difference | other class |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for row in rows.values():
        against = f"{row.ratio(unit):.2f}" if unit else "-"
        different = row.difference
        shown = f"{share_text(different.largest)} | {share_text(different.other_class)}" if different else "- | -"
        print(f"| {row.name} | {row.setting} | {row.seconds:.2f} | {against} | {row.peak_mb:.0f} | {shown} |")


def share_text(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:.2g} %"


def print_ratios(rows: dict[str, Row]) -> None:
    """The peers' times as multiples of ours."""
    ours = rows[f"{EXACT}, {OURS}"]
    print()
    for name in rows:
        if not name.startswith((WHOLE, "pixelwise")):
            print(f"{name}: {rows[name].ratio(ours):.2f} x as long as {ours.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096, help="pixels along a side of the image [4096]")
    parser.add_argument("--rounds", type=int, default=3, help="how often each row is measured [3]")
    parser.add_argument("--threads", type=int, default=2, help="threads of the processor [2]")
    parser.add_argument("--memory", default="2GB", help="what a window may take [2GB]")
    asked = parser.parse_args()
    print_limits()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), asked.side, asked.threads, parse_bytes(asked.memory))
        draw_scene(scene)
        missing: dict[str, str] = {}
        print(f"{OURS}: {prepare(scene.settings(OURS)).describe()}; {byte_text(scene.memory)} for a window")
        rounds = [one_round(scene, missing, compared=number == 0) for number in range(asked.rounds)]
    rows = rows_of(rounds)
    print(f"{asked.side} x {asked.side} pixels, medians of {asked.rounds} rounds")
    print_table(rows)
    for name, reason in missing.items():
        print(f"| {name} | left out: {reason} | - | - | - | - | - |")
    print_ratios(rows)


if __name__ == "__main__":
    main()
