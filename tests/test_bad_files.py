"""Awkward names, files and models through the commands; and how much memory the greedy ones get.

The commands run in this process, as `pixelwise` would: a crash is a failed test. Each test ends within 20 seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import peak_memory
from bad_inputs import (
    FILE_SYSTEM,
    HIDDEN,
    MODELS,
    NAMES,
    TRUTH,
    ZIPS,
    draw_beside,
)
from run_commands import SHORT, Run, little_to_collect, runner, train_model, write_corpus

RECORD = ".pixelwise"  # of what is done, in the folder of the masks

pytestmark = pytest.mark.timeout(20, func_only=True)
ENCODER = ["model.name=unet_encoder", "model.encoder=resnet18", "--encoder-weights"]
EMPTY = "st_empty.safetensors"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Trainings of two steps without the time of much else."""
    with little_to_collect():
        yield


@pytest.fixture
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The awkward inputs."""
    return write_corpus(tmp_path_factory.getbasetemp() / "awkward")


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two classes in colour images."""
    return train_model(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a folder of its own."""
    return runner(tmp_path, monkeypatch, capsys)


@pytest.fixture
def safe(corpus: Path) -> Iterator[None]:
    """No file has run code, and none has left its place."""
    escaped = Path("/tmp/_via_symlink")  # noqa: S108 (the place that zip_symlink.zip aims at)
    yield
    assert not list((corpus / "_CANARY").iterdir())
    assert not escaped.exists()


def only_signs(text: str) -> bool:
    """Whether nothing in a text can move the cursor, hide a part of it or turn it round."""
    return all(line.isprintable() for line in text.split("\n"))


# Names


def draw_named(folder: Path, name: str, *, seed: int) -> None:
    draw_beside(Path("drawn"), "x", channels=3, seed=seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Path("drawn", part, "x.png").rename(folder / part / name)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_image_of_any_name_gets_the_mask_of_that_name(name: str, corpus: Path, model: Path, run: Run) -> None:
    draw_named(Path("data"), name, seed=0)
    for hidden in HIDDEN:
        shutil.copy(corpus / "names" / hidden, "data/images")
    seen = run("doctor", "data")
    assert (seen.code, only_signs(seen.raw_out)) == (0, True)
    assert "left out: hidden or system file: in 3 files" in seen.out

    masks = run("predict", model, "data/images", "--out", "out", "--scores", "--overlays", "--json")
    assert (masks.code, only_signs(masks.raw_out + masks.raw_err)) == (0, True)
    assert "skipped 3 files: hidden or system file" in masks.err
    (written,) = json.loads(masks.raw_out)["masks"].items()
    assert written == (name.removesuffix(".png"), f"out/{name}")
    assert sorted(os.listdir("out")) == sorted([RECORD, name, "overlays", "scores"])  # noqa: PTH208
    assert os.listdir("out/overlays") == [name]  # noqa: PTH208
    with Image.open(f"out/{name}") as labels:
        assert labels.size == (64, 48)


def test_images_of_all_names_are_trained_on_and_scored_once(corpus: Path, model: Path, run: Run) -> None:
    for seed, name in enumerate(NAMES.values()):
        draw_named(Path("data"), name, seed=seed)
    trained = run("train", "data", *SHORT, "--name", "run")
    assert (trained.code, only_signs(trained.raw_out)) == (0, True)
    assert f"{len(NAMES)} pairs of image and mask" in trained.out
    json.loads(Path("runs/run/scores.json").read_text())
    scored = run("evaluate", "run", "data", "--all", "--json")
    stems = [one["name"] for one in json.loads(scored.raw_out)["per_image"]]
    assert sorted(stems) == sorted(name.removesuffix(".png") for name in NAMES.values())

    masks = run("predict", model, corpus / "names", "--out", "out")
    assert (masks.code, only_signs(masks.raw_out)) == (0, True)
    assert sorted(os.listdir("out")) == sorted([RECORD, *NAMES.values()])  # noqa: PTH208


def test_two_images_of_one_name_are_refused_and_folders_tell_them_apart(corpus: Path, model: Path, run: Run) -> None:
    masks = run("predict", model, corpus / "dups", "--out", "out")
    assert masks.code == 2
    assert "the name s stands for" in masks.err
    assert all(str(corpus / "dups" / name) in masks.err for name in ("s.png", "s.jpg"))
    assert not Path("out").exists()

    draw_beside(Path("data"), "good", channels=3, seed=0)
    for name in ("s.png", "s.jpg"):
        shutil.copy(corpus / "dups" / name, "data/images")
    Image.fromarray(TRUTH).save("data/masks/s.png")
    for command in (["doctor", "data"], ["train", "data", *SHORT], ["evaluate", model, "data"]):
        seen = run(*command)
        said = seen.out + seen.err
        assert (seen.code, "s.png" in said, "s.jpg" in said) == (2, True, True), said

    for part in ("sub1", "sub2"):
        shutil.copytree(corpus / "dups" / part, Path("images") / part)
    assert run("predict", model, "images", "--out", "out").code == 0
    assert sorted(str(path) for path in Path("out").rglob("*.png")) == ["out/sub1/t.png", "out/sub2/t.png"]


# The file system


def test_links_pipes_and_endless_files_stop_nothing(corpus: Path, model: Path, run: Run) -> None:
    folder = corpus / "fs"
    masks = run("predict", model, folder, "--out", "out", "--json")
    failed = json.loads(masks.raw_out)["failed"]
    assert masks.code == 3
    assert [str(path) for path in Path("out").rglob("*") if RECORD not in path.parts] == ["out/ok.png"]
    assert set(failed) == {Path(path).stem for path, words in FILE_SYSTEM.items() if words}
    for path, words in FILE_SYSTEM.items():
        assert not words or f"{corpus / path}: {words}" in failed[Path(path).stem]
    assert "skipped 1 file: not a regular file" in masks.err
    assert "skipped 1 file: folder already listed (a link leads back to it)" in masks.err


def test_links_pipes_and_endless_files_are_named_before_training(corpus: Path, model: Path, run: Run) -> None:
    Path("data/masks").mkdir(parents=True)
    Path("data/images").symlink_to(corpus / "fs")
    bad = [Path(path).name for path, words in FILE_SYSTEM.items() if words]
    for name in ("ok.png", *bad):
        Image.fromarray(TRUTH).save(Path("data/masks") / name)
    seen = run("doctor", "data")
    assert (seen.code, [name for name in bad if f"images/{name}" not in seen.out]) == (2, []), seen.out
    assert "left out: not a regular file: images/pipe.png" in seen.out
    for command in (["train", "data", *SHORT], ["evaluate", model, "data"]):
        refused = run(*command)
        assert (refused.code, [name for name in bad if name not in refused.err]) == (2, []), refused.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("what", ["images/good_0.png", "masks/good_0.png", "images"])
def test_what_may_not_be_read_is_named(what: str, model: Path, run: Run) -> None:
    for seed in range(3):
        draw_beside(Path("data"), f"good_{seed}", channels=3, seed=seed)
    Path("data", what).chmod(0)
    try:
        for command in (["doctor", "data"], ["train", "data", *SHORT], ["evaluate", model, "data"]):
            seen = run(*command)
            assert (seen.code, Path(what).name in seen.out + seen.err) == (2, True)
    finally:
        Path("data", what).chmod(0o755)


# Models


@pytest.mark.usefixtures("safe")
@pytest.mark.parametrize("name", MODELS)
def test_a_file_that_is_no_model_is_refused_in_every_place(name: str, corpus: Path, model: Path, run: Run) -> None:
    path = corpus / "models" / name
    draw_beside(Path("data"), "good", channels=3, seed=0)
    as_model = [["predict", path, "data/images", "--out", "out"], ["evaluate", path, "data"], ["inspect", path]]
    for command in as_model:
        refused = run(*command)
        assert (refused.code, f"{path} cannot be used: it" in refused.err) == (2, True), refused.err
    weights = run("train", "data", *ENCODER, path)
    assert (weights.code, str(path) in weights.err) == (1, True), weights.err
    if name != EMPTY:  # a file of no settings is a file of settings
        settings = run("train", "data", "--config", path)
        assert (settings.code, f"{path} is not TOML" in settings.err) == (1, True), settings.err
    as_image = run("predict", model, path, "--out", "out")
    assert (as_image.code, str(path) in as_image.out) == (3, True), as_image.out
    as_data = run("doctor", path)
    assert (as_data.code, name in as_data.out) == (2, True)
    assert not list(Path("runs").glob("*"))
    assert not [path for path in Path("out").rglob("*") if RECORD not in path.parts]


@pytest.mark.usefixtures("safe")
@pytest.mark.parametrize("name", ZIPS)
def test_nothing_leaves_an_archive(name: str, corpus: Path, run: Run) -> None:
    path = corpus / "models" / name
    refused = run("data", "get", "dsb2018", "--from", path, "--data-dir", "sets")
    assert (refused.code, str(path) in refused.err) == (2, True)
    assert not [found for found in Path.cwd().rglob("*") if not found.is_dir()]


# Memory

ROOM = 64.0  # MiB
GREEDY_IMAGES = {
    "bomb_header_30000x30000.png": ROOM,
    "bomb_real_30000x30000_1bit.png": ROOM,
    "bomb_header_2e31.png": ROOM,
    "ztxt_bomb.png": 2 * ROOM,
    "tiff_ifd_loop_huge.tif": ROOM,
}
GREEDY_MODELS = ("yaml_billion_laughs.yaml", "config_memory_bomb.json", "zip_bomb_1000to1.zip") + tuple(
    f"st_{state}.safetensors" for state in ("header_len_2e63", "header_len_past_eof", "shape_overflow")
)


@pytest.mark.timeout(120, func_only=True)
@pytest.mark.skipif(not peak_memory.FORGET.exists(), reason="only Linux tells the highest memory of a command")
def test_no_input_takes_memory_for_what_it_claims(corpus: Path, model: Path, tmp_path: Path) -> None:
    """In a process of its own, after the same commands on a good set: what a command needs at all is there then."""
    rooms = {"good": ROOM}
    draw_beside(tmp_path / "good", "good", channels=3, seed=0)
    first = [["doctor", "good"], ["predict", str(model), "good/images", "--out", "out", "--replace"]]
    commands, limits = [*first, *first], [float("inf")] * 2 + [rooms["good"]] * 2
    for name, room in GREEDY_IMAGES.items():
        shutil.copytree(tmp_path / "good", tmp_path / name)
        shutil.copy(corpus / "images" / name, tmp_path / name / "images")
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / name / "masks" / f"{Path(name).stem}.png")
        verbs = (["doctor", name], ["train", name], ["evaluate", str(model), name])
        commands += [*verbs, ["predict", str(model), f"{name}/images", "--out", "out", "--replace"]]
        limits += [room] * 4
    for name in GREEDY_MODELS:
        path = str(corpus / "models" / name)
        commands += [["predict", path, "good/images"], ["train", "good", *ENCODER, path], ["doctor", path]]
        limits += [ROOM] * 3
    commands.append(["data", "get", "dsb2018", "--from", str(corpus / "models" / "zip_bomb_1000to1.zip")])
    limits.append(ROOM)

    script = [sys.executable, peak_memory.__file__, json.dumps(commands)]
    ended = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=True)
    results = json.loads(ended.stdout)
    assert [code for code, _, _ in results[:4]] == [0] * 4, results[:4]
    for words, limit, (code, rise, said) in zip(commands[4:], limits[4:], results[4:], strict=True):
        assert (code != 0, rise < limit, "Traceback" in said) == (True, True, False), (words, rise, said)
