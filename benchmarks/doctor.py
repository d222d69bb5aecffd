"""How fast `pixelwise doctor` reads a data set, how much memory it takes, and how much of its time is the import.

    python benchmarks/doctor.py [--files 20000] [--side 256]

Makes pairs of image and mask as PNG in a temporary folder: a few hundred pictures of cells are drawn, and each pair is
one of them turned, mirrored and rolled, so that no two files are alike. The making is not measured. Then the command is
run in a process of its own, and its imports alone in another one. `OMP_NUM_THREADS=1` is for a machine that others use.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pixelwise.data.synthetic import Cells, draw_cells

DRAWN = 200
FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
DOCTOR = ("-m", "pixelwise", "doctor", "--json")
IMPORT = ("-c", "import pixelwise.cli.doctor, pixelwise.data.examination")


@dataclass(frozen=True)
class Taken:
    """What a process took: seconds on the clock, seconds of all its threads, and the peak of its memory, MB."""

    seconds: float
    processor: float
    peak_mb: float
    exit_code: int


def write_pair(number: int, cells: Cells, folder: Path) -> None:
    """An image and its mask, changed alike by the number; no other number gives the same pair."""
    rng = np.random.default_rng(number)
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    shift = rng.integers(cells.mask_HW.shape[0], size=2).tolist()
    for kind, pixels_HW in (("images", cells.image_HWC[..., 0]), ("masks", 255 * cells.mask_HW)):
        turned_HW = np.rot90(pixels_HW[:, ::-1] if mirrored else pixels_HW, turns)
        rolled_HW = np.ascontiguousarray(np.roll(turned_HW, shift, axis=(0, 1)))
        cv2.imwrite(str(folder / kind / f"{number:06}.png"), rolled_HW, FAST_PNG)


def write_data_set(folder: Path, *, pairs: int, side: int) -> int:
    """So many pairs; returns the bytes of all files."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        drawn = list(pool.map(lambda seed: draw_cells(size=(side, side), seed=seed), range(min(DRAWN, pairs))))
        for _ in pool.map(lambda n: write_pair(n, drawn[n % len(drawn)], folder), range(pairs)):
            pass
    return sum(path.stat().st_size for path in folder.rglob("*.png"))


def take(*arguments: str) -> Taken:
    """Run this Python with these arguments in a process of its own."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    scale = 2**20 if platform.system() == "Darwin" else 2**10  # bytes there, kilobytes elsewhere
    return Taken(
        seconds=time.perf_counter() - began,
        processor=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss / scale,
        exit_code=os.waitstatus_to_exitcode(status),
    )


def measure(folder: Path, files: int) -> None:
    """Run the command and its imports, and print what they took."""
    imports, doctor = take(*IMPORT), take(*DOCTOR, str(folder))
    reading = max(1e-9, doctor.seconds - imports.seconds)
    print(f"pixelwise doctor: exit code {doctor.exit_code}; its imports: {imports.exit_code}")
    print(f"{'':<14}{'seconds':>9}{'processor s':>13}{'peak MB':>9}")
    for name, taken in (("imports alone", imports), ("all", doctor)):
        print(f"{name:<14}{taken.seconds:>9.1f}{taken.processor:>13.1f}{taken.peak_mb:>9.0f}")
    print(f"{files / doctor.seconds:.0f} files per second, {files / reading:.0f} without the imports")
    print(f"share of the imports: {100 * imports.seconds / doctor.seconds:.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = partial(parser.add_argument, type=int)
    number("--files", default=20_000, help="images and masks together [20000]")
    number("--side", default=256, help="pixels along a side of an image [256]")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, began = Path(temporary) / "cells", time.perf_counter()
        size = write_data_set(folder, pairs=asked.files // 2, side=asked.side)
        taken = time.perf_counter() - began
        print(f"{asked.files} files of {asked.side} x {asked.side} pixels, {size / 1e6:.0f} MB, made in {taken:.0f} s")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        measure(folder, asked.files)


if __name__ == "__main__":
    main()
