"""Killed at any instant and resumed, a run ends with the same bytes as one that was never killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixelwise.archive import load_archive
from pixelwise.bundle import Bundle
from pixelwise.data.synthetic import write_data_set
from pixelwise.training.journal import read_journal

SERVER = Path(__file__).with_name("run_server.py")
SETTINGS = (
    "model.width=4",
    "model.depth=2",
    "model.dropout=0.2",
    "training.batch=2",
    "training.crop=[32,32]",
    "training.steps=9",
    "training.validate_every=3",
    "training.seed=1",
    "runtime.precision=bf16",
    "runtime.threads=1",
)
LEARNING = (
    "training.auxiliary=0.4",
    "training.scales=[0.5,1]",
    "training.freeze=0.34",
    "training.encoder_rate=0.5",
    "training.stage_rate=0.5",
)
WEIGHTS = (
    "data.target=borders",
    "data.border=1",
    "training.class_weights=median",
    "training.border_weight=10",
    "training.workers=1",
)
UNFROZEN = 3  # round(0.34 * 9), which is also a checkpoint
POINTS = (
    "before-open",
    "after-write",
    "after-fsync",
    "after-rename",
    "before-checkpoint",
    "during-validation",
    "after-optimizer-step",
    "mid-epoch",
)
RANDOM_KILLS = 20


class Runs:
    """A process that runs commands in forked children, and the data they train on."""

    def __init__(self, folder: Path) -> None:
        self.data = write_data_set(folder / "cells", images=6, size=(48, 48), channels=1, seed=3)
        self.objects = write_data_set(folder / "objects", images=6, size=(80, 80), channels=1, seed=3)
        shutil.rmtree(self.objects / "masks")
        (self.objects / "instances").rename(self.objects / "masks")
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def train(
        self, folder: Path, *more: str, crash: str = "", kill_after: float | None = None, file_limit: int | None = None
    ) -> dict:
        """One `pixelwise train --resume` in a child; its exit code and duration."""
        folder.mkdir(exist_ok=True)
        data = self.objects if "data.target=borders" in more else self.data
        arguments = ["train", str(data), *SETTINGS, *more, "--name", "run", "--resume"]
        environment = {"PIXELWISE_TEST_CRASH": crash}
        order = {"arguments": arguments, "environment": environment, "folder": str(folder)}
        order |= {"kill_after": kill_after, "file_limit": file_limit}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    server = Runs(tmp_path_factory.mktemp("kills"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def reference(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of a run that was never killed, and how long it took."""
    folder = tmp_path_factory.mktemp("reference")
    answer = runs.train(folder)
    assert answer["code"] == 0, (folder / "output.txt").read_text()
    return {**results(folder), "seconds": answer["seconds"]}


