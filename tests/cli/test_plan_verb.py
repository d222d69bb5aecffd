"""`pixelwise plan`, and what --dry-run says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.cli import planning, tiling
from pixelwise.cli.main import main
from pixelwise.config import read_config
from pixelwise.data.synthetic import write_data_set
from pixelwise.training.estimate import Probe
from pixelwise.training.fingerprint import Fingerprint
from pixelwise.training.plan import stored_reasons

SMALL = ["model.width=4", "model.depth=2", "training.crop=[32,32]", "runtime.threads=1"]


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return int(leaving.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, before = tmp_path_factory.mktemp("plans"), Path.cwd()
    write_data_set(folder / "cells", images=6, size=(64, 64), channels=1, seed=0)
    os.chdir(folder)
    assert command("train", "cells", *SMALL, "training.batch=2", "--steps", "4", "--name", "run") == 0
    yield folder
    os.chdir(before)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_plan_says_what_why_and_how_much(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    assert command("plan", "cells", *SMALL, "--minutes", "1", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert files(place) == before, "nothing is written unasked"
    assert "5 of 5 training images were read, evenly chosen" in shown
    assert re.search(r"training\.batch +4 +twice the steps of 8", shown)
    assert re.search(r"training\.crop +32 x 32 +as you set it", shown)
    assert re.search(r"training\.steps +\d+ +as many as fit into 1 minutes", shown)
    assert re.search(r"time: \d+ seconds for \d+ steps", shown)
    assert re.search(r"memory: [\d.]+ .B at the peak", shown)
    assert "checkpoints" in shown


def test_a_plan_that_is_kept_can_be_trained(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("plan", "cells", *SMALL, "training.steps=2", "-o", "plan.toml", "--json") == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert "measuring a step" in shown.err
    assert Fingerprint.from_dict(result["fingerprint"]).images == 5
    assert result["plan"]["training"]["steps"] == result["estimate"]["steps"] == 2
    config = read_config(place / "plan.toml")
    assert config.model_dump(mode="json") == result["plan"]
    assert stored_reasons((place / "plan.toml").read_text()) == result["reasons"]
    assert command("plan", "cells", "-o", "plan.toml") == 1
    assert "there already" in capsys.readouterr().err
    assert command("train", "--config", "plan.toml", "--name", "planned") == 0
    assert read_config(place / "runs/planned/plan.toml") == config


def test_a_plan_for_less_memory(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    sizes = {"one": 10**9, "more": 10**8, "validating": 0, "kept": 0, "model": 9, "checkpoint": 9}
    probe = Probe(step=1.0, validation=1.0, whole=True, **sizes)
    monkeypatch.setattr(planning, "probe_training", lambda *_, limit: probe)
    small = ["model.width=4", "model.depth=2", "training.steps=9"]
    assert command("plan", "cells", *small, "--memory", "1.35GB", "--json") == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["plan"]["training"]["batch"] == 2
    assert set(result["lowered"]) == {"training.batch"}
    assert "warning: training.batch: lowered" in shown.err
    assert result["reasons"]["training.batch"] == result["lowered"]["training.batch"]


def test_what_does_not_fit_at_all_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("plan", "cells", *SMALL, "training.batch=2", "training.steps=9", "--memory", "10MB") == 2
    assert "more than 10 MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan"], "--help"),
        (["plan", "nowhere"], "nowhere"),
        (["plan", "cells", "--memory", "much"], "'much' is no amount of memory"),
        (["plan", "cells", "--memory", "0GB"], "no amount of memory"),
        (["plan", "cells", "training.lenght=3"], "did you mean"),
        (["plan", "cells", "--device", "toaster"], "toaster"),
        (["plan", "cells", "training.loss=dise"], "'dice'"),
    ],
)
def test_refusals_of_a_plan(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    before = files(place)
    assert command(*arguments) == 1
    assert words in capsys.readouterr().err
    assert files(place) == before


# Dry runs


def test_a_dry_run_of_a_training_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    assert command("train", "cells", *SMALL, "--steps", "30", "--name", "dry", "--dry-run", "--json") == 0
    shown = capsys.readouterr()
    assert files(place) == before
    assert not (place / "runs" / "dry").exists()
    assert "would read: 5 images to train on, 1 image to validate" in shown.err
    assert "would write, to runs/dry/: plan.toml" in shown.err
    result = json.loads(shown.out)
    assert result["folder"] == "runs/dry"
    assert result["estimate"]["steps"] == 30
    assert command("train", "--resume", "--name", "run", "--dry-run") == 0
    assert "would go on after about step 4 of 4" in capsys.readouterr().out
    assert files(place) == before


def test_the_files_that_a_training_names_are_those_it_writes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", "cells", *SMALL, "--steps", "30", "--name", "dry", "--dry-run") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("would write")]
    named = {name.rstrip("/") for name in line.partition("/: ")[2].split(", ")}
    assert named == {path.name for path in (place / "runs" / "run").iterdir()} - {".lock"}


def test_a_dry_run_of_a_prediction_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mixed").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((70, 50), np.uint8)).save(place / "mixed" / "good.png")
    (place / "mixed" / "bad.png").write_bytes(b"not an image")
    before = files(place)
    assert command("predict", "run", "mixed", "--dry-run", "--scores", "--json") == 0
    shown = capsys.readouterr()
    assert files(place) == before
    assert "would read: 1 image; 1 file cannot be read" in shown.err
    assert json.loads(shown.out)["estimate"]["images"] == 1
    assert command("evaluate", "run", "cells", "--dry-run") == 0
    assert "would write: to runs/run/evaluated-cells" in capsys.readouterr().out
    assert files(place) == before


# A lack of memory in prediction


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A machine that has no memory for windows of more than 60,000 pixels; the shapes that it saw."""
    seen: list[tuple[int, ...]] = []

    class Scarce(torch.nn.Module):
        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(image_BCHW.shape[-2:]))
            if image_BCHW.shape[-2] * image_BCHW.shape[-1] > 60_000:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            return torch.cat([image_BCHW, image_BCHW], dim=1)

    network = Scarce()
    network.stride = 4  # type: ignore[assignment]
    monkeypatch.setattr("pixelwise.bundle.Bundle.build_network", lambda _: network)
    return seen


