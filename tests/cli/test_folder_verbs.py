"""`pixelwise predict` for a folder, as typed: gone on with, on workers, within the memory that is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.bundle import Bundle
from pixelwise.cli.main import main
from pixelwise.data.synthetic import draw_cells
from pixelwise.inference import folder as module
from pixelwise.inference.folder_journal import FolderJournal
from pixelwise.inference.predict import Prediction, Predictor, predict
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.runtime import LackOfMemoryError

RUN = ("predict", "model.safetensors", "photos", "-o", "out")


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def at_work(tmp_path: Path, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of objects, four images and a broken one."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number, name in enumerate("abde"):
        Image.fromarray(draw_cells(size=(150, 140), seed=number).image_HWC[..., 0]).save(f"photos/{name}.png")
    Path("photos/c.png").write_bytes(b"broken")
    objects = InstanceSettings(form="plain", foreground=0.4, smallest=4)
    replace(make_bundle(), instances=objects).save(tmp_path / "model.safetensors")
    return tmp_path


def tree(folder: str) -> dict[str, bytes]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and ".pixelwise" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_results_among_the_images_are_no_images(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("predict", "model.safetensors", "photos", "-o", "photos/results")
    assert command(*run) == 3
    first = tree("photos/results")
    (at_work / "photos/results/a.png").unlink()
    assert command(*run) == 3
    said = capsys.readouterr()
    assert "in the folder of the results" in said.out
    assert "3 images are done already" in said.out
    assert tree("photos/results") == first


def test_the_same_command_again_goes_on(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*RUN, "--json") == 3
    first, files = json.loads(capsys.readouterr().out), tree("out")
    (at_work / "out/b.png").unlink()
    assert command(*RUN, "--json") == 3
    shown = capsys.readouterr()
    assert "3 images are done already" in shown.err
    (at_work / "out/b.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert command(*RUN, "--dry-run", "--json") == 0
    dry = capsys.readouterr()
    assert "3 images are done already" in dry.err
    assert "would read: 1 image; 1 file cannot be read" in dry.err
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before, "nothing is written"
    assert command(*RUN) == 3
    capsys.readouterr()
    assert json.loads(shown.out) == first, "the result is of all images, in their order"
    assert list(first["masks"]) == ["a", "b", "d", "e"]
    assert tree("out") == files
    (at_work / "photos/c.png").unlink()
    assert command(*RUN, "--check") == 0
    assert "4 images are done already" in capsys.readouterr().out
    assert command(*RUN, "--overlays") == 1
    assert "--replace" in capsys.readouterr().err
    assert tree("out") == files


def test_a_refusal_leaves_no_trace(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (at_work / "out").mkdir()
    (at_work / "out/a.png").write_bytes(b"mine")
    assert command(*RUN) == 1
    assert "out/a.png is there already; choose another --out" in capsys.readouterr().err
    assert [path.name for path in (at_work / "out").iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--level", "1"), "--level is for one image of any size"),
        (("--skip-flat",), "--skip-flat is for one image of any size"),
        (("--one-tile",), "--one-tile is for one image of any size"),
        (("--workers", "1", "--scheduler", "tcp://127.0.0.1:1"), "give one of them"),
    ],
    ids=["level", "flat", "one", "both"],
)
def test_what_a_folder_has_no_use_for_is_refused(
    at_work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert command(*RUN, *arguments) == 1
    assert words in capsys.readouterr().err
    assert not (at_work / "out").exists()


def test_two_workers_give_the_same(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed")
    assert command(*RUN) == 3
    capsys.readouterr()
    assert command(*RUN[:3], "-o", "workers", "--workers", 2, "--json") == 3
    result = json.loads(capsys.readouterr().out)
    assert list(result["masks"]) == ["a", "b", "d", "e"]
    assert list(result["failed"]) == ["c"]
    assert tree("workers") == tree("out")
    assert command(*RUN[:3], "-o", "workers") == 3
    assert "4 images are done already" in capsys.readouterr().out, "with workers or without, it is the same job"


@pytest.mark.parametrize("tiling", ["auto", "fading"])
def test_smaller_windows_are_kept_to_and_not_mixed(
    at_work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiling: str
) -> None:
    bundle = Bundle.load(at_work / "model.safetensors")
    settings = bundle.predict.model_copy(update={"tiling": tiling, "tile": 256})
    replace(bundle, predict=settings).save(at_work / "model.safetensors")
    Image.fromarray(draw_cells(size=(300, 300), seed=9).image_HWC[..., 0]).save("photos/e.png")
    (at_work / "photos/c.png").unlink()
    seen: list[tuple[str, int]] = []

    def lacking(image_HWC: np.ndarray, predictor: Predictor) -> Prediction:
        seen.append((str(image_HWC.shape[0]), predictor.settings.tile))
        if len(image_HWC) == 300 and predictor.settings.tile > 128:
            raise LackOfMemoryError("not enough memory")
        return predict(image_HWC, predictor)

    monkeypatch.setattr(module, "predict", lacking)
    assert command(*RUN) == 0
    assert "beginning again with windows of 128 pixels" in capsys.readouterr().out
    tiles = [tile for _, tile in seen]
    assert tiles == ([256] * 4 + [128] if tiling == "auto" else [256] * 4 + [128] * 4)
    # Again, with one more image: for windows that are not exact, those of the run before.
    Image.fromarray(draw_cells(size=(200, 200), seed=8).image_HWC[..., 0]).save("photos/f.png")
    seen.clear()
    assert command(*RUN) == 0
    assert seen == [("200", 256 if tiling == "auto" else 128)]
    said = capsys.readouterr().out
    assert "4 images are done already" in said
    assert ("going on with windows of 128 pixels" in said) == (tiling == "fading")


def test_a_folder_in_use_is_refused(at_work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    held: list[int] = []
    start = FolderJournal.start

    def second(journal: FolderJournal, *, replace: bool = False) -> None:
        """In the midst of the first run, another process asks for the same folder."""
        if not held:
            child = os.fork()
            if not child:
                try:
                    os._exit(command(*RUN))
                finally:
                    os._exit(70)
            held.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        start(journal, replace=replace)

    monkeypatch.setattr(FolderJournal, "start", second)
    assert command(*RUN) == 3
    assert held == [1]
