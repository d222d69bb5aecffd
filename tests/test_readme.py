"""Everything the README says is true: its commands run, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pixelwise.cli.main import main
from pixelwise.data.synthetic import write_data_set

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["model.width=4", "model.depth=2", "training.crop=[32,32]", "training.batch=2", "runtime.threads=1"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Every `pixelwise` command in the README's shell blocks, as words."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("pixelwise ")]


def shortened(arguments: list[str]) -> list[str]:
    """The same command with a few steps of a small network instead of minutes."""
    if arguments[0] != "train":
        return arguments
    minutes = ["--steps" if word == "--minutes" else word for word in arguments]
    steps = ["4" if before == "--steps" else word for before, word in zip(["", *minutes], minutes, strict=False)]
    if "--steps" not in steps:
        steps += ["--steps", "2"]
    own_network = "model.name=" in " ".join(steps)
    small = [word for word in SMALL if not (own_network and word.startswith("model."))]
    return [*steps, *(word for word in small if word.split("=")[0] not in " ".join(steps)), "--name", "photos-1"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that the README talks about."""
    write_data_set(tmp_path / "photos", images=4, size=(40, 40), channels=1, seed=0)
    write_data_set(tmp_path / "other-photos", images=2, size=(40, 40), channels=1, seed=1)
    images = write_data_set(tmp_path / "more", images=1, size=(30, 50), channels=1, seed=2) / "images"
    (tmp_path / "new-photos").mkdir()
    shutil.copy(next(images.iterdir()), tmp_path / "new-photos" / "a.png")
    slide = write_data_set(tmp_path / "slides", images=1, size=(230, 250), channels=1, seed=4) / "images"
    Image.open(next(slide.iterdir())).save(tmp_path / "slide.tif")
    shutil.copytree(tmp_path / "photos", tmp_path / "DATA")
    cells = write_data_set(tmp_path / "cells", images=4, size=(64, 64), channels=1, seed=3)
    shutil.rmtree(cells / "masks")
    (cells / "instances").rename(cells / "masks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_three_commands_and_the_python_run(photos: Path) -> None:
    verbs = []
    for arguments in commands():
        if arguments[0] == "train" and (photos / "runs" / "photos-1").exists():
            shutil.rmtree(photos / "runs" / "photos-1")
        with pytest.raises(SystemExit) as leaving:
            main(shortened(arguments))
        assert leaving.value.code == 0, arguments
        verbs.append(arguments[0])
    assert {"train", "evaluate", "predict"} <= set(verbs)

    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102
    assert names["labels"].shape == (30, 50)


def test_the_files_of_a_run_are_those_in_the_table(photos: Path) -> None:
    with pytest.raises(SystemExit):
        main(["train", "photos", *SMALL, "--steps", "2", "--name", "run"])
    named = re.findall(r"^\| (`[^|]+) \|", README, flags=re.MULTILINE)
    files = [name for cell in named for name in re.findall(r"`([^`]+)`", cell)]
    assert len(files) >= 6
    for name in files:
        assert (photos / "runs" / "run" / name).exists(), name


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_readme_is_short_and_its_make_targets_exist() -> None:
    assert len(README.splitlines()) <= 150
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", README):
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:docs|tests|benchmarks|data|models|training|losses|cli)/[\w/.*-]+)`", text):
        found = [*ROOT.glob(name), *(ROOT / "src" / "pixelwise").glob(name)]
        assert found, f"{page} names {name}"
