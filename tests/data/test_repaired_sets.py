"""What is learned from a repaired copy is what is learned from the set before it was broken, to the last bit.

The copy holds the same images, classes and names; its masks may say them in other numbers. So the same seed draws the
same split and the same crops, and the trained weights are equal.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_sets import Break, cmyk, draw_set, from_one, jpeg, palettes, swapped, upside_down, wrong_suffix
from PIL import Image

from pixelwise.bundle import Bundle
from pixelwise.cli.main import main
from pixelwise.data.dataset import open_dataset
from run_commands import little_to_collect

TRAINING = ["model.width=4", "model.depth=2", "training.batch=2", "training.crop=[48,48]", "training.steps=30"]
MACHINE = ["runtime.device=cpu", "runtime.threads=1", "runtime.precision=fp32"]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Short trainings without the time of much else."""
    with little_to_collect():
        yield


def nothing(_: Path) -> None:
    """The set as it was drawn."""


def decoded(folder: Path) -> None:
    """The image that `wrong_suffix` makes a JPEG, with the pixels of that JPEG, under its right name."""
    wrong_suffix(folder)
    path = folder / "images" / "cells_001.png"
    with Image.open(path) as picture:
        picture.save(path)


def cut(folder: Path) -> None:
    """The two pairs that `swapped` cuts to sizes of their own, each with its own mask."""
    swapped(folder)
    first, second = (folder / "masks" / f"cells_00{number}.png" for number in (1, 3))
    first.rename(folder / "kept.png")
    second.rename(first)
    (folder / "kept.png").rename(second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """How a set is broken, and what it was before; `code`: what `doctor` says of it."""

    by: Break
    before: Break = nothing
    code: int = 3


CASES: dict[str, Broken] = {
    "noise of JPEG around 0 and 255": Broken(by=jpeg),
    "numbers from 1": Broken(by=from_one),
    "palettes that differ": Broken(by=palettes),
    "a mask upside down": Broken(by=upside_down),
    "CMYK in TIFF": Broken(by=cmyk),
    "a JPEG called PNG": Broken(by=wrong_suffix, before=decoded, code=0),  # a warning: pixelwise goes by the content
    "swapped masks": Broken(by=swapped, before=cut),
}


def command(*words: str | Path) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    return int(leaving.value.code or 0)


@functools.cache
def drawn(folder: Path, change: Break) -> Path:
    """A set of six images, changed in one way; once for each way."""
    name = draw_set(folder / change.__name__, images=6)
    change(name)
    return name


@functools.cache
def trained(data: Path) -> tuple[dict[str, Any], Bundle]:
    """The scores of a short training on a folder, and its model; once for each folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data.parent)
        patch.setattr("pixelwise.cli.training.plot_curves", lambda *_: None)
        assert command("train", data, *TRAINING, *MACHINE, "--name", data.name) == 0
    run = data.parent / "runs" / data.name
    return json.loads((run / "scores.json").read_text()), Bundle.load(run / "model.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_a_repaired_set_trains_as_before_it_was_broken(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    case, folder = CASES[name], tmp_path_factory.getbasetemp() / "repaired sets"
    before, broken = drawn(folder, case.before), drawn(folder, case.by)
    copy = folder / f"{broken.name} mended"
    shutil.rmtree(copy, ignore_errors=True)
    assert command("doctor", broken) == case.code
    assert command("doctor", broken, "--fix", copy) == 0
    assert [sample.name for sample in open_dataset(copy).samples] == [f"cells_{number:03d}" for number in range(6)]

    (scores, model), (expected, reference) = trained(copy), trained(before)
    assert scores["confusion"] == expected["confusion"]
    assert scores["mean_iou"] == pytest.approx(expected["mean_iou"], abs=1e-6)
    assert model.normalisation == reference.normalisation
    assert all(torch.equal(tensor, reference.weights[key]) for key, tensor in model.weights.items())


def test_a_broken_set_that_trains_at_all_trains_otherwise(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A mask upside down is not seen by a training: that the weights above are equal says something."""
    folder = tmp_path_factory.getbasetemp() / "repaired sets"
    changes: list[Callable[[Path], None]] = [nothing, upside_down]
    weights = [trained(drawn(folder, change))[1].weights for change in changes]
    assert not all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
