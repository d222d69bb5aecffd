from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from small_stores import OBJECTS, STAGES, files_of, finish, make_plan, true_map, write_tile

from pixelwise.data import tile_store
from pixelwise.data.tile_store import Damage, TileStore
from pixelwise.errors import DataError
from pixelwise.tiles import Window

NETWORK, JOIN, WRITE = STAGES


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "out.zarr"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A store in which all is done; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "out.zarr"
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
    return folder


# Damage


def damage(path: Path, how: str, chance: random.Random) -> str:
    """Spoil a file; returns what is to be found."""
    data = bytearray(path.read_bytes())
    match how:
        case "cut":
            path.write_bytes(data[: chance.randrange(len(data))])
            return "truncated"
        case "delete":
            path.unlink()
            return "missing"
        case "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
        case "grow":
            path.write_bytes(data + b"\0")
    return "changed"


def shards_and_files(store: TileStore) -> list[tuple[str, int, str]]:
    """Stage, tile and path of everything that markers name."""
    found = []
    for stage in (*store.plan.stages, *store.plan.pyramid):
        markers = store._markers(stage)
        found += [(stage.name, i, file) for i in sorted(markers.indices()) for file in markers.get(i).files]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_twenty_damages_are_found_and_mended_and_nothing_else(folder, finished, seed):
    chance = random.Random(seed)
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
        chosen = chance.sample(shards_and_files(store), 22)
        expected = set()
        for stage, index, file in chosen[:18]:
            fault = damage(folder / file, chance.choice(["cut", "delete", "flip", "grow"]), chance)
            expected.add((stage, index, file, fault))
        # Two pairs of shards that change places.
        for one, other in (chosen[18:20], chosen[20:22]):
            first, second = ((folder / place[2]).read_bytes() for place in (one, other))
            assert first != second
            for (stage, index, file), old, new in ((one, first, second), (other, second, first)):
                (folder / file).write_bytes(new)
                expected.add((stage, index, file, "truncated" if len(new) < len(old) else "changed"))

        found = store.check()
        assert {(one.stage, one.index, one.file, one.fault) for one in found} == expected
        store.mend(found)
        missing = {(stage.name, i) for stage in (*STAGES, *store.plan.pyramid) for i in store.missing(stage.name)}
        assert missing == {(stage, index) for stage, index, *_ in expected}
        finish(store)
        assert store.check() == []
    assert files_of(folder) == files_of(finished)


def test_damaged_markers_are_found(folder, finished):
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
        rows = folder / ".pixelwise/tiles/network"
        first, second = (rows / "0/0.json").read_text(), (rows / "0/1.json").read_text()
        (rows / "0/0.json").write_text(second)
        (rows / "1/0.json").write_text(first[:-20])
        (rows / "2/0.json").write_text("")
        (rows / "2/1.json").write_text((rows / "2/1.json").read_text().replace(store.plan.fingerprint, "0" * 64))
        (rows / "0/3.json").unlink()
        found = {(one.index, one.file, one.fault) for one in store.check()}
        assert found == {
            (0, ".pixelwise/tiles/network/0/0.json", "changed"),
            (4, ".pixelwise/tiles/network/1/0.json", "unreadable"),
            (8, ".pixelwise/tiles/network/2/0.json", "unreadable"),
            (9, ".pixelwise/tiles/network/2/1.json", "changed"),
        }
        assert store.missing("network") == [3]  # a marker that went makes its tile undone, which is no damage
        store.mend(store.check())
        assert store.missing("network") == [0, 3, 4, 8, 9]
        finish(store)
    assert files_of(folder) == files_of(finished)


def test_what_describes_the_store_is_checked_and_written_again(folder):
    with TileStore.open(folder, make_plan()) as store:
        (folder / "labels/zarr.json").unlink()
        (folder / "labels/classes/0/zarr.json").write_text("{}")
        found = store.check()
        assert found == [
            Damage("metadata", None, "labels/zarr.json", "missing"),
            Damage("metadata", None, "labels/classes/0/zarr.json", "truncated"),
        ]
        assert str(found[1]) == "labels/classes/0/zarr.json is truncated"
        store.mend(found)
        assert store.check() == []
    (folder / "zarr.json").unlink()
    with TileStore.open(folder, make_plan()) as store:
        assert json.loads((folder / "zarr.json").read_text())["node_type"] == "group"


def test_damage_is_told_in_a_line():
    said = str(Damage("network", 7, "labels/classes/0/c/1/3", "truncated"))
    assert said == "labels/classes/0/c/1/3 (stage network, tile 7) is truncated"