@pytest.fixture(scope="module")
def learning_reference(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with heads, scales and an encoder that is frozen first, which was never killed."""
    folder = tmp_path_factory.mktemp("learning-reference")
    finish(runs, folder, *LEARNING)
    return folder


def results(folder: Path) -> dict[str, str]:
    """Hashes of all that must be equal: models, weights, optimiser, averages, history without its timings, scores."""
    run = folder / "runs" / "run"
    checkpoint = load_archive(run / "checkpoint.safetensors", kind="checkpoint")
    tensors = {name: digest(tensor.numpy().tobytes()) for name, tensor in checkpoint.tensors.items()}
    description = {key: value for key, value in checkpoint.description.items() if key != "log_bytes"}
    rows = [{key: value for key, value in row.items() if key != "timing"} for row in read_journal(run / "log.jsonl")]
    return {
        "model": digest((run / "model.safetensors").read_bytes()),
        "last": digest((run / "last.safetensors").read_bytes()),
        "checkpoint": digest(json.dumps([tensors, description], sort_keys=True).encode()),
        "history": digest(json.dumps(rows).encode()),
        "scores": digest((run / "scores.json").read_bytes()),
        "plan": digest((run / "plan.toml").read_bytes()),
    }


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def finish(runs: Runs, folder: Path, *more: str) -> dict[str, str]:
    """Run again until it is done, as a user would; the results."""
    answer = runs.train(folder, *more)
    assert answer["code"] == 0, (folder / "output.txt").read_text()
    leftovers = list((folder / "runs" / "run").rglob(".pixelwise-*"))
    assert not leftovers, leftovers
    return results(folder)


def equal(found: dict[str, str], reference: dict[str, str]) -> None:
    for key, value in found.items():
        assert value == reference[key], f"{key} differs from the run that was not killed"


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("times", [1, 2, 5])
def test_killed_at_a_named_point(runs: Runs, reference: dict[str, str], tmp_path: Path, point: str, times: int) -> None:
    answer = runs.train(tmp_path, crash=f"{point}:{times}")
    reached = answer["code"] == 137
    # Some points are passed fewer than five times (three validations); every point is passed once.
    assert reached or (times == 5 and answer["code"] == 0), (tmp_path / "output.txt").read_text()
    equal(finish(runs, tmp_path), reference)


@pytest.mark.parametrize("number", range(RANDOM_KILLS))
def test_killed_at_a_random_time(runs: Runs, reference: dict[str, str], tmp_path: Path, number: int) -> None:
    moment = random.Random(number).random() * reference["seconds"]
    answer = runs.train(tmp_path, kill_after=moment)
    assert answer["code"] in (-signal.SIGKILL, 0)
    equal(finish(runs, tmp_path), reference)


@pytest.mark.parametrize("moment", ["mid-epoch:5", "during-validation:1"])
def test_killed_where_the_encoder_begins_to_learn(
    runs: Runs, learning_reference: Path, tmp_path: Path, moment: str
) -> None:
    answer = runs.train(tmp_path, *LEARNING, crash=moment)
    assert answer["code"] == 137, (tmp_path / "output.txt").read_text()
    if moment.startswith("mid-epoch"):
        checkpoint = load_archive(tmp_path / "runs" / "run" / "checkpoint.safetensors", kind="checkpoint")
        assert checkpoint.description["step"] == UNFROZEN
    equal(finish(runs, tmp_path, *LEARNING), results(learning_reference))


def test_heads_are_in_the_checkpoint_and_in_no_model(learning_reference: Path) -> None:
    run = learning_reference / "runs" / "run"
    checkpoint = load_archive(run / "checkpoint.safetensors", kind="checkpoint").tensors
    network = {name.removeprefix("network.") for name in checkpoint if name.startswith("network.")}
    assert any(name.startswith("heads.") for name in checkpoint)
    for name in ("model.safetensors", "last.safetensors"):
        assert load_archive(run / name, kind="model").tensors.keys() == network
        assert Bundle.load(run / name).build_network().state_dict().keys() == network


def test_killed_again_and_again(runs: Runs, reference: dict[str, str], tmp_path: Path) -> None:
    for times in (3, 4, 2):
        runs.train(tmp_path, crash=f"mid-epoch:{times}")
    equal(finish(runs, tmp_path), reference)


def test_workers_do_not_change_the_bytes(runs: Runs, reference: dict[str, str], tmp_path: Path) -> None:
    answer = runs.train(tmp_path, "training.workers=2", crash="mid-epoch:5")
    assert answer["code"] == 137
    found = finish(runs, tmp_path, "training.workers=2")
    # The plan, and with it the model's provenance, names the number of workers; everything computed is equal.
    equal({key: found[key] for key in ("checkpoint", "history", "scores")}, reference)


def test_ctrl_c_keeps_a_checkpoint_of_that_step(runs: Runs, tmp_path: Path) -> None:
    long = ["training.steps=100000", "training.validate_every=100000"]
    arguments = [sys.executable, "-m", "pixelwise", "train", str(runs.data), *SETTINGS, *long, "--name", "run"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = tmp_path / "runs" / "run"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(read_journal(run / "log.jsonl")) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "--resume --name run" in output
    step = load_archive(run / "checkpoint.safetensors", kind="checkpoint").description["step"]
    assert step == read_journal(run / "log.jsonl")[-1]["step"] >= 3


def test_disk_full_keeps_the_files_before(runs: Runs, reference: dict[str, str], tmp_path: Path) -> None:
    runs.train(tmp_path, crash="mid-epoch:5")
    run = tmp_path / "runs" / "run"
    names = ("checkpoint.safetensors", "last.safetensors", "model.safetensors", "plan.toml")
    before = {name: (run / name).read_bytes() for name in names}
    answer = runs.train(tmp_path, file_limit=10_000)
    output = (tmp_path / "output.txt").read_text()
    assert answer["code"] == 2, output
    message = output.splitlines()[-1]
    assert "could not write" in message
    assert ".safetensors" in message
    assert "the file that is there is whole" in message
    assert "Traceback" not in output
    assert {name: (run / name).read_bytes() for name in names} == before
    assert not list(run.glob(".pixelwise-*"))
    equal(finish(runs, tmp_path), reference)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    runs: Runs, reference: dict[str, str], tmp_path: Path, damage: str
) -> None:
    runs.train(tmp_path, crash="mid-epoch:8")
    checkpoint = tmp_path / "runs" / "run" / "checkpoint.safetensors"
    data = bytearray(checkpoint.read_bytes())
    if damage == "truncated":
        checkpoint.write_bytes(data[: len(data) * 2 // 3])
    else:
        data[len(data) * 2 // 3] ^= 16
        checkpoint.write_bytes(data)
    # Killed once more before the next checkpoint: the good one is still there.
    runs.train(tmp_path, crash="mid-epoch:1")
    equal(finish(runs, tmp_path), reference)
    assert "checkpoint.safetensors cannot be used" in (tmp_path / "output.txt").read_text()


def test_borders_and_weights_killed_and_resumed(runs: Runs, tmp_path: Path) -> None:
    whole = finish(runs, tmp_path / "whole", *WEIGHTS)
    killed = tmp_path / "killed"
    # Another number of workers before the kill than after it.
    assert runs.train(killed, *WEIGHTS, "training.workers=0", crash="mid-epoch:5")["code"] == 137
    again = finish(runs, killed, *WEIGHTS)
    for key in ("checkpoint", "history", "scores"):
        assert again[key] == whole[key], key
    plan = (tmp_path / "whole" / "runs" / "run" / "plan.toml").read_text()
    assert 'target = "borders"' in plan
    assert re.search(r"class_weight_values = \[[\d.]+, [\d.]+, [\d.]+\]", plan)
    coding = Bundle.load(tmp_path / "whole" / "runs" / "run" / "model.safetensors").coding
    assert (coding.kind, coding.border) == ("instances", 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 340 kB: room for one set of files, not for the second checkpoint beside the first."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=340k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_file_system(runs: Runs, reference: dict[str, str], small_disk: Path) -> None:
    answer = runs.train(small_disk)
    output = (small_disk / "output.txt").read_text()
    assert answer["code"] == 2, output
    assert "no space left on the disk" in output
    assert "Traceback" not in output
    for path in (small_disk / "runs" / "run").glob("*.safetensors"):
        load_archive(path, kind="checkpoint" if "checkpoint" in path.name else "model")
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    equal(finish(runs, small_disk), reference)


def torchrun(folder: Path, data: Path, *more: str, crash: str = "") -> subprocess.CompletedProcess[str]:
    """The same command on two processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module"]
    command = [
        *launcher,
        "pixelwise",
        "train",
        str(data),
        *SETTINGS,
        *more,
        "data.validation=0.5",
        "--name",
        "run",
        "--resume",
    ]
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PIXELWISE_TEST_CRASH": crash, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("settings", [(), LEARNING], ids=["plain", "learning"])
def test_two_processes_killed_and_resumed(runs: Runs, tmp_path: Path, settings: tuple[str, ...]) -> None:
    # Three validation images, so that both processes score some.
    whole = torchrun(tmp_path / "whole", runs.data, *settings)
    assert whole.returncode == 0, whole.stderr
    killed = torchrun(tmp_path / "killed", runs.data, *settings, crash="mid-epoch:5")
    assert killed.returncode != 0
    again = torchrun(tmp_path / "killed", runs.data, *settings)
    assert again.returncode == 0, again.stderr
    equal(results(tmp_path / "killed"), results(tmp_path / "whole"))
