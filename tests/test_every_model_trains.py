"""Every network of MODELS is trained from the command line on drawn cells, in its small form, to a stated score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelwise.cli.main import main
from pixelwise.data.synthetic import write_data_set
from pixelwise.errors import EXIT_DONE
from pixelwise.models.registry import MODELS

SETTINGS = ("training.batch=4", "training.crop=[64,64]", "training.learning_rate=0.004", "training.ema=0.9")
STEPS = (30, 200)  # the longer training where the shorter was not enough: scores that start at zero, many batch norms
LEAST_IOU = 0.7  # background everywhere gives 0.30


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("cells"), images=12, size=(64, 64), channels=3, seed=0)


@pytest.mark.parametrize("name", MODELS)
def test_it_learns_to_find_cells(name, cells, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [f"model.{key}={value}" for key, value in MODELS[name].small.items()]
    settings = [f"model.name={name}", *options, *SETTINGS]
    assert any(mean_iou(cells, settings, steps, capsys) >= LEAST_IOU for steps in STEPS)


def mean_iou(cells: Path, settings: list[str], steps: int, capsys: pytest.CaptureFixture[str]) -> float:
    """The score that `pixelwise train` prints, on its validation images."""
    settings = [*settings, f"training.validate_every={steps}"]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(cells), *settings, "--steps", str(steps), "--name", f"run-{steps}", "--json"])
    assert ended.value.code == EXIT_DONE
    return float(json.loads(capsys.readouterr().out)["mean_iou"])
