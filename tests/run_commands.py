"""Commands of pixelwise within the process of a test, and what the tests of awkward inputs are run with."""

from __future__ import annotations

import functools
import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bad_inputs import TOOL, draw_beside
from pixelwise.cli import training
from pixelwise.cli.main import main

NETWORK = ["model.width=4", "model.depth=1", "runtime.device=cpu", "runtime.threads=1"]
SHORT = [*NETWORK, "training.batch=2", "training.crop=[32,32]", "training.steps=2"]


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left: its exit code, and what it said on the two streams."""

    code: int
    raw_out: str
    raw_err: str

    @property
    def out(self) -> str:
        """The first stream without the line breaks of a narrow screen."""
        return re.sub(r"\s+", " ", self.raw_out)

    @property
    def err(self) -> str:
        """The second stream, in the same way."""
        return re.sub(r"\s+", " ", self.raw_err)


Run = Callable[..., Said]


def runner(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs commands in a folder, within this process: a crash is a failed test."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(training, "plot_curves", lambda *_: None)  # half the time, and of no input

    def run(*words: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return Said(int(leaving.value.code or 0), said.out, said.err)

    return run


@contextmanager
def little_to_collect() -> Iterator[None]:
    """Leaves what was imported out of garbage collections: a training makes five, each as long as the rest of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@functools.cache
def write_corpus(folder: Path) -> Path:
    """The awkward inputs, written once; the test is skipped where there is no tool for it."""
    if not TOOL.is_file():
        pytest.skip("the tool that writes awkward inputs is not beside the project (../shared/tools)")
    subprocess.run([sys.executable, str(TOOL), str(folder)], check=True, timeout=120, capture_output=True)
    return folder


@functools.cache
def train_model(folder: Path) -> Path:
    """A model of two classes in colour images, trained for two steps, once."""
    for seed in range(3):
        draw_beside(folder / "good", f"good_{seed}", channels=3, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit, match="0"):
            main(["train", "good", *SHORT, "--name", "run"])
    return folder / "runs" / "run" / "model.safetensors"
