"""A large prediction on several processes, of which any may be killed, gives the bytes of one process."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from large_predictor import FAILED, predict
from small_predictions import obey, result_of, shrink, write_inputs

pytest.importorskip("distributed")
KILL, INTERRUPT = int(signal.SIGKILL), int(signal.SIGINT)


def test_whoever_is_killed_the_bytes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    alone.mkdir()
    write_inputs(alone)
    shutil.copytree(alone, shared)
    shrink(monkeypatch)
    assert predict(alone, {}) == []

    (interrupted, killed, last), said = obey(
        shared,
        {"workers": 1, "signal": INTERRUPT, "at": 3, "to_all": True},
        {"workers": 1, "signal": KILL, "at": 3},
        {"workers": 2, "kill_workers": 2},
    )
    assert (interrupted["said"], killed["code"]) == ("KeyboardInterrupt()", -KILL)
    assert all(one["all_ended"] for one in (interrupted, killed, last))
    assert interrupted["seconds"] < 15
    assert "Traceback" not in said
    assert "distributed" not in said
    assert last["code"] == 0 or (
        last["code"] == FAILED and all(line.endswith("workers died with it") for line in last["said"].splitlines())
    )
    if last["code"] == FAILED:
        assert predict(shared, {}) == []
    assert result_of(shared) == result_of(alone)
