from __future__ import annotations

import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_stores import CLASSES, EVIDENCE, SCORES, core_of, files_of, simple_plan, true_map

from pixelwise.data.pyramid import build_pyramid, every_second, halve_tile, mean_of_four
from pixelwise.data.store_plan import StoreLayer
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import DataError
from pixelwise.tiles import Window


def fill(store: TileStore, layer: StoreLayer) -> np.ndarray:
    truth = true_map(store.plan, layer)
    for index in store.missing(layer.stage):
        store.write(index, layer.stage, {layer.name: core_of(truth, store.plan.grid.window(index))})
    return truth


def level_of(store: TileStore, layer: StoreLayer, level: int) -> np.ndarray:
    return store.read(layer.name, Window(0, 0, *store.plan.level_grid(level).shape), level=level)


# The rules by hand


def test_labels_keep_the_first_of_two():
    labels = np.array([[1, 9, 2], [9, 9, 9], [3, 9, 4]])
    assert every_second(labels).tolist() == [[1, 2], [3, 4]]
    assert every_second(np.array([[7]])).tolist() == [[7]]


def test_means_by_hand():
    scores = np.array([[0, 1, 10], [1, 0, 20], [6, 8, 255]], np.uint8)
    # (0+1+1+0)/4 = 0.5 rounds to 0; (10+20)/2 = 15; (6+8)/2 = 7; 255 is alone.
    assert mean_of_four(scores).tolist() == [[0, 15], [7, 255]]
    assert mean_of_four(np.full((1, 2, 2), 255, np.uint8)).tolist() == [[[255]]]
    assert mean_of_four(np.array([[1, 2], [3, 4.5]], np.float32)).tolist() == [[2.625]]


@given(arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_means_are_those_of_the_pixels_that_are_there(values):
    mean = mean_of_four(values)
    for k, row, column in np.ndindex(mean.shape):
        block = values[k, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert mean[k, row, column] == np.rint(block.mean())


# In a store


@settings(max_examples=25, deadline=None)
@given(data=st.data(), layer=st.sampled_from([CLASSES, SCORES]))
def test_every_size_is_made_of_the_one_before(data, layer):
    chunk = data.draw(st.integers(1, 4))
    core = chunk * data.draw(st.integers(1, 4))
    shape = (data.draw(st.integers(1, 3 * core)), data.draw(st.integers(1, 3 * core)))
    plan = simple_plan(shape, core, chunk, layer)
    with tempfile.TemporaryDirectory() as folder, TileStore.open(Path(folder) / "o.zarr", plan) as store:
        expected = fill(store, layer)
        build_pyramid(store, layer.name)
        for level in range(plan.levels):
            assert np.array_equal(level_of(store, layer, level), expected)
            expected = expected[::2, ::2] if layer is CLASSES else mean_of_four(expected)
        assert store.check() == []


def test_labels_of_every_size_are_labels_of_the_full_size(tmp_path):
    with TileStore.open(tmp_path / "o.zarr", simple_plan((37, 50), 8, 4, CLASSES)) as store:
        truth = fill(store, CLASSES)
        build_pyramid(store, CLASSES.name)
        assert store.plan.levels == 5
        assert np.array_equal(level_of(store, CLASSES, 3), truth[::8, ::8])


def test_real_numbers_are_averaged(tmp_path):
    layer = replace(EVIDENCE, name="values", work=False)
    with TileStore.open(tmp_path / "o.zarr", simple_plan((4, 6), 4, 2, layer)) as store:
        truth = fill(store, layer)
        build_pyramid(store, layer.name)
        assert np.allclose(level_of(store, layer, 1), truth.reshape(2, 2, 2, 3, 2).mean((2, 4)))


def test_only_what_is_missing_is_made(tmp_path, monkeypatch):
    with TileStore.open(tmp_path / "o.zarr", simple_plan((20, 27), 8, 4, CLASSES)) as store:
        fill(store, CLASSES)
        build_pyramid(store, CLASSES.name)
        before = files_of(store.folder)
        store.forget("pyramid/labels/classes/1", [2])
        (store.folder / "labels/classes/1/c/1/0").unlink()
        written = []
        write = TileStore.write
        monkeypatch.setattr(TileStore, "write", lambda self, *given: (written.append(given[:2]), write(self, *given)))
        build_pyramid(store, CLASSES.name)
        assert written == [(2, "pyramid/labels/classes/1")]
        assert files_of(store.folder) == before


def test_tiles_of_one_size_can_be_made_in_any_order(tmp_path):
    stores = []
    for name, order in (("a", 1), ("b", -1)):
        with TileStore.open(tmp_path / name, simple_plan((20, 27), 8, 4, CLASSES)) as store:
            fill(store, CLASSES)
            for level in range(1, store.plan.levels):
                for index in store.missing(f"pyramid/labels/classes/{level}")[::order]:
                    halve_tile(store, CLASSES.name, level, index)
            stores.append(files_of(store.folder))
    assert stores[0] == stores[1]


def test_a_small_image_has_one_size(tmp_path):
    with TileStore.open(tmp_path / "o.zarr", simple_plan((1, 1), 4, 4, CLASSES)) as store:
        fill(store, CLASSES)
        build_pyramid(store, CLASSES.name)
        assert store.plan.levels == 1
        assert not (store.folder / "labels/classes/1").exists()


def test_nothing_is_made_of_a_tile_that_is_missing(tmp_path):
    with TileStore.open(tmp_path / "o.zarr", simple_plan((20, 27), 8, 4, CLASSES)) as store:
        fill(store, CLASSES)
        store.forget("network", [5])
        with pytest.raises(DataError, match="the stage network is not done for tile 5"):
            build_pyramid(store, CLASSES.name)
        assert store.finished("pyramid/labels/classes/1") == set()


def test_memory_is_that_of_tiles(tmp_path):
    with TileStore.open(tmp_path / "o.zarr", simple_plan((2048, 2048), 256, 64, CLASSES)) as store:
        for index in range(len(store.plan.grid)):
            store.write(index, "network", {CLASSES.name: np.full((256, 256), index % 3, np.uint8)})
        tracemalloc.start()
        build_pyramid(store, CLASSES.name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2048 * 2048 / 8
