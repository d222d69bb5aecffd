"""Whether predicting a large image is right, to the last object, and what it takes: time and memory, killed or not.

    python benchmarks/large_image.py [--side 16384] [--memory 2GB] [--crops 12] [--gigapixel]
    python benchmarks/large_image.py --model runs/cells [--side 4096]
    python benchmarks/large_image.py --kills 50 [--side 4096] [--memory 1200MB] [--workers 4]

The image is blocks of drawn cells, 1000 pixels wide so that sides of cores cut them at every place, mirrored and turned
at random. Cells touch within blocks and across them, and form clusters of thousands of pixels. Without `--model` its
grey values say what is there (background, border, inside, each with noise), and a U-Net whose weights are set by hand
reads it from them. So the truth is known: how many cells there are, and where the inside of each is.

`pixelwise predict` runs as a process of its own. `peak MB` is the highest resident memory of the largest process of its
tree (1 MB is 10^6 bytes), `objects` and `truth` are numbers of objects:

    cells     borders are learned, seeds grow: each object must hold the inside of one cell, and none be missing or left
    pieces    each connected piece is one: the objects must be those of one pass over the whole mask, pixel by pixel

Both must be numbered in the order of reading. `crops` are random windows of 1500 pixels, half of them around a corner
where tiles meet, predicted at once with a margin of 512: how many pixels have another class, and how many objects, of
the clusters that are there as a whole, are other pixels.

`--kills` damages 20 files of results, finished or not; kills at random moments, and with `--workers` one of them every
few seconds; and compares every file that stays, by SHA-256, to those of a run that nobody disturbed.
`OMP_NUM_THREADS=1` is for a machine that others use.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from large_runs import command, damaged, hashes, killed, killed_workers, marked, run
from large_truth import INSIDE, Array, Picture, write_model

from pixelwise.bundle import Bundle
from pixelwise.config import RuntimeConfig
from pixelwise.data.large_images import open_large
from pixelwise.data.tile_store import TileStore
from pixelwise.inference.large_plan import CLASSES, OBJECTS
from pixelwise.inference.predict import Predictor, predict
from pixelwise.runtime import prepare
from pixelwise.tiles import TileGrid, Window

CROP, MARGIN = 1500, 512
COLUMNS = (
    "image", "Mpx", "objects are", "tiles", "seconds", "Mpx/s", "peak MB", "objects", "truth", "crops",
    "pixels that differ", "objects that differ",
)  # fmt: skip


# --------------------------------------------------------------------------------------------------- what must be right


def check_cells(store: TileStore, picture: Picture, objects: int) -> None:
    """Each object holds the inside of one cell of the truth, and each cell's inside is in one object of its own."""
    taken = np.zeros(objects + 1, bool)
    for index in range(len(picture.grid)):
        block = picture.block(index)
        inside_HW = block.parts_HW == INSIDE
        found_HW = store.read(OBJECTS, picture.grid.window(index))
        cells, found = block.cells_HW[inside_HW], found_HW[inside_HW].astype(np.int64)
        of_cell = np.zeros(cells.max(initial=0) + 1, np.int64)
        of_cell[cells] = found
        wrong = np.unique(cells[of_cell[cells] != found])
        assert not wrong.size, f"block {index}: cells {wrong[:5]} are in several objects"
        mine = of_cell[1:]
        assert mine.all(), f"block {index}: cells without an object"
        assert len(np.unique(mine)) == len(mine), f"block {index}: objects that hold several cells"
        assert not taken[mine].any(), f"block {index}: objects that hold cells of several blocks"
        assert ((found_HW > 0) >= (block.cells_HW > 0)).all(), f"block {index}: pixels of cells without an object"
        taken[mine] = True
    assert taken[1:].all(), f"{(~taken[1:]).sum()} objects hold no cell"


def check_pieces(store: TileStore, objects: int) -> int:
    """The objects are the connected pieces of the whole mask, pixel by pixel; returns how many there are."""
    grid = store.plan.grid
    mask_HW = store.read(CLASSES, Window(0, 0, *grid.shape))
    pieces, pieces_HW = cv2.connectedComponents(mask_HW, connectivity=4, ltype=cv2.CV_32S)
    of_piece = np.zeros(pieces, np.uint64)
    for window in strips(grid):
        of_piece[pieces_HW[window.slices]] = store.read(OBJECTS, window)
    for window in strips(grid):
        differ_HW = of_piece[pieces_HW[window.slices]] != store.read(OBJECTS, window)
        assert not differ_HW.any(), f"{window}: {differ_HW.sum()} pixels are in another object than in the whole mask"
    assert of_piece[0] == 0, "background is background"
    assert np.array_equal(np.sort(of_piece[1:]), np.arange(1, objects + 1)), "pieces without an object, or joined"
    return pieces - 1