def test_a_small_file_that_was_changed_is_not_read(folder):
    with TileStore.open(folder, make_plan()) as store:
        write_tile(store, JOIN, 0)
        path = folder / ".pixelwise/work/files/join/0/0.roots.npz"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(DataError, match=r"roots.npz is damaged \(it was changed"):
            store.read_file(0, "join", "roots.npz")
        path.unlink()
        with pytest.raises(DataError, match=r"roots.npz is damaged \(No such file"):
            store.read_file(0, "join", "roots.npz")


def test_a_flipped_byte_is_found_when_it_is_read(folder):
    with TileStore.open(folder, make_plan()) as store:
        write_tile(store, NETWORK, 0)
        path = folder / "labels/classes/0/c/0/0"
        data = bytearray(path.read_bytes())
        data[14] ^= 4  # in the pixels of the first chunk
        path.write_bytes(data)
        with pytest.raises(DataError, match="is damaged"):
            store.read("labels/classes", Window(0, 0, 1, 1))
        assert store.read("labels/classes", Window(4, 4, 5, 5)).shape == (1, 1)


# The end of the work


def test_closing_removes_the_work_and_keeps_the_result(folder):
    plan = make_plan()
    with TileStore.open(folder, plan) as store:
        finish(store)
        store.close_job()
        assert store.closed
        assert not (folder / ".pixelwise/work").exists()
        names = sorted(path.name for path in (folder / ".pixelwise").iterdir())
        assert names == [".lock", "closed.json", "job.json", "tiles"]
        assert not (folder / ".pixelwise/tiles/join").exists()
        assert np.array_equal(store.read("labels/objects", Window(0, 0, 20, 27)), true_map(plan, OBJECTS))
        assert store.check() == []
        assert all(store.missing(stage.name) == [] for stage in STAGES)
        with pytest.raises(
            DataError, match=r"evidence was removed when the work was done; .*: labels/classes, labels/o"
        ):
            store.read("evidence", Window(0, 0, 1, 1))
        with pytest.raises(DataError, match=r"roots.npz was removed when the work was done"):
            store.read_file(0, "join", "roots.npz")
        before = files_of(folder)
        store.close_job()
    with TileStore.open(folder, plan) as store:
        assert all(store.missing(stage.name) == [] for stage in STAGES)
    assert files_of(folder) == before


def test_an_unfinished_job_is_not_closed(folder):
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
        store.forget("write", [2, 5])
        before = files_of(folder)
        with pytest.raises(DataError, match="the stage write is not done for tile 2, 5"):
            store.close_job()
    assert files_of(folder) == before


def test_damage_of_the_first_stage_is_mended_alone_after_the_end(folder):
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
        store.close_job()
        before = files_of(folder)
        (folder / "labels/classes/0/c/1/1").write_bytes(b"")
        store.mend(store.check())
        assert store.closed
        assert store.missing("network") == [5]
        finish(store)
        assert store.check() == []
    assert files_of(folder) == before


def test_damage_of_a_later_stage_after_the_end_makes_the_work_again(folder):
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
        store.close_job()
        before = files_of(folder)
        (folder / "labels/objects/0/c/1/1").unlink()
        store.mend(store.check())
        assert not store.closed
        assert [len(store.missing(stage.name)) for stage in STAGES] == [12, 1, 1]
        finish(store)
        assert store.check() == []
        store.close_job()
    assert files_of(folder) == before


def test_damage_of_a_smaller_size_is_mended_alone_after_the_end(folder):
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
        store.close_job()
        before = files_of(folder)
        (folder / "labels/objects/1/c/0/1").unlink()
        store.mend(store.check())
        assert store.closed
        assert store.missing("pyramid/labels/objects/1") == [1]
        finish(store)
    assert files_of(folder) == before


@pytest.mark.parametrize("step", [1, 2, 8, 12, 13, 14])
def test_a_kill_while_work_is_made_again_leads_to_the_same_end(folder, monkeypatch, step):
    """Opening a closed store again is many steps; after any of them the rest is done the next time."""
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
        store.close_job()
        before = files_of(folder)
        (folder / "labels/objects/0/c/1/1").unlink()
    steps = iter(range(1, step))

    def dying(self, index, remove=tile_store.MarkerFolder.remove):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        remove(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(tile_store.MarkerFolder, "remove", dying)
        with TileStore.open(folder, make_plan()) as store:
            try:
                store.mend(store.check())
            except KeyboardInterrupt:
                assert step <= 13
    with TileStore.open(folder, make_plan()) as store:
        store.mend(store.check())
        finish(store)
        assert store.check() == []
        store.close_job()
    assert files_of(folder) == before
