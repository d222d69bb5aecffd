"""`pixelwise predict` for a large image where things around it go wrong: other jobs, changed files, late kills."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pixelwise.bundle import Bundle
from pixelwise.cli import large
from pixelwise.cli.main import main
from pixelwise.data.masks import Coding
from pixelwise.data.synthetic import draw_cells
from pixelwise.inference import large as engine
from pixelwise.inference import large_plan
from pixelwise.postprocess.instances import InstanceSettings

SHAPE = (200, 260)
ZARR = ("predict", "model.safetensors", "image.tif", "-o", "out.zarr")
TIFF = ("predict", "model.safetensors", "image.tif", "-o", "out.tif")


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def at_work(tmp_path: Path, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of objects, and two images that are cut into six small tiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(large_plan, "CORES", (96,))
    monkeypatch.setattr(large_plan, "CHUNK", 32)
    for seed, name in enumerate(("image.tif", "other.tif")):
        tifffile.imwrite(name, draw_cells(size=SHAPE, seed=seed).image_HWC[..., 0], tile=(64, 64))
    objects = InstanceSettings(form="plain", foreground=0.4, smallest=4)
    replace(make_bundle(), instances=objects, coding=Coding(kind="instances")).save(tmp_path / "model.safetensors")
    return tmp_path


def files(folder: str) -> dict[str, bytes]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_dry_run_removes_no_tiles_of_another_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("predict", "model.safetensors", "other.tif", "-o", "out.tif", "--one-tile") == 0
    before = files("out.tif.tiles.zarr")
    capsys.readouterr()
    assert command(*TIFF, "--replace", "--dry-run") == 0
    assert "tiles: 9;" in capsys.readouterr().out
    assert files("out.tif.tiles.zarr") == before


def test_tiles_that_another_process_is_at_are_not_replaced(
    at_work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("predict", "model.safetensors", "other.tif", "-o", "out.tif", "--one-tile") == 0
    before = files("out.tif.tiles.zarr")

    def taken(descriptor: int, folder: Path) -> None:
        raise large.UsageError(f"{folder} is in use")

    monkeypatch.setattr("pixelwise.files._lock", taken)  # a lock is of the process, so it cannot be taken here
    assert command(*TIFF, "--replace") == 1
    assert "is in use" in capsys.readouterr().err
    assert files("out.tif.tiles.zarr") == before


def test_an_image_that_changes_meanwhile_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = engine.scores_of_part, []

    def changing(*arguments: object, **rest: object) -> object:
        seen.append(1)
        if len(seen) == 4:
            shutil.copyfile("other.tif", "image.tif")
        return real(*arguments, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "scores_of_part", changing)
        assert command(*ZARR) == 2
    assert "image.tif was changed while it was predicted" in capsys.readouterr().err
    assert command(*ZARR) == 1  # and the tiles that are there are not gone on with
    shutil.rmtree("out.zarr")
    assert command(*ZARR) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept["plan"]["job"]["tiling"].update(halo=8),
        lambda kept: kept["plan"]["grid"].update(core=64),
        lambda kept: kept["plan"]["job"].pop("tiling"),
        lambda kept: kept.pop("hash"),
        lambda kept: kept.update(plan=[]),
    ],
)
def test_a_job_that_was_changed_is_refused(
    change: Callable[[dict[str, dict[str, object]]], object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*ZARR, "--one-tile") == 0
    path = Path("out.zarr/.pixelwise/job.json")
    kept = json.loads(path.read_text())
    change(kept)
    path.write_text(json.dumps(kept))
    for options in ((), ("--check",), ("--dry-run",)):
        assert command(*ZARR, *options) == 2
        said = capsys.readouterr().err
        assert "job.json cannot be used" in said
        assert "move the folder away and run again" in said


def test_a_damaged_table_is_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*ZARR) == 0
    table = Path("out-objects.csv")
    whole = table.read_bytes()
    table.write_bytes(whole[:100])
    assert command(*ZARR) == 0
    assert "out-objects.csv is not as it was written; it is written again" in capsys.readouterr().out
    assert table.read_bytes() == whole
    table.write_bytes(whole.replace(b"1", b"2", 1))  # as long as before: found where every byte is compared
    assert command(*ZARR, "--check") == 0
    assert table.read_bytes() == whole
    capsys.readouterr()
    assert command(*ZARR, "--check") == 0
    assert "written again" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "out"), [("a-objects.tif", "a.tif"), ("a.tif", "a.tif"), ("out.tif", "../at/out.tif")]
)
def test_no_result_replaces_the_image(name: str, out: str, at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile("image.tif", name)
    before = Path(name).read_bytes()
    out = out.replace("../at/", f"../{at_work.name}/")
    assert command("predict", "model.safetensors", name, "-o", out, "--replace") == 1
    assert "is the image itself" in capsys.readouterr().err
    assert Path(name).read_bytes() == before


def test_a_kill_while_finished_tiles_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.rmtree

    def dying(path: Path, **rest: object) -> None:
        if Path(path).exists():
            real(Path(path) / ".pixelwise")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(large.shutil, "rmtree", dying)
        assert command(*TIFF) == 130
    labels_HW = tifffile.imread("out.tif")
    assert command(*TIFF) == 1  # it is there, and whole
    assert command(*TIFF, "--replace") == 0
    np.testing.assert_array_equal(tifffile.imread("out.tif"), labels_HW)
    assert not list(Path().glob("*.removed"))


def test_a_dry_run_writes_nothing_and_says_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.zarr").mkdir()
    assert command(*ZARR, "--dry-run") == 0
    assert files("out.zarr") == {}
    assert command(*ZARR, "--one-tile") == 0
    before = files("out.zarr")
    capsys.readouterr()
    assert command(*ZARR, "--dry-run") == 0
    assert "network: 1 of 9 tiles are done already" in capsys.readouterr().out
    assert files("out.zarr") == before