def check_order(store: TileStore, objects: int) -> None:
    """Reading row by row meets the objects in the order of their numbers, and no number is left out."""
    highest = np.uint64(0)
    for window in strips(store.plan.grid, rows=512):
        read = store.read(OBJECTS, window).ravel()
        so_far = np.maximum.accumulate(np.maximum(read, highest))
        steps = np.diff(so_far, prepend=highest)
        assert steps.max() <= 1, f"{window}: objects are not numbered in the order of reading"
        highest = so_far[-1]
    assert highest == objects, f"numbers up to {highest}, not {objects}"


def strips(grid: TileGrid, rows: int = 0) -> Iterator[Window]:
    height, width = grid.shape
    step = rows or grid.core
    return (Window(top, 0, min(top + step, height), width) for top in range(0, height, step))


@dataclass(frozen=True)
class Compared:
    """Pixels and objects of crops, and how many of them are others than those of the crop predicted at once."""

    pixels: int = 0
    other_pixels: int = 0
    objects: int = 0
    other_objects: int = 0

    def __add__(self, other: Compared) -> Compared:
        return Compared(
            self.pixels + other.pixels,
            self.other_pixels + other.other_pixels,
            self.objects + other.objects,
            self.other_objects + other.other_objects,
        )


def compare_crops(store: TileStore, model: Path, image: Path, crops: int) -> Compared:
    bundle = Bundle.load(model)
    settings = bundle.predict.model_copy(update={"tile": 16384})
    predictor = Predictor.of(bundle, prepare(RuntimeConfig(device="cpu")), settings)
    total = Compared()
    for crop in crops_of(store.plan.grid, crops):
        seen = crop.grown(MARGIN, store.plan.grid.shape, align=store.plan.job["tiling"]["stride"])
        with open_large(image) as source:
            whole = predict(source.read(seen), predictor)
        inner = crop.within(seen).slices
        other = whole.labels[inner] != store.read(CLASSES, crop)
        total += Compared(pixels=other.size, other_pixels=int(other.sum()))
        if whole.instances_HW is not None:
            sure = sure_part(seen, store.plan.grid.shape, store.plan.job["tiling"]["halo"])
            total += compare_objects(whole.instances_HW, store.read(OBJECTS, seen), sure)
    return total


def crops_of(grid: TileGrid, crops: int) -> Iterator[Window]:
    """Half of them anywhere, half with a corner of tiles somewhere in them."""
    rng, side = np.random.default_rng(5), min(CROP, *grid.shape)
    for number in range(crops):
        top, left = (int(rng.integers(length - side + 1)) for length in grid.shape)
        if number % 2:
            corner = grid.window(int(rng.integers(len(grid))))
            top, left = (
                int(np.clip(at - rng.integers(side), 0, length - side))
                for at, length in zip((corner.top, corner.left), grid.shape, strict=True)
            )
        yield Window(top, left, top + side, left + side)


def sure_part(seen: Window, shape: tuple[int, int], halo: int) -> Window:
    """The part of a window, as seen from its upper left, of which no score depends on what lies beyond the window."""
    margin = halo + 1
    top, left = (margin * (begin > 0) for begin in (seen.top, seen.left))
    bottom, right = (
        end - begin - margin * (end < length)
        for begin, end, length in zip((seen.top, seen.left), (seen.bottom, seen.right), shape, strict=True)
    )
    return Window(top, left, bottom, right)


def compare_objects(whole_HW: Array, found_HW: Array, sure: Window) -> Compared:
    """The objects of clusters that lie in the sure part as a whole: each must be the same pixels in both."""
    clusters_HW = cv2.connectedComponents((whole_HW > 0).astype(np.uint8), connectivity=8)[1]
    outside_HW = np.ones(whole_HW.shape, bool)
    outside_HW[sure.slices] = False
    complete_HW = (whole_HW > 0) & ~np.isin(clusters_HW, clusters_HW[outside_HW])
    numbers = np.unique(whole_HW[complete_HW])
    _, found_HW = np.unique(found_HW, return_inverse=True)
    of_whole = np.zeros(int(whole_HW.max()) + 1, np.int64)
    of_whole[whole_HW] = found_HW
    torn = np.unique(whole_HW[complete_HW & (of_whole[whole_HW] != found_HW)])
    same_size = np.bincount(whole_HW.ravel())[numbers] == np.bincount(found_HW.ravel())[of_whole[numbers]]
    other = np.isin(numbers, torn) | ~same_size
    return Compared(objects=len(numbers), other_objects=int(other.sum()))


