from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stores import (
    CLASSES,
    EVIDENCE,
    OBJECTS,
    SCORES,
    STAGES,
    core_of,
    files_of,
    finish,
    make_plan,
    simple_plan,
    true_map,
    write_tile,
)

from pixelwise.data.store_plan import StoreLayer
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import DataError, OutputError, UsageError
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


# What is written is read


@settings(max_examples=30, deadline=None)
@given(data=st.data(), layer=st.sampled_from([CLASSES, EVIDENCE, OBJECTS, SCORES]))
def test_any_window_is_what_was_written(data, layer: StoreLayer):
    chunk = data.draw(st.integers(1, 4))
    core = chunk * data.draw(st.integers(2, 4))
    shape = (data.draw(st.integers(1, 3 * core)), data.draw(st.integers(1, 3 * core)))
    plan = simple_plan(shape, core, chunk, layer)
    truth = true_map(plan, layer)
    with tempfile.TemporaryDirectory() as folder, TileStore.open(Path(folder) / "o.zarr", plan) as store:
        for index in data.draw(st.permutations(range(len(plan.grid)))):
            store.write(index, layer.stage, {layer.name: core_of(truth, plan.grid.window(index))})
        whole = store.read(layer.name, Window(0, 0, *shape))
        assert whole.dtype == layer.dtype
        assert np.array_equal(whole, truth)
        for _ in range(4):
            top, left = (data.draw(st.integers(0, side - 1)) for side in shape)
            window = Window(
                top, left, data.draw(st.integers(top + 1, shape[0])), data.draw(st.integers(left + 1, shape[1]))
            )
            assert np.array_equal(store.read(layer.name, window), core_of(truth, window))
        assert store.check() == []


def test_a_read_opens_only_what_it_needs(folder):
    with TileStore.open(folder, make_plan()) as store:
        write_tile(store, NETWORK, 5)  # rows 8 to 15, columns 8 to 15
        assert store.read("labels/classes", Window(8, 8, 16, 16)).shape == (8, 8)
        assert store.read("labels/classes", Window(15, 15, 16, 16)).shape == (1, 1)


def test_small_files_come_back(finished):
    store = TileStore.join(finished)
    assert store.read_file(0, "join", "roots.npz").startswith(b"joinPK")
    assert store.read_file(3, "network", "faces.npz") != store.read_file(4, "network", "faces.npz")


def test_nothing_is_written_that_the_plan_does_not_know(folder):
    plan = make_plan()
    classes, evidence = (core_of(true_map(plan, layer), plan.grid.window(0)) for layer in (CLASSES, EVIDENCE))
    good = {"labels/classes": classes, "evidence": evidence}
    with TileStore.open(folder, plan) as store:
        for arrays, files, said in (
            ({"labels/classes": classes}, {"faces.npz": b""}, "network writes"),
            (good | {"labels/classes": classes[1:]}, {"faces.npz": b""}, r"shape \(7, 8\), not \(8, 8\)"),
            (good | {"labels/classes": classes.astype(int)}, {"faces.npz": b""}, "type int64, not uint8"),
            (good, {}, "leaves"),
        ):
            with pytest.raises(AssertionError, match=said):
                store.write(0, "network", arrays, files)
        assert store.finished("network") == set()


# What is not finished is not read


def test_a_missing_tile_is_an_error_that_names_it(folder):
    with TileStore.open(folder, make_plan()) as store:
        for index in (0, 1, 4):
            write_tile(store, NETWORK, index)
        assert store.read("labels/classes", Window(0, 0, 8, 16)).shape == (8, 16)
        with pytest.raises(DataError, match=r"the stage network is not done for tile 5; run the same command again"):
            store.read("labels/classes", Window(0, 0, 9, 9))
        with pytest.raises(DataError, match=r"for tile 2, 3, 5, 6, 7 and 4 more"):
            store.read("labels/classes", Window(0, 0, 20, 27))
        with pytest.raises(DataError, match="the stage write is not done for tile 0;"):
            store.read("labels/objects", Window(0, 0, 1, 1))
        with pytest.raises(DataError, match=r"the stage pyramid/labels/classes/1 is not done for tile 0;"):
            store.read("labels/classes", Window(0, 0, 1, 1), level=1)
        with pytest.raises(DataError, match="the stage join is not done"):
            store.read_file(0, "join", "roots.npz")


def test_shards_without_a_marker_do_not_count(folder):
    with TileStore.open(folder, make_plan()) as store:
        write_tile(store, NETWORK, 0)
        store.forget("network", [0])
        assert (folder / "labels/classes/0/c/0/0").exists()
        with pytest.raises(DataError, match="is not done for tile 0"):
            store.read("labels/classes", Window(0, 0, 1, 1))
        assert store.check() == []


