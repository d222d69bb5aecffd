"""A large prediction that is killed or damaged gives the same bytes in the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from large_predictor import predict, wish_of
from small_predictions import INPUTS, obey, result_of, shrink, write_inputs

from pixelwise.data.tile_store import Damage, TileStore
from pixelwise.inference.large import damage_of, run_step, steps_left
from pixelwise.inference.large_plan import LargeJob, plan_large
from pixelwise.inference.runners import Here

KILLED, KILL = -9, int(signal.SIGKILL)
PARTS = {"pieces": "pieces", "join": "join", "regions": "divide", "number": "number"}
"""what stages of the merging leave for the next, and which they are"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs and the result; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        assert predict(folder, {}) == []
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The inputs alone."""
    for name in INPUTS:
        shutil.copy2(finished / name, tmp_path)
    return tmp_path


@pytest.fixture
def small_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


# Kills


def test_kills_at_random_instants_leave_the_same_bytes(folder: Path, finished: Path) -> None:
    chance = random.Random(1)
    kills = [{"signal": KILL, "at": chance.randrange(9), "then": chance.uniform(0, 0.02)} for _ in range(12)]
    (*killed, last), said = obey(folder, *kills, {})
    assert [one["code"] for one in killed].count(KILLED) == 12
    assert (last["code"], said) == (0, "")
    assert result_of(folder) == result_of(finished)


# Damage


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


FAULTS: list[Callable[[Path, random.Random], None]] = [truncate, delete, flip]


@pytest.mark.usefixtures("small_cores")
def test_damage_is_found_and_only_that_is_done_again(folder: Path, finished: Path) -> None:
    chance = random.Random(5)
    job, plan = plan_large(wish_of(folder))
    with TileStore.open(job.store, plan) as store:
        finish(job)
        shards = sorted(path for path in (job.store / "labels").rglob("c/*/*") if path.is_file())
        wanted = chance.sample(shards, 20)
        for place, path in enumerate(wanted):
            FAULTS[place % 3](path, chance)
        found = damage_of(store)
        assert {damage.file for damage in found} == {str(path.relative_to(job.store)) for path in wanted}
        assert len(found) == 20
        store.mend(found)
        done = sum(len(step.missing) for step in steps_left(job))
        assert done == len({(damage.stage, damage.index) for damage in found})
        finish(job)
        assert damage_of(store) == []
    assert result_of(folder) == result_of(finished)


@pytest.mark.parametrize(
    ("part", "fault"), [*((part, truncate) for part in PARTS), ("regions", delete), ("regions", flip)]
)
@pytest.mark.usefixtures("small_cores")
def test_damage_in_the_middle_of_the_merging(
    folder: Path, finished: Path, part: str, fault: Callable[[Path, random.Random], None]
) -> None:
    stage, path = PARTS[part], f".pixelwise/work/files/parts/{part}/0/6"
    job, plan = plan_large(wish_of(folder))
    with TileStore.open(job.store, plan) as store:
        finish(job, until=stage)
        fault(job.store / path, random.Random(2))
        following = next(step for step in steps_left(job) if step.missing)
        failures = [done.failure for done in run_step(job, following, Here()) if done.failure]
        assert failures
        assert all(f"{part}/0/6" in failure and "--check" in failure for failure in failures)
        (damage,) = damage_of(store)
        index = 0 if store.plan.stage(stage).whole else 6
        assert damage == Damage(stage, index, path, damage.fault)
        store.mend([damage])
        finish(job)
    assert result_of(folder) == result_of(finished)


def finish(job: LargeJob, until: str = "") -> None:
    """Do what is missing, to the end or to the end of a stage."""
    for step in steps_left(job):
        assert not [done.failure for done in run_step(job, step, Here()) if done.failure]
        if step.stage == until:
            return
