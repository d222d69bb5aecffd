from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from small_stores import STAGES, files_of, finish, make_plan, write_tile

from pixelwise.data.tile_store import Damage, TileStore
from pixelwise.errors import DataError
from pixelwise.files import TEMPORARY_PREFIX
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


@pytest.mark.parametrize(
    ("path", "stage", "index"),
    [
        ("labels/classes/0/c/1/1", "network", 5),
        (".pixelwise/work/arrays/evidence/c/0/1/1", "network", 5),
        (".pixelwise/work/files/join/0/0.roots.npz", "join", 0),
        ("labels/objects/0/c/1/1", "write", 5),
        ("labels/objects/1/c/0/1", "pyramid/labels/objects/1", 1),
    ],
)
def test_damage_of_a_finished_result_is_mended_alone(folder, path, stage, index):
    plan = make_plan()
    with TileStore.open(folder, plan) as store:
        finish(store)
        before = files_of(folder)
    (folder / path).write_bytes(b"")
    with TileStore.open(folder, plan) as store:
        damages = store.check()
        assert [(damage.stage, damage.index, damage.file) for damage in damages] == [(stage, index, path)]
        store.mend(damages)
        missing = {one.name: store.missing(one.name) for one in (*plan.stages, *plan.pyramid)}
        assert {name: indices for name, indices in missing.items() if indices} == {stage: [index]}
        finish(store)
        assert store.check() == []
    assert files_of(folder) == before


def test_what_a_killed_worker_leaves_is_removed_at_the_end(folder):
    with TileStore.open(folder, make_plan()) as store:
        finish(store)
        before = files_of(folder)
        left = folder / "labels/classes/0/c/1" / f"{TEMPORARY_PREFIX}1-2"
        left.write_bytes(b"half")
    assert not left.exists()
    assert files_of(folder) == before