# ------------------------------------------------------------------------------------------------------------ the rows


@dataclass(frozen=True)
class Case:
    """One row of the table; `form` is cells, pieces, or empty: the model is another one, and the truth not checked."""

    picture: Picture
    form: str
    model: Path
    crops: int
    memory: str
    folder: Path


def row_of(case: Case) -> list[str]:
    """Predict, check, and say what came of it; what is wrong is an AssertionError."""
    image = case.folder / f"{case.picture.side}.tif"
    out = image.with_name(f"{case.picture.side}{case.form}.zarr")
    if not image.exists():
        case.picture.write(image)
    ended = run(command(case.model, image, out, "--memory", case.memory))
    assert ended.code == 0, ended.said
    store, objects, truth = TileStore.join(out), ended.result.get("objects", 0), 0
    if case.form == "cells":
        truth = case.picture.cells()
        check_cells(store, case.picture, objects)
    if case.form == "pieces":
        truth = check_pieces(store, objects)
    if objects:
        check_order(store, objects)
    compared = compare_crops(store, case.model, image, case.crops)
    shutil.rmtree(out)
    side, pixels = case.picture.side, case.picture.side**2 / 1e6
    return [
        f"{side}²", f"{pixels:.0f}", case.form or "its own", f"{len(store.plan.grid)} of {store.plan.grid.core}²",
        f"{ended.seconds:.0f}", f"{pixels / ended.seconds:.1f}", f"{ended.peak_mb:.0f}", f"{objects:,}",
        f"{truth:,}" if truth else "", f"{case.crops}", f"{compared.other_pixels:,} of {compared.pixels:,}",
        f"{compared.other_objects:,} of {compared.objects:,}",
    ]  # fmt: skip


def cases_of(asked: argparse.Namespace, folder: Path) -> Iterator[Case]:
    if asked.model:
        picture = Picture(asked.side, asked.seed, photographs=True)
        yield Case(picture, "", asked.model, asked.crops, asked.memory, folder)
        return
    models = {form: folder / f"{form}.safetensors" for form in ("cells", "pieces")}
    for form, model in models.items():
        write_model(model, form)
    picture = Picture(asked.side, asked.seed)
    yield Case(picture, "cells", models["cells"], asked.crops, asked.memory, folder)
    yield Case(picture, "pieces", models["pieces"], asked.crops, asked.memory, folder)
    for side in (10_000, *([32_768] if asked.gigapixel else [])):
        yield Case(Picture(side, asked.seed), "cells", models["cells"], 2, asked.memory, folder)


def print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def disturb(asked: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """The rows of the table of runs that were killed, and results that were damaged."""
    model, image, out = folder / "cells.safetensors", folder / "cells.tif", folder / "cells.zarr"
    write_model(model, "cells")
    Picture(asked.side, asked.seed).write(image)
    words = command(model, image, out, "--memory", asked.memory)
    ended = run(words)
    assert ended.code == 0, ended.said
    wanted = hashes(out)
    yield ["undisturbed", f"{ended.seconds:.0f}", f"{len(wanted)} files, {marked(out)} markers"]
    yield damaged(words, out, wanted, at=math.inf)
    for at in asked.damage_at:
        yield damaged(words, out, wanted, at=at)
    yield killed(words, out, wanted, asked.kills)
    if asked.workers:
        yield killed_workers(words, out, wanted, asked.workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=16384, help="pixels along a side of the image [16384]")
    parser.add_argument("--memory", default="2GB", help="what the prediction may take [2GB]")
    parser.add_argument("--model", type=Path, help="a trained model instead of the one by hand; the truth is not known")
    parser.add_argument("--crops", type=int, default=12, help="windows to compare with [12]")
    parser.add_argument("--gigapixel", action="store_true", help="also 32768 x 32768 pixels")
    parser.add_argument("--seed", type=int, default=1, help="of the picture [1]")
    parser.add_argument("--kills", type=int, default=0, help="kill so often instead; the side is then 4096, usually")
    parser.add_argument("--workers", type=int, default=0, help="with --kills: also with workers that are killed")
    parser.add_argument("--damage-at", type=int, nargs="*", default=[40, 150, 250], help="finished tiles [40 150 250]")
    asked = parser.parse_args()
    if asked.model and asked.model.is_dir():
        asked.model = asked.model / "model.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; memory {asked.memory}")
        columns = ("what happened", "seconds", "result") if asked.kills else COLUMNS
        print_row(columns)
        print_row(["---"] * len(columns))
        rows = disturb(asked, Path(folder)) if asked.kills else map(row_of, cases_of(asked, Path(folder)))
        for row in rows:
            print_row(row)


if __name__ == "__main__":
    main()