def test_smaller_windows_where_memory_is_lacking(
    place: Path, capsys: pytest.CaptureFixture[str], scarce: list[tuple[int, ...]]
) -> None:
    folder = place / "large"
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((60, 50), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.zeros((500, 400), np.uint8)).save(folder / "b.png")
    model = (place / "runs/run/model.safetensors").read_bytes()
    assert command("predict", "run", "large", "--out", "masks", "--json") == 0
    shown = capsys.readouterr()
    assert "beginning again with windows of 224 pixels" in shown.err
    assert "beginning again with windows of 112 pixels" not in shown.err
    assert sorted(json.loads(shown.out)["masks"]) == ["a", "b"]
    predicted = [shape for shape in scarce if min(shape) > 1 and shape != (64, 64)]  # the others measure the network
    assert predicted[:2] == [(60, 50), (500, 400)]
    assert max(map(np.prod, predicted[2:])) <= 224 * 224
    assert (place / "runs/run/model.safetensors").read_bytes() == model, "the model is left as it is"


def test_a_prediction_that_cannot_be_cut_smaller_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pixelwise.inference.folder.predict", lacking)
    assert command("predict", "run", "cells", "--out", "none") == 2
    assert "smaller ones would not help" in capsys.readouterr().err


def test_a_full_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelwise.cli.screen import Screen

    said: list[str] = []
    monkeypatch.setattr(Screen, "warn", lambda _, line: said.append(line))
    tiling.warn_of_disk(tmp_path / "not" / "there", 10**18, Screen())
    tiling.warn_of_disk(tmp_path, 1, Screen())
    assert len(said) == 1
    assert "are needed" in said[0]