def test_other_programs_see_no_class_where_a_tile_is_missing(folder):
    zarr = pytest.importorskip("zarr")
    plan = make_plan()
    with TileStore.open(folder, plan) as store:
        write_tile(store, NETWORK, 0)
    classes = zarr.open_array(folder / "labels/classes/0", mode="r")[:]
    assert np.array_equal(classes[:8, :8], true_map(plan, CLASSES)[:8, :8])
    classes[:8, :8] = 255
    assert (classes == 255).all()
    assert (zarr.open_array(folder / "labels/objects/0", mode="r")[:] == 2**64 - 1).all()


def test_a_shard_that_went_is_an_error_and_not_the_fill_value(folder):
    with TileStore.open(folder, make_plan()) as store:
        write_tile(store, NETWORK, 0)
        (folder / "labels/classes/0/c/0/0").unlink()
        with pytest.raises(DataError, match=r"labels/classes/0/c/0/0 is damaged \(No such file.*--check"):
            store.read("labels/classes", Window(0, 0, 1, 1))


def test_which_tiles_are_finished(folder):
    with TileStore.open(folder, make_plan()) as store:
        assert store.missing("network") == list(range(12))
        assert store.missing("join") == [0]
        for index in (3, 7):
            write_tile(store, NETWORK, index)
        write_tile(store, JOIN, 0)
        assert store.finished("network") == {3, 7}
        assert store.missing("network") == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
        assert store.missing("join") == []
        assert store.missing("pyramid/labels/classes/1") == [0, 1, 2, 3]  # 10 x 14 pixels
        store.forget("network", [3, 4])
        assert store.finished("network") == {7}


# The folder


def test_a_store_is_gone_on_with(folder):
    with TileStore.open(folder, make_plan()) as store:
        write_tile(store, NETWORK, 2)
    before = files_of(folder)
    with TileStore.open(folder, make_plan()) as store:
        assert store.finished("network") == {2}
    assert files_of(folder) == before


def test_the_same_work_gives_the_same_bytes_in_any_order(folder, finished):
    with TileStore.open(folder, make_plan()) as store:
        for stage in STAGES:
            for index in reversed(store.missing(stage.name)):
                write_tile(store, stage, index)
        finish(store)
    assert files_of(folder) == files_of(finished)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"job": {"model": "b2", "settings": {"tile": 8}}},
            'another job: model is "a1", not "b2"; choose another name',
        ),
        ({"core": 16}, "grid.core is 8, not 16"),
        ({"layers": (CLASSES, OBJECTS)}, "layers is"),
    ],
)
def test_another_job_is_refused_and_changes_nothing(finished, change, said):
    before = files_of(finished)
    with pytest.raises(UsageError, match=said), TileStore.open(finished, make_plan(**change)):
        pass
    assert files_of(finished) == before


@pytest.mark.parametrize("name", ["photo.png", "zarr.json", ".hidden"])
def test_a_folder_that_is_something_else_is_refused(folder, name):
    folder.mkdir()
    (folder / name).write_text("mine")
    with (
        pytest.raises(UsageError, match=f"no result of pixelwise, or its .pixelwise was removed: it holds {name}"),
        TileStore.open(folder, make_plan()),
    ):
        pass
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_file_of_that_name_is_refused(folder):
    folder.write_text("mine")
    with pytest.raises(OutputError, match="a part of the path is a file"), TileStore.open(folder, make_plan()):
        pass
    assert folder.read_text() == "mine"


def test_an_empty_folder_and_one_killed_at_the_start_are_taken(folder):
    (folder / ".pixelwise").mkdir(parents=True)
    (folder / ".pixelwise" / ".lock").touch()
    (folder / ".pixelwise" / ".pixelwise-7-0123456789abcdef.json").write_text("{")
    with TileStore.open(folder, make_plan()) as store:
        assert store.missing("join") == [0]
    assert not list(folder.rglob(".pixelwise-7*"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 9}', "\xff"])
def test_a_damaged_plan_is_refused(folder, text):
    with TileStore.open(folder, make_plan()):
        pass
    (folder / ".pixelwise/job.json").write_text(text, "latin-1")
    with pytest.raises(DataError, match=r"job.json cannot be used"):
        TileStore.join(folder)
    with pytest.raises(DataError, match="move the folder away"), TileStore.open(folder, make_plan()):
        pass


def test_a_folder_without_a_plan_cannot_be_joined(tmp_path):
    with pytest.raises(DataError, match="is no result of pixelwise"):
        TileStore.join(tmp_path)


def test_a_store_is_handed_to_a_worker_in_few_bytes(finished):
    store = TileStore.join(finished)
    sent = pickle.dumps(store)
    assert len(sent) < 2000
    window = Window(3, 3, 17, 20)
    again = pickle.loads(sent)  # noqa: S301
    assert np.array_equal(again.read("labels/objects", window), store.read("labels/objects", window))
