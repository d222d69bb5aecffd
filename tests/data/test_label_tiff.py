from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_stores import CLASSES, MICROMETRES, OBJECTS, SCORES, core_of, simple_plan, true_map

from pixelwise.data import label_tiff
from pixelwise.data.images import read_header, read_stored
from pixelwise.data.label_tiff import write_label_tiff
from pixelwise.data.pyramid import build_pyramid
from pixelwise.data.store_plan import PixelSize, StoreLayer
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import DataError, OutputError, UsageError

# UTM zone 33 north, pixels of 0.5 m, the corner at 500000 east, 4000000 north.
GEO_TAGS = [
    (33550, 12, 3, (0.5, 0.5, 0.0)),
    (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 4000000.0, 0.0)),
    (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)),
]


def filled(folder: Path, layer: StoreLayer, *, shape=(70, 100), core=32, chunk=16, values=None, **changes) -> TileStore:
    """A store with one layer and its pyramid."""
    plan = replace(simple_plan(shape, core, chunk, layer), **changes)
    truth = true_map(plan, layer) if values is None else values
    with TileStore.open(folder / "o.zarr", plan) as store:
        for index in range(len(plan.grid)):
            store.write(index, layer.stage, {layer.name: core_of(truth, plan.grid.window(index))})
        build_pyramid(store, layer.name)
    return store


def objects_up_to(highest: int) -> np.ndarray:
    values = np.arange(70 * 100, dtype=np.uint64).reshape(70, 100)
    values[69, 99] = highest
    return values


# Every reader sees the labels


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (17, 33), (70, 100)])
@pytest.mark.parametrize("layer", [CLASSES, OBJECTS], ids=["classes", "objects"])
def test_all_sizes_come_back(tmp_path, shape, layer):
    store = filled(tmp_path, layer, shape=shape)
    path = tmp_path / "labels.tif"
    write_label_tiff(path, store, layer.name)
    with tifffile.TiffFile(path) as file:
        (series,) = file.series
        truth = true_map(store.plan, layer)
        assert len(series.levels) == store.plan.levels
        for level, stored in enumerate(series.levels):
            read = stored.asarray()
            assert read.dtype == ("uint8" if layer is CLASSES else "uint16")
            assert np.array_equal(read.reshape(stored.shape), truth[:: 2**level, :: 2**level].reshape(stored.shape))
        assert len(file.pages) == 1
        assert file.pages[0].tile == (16, 16)
        assert not file.is_bigtiff
    with Image.open(path) as picture:
        assert picture.mode == ("P" if layer is CLASSES else "I;16")
        assert np.array_equal(np.asarray(picture), truth)


def test_our_own_reader_takes_it_as_a_mask(tmp_path):
    store = filled(tmp_path, CLASSES)
    write_label_tiff(tmp_path / "labels.tif", store, CLASSES.name)
    header = read_header(tmp_path / "labels.tif")
    assert (header.height, header.width, header.pages) == (70, 100, 1)
    assert np.array_equal(read_stored(tmp_path / "labels.tif").pixels_HWC[..., 0], true_map(store.plan, CLASSES))


def test_classes_have_their_colours_and_others_are_white(tmp_path):
    write_label_tiff(tmp_path / "labels.tif", filled(tmp_path, CLASSES), CLASSES.name)
    with Image.open(tmp_path / "labels.tif") as picture:
        palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    assert palette[:3].tolist() == [[0, 0, 0], [230, 69, 69], [255, 255, 255]]
    assert palette[255].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("highest", "dtype"), [(65535, "uint16"), (65536, "uint32"), (2**32 - 1, "uint32")])
@pytest.mark.parametrize("told", [True, False])
def test_objects_get_the_type_they_need(tmp_path, highest, dtype, told):
    values = objects_up_to(highest)
    store = filled(tmp_path, OBJECTS, values=values)
    write_label_tiff(tmp_path / "o.tif", store, OBJECTS.name, largest=highest if told else None)
    read = tifffile.imread(tmp_path / "o.tif")
    assert read.dtype == dtype
    assert np.array_equal(read, values)


def test_more_objects_than_a_tiff_holds_are_refused(tmp_path):
    store = filled(tmp_path, OBJECTS, values=objects_up_to(2**32))
    with pytest.raises(UsageError, match=r"4294967296 labels do not fit into the 32 bits .* use o.zarr itself"):
        write_label_tiff(tmp_path / "o.tif", store, OBJECTS.name)
    with pytest.raises(UsageError, match="holds 4294967296, more than the largest label that was announced"):
        write_label_tiff(tmp_path / "o.tif", store, OBJECTS.name, largest=7)
    assert [path.name for path in tmp_path.iterdir()] == ["o.zarr"]


# Place in the world


