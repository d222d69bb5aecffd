from __future__ import annotations

import io
import math

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.data.zarr_array import COMPRESSION, ZarrArray, fill_in_json
from pixelwise.files import write_bytes, write_json
from pixelwise.tiles import TileGrid, Window

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64"]


def array_of(shape=(6, 10), dtype="uint8", fill=255, shard=8, chunk=4) -> ZarrArray:
    return ZarrArray(path="a", shape=shape, dtype=dtype, fill=fill, shard=shard, chunk=chunk)


def values_of(array: ZarrArray, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 100, array.shape).astype(array.dtype)
    values[..., 0, 0] = 0
    return values


def write_all(folder, array: ZarrArray, values: np.ndarray) -> None:
    grid = TileGrid(array.shape[-2:], array.shard)
    write_json(folder / array.path / "zarr.json", array.metadata())
    for index in range(len(grid)):
        core = values[(..., *grid.window(index).slices)]
        write_bytes(folder / array.shard_path(*divmod(index, grid.columns)), array.encode(core))


# The same bytes as the library of Zarr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (6, 10), (8, 16), (3, 17, 9)])
def test_the_library_reads_what_is_written(tmp_path, dtype, shape):
    zarr = pytest.importorskip("zarr")
    array = array_of(shape, dtype, fill=7)
    values = values_of(array)
    write_all(tmp_path, array, values)
    read = zarr.open_array(tmp_path / "a", mode="r")
    assert read.dtype == dtype
    assert read.shards == (*shape[:-2], 8, 8)
    assert read.chunks == (*(1 for _ in shape[:-2]), 4, 4)
    assert np.array_equal(read[:], values)


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "float32"])
@pytest.mark.parametrize("shape", [(6, 10), (3, 17, 9)])
def test_what_the_library_writes_is_read(tmp_path, dtype, shape):
    zarr = pytest.importorskip("zarr")
    array = array_of(shape, dtype, fill=7)
    values = values_of(array)
    written = zarr.create_array(
        tmp_path / "a",
        shape=shape,
        dtype=dtype,
        fill_value=7,
        shards=(*shape[:-2], 8, 8),
        chunks=(*(1 for _ in shape[:-2]), 4, 4),
        compressors=zarr.codecs.ZstdCodec(level=COMPRESSION, checksum=True),
        config={"write_empty_chunks": True},
    )
    written[:] = values
    for index in range(len(TileGrid(shape[-2:], 8))):
        window = TileGrid(shape[-2:], 8).window(index)
        with (tmp_path / array.shard_path(*divmod(index, -(-shape[-1] // 8)))).open("rb") as file:
            part = array.decode(file, Window(0, 0, *window.shape))
        assert np.array_equal(part, values[(..., *window.slices)])


def test_the_library_shows_the_fill_value_where_there_is_no_shard(tmp_path):
    zarr = pytest.importorskip("zarr")
    for fill, dtype in ((255, "uint8"), (2**64 - 1, "uint64"), (math.nan, "float32")):
        array = array_of(dtype=dtype, fill=fill)
        write_json(tmp_path / "a" / "zarr.json", array.metadata())
        read = zarr.open_array(tmp_path / "a", mode="r")[:]
        assert np.array_equal(read, np.full((6, 10), fill, dtype), equal_nan=dtype == "float32")


# By itself


@settings(max_examples=60, deadline=None)
@given(data=st.data(), channels=st.sampled_from([None, 1, 3]), dtype=st.sampled_from(DTYPES))
def test_any_window_of_a_shard_comes_back(data, channels, dtype):
    chunk = data.draw(st.integers(1, 5))
    shard = chunk * data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.integers(1, shard)) for _ in "hw")
    front = () if channels is None else (channels,)
    array = array_of((*front, *shape), dtype, fill=1, shard=shard, chunk=chunk)
    values = values_of(array)
    top, left = (data.draw(st.integers(0, side - 1)) for side in shape)
    bottom, right = (data.draw(st.integers(low + 1, side)) for low, side in zip((top, left), shape, strict=True))
    window = Window(top, left, bottom, right)
    read = array.decode(io.BytesIO(array.encode(values)), window)
    assert read.dtype == dtype
    assert np.array_equal(read, values[(..., *window.slices)])


def test_the_same_values_give_the_same_bytes_however_they_lie_in_memory():
    array = array_of((6, 8))
    values = values_of(array)
    part = np.pad(values, 3)[3:-3, 3:-3]
    assert array.encode(values) == array.encode(np.asfortranarray(values)) == array.encode(part)
    wide = array_of((6, 8), dtype="uint32")
    assert wide.encode(values.astype(">u4")) == wide.encode(values.astype("<u4"))


def test_values_equal_to_the_fill_value_are_written():
    array = array_of((6, 8))
    full = np.full(array.shape, 255, np.uint8)
    assert (array.decode(io.BytesIO(array.encode(full)), Window(0, 0, 6, 8)) == 255).all()


def test_a_shard_is_chunks_then_the_index_then_its_checksum():
    array = array_of((4, 4), shard=8)
    data = array.encode(np.zeros((4, 4), np.uint8))
    index = np.frombuffer(data[-68:-4], "<u8").reshape(2, 2, 2)
    assert index[0, 0].tolist() == [0, len(data) - 68]
    assert (index.reshape(-1, 2)[1:] == 2**64 - 1).all()
    assert google_crc32c.value(data[-68:-4]).to_bytes(4, "little") == data[-4:]
    assert data[:4] == b"\x28\xb5\x2f\xfd"  # a frame of Zstandard


def test_a_part_beyond_the_edge_that_was_never_written_is_an_error():
    array = array_of((8, 8), shard=8)
    data = array_of((4, 8), shard=8).encode(np.zeros((4, 8), np.uint8))
    assert array.decode(io.BytesIO(data), Window(0, 0, 4, 8)).max() == 0
    with pytest.raises(ValueError, match="never written"):
        array.decode(io.BytesIO(data), Window(0, 0, 5, 8))


def test_no_shard_that_is_cut_short_is_read():
    array = array_of((8, 8))
    data = array.encode(values_of(array))
    for length in range(len(data)):
        with pytest.raises(ValueError, match="index"):
            array.decode(io.BytesIO(data[:length]), Window(0, 0, 8, 8))


def test_no_flipped_bit_changes_a_pixel():
    array = array_of((8, 8))
    values = values_of(array)
    data = array.encode(values)
    found = 0
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        try:
            assert np.array_equal(array.decode(io.BytesIO(broken), Window(0, 0, 8, 8)), values)
        except ValueError:
            found += 1
    assert found > len(data) * 0.9  # a frame may have bits that mean nothing


def test_a_chunk_of_another_size_is_an_error():
    array, smaller = array_of((4, 4), shard=4), array_of((2, 2), shard=2, chunk=2)
    for one, other in ((array, smaller), (smaller, array)):
        data = one.encode(np.zeros(one.shape, np.uint8))
        with pytest.raises(ValueError, match=r"a chunk holds 4 bytes, not 16|buffer is too small"):
            other.decode(io.BytesIO(data), Window(0, 0, 2, 2))


# Numbers


def test_numbers_that_json_lacks_have_names():
    assert fill_in_json(math.nan) == "NaN"
    assert fill_in_json(2**64 - 1) == 2**64 - 1


def test_the_metadata_says_where_channels_are():
    flat, deep = array_of().metadata(), array_of((3, 6, 10)).metadata()
    assert flat["dimension_names"] == ["y", "x"]
    assert deep["dimension_names"] == ["c", "y", "x"]
    assert deep["chunk_grid"]["configuration"]["chunk_shape"] == [3, 8, 8]
    assert array_of((3, 6, 10)).shard_path(2, 5) == "a/c/0/2/5"
    assert array_of().channels == 1
