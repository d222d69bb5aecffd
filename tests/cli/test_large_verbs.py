"""`pixelwise predict` into OUT.zarr and OUT.tif, and `pixelwise verify`, as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pixelwise.bundle import Bundle
from pixelwise.cli import large, screen
from pixelwise.cli.main import main
from pixelwise.data.masks import Coding
from pixelwise.data.synthetic import draw_cells
from pixelwise.data.tile_store import TileStore
from pixelwise.inference import large_plan
from pixelwise.inference.large_plan import CLASSES, OBJECTS
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.tiles import Window

SHAPE = (200, 260)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def at_work(tmp_path: Path, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of objects, and an image that is cut into six small tiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(large_plan, "CORES", (96,))
    monkeypatch.setattr(large_plan, "CHUNK", 32)
    tifffile.imwrite("image.tif", draw_cells(size=SHAPE, seed=4).image_HWC[..., 0], tile=(64, 64))
    objects = InstanceSettings(form="plain", foreground=0.4, smallest=4)
    replace(make_bundle(), instances=objects, coding=Coding(kind="instances")).save(tmp_path / "model.safetensors")
    return tmp_path


def stored(layer: str, folder: str = "out.zarr") -> np.ndarray:
    return TileStore.join(Path(folder)).read(layer, Window(0, 0, *SHAPE))


def test_a_zarr_a_tiff_and_a_folder_hold_the_same(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("predict", "model.safetensors", "image.tif", "-o", "out.zarr", "--scores", "--score-bits", 8) == 0
    said = capsys.readouterr().out
    assert "image: TIFF, 260 x 200 pixels, 1 channel of uint8" in said
    assert "exactly as the whole image" in said
    assert "result: 9 tiles of up to 96 x 96 pixels in out.zarr" in said
    assert command("predict", "model.safetensors", "image.tif", "-o", "two.tif") == 0
    assert command("predict", "model.safetensors", "image.tif", "-o", "folder") == 0

    labels_HW = np.array(Image.open("folder/image.png"))
    np.testing.assert_array_equal(stored(CLASSES), labels_HW)
    np.testing.assert_array_equal(tifffile.imread("two.tif"), labels_HW)
    objects_HW = np.array(Image.open("folder/instances/image.png"))
    np.testing.assert_array_equal(stored(OBJECTS), objects_HW)
    np.testing.assert_array_equal(tifffile.imread("two-objects.tif"), objects_HW)
    rows = Path("out-objects.csv").read_text().splitlines()
    assert len(rows) - 1 == objects_HW.max() == len(np.unique(objects_HW)) - 1
    assert not list(at_work.glob("*.tiles.zarr"))
    assert Image.open("two.tif").getpalette() is not None


def test_run_again_it_has_nothing_to_do_and_other_settings_are_refused(
    at_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("predict", "model.safetensors", "image.tif", "-o", "out.zarr")
    assert command(*run, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["tiles"], first["failed"]) == (9, {})
    assert first["objects"] == stored(OBJECTS).max()
    before = {path: path.stat().st_mtime_ns for path in sorted(Path("out.zarr/labels").rglob("*")) if path.is_file()}
    assert command(*run) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    capsys.readouterr()
    assert command(*run, "--flips") == 1
    assert "flips is false, not true" in capsys.readouterr().err.lower().replace("true, not false", "false, not true")


def test_damage_is_found_and_done_again(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("predict", "model.safetensors", "image.tif", "-o", "out.zarr")
    assert command(*run) == 0
    assert command(*run, "--check") == 0
    assert "no file is damaged" in capsys.readouterr().out
    before = stored(CLASSES), stored(OBJECTS)
    shards = [path for path in sorted(Path("out.zarr/labels/classes/0").rglob("*")) if path.name.isdigit()]
    shards = [path for path in shards if path.is_file()]
    shards[0].write_bytes(b"")
    shards[-1].unlink()
    assert command(*run, "--check") == 0
    said = capsys.readouterr().out
    assert "2 files damaged; the tiles are done again" in said
    assert "(stage network, tile 0)" in said
    for found, wanted in zip((stored(CLASSES), stored(OBJECTS)), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_one_tile_and_a_dry_run_say_what_all_would_take(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("predict", "model.safetensors", "image.tif", "-o", "out.zarr")
    assert command(*run, "--dry-run", "--workers", 2) == 0
    said = capsys.readouterr().out
    assert "tiles: 9; windows that the network sees: 9" in said
    assert not Path("out.zarr").exists()
    assert command(*run, "--one-tile") == 0
    assert "tile 4, rows 96 to 192, columns 96 to 192, took" in capsys.readouterr().out
    assert TileStore.join(Path("out.zarr")).finished("network") == {4}


def test_a_failing_tile_is_named_and_the_exit_code_says_so(
    at_work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pixelwise.inference import large as engine

    real = engine.scores_of_part

    def poisoned(read, part: Window, **rest):
        if part.top == 96 and part.left == 0:
            raise RuntimeError("bad tile")
        return real(read, part, **rest)

    run = ("predict", "model.safetensors", "image.tif", "-o", "out.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "scores_of_part", poisoned)
        assert command(*run) == 3
    said = capsys.readouterr().out
    assert "tile 3 (rows 96 to 192, columns 0 to 96) failed in the stage network: RuntimeError: bad tile" in said
    assert "1 tile failed, all others are done" in said
    assert command(*run) == 0
    assert "network: 8 of 9 tiles are done already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "out.tif", "--scores"), "scores are kept in a Zarr"),
        (("-o", "out.zarr", "--workers", "1", "--scheduler", "tcp://127.0.0.1:1"), "give one of them"),
        (("-o", "out.zarr", "--overlays"), "--overlays is for images in a folder"),
        (("-o", "out.zarr", "--score-bits", "4"), "choose 8 or 16"),
        (("-o", "out.zarr", "--score-bits", "8"), "--score-bits 8 without --scores"),
        (("-o", "folder", "--score-bits", "8"), "--score-bits is for one image of any size"),
        (("-o", "out.zarr", "--memory", "lots"), "is no amount of memory"),
        (("-o", "image.tif", "--replace"), "is the image itself"),
        (("-o", "folder", "--level", "2"), "--level is for one image of any size"),
        (("-o", "folder", "--skip-flat"), "--skip-flat is for one image of any size"),
        (("-o", "folder/../model.zarr/", "--level", "3"), "level"),
    ],
    ids=[
        "tif-scores",
        "both",
        "overlays",
        "bits",
        "alone",
        "folder-bits",
        "memory",
        "itself",
        "workers",
        "flat",
        "level",
    ],
)
def test_what_cannot_be_is_refused(
    at_work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert command("predict", "model.safetensors", "image.tif", *arguments) in (1, 2)
    assert said in capsys.readouterr().err
    assert tifffile.imread("image.tif").shape == SHAPE


def test_a_tiff_that_is_there_is_replaced_only_where_asked(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.tif").write_bytes(b"mine")
    assert command("predict", "model.safetensors", "image.tif", "-o", "out.tif") == 1
    assert "--replace" in capsys.readouterr().err
    assert Path("out.tif").read_bytes() == b"mine"
    assert command("predict", "model.safetensors", "image.tif", "-o", "out.tif", "--replace") == 0
    assert tifffile.imread("out.tif").shape == SHAPE


def test_little_memory_makes_small_windows_or_a_refusal(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("predict", "model.safetensors", "image.tif", "-o", "out.zarr", "--memory", "1MB") == 2
    assert "1 MB of memory are too little: the program itself takes" in capsys.readouterr().err
    assert not Path("out.zarr").exists()


def test_without_a_terminal_a_line_a_minute_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "SECONDS_BETWEEN_LINES", 0)
    shown = screen.Screen().tiles(range(3), total=10, done=7, title="network", pixels=lambda _: 4_000_000)
    assert list(shown) == [0, 1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("network: 8 of 10 tiles, ")
    assert lines[-1].endswith("0 min left")


def test_verify_certifies_or_says_how_much_seams_show(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", "model.safetensors", "image.tif", "--precision", "fp32", "--tile", "90", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"] is True
    assert found["difference"] <= 1e-5
    assert command("verify", "model.safetensors", "image.tif", "--tiling", "inner", "--tile", "64") == 0
    assert "verdict: tiled is not untiled" in capsys.readouterr().out
    assert command("verify", "model.safetensors", "image.tif", "--tiling", "sideways") == 1
    assert "tiling" in capsys.readouterr().err


def test_what_is_large_is_told_by_its_names(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zattrs").write_text("{}")
    assert large.is_large(tmp_path / "a.zarr", None)
    assert large.is_large(tmp_path, tmp_path / "b.ZARR")
    assert large.is_large(tmp_path, tmp_path / "b.tiff")
    assert not large.is_large(tmp_path, tmp_path / "b")
    assert not large.is_large(tmp_path / "a.zarr", tmp_path / "b")
    assert not large.is_large(tmp_path, None)


def test_a_tiff_too_large_to_be_read_at_once_is_predicted_tile_by_tile(
    at_work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not large.is_large(Path("image.tif"), None)
    Path("broken.tif").write_bytes(b"II*\0")
    assert not large.is_large(Path("broken.tif"), None)
    monkeypatch.setattr(large, "MOST_VALUES", 200 * 260 - 1)
    assert large.is_large(Path("image.tif"), None)
    assert command("predict", "model.safetensors", "image.tif") == 0
    (folder,) = Path("predictions").rglob("image.zarr")
    assert stored(CLASSES, str(folder)).shape == SHAPE
    assert "labels in predictions/" in capsys.readouterr().out


def test_a_zarr_without_a_name_for_its_result_is_refused(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.zarr").mkdir()
    Path("a.zarr/zarr.json").write_text("{}")
    assert command("predict", "model.safetensors", "a.zarr", "-o", "folder") == 1
    assert "a.zarr is a Zarr; give --out OUT.zarr or OUT.tif" in capsys.readouterr().err


def test_files_beside_the_result_are_not_replaced_unasked(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out-objects.csv").write_text("notes")
    for out in ("out.zarr", "out.tif"):
        assert command("predict", "model.safetensors", "image.tif", "-o", out) == 1
        assert "out-objects.csv is there already" in capsys.readouterr().err
    Path("out-objects.csv").unlink()
    Path("out-objects.tif").write_text("notes")
    assert command("predict", "model.safetensors", "image.tif", "-o", "out.tif") == 1
    assert Path("out-objects.tif").read_text() == "notes"


def test_a_lost_table_is_made_again(at_work: Path) -> None:
    run = ("predict", "model.safetensors", "image.tif", "-o", "out.zarr")
    assert command(*run) == 0
    table, before = Path("out-objects.csv").read_bytes(), stored(OBJECTS)
    Path("out-objects.csv").unlink()
    assert command(*run) == 0
    assert Path("out-objects.csv").read_bytes() == table
    np.testing.assert_array_equal(stored(OBJECTS), before)


def test_a_tiff_goes_on_where_its_tiles_are_and_replaces_those_of_another_job(
    at_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("predict", "model.safetensors", "image.tif", "-o", "out.tif")
    assert command(*run, "--one-tile") == 0
    Path("out.tif").write_bytes(b"half an export, before a kill")
    assert command(*run, "--flips") == 1
    assert "another job" in capsys.readouterr().err
    assert command(*run) == 0
    assert "network: 1 of 9 tiles are done already" in capsys.readouterr().out
    assert command(*run, "--replace", "--one-tile") == 0
    assert command(*run, "--replace", "--flips") == 0
    assert not list(at_work.glob("*.tiles.zarr"))


def test_a_dry_run_refuses_what_the_run_would(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.zarr").mkdir()
    Path("out.zarr/readme.txt").write_text("mine")
    assert command("predict", "model.safetensors", "image.tif", "-o", "out.zarr", "--dry-run") == 1
    assert "out.zarr" in capsys.readouterr().err


def test_verify_sees_what_was_not_measured_as_predict_does(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tifffile.imread("image.tif").astype(np.float32)
    image[:40] = np.nan
    tifffile.imwrite("nan.tif", image, tile=(64, 64), extratags=[(42113, 2, 0, "nan", True)], metadata=None)
    assert command("verify", "model.safetensors", "nan.tif", "--precision", "fp32", "--tile", "90", "--json") == 0
    assert json.loads(capsys.readouterr().out)["exact"] is True
