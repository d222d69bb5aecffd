"""What becomes of a store when its writers are killed, meet each other, or find the disk full."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_stores import CLASSES, OBJECTS, files_of, finish, make_plan, true_map

from pixelwise.data.tile_store import TileStore
from pixelwise.tiles import Window

WRITER = Path(__file__).with_name("store_writer.py")
KILLED, CRASHED = -9, 137


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "out.zarr"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    """The files of a store that was written in one go."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
    return files_of(folder)


def obey(folder: Path, *orders: dict) -> list[dict]:
    command = [sys.executable, str(WRITER), str(folder), json.dumps(orders)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results: list[dict] = json.loads(done.stdout)
    return results


def test_sixty_kills_at_random_instants_leave_the_same_bytes(folder, undisturbed):
    chance = random.Random(1)
    orders = [{"kill_at": chance.randrange(1, 40), "then": chance.uniform(0, 0.002)} for _ in range(60)]
    *killed, last = obey(folder, *orders, {})
    assert sum(result["codes"] == [KILLED] for result in killed) >= 8
    assert len({result["done"] for result in killed}) >= 4  # at many states of the work
    assert all(result["damages"] in ([], None) for result in killed)
    assert last == {"codes": [0], "said": "", "damages": [], "done": 24}
    assert files_of(folder) == undisturbed


@pytest.mark.parametrize("point", ["before-open", "after-write", "after-fsync", "after-rename"])
def test_a_power_cut_at_any_step_of_writing_leaves_the_same_bytes(folder, undisturbed, point):
    *cut, last = obey(folder, *({"crash": f"{point}:{count}"} for count in range(1, 14)), {})
    assert [result["codes"] for result in cut] == [[CRASHED]] * 13
    assert all(result["damages"] in ([], None) for result in cut)
    assert last["codes"] == [0]
    assert files_of(folder) == undisturbed


def test_what_a_killed_writer_left_does_not_stay(folder):
    obey(folder, {"crash": "after-write:30"})
    assert len(list(folder.rglob(".pixelwise-*"))) == 1
    with TileStore.open(folder, make_plan()):
        assert not list(folder.rglob(".pixelwise-*"))


@pytest.mark.parametrize("split", [True, False], ids=["each its own tiles", "both all tiles"])
def test_two_processes_write_at_once(folder, undisturbed, split):
    plan = make_plan()
    (result,) = obey(folder, {"workers": 2, "split": split})
    assert result == {"codes": [0, 0], "said": "", "damages": [], "done": 24}
    with TileStore.open(folder, plan) as store:
        for layer in (CLASSES, OBJECTS):
            assert np.array_equal(store.read(layer.name, Window(0, 0, 20, 27)), true_map(plan, layer))
        finish(store)
    assert files_of(folder) == undisturbed


def test_a_second_process_is_refused(folder):
    with TileStore.open(folder, make_plan()):
        (result,) = obey(folder, {})
    assert result["codes"] == [1]
    assert f"is in use by process {os.getpid()}" in result["said"]
    assert result["done"] == 0


def test_a_full_disk_is_told_and_leaves_a_good_store(folder, undisturbed):
    # A shard of the evidence is the largest file of a tile; smaller ones before it are written.
    begun, full, again, last = obey(folder, {"crash": "after-rename:40"}, {"file_limit": 700}, {"file_limit": 700}, {})
    assert begun["codes"] == [CRASHED]
    for result in (full, again):
        assert result["codes"] == [2]
        assert "could not write" in result["said"]
        assert "the file would be larger than the system allows" in result["said"]
        assert result["damages"] == []
        assert result["done"] == begun["done"] > 0
    assert last["codes"] == [0]
    assert files_of(folder) == undisturbed
