"""The three commands on data sets at the edges: each trains, or is refused in a sentence; nothing is NaN."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pixelwise.cli.main import main

SMALL = ["model.width=4", "model.depth=2", "training.batch=2", "training.steps=2", "runtime.threads=1"]
Pair = tuple[NDArray, NDArray]


def command(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return int(leaving.value.code or 0)


def pair(size: tuple[int, int], seed: int = 0, kind: type = np.uint8, channels: int = 1) -> Pair:
    """A random image, and a mask of its bright pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, np.iinfo(kind).max, (*size, channels)).astype(kind)
    mask = (image[..., 0] > np.iinfo(kind).max // 2).astype(np.uint8)
    mask.flat[0] = 0
    return image, mask


def write(folder: Path, pairs: list[Pair], suffix: str = ".png") -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number, (image, mask) in enumerate(pairs):
        name = f"{number:02d}"
        if suffix == ".tif":
            tifffile.imwrite(folder / "images" / f"{name}.tif", image, photometric="minisblack", planarconfig="contig")
        else:
            Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def one_class_absent_from_training(folder: Path) -> None:
    pairs = [pair((24, 24), seed) for seed in range(5)]
    pairs[4][1][:4, :4] = 2
    write(folder, pairs)


def void_only(folder: Path) -> None:
    pairs = [pair((24, 24), seed) for seed in range(4)]
    for _, mask in pairs[:3]:
        mask[:] = 255
    pairs[3][1][0] = 2
    write(folder, pairs)


TRAINS: dict[str, Callable[[Path], None]] = {
    "one image": lambda folder: write(folder, [pair((40, 40))]),
    "two images": lambda folder: write(folder, [pair((40, 40), seed) for seed in (0, 1)]),
    "smaller than the batch, of many sizes": lambda folder: write(
        folder, [pair(size, seed) for seed, size in enumerate([(1, 1), (1, 70), (31, 33), (200, 3)])]
    ),
    "all images of one pixel": lambda folder: write(
        folder, [(np.array([[[v]]], np.uint8), np.array([[v > 9]], np.uint8)) for v in (1, 200, 3, 90)]
    ),
    "16 bits, 5 channels": lambda folder: write(
        folder, [pair((30, 30), seed, np.uint16, 5) for seed in range(3)], ".tif"
    ),
    "colours": lambda folder: write(folder, [pair((30, 30), seed, channels=3) for seed in range(3)]),
    "a class in one image only": one_class_absent_from_training,
    "mostly void": void_only,
    "a constant image": lambda folder: write(
        folder, [pair((30, 30)), (np.zeros((30, 30, 1), np.uint8), np.zeros((30, 30), np.uint8))]
    ),
}


@pytest.mark.parametrize("name", TRAINS)
def test_trains_scores_and_predicts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    TRAINS[name](tmp_path / "data")
    assert command("train", "data", *SMALL, "--name", "run") == 0
    rows = [json.loads(line) for line in (tmp_path / "runs/run/log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert command("evaluate", "run", "data", "--all", "--json") == 0
    shown = capsys.readouterr().out
    json.loads(shown[shown.index("{\n") :], parse_constant=lambda word: pytest.fail(f"{word} in the scores"))
    assert command("predict", "run", "data", "--out", "labels") == 0
    for image in sorted((tmp_path / "data" / "images").iterdir()):
        mask = tmp_path / "data" / "masks" / f"{image.stem}.png"
        with Image.open(tmp_path / "labels" / f"{image.stem}.png") as labels, Image.open(mask) as truth:
            assert labels.size == truth.size


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "all masks empty": (
        lambda folder: write(folder, [(pair((20, 20), s)[0], np.zeros((20, 20), np.uint8)) for s in range(3)]),
        "nothing to tell apart",
    ),
    "all masks void": (
        lambda folder: write(folder, [(pair((20, 20), s)[0], np.full((20, 20), 255, np.uint8)) for s in range(3)]),
        "nothing to tell apart",
    ),
    "a mask of another size": (
        lambda folder: write(folder, [pair((20, 20)), (pair((20, 24))[0], pair((20, 20))[1])]),
        "01.png",
    ),
    "images of different channels": (
        lambda folder: write(folder, [pair((20, 20)), pair((20, 20), 1, channels=3)]),
        "channel",
    ),
    "no masks": (lambda folder: write(folder, []), "picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_before_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = REFUSED[name]
    make(tmp_path / "data")
    assert command("train", "data", *SMALL) == 2
    assert words in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("layout", ["isbi2012", "camvid", "dsb2018"])
def test_real_data_trains_with_no_option_but_its_length(
    layout: str, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / layout
    parts = {"isbi2012": ("images", "masks"), "camvid": ("train", "trainannot", "val", "valannot"), "dsb2018": ()}
    for part in parts[layout]:
        (data / part).mkdir(parents=True)
        for path in sorted((real_data / layout / part).iterdir())[:4]:
            (data / part / path.name).symlink_to(path)
    if layout == "dsb2018":
        (data / "stage1_train").mkdir(parents=True)
        for path in sorted((real_data / layout / "stage1_train").iterdir())[:4]:
            (data / "stage1_train" / path.name).symlink_to(path)
    settings = ["model.width=4", "model.depth=2", "training.batch=1", "runtime.threads=1"]
    assert command("train", str(data), *settings, "--steps", "2", "--name", "run") == 0
    scores = json.loads((tmp_path / "runs/run/scores.json").read_text())
    assert len(scores["classes"] if "classes" in scores else scores["names"]) == (11 if layout == "camvid" else 2)
