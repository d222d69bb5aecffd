"""How long merging objects across cores takes, and how much memory: it should grow with the number of objects alone.

    python benchmarks/merge.py [--millions 1 4 9] [--core 2048] [--plain]

The image is never there as a whole: a pattern of pairs of cells that touch, repeated, of which any window can be made.
The period does not divide the core, so the sides of cores cut pairs at every place. Each stage runs in a process of its
own, over all cores, one after another; the parts and the objects go to files, compressed. `join`, `gather`, `number`
and `write` are the merging; `pieces` and `divide` (or `label`) are work on pixels that any number of workers share.
`OMP_NUM_THREADS=1` is for a machine that others use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixelwise.inference.merge import Stage, stages_of
from pixelwise.inference.parts import Merge, pack_arrays, unpack_arrays
from pixelwise.postprocess.instances import FOREGROUND, SEED, InstanceSettings
from pixelwise.tiles import TileGrid, Window

PERIOD = 12
MERGING = ("join", "gather", "number", "write")


@dataclass(frozen=True)
class PatternStore:
    """Evidence from a pattern; parts and objects as files of a folder."""

    folder: Path
    plain: bool

    def read_evidence(self, window: Window) -> NDArray[np.uint8]:
        rows, columns = np.arange(window.top, window.bottom) % PERIOD, np.arange(window.left, window.right) % PERIOD
        return pattern(self.plain)[:, rows[:, None], columns]

    def read_part(self, stage: str, index: int) -> bytes:
        return (self.folder / stage / str(index)).read_bytes()

    def write_part(self, stage: str, index: int, data: bytes) -> None:
        (self.folder / stage).mkdir(exist_ok=True)
        (self.folder / stage / str(index)).write_bytes(data)

    def write_objects(self, index: int, objects_HW: NDArray[np.uint64]) -> None:
        self.write_part("final", index, pack_arrays({"objects": objects_HW}))


@dataclass(frozen=True)
class Taken:
    seconds: float
    peak_mb: float


def pattern(plain: bool) -> NDArray[np.uint8]:
    """One period of evidence: two cells of 5 x 10 pixels side by side, which only their seeds tell apart."""
    evidence_2HW = np.zeros((2, PERIOD, PERIOD), np.uint8)
    evidence_2HW[0, 1:11, 1:11] = FOREGROUND
    if plain:
        evidence_2HW[0, :, 5:6] = 0
    else:
        evidence_2HW[0, 2:10, 2:5] |= SEED
        evidence_2HW[0, 2:10, 7:10] |= SEED
        evidence_2HW[1, 1:11, 1:11] = 100
    return evidence_2HW


def merge_of(folder: Path, pairs: int, core: int, plain: bool) -> Merge:
    """The merging of an image of so many pairs along a side."""
    settings = InstanceSettings(form="plain" if plain else "softmax3")
    grid = TileGrid((PERIOD * pairs, PERIOD * pairs), core)
    return Merge(store=PatternStore(folder, plain), grid=grid, settings=settings, largest=1 << 24)


def run_stage(merge: Merge, stage: Stage) -> Taken:
    began = time.perf_counter()
    if stage.by_core:
        for index in range(len(merge.grid)):
            stage.run(merge, index)
    else:
        stage.run(merge)
    return Taken(time.perf_counter() - began, peak_mb())


def peak_mb() -> float:
    """The most memory that this process has held. What `getrusage` says includes the parent's."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def in_own_process(merge: Merge, pairs: int, stage: Stage) -> Taken:
    store = merge.store
    assert isinstance(store, PatternStore)
    wanted = json.dumps([str(store.folder), pairs, merge.grid.core, store.plain, stage.name])
    done = subprocess.run([sys.executable, __file__, "--stage", wanted], capture_output=True, text=True, check=True)
    return Taken(*json.loads(done.stdout))


def one_stage(wanted: str) -> None:
    """What the own process does."""
    folder, pairs, core, plain, name = json.loads(wanted)
    merge = merge_of(Path(folder), pairs, core, plain)
    taken = run_stage(merge, next(stage for stage in stages_of(merge) if stage.name == name))
    print(json.dumps([taken.seconds, taken.peak_mb]))


def measure(millions: float, core: int, plain: bool) -> tuple[int, dict[str, Taken]]:
    """The objects of one image, and what each stage took."""
    pairs = round((millions * 5e5) ** 0.5)
    with tempfile.TemporaryDirectory() as folder:
        merge = merge_of(Path(folder), pairs, core, plain)
        taken = {stage.name: in_own_process(merge, pairs, stage) for stage in stages_of(merge)}
        parts = (merge.store.read_part("final", index) for index in range(len(merge.grid)))
        objects = max(int(unpack_arrays(part)["objects"].max()) for part in parts)
    assert objects == 2 * pairs**2, f"{objects} objects were found, there are {2 * pairs**2}"
    return objects, taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 4, 9], help="millions of objects [1 4 9]")
    parser.add_argument("--core", type=int, default=2048, help="pixels along a side of a core [2048]")
    parser.add_argument("--plain", action="store_true", help="objects are pieces; nothing is to be divided")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stage:
        one_stage(asked.stage)
        return
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; cores of {asked.core} x {asked.core} pixels")
    print("merging: the stages join, gather, number and write, in one process")
    print(f"{'objects':>12}{'merging s':>11}{'us each':>9}{'ratio':>7}{'peak MB':>9}   seconds of each stage")
    reference = 0.0
    for millions in asked.millions:
        objects, taken = measure(millions, asked.core, asked.plain)
        merging = [part for name, part in taken.items() if name in MERGING]
        seconds, peak = sum(part.seconds for part in merging), max(part.peak_mb for part in merging)
        each = 1e6 * seconds / objects
        reference = reference or each
        stages = ", ".join(f"{name} {part.seconds:.1f}" for name, part in taken.items())
        print(f"{objects:>12,}{seconds:>11.1f}{each:>9.2f}{each / reference:>6.2f}x{peak:>9.0f}   {stages}", flush=True)


if __name__ == "__main__":
    main()
