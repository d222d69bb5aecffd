"""`pixelwise doctor`, as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.cli.doctor import STRIDE
from pixelwise.cli.main import main
from pixelwise.config import ModelConfig
from pixelwise.data.synthetic import write_data_set
from pixelwise.models.registry import build_model


def command(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return int(leaving.value.code or 0)


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean set of five images, named as typed from its parent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    write_data_set(Path("cells"), images=5, size=(64, 80), channels=3, seed=4)
    shutil.rmtree("cells/instances")
    return Path("cells")


def masks(folder: Path) -> list[tuple[Path, np.ndarray]]:
    return [(path, np.array(Image.open(path))) for path in sorted((folder / "masks").iterdir())]


def in_jpeg(folder: Path) -> None:
    for path, mask in masks(folder):
        Image.fromarray(mask * 255).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()


def test_a_clean_set(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "cells") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        "10 files read, 5 pairs of image and mask; layout: folders for images and masks\n2 classes: "
    )
    assert "ERRORS" not in shown
    assert shown.rstrip().endswith("next: pixelwise train cells")


def test_noise_is_shown_once_for_all_files_and_mended(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_jpeg(cells)
    assert command("doctor", "cells") == 3
    shown = capsys.readouterr().out
    assert "noise of JPEG in masks: in 5 files, such as masks/cells_000.jpg, masks/cells_001.jpg, " in shown
    assert shown.count("noise of JPEG") == 1
    assert "near 0 (background)" in " ".join(shown.split())
    assert shown.rstrip().endswith("next: pixelwise doctor cells --fix cells-repaired")

    assert command("doctor", "cells", "--fix", "cells-repaired") == 0
    shown = capsys.readouterr().out
    assert "5 pairs written, 5 of them repaired; it opens as it should" in shown
    assert "stray pixels became foreground, the nearest class" in shown
    assert "then pixelwise train cells-repaired\n" in shown
    assert command("doctor", "cells-repaired") == 0


def test_a_bad_file_cannot_be_mended_and_is_left_out(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cells / "images" / "cells_002.png").write_bytes(b"")
    assert command("doctor", "cells") == 2
    assert "left out of the copy and named" in capsys.readouterr().out
    assert command("doctor", "cells", "--fix", "out") == 3
    assert "warning: left out: images/cells_002.png: the file is empty" in capsys.readouterr().out
    assert len(list(Path("out/masks").iterdir())) == 4


def test_two_meanings_are_offered_with_their_commands(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (path, mask) in enumerate(masks(cells)):
        Image.fromarray(mask * (255 if number % 2 else 1)).save(path)
    assert command("doctor", "cells") == 2
    shown = capsys.readouterr().out
    assert "next: declare what the masks mean:" in shown
    assert "pixelwise doctor cells --masks binary " in shown
    assert "pixelwise doctor cells --ignore-index 255" in shown
    assert command("doctor", "cells", "--fix", "out") == 2
    assert "what the masks mean is not clear" in capsys.readouterr().err
    assert not Path("out").exists()
    assert command("doctor", "cells", "--masks", "binary", "--fix", "out") == 0
    assert command("doctor", "out") == 0


def test_names_are_kept_in_the_commands(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "cells", "--classes", "ground, big cell", "--fix", "my out") == 0
    shown = capsys.readouterr().out
    assert "2 classes: ground " in shown
    assert """pixelwise train 'my out' 'data.classes=["ground","big cell"]'""" in shown
    assert command("doctor", "cells", "--classes", "ground,cell") == 0
    assert """next: pixelwise train cells 'data.classes=["ground","cell"]'""" in capsys.readouterr().out


def test_objects_are_measured_against_the_network_that_a_training_takes() -> None:
    settings = ModelConfig()
    with torch.device("meta"):
        network = build_model(settings.name, in_channels=1, classes=2, options=settings.options)
    assert network.stride == STRIDE


def test_every_class_that_is_absent_is_named(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, mask in masks(cells):
        Image.fromarray(mask).save(path)
    assert command("doctor", "cells", "--masks", "index", "--classes", "ground,cell,rod,disc") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "no pixel of class rod; no pixel of class disc" in shown


def test_a_leak_is_for_a_person_to_decide(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "val"):
        shutil.copytree(cells, Path("leak", part))
    assert command("doctor", "leak") == 2
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last.startswith("next: decide about the images named above, which --fix cannot, then look again: ")


def test_json(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_jpeg(cells)
    os.mkfifo(cells / "images" / "pipe.png")
    assert command("doctor", "cells", "--json") == 3
    shown = capsys.readouterr()
    value = json.loads(shown.out)
    assert (value["pairs"], value["classes"], value["repairable"], value["exit_code"]) == (
        5,
        ["background", "foreground"],
        True,
        3,
    )
    severities = [finding["severity"] for finding in value["findings"]]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    assert severities.count("error") == 5
    assert {"file", "found", "expected", "fix", "kind", "mends"} < value["findings"][0].keys()
    assert any(finding["file"].endswith("pipe.png") for finding in value["findings"])
    assert "noise of JPEG" in shown.err

    assert command("doctor", "cells", "--json", "--fix", "out") == 0
    assert json.loads(capsys.readouterr().out)["written"] == "out"


def test_json_is_written_where_the_repair_is_refused(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, mask in masks(cells):
        Image.fromarray(mask * 3).save(path)
    assert command("doctor", "cells", "--json", "--fix", "out") == 2
    assert json.loads(capsys.readouterr().out)["repairable"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["absent"], 1, "there is no file or folder absent"),
        (["cells", "--masks", "nonsense"], 1, "unknown kind of masks 'nonsense'"),
        (["cells", "--fix", "cells"], 1, "is there already"),
        (["cells", "--fix", "cells/out"], 1, "lies in the data set itself"),
        (["empty"], 2, "holds no pictures"),
    ],
)
def test_refusals(arguments: list[str], code: int, said: str, cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert command("doctor", *arguments) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_images_alone_are_no_data_set(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(cells / "masks")
    assert command("doctor", "cells") == 2
    assert "images but no masks" in capsys.readouterr().out


def test_a_name_cannot_write_to_the_terminal(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cells / "images" / "a\x1b[31mb\nc.png").write_bytes(b"")
    assert command("doctor", "cells") == 2
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "a\\x1b[31mb\\nc.png" in shown


def test_nothing_is_left_of_a_copy_that_was_killed(cells: Path) -> None:
    """The process dies while it writes: there is no folder of the name, and another run is not in its way."""
    environment = os.environ | {"PIXELWISE_TEST_CRASH": "after-write:3", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "pixelwise", "doctor", "cells", "--fix", "out"]
    assert subprocess.run(arguments, env=environment, capture_output=True, check=False).returncode == 137
    assert not Path("out").exists()
    assert command("doctor", "cells", "--fix", "out") == 0


def test_the_mess_of_the_real_world_leaves_no_traceback(real_data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    maker = real_data.parent / "tools" / "make_bad_inputs.py"
    if not maker.is_file():
        pytest.skip("the maker of bad inputs is not beside the project")
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, str(maker), "bad"], check=True, capture_output=True)
    for part in ("images", "masks", "names"):
        assert command("doctor", f"bad/{part}") == 2
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        assert "next: " in shown.out or "pixelwise: " in shown.err