def test_the_place_in_the_world_is_kept(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    store = filled(tmp_path, CLASSES, shape=(70, 100))
    write_label_tiff(tmp_path / "geo.tif", store, CLASSES.name, tags=GEO_TAGS)
    with rasterio.open(tmp_path / "geo.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert file.transform[:6] == (0.5, 0.0, 500000.0, 0.0, -0.5, 4000000.0)
        assert file.nodata == 255
        assert file.overviews(1) == [2, 4, 8]
        assert file.colormap(1)[1] == (230, 69, 69, 255)
        assert np.array_equal(file.read(1), true_map(store.plan, CLASSES))
        quarter = file.read(1, out_shape=(18, 25))
        assert np.array_equal(quarter, true_map(store.plan, CLASSES)[::4, ::4])


def test_the_size_of_a_pixel_is_kept(tmp_path):
    # 0.25 micrometres wide, 0.5 high: 40000 and 20000 pixels in a centimetre.
    store = filled(tmp_path, CLASSES, pixel_size=MICROMETRES)
    write_label_tiff(tmp_path / "labels.tif", store, CLASSES.name)
    with tifffile.TiffFile(tmp_path / "labels.tif") as file:
        pages = [file.pages[0], *file.pages[0].pages]
        tags = [[page.tags[name].value for name in (282, 283, 296)] for page in pages[:2]]
    assert [(x[0] / x[1], y[0] / y[1], unit) for x, y, unit in tags] == [(40000, 20000, 3), (20000, 10000, 3)]


def test_a_pixel_of_unknown_size_is_said_to_have_none(tmp_path):
    store = filled(tmp_path, CLASSES, pixel_size=PixelSize(1, 1, "parsec"))
    write_label_tiff(tmp_path / "labels.tif", store, CLASSES.name)
    with tifffile.TiffFile(tmp_path / "labels.tif") as file:
        assert file.pages[0].tags.valueof(296, default=1) == 1


# As it is written


def test_the_same_labels_give_the_same_file(tmp_path):
    store = filled(tmp_path, CLASSES)
    for name in ("a.tif", "b.tif"):
        write_label_tiff(tmp_path / name, store, CLASSES.name)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_large_one_is_a_bigtiff(tmp_path, monkeypatch):
    store = filled(tmp_path, CLASSES)
    # 70 x 100 and its halves in tiles of 16 x 16: 5 x 7 + 3 x 4 + 2 x 2 + 1 tiles
    size = (35 + 12 + 4 + 1) * 256
    for limit, expected in ((size, False), (size - 1, True)):
        monkeypatch.setattr(label_tiff, "LARGEST_CLASSIC", limit)
        write_label_tiff(tmp_path / "labels.tif", store, CLASSES.name)
        with tifffile.TiffFile(tmp_path / "labels.tif") as file:
            assert file.is_bigtiff == expected
            assert np.array_equal(file.asarray(), true_map(store.plan, CLASSES))


def test_chunks_that_tiff_cannot_have_become_tiles_of_512(tmp_path):
    store = filled(tmp_path, CLASSES, core=20, chunk=10)
    write_label_tiff(tmp_path / "labels.tif", store, CLASSES.name)
    with tifffile.TiffFile(tmp_path / "labels.tif") as file:
        assert file.pages[0].tile == (512, 512)
        assert np.array_equal(file.asarray(), true_map(store.plan, CLASSES))


@pytest.mark.parametrize(
    "layer",
    [SCORES, replace(CLASSES, channels=2), replace(CLASSES, dtype="int16"), replace(CLASSES, dtype="float32")],
    ids=["scores", "two channels", "signed", "real"],
)
def test_what_is_no_map_of_labels_is_refused(tmp_path, layer):
    layer = replace(layer, fill=200, colours=())
    store = TileStore(tmp_path / "o.zarr", simple_plan((5, 5), 4, 4, layer))
    with pytest.raises(UsageError, match=f"layer {layer.name} is no flat map of labels"):
        write_label_tiff(tmp_path / "o.tif", store, layer.name)


def test_a_wrong_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="give a name that ends so"):
        write_label_tiff(tmp_path / "labels.png", filled(tmp_path, CLASSES), CLASSES.name)


@pytest.mark.parametrize("stage", ["network", "pyramid/labels/classes/2"])
def test_an_unfinished_layer_leaves_the_old_file(tmp_path, stage):
    store = filled(tmp_path, CLASSES)
    path = tmp_path / "labels.tif"
    path.write_bytes(b"old")
    store.forget(stage, [0])
    with pytest.raises(DataError, match=f"the stage {stage} is not done for tile 0"):
        write_label_tiff(path, store, CLASSES.name)
    assert path.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["labels.tif", "o.zarr"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    store = filled(tmp_path, CLASSES)
    path = tmp_path / "labels.tif"
    path.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OutputError, match=r"labels.tif: no space left on the disk; the file that is there is whole"):
        write_label_tiff(path, store, CLASSES.name)
    assert path.read_bytes() == b"old"


def test_memory_is_that_of_tiles(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (1024, 1024), dtype=np.uint8)
    store = filled(tmp_path, CLASSES, shape=(1024, 1024), core=256, chunk=64, values=values)
    tracemalloc.start()
    write_label_tiff(tmp_path / "labels.tif", store, CLASSES.name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 4
    assert np.array_equal(tifffile.imread(tmp_path / "labels.tif"), values)
