"""Pages with commands: reading them, running what they say on small data, and comparing what is said."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pixelwise.cli.main import main
from pixelwise.data.synthetic import write_data_set

SMALL = ("model.width=4", "model.depth=2", "training.crop=[32,32]", "training.batch=2", "runtime.threads=1")
NUMBER = r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?"
Mask = NDArray[Any]


@dataclass(frozen=True)
class Block:
    """A block of a page: its language and its text."""

    language: str
    text: str

    def commands(self) -> Iterator[tuple[list[str], int]]:
        """The words of each command of pixelwise, and the exit code that the page says, else 0."""
        for line in self.text.splitlines():
            if line.startswith("pixelwise "):
                code = re.search(r"# exit code (\d)", line)
                yield shlex.split(line, comments=True)[1:], int(code[1]) if code else 0


def sections(page: Path) -> dict[str, list[Block]]:
    """The blocks under each heading of a page; those before the first heading are under its title."""
    _, *parts = re.split(r"^##?#? (.+)\n", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = {
        heading: [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: found for heading, found in blocks.items() if found}


def says(shown: str, expected: str) -> bool:
    """Whether a text is in what was shown, apart from line ends, numbers and what `…` stands for."""
    parts = re.split(rf"(…|{NUMBER})", " ".join(expected.split()))
    wild = {"…": ".*?"}
    pattern = "".join(wild.get(part, NUMBER) if place % 2 else re.escape(part) for place, part in enumerate(parts))
    return re.search(pattern, " ".join(shown.split())) is not None


def shortened(arguments: list[str], steps: int) -> list[str]:
    """The same command with a few steps of a small network, on one thread; what the page sets stays."""
    if arguments[0] not in ("plan", "train"):
        return arguments
    kept = [
        word for before, word in zip(["", *arguments], arguments, strict=False) if "--minutes" not in (before, word)
    ]
    small = [setting for setting in SMALL if setting.split("=")[0] not in " ".join(kept)]
    if arguments[0] == "plan":
        return [*arguments, *(word for word in small if word.startswith(("model.", "runtime.")))]
    return [*kept, *small, f"training.validate_every={steps}", "--steps", str(steps)]


def run(arguments: list[str]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    return int(leaving.value.code or 0)


def draw(folder: Path, *, seed: int, images: int = 8) -> Path:
    """Images and masks of 0 and 1, without a palette, as most programs write them."""
    write_data_set(folder, images=images, size=(64, 96), channels=1, seed=seed)
    shutil.rmtree(folder / "instances")
    return remask(folder, lambda mask_HW, _: mask_HW)


def remask(folder: Path, change: Callable[[Mask, int], Mask]) -> Path:
    """Save every mask again, changed by a function of the mask and of its place in the order of names."""
    for place, path in enumerate(sorted((folder / "masks").iterdir())):
        Image.fromarray(np.asarray(change(read(path), place))).save(path)
    return folder


def read(path: Path) -> Mask:
    """The numbers in a picture."""
    return np.array(Image.open(path))


def part(folder: Path, *, validating: int) -> None:
    """Move the images with their masks into the folders train and val, the last ones into val."""
    for kind in ("images", "masks"):
        files = sorted((folder / kind).iterdir())
        for place, path in enumerate(files):
            side = "val" if place >= len(files) - validating else "train"
            (folder / side / kind).mkdir(parents=True, exist_ok=True)
            path.rename(folder / side / kind / path.name)
        (folder / kind).rmdir()
