"""Zarr arrays and OME-Zarr images read window by window: layouts, damage, and what runs no code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from windows_read import HEIGHT, WIDTH, assert_same, whole, windows_within

from pixelwise.data.large_images import open_large
from pixelwise.data.zarr_chunks import ChunkFiles
from pixelwise.errors import ImageFileError
from pixelwise.tiles import Window

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")

RNG = np.random.default_rng(2)
GREY = RNG.integers(1, 256, (HEIGHT, WIDTH), np.uint8)
BANDS = RNG.integers(0, 65536, (3, HEIGHT, WIDTH)).astype(np.uint16)
REAL = RNG.normal(size=(HEIGHT, WIDTH))


def make(path: Path, values: NDArray[Any], **options: Any) -> Path:
    """An array of any kind, every chunk written."""
    options = {
        "chunks": tuple(min(16, side) for side in values.shape),
        "config": {"write_empty_chunks": True},
    } | options
    array = zarr.create_array(path, shape=values.shape, dtype=values.dtype, **options)
    array[...] = values
    return path


def change(path: Path, **values: Any) -> None:
    """Set values in a JSON file; None takes one away."""
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def last(values: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(values, 0, 2) if values.ndim == 3 else values[..., None]


V2: dict[str, Any] = {"zarr_format": 2}
ZSTD = zarr.codecs.ZstdCodec(checksum=True)
KINDS: dict[str, tuple[NDArray[Any], dict[str, Any], NDArray[Any]]] = {
    "v3": (GREY, {}, last(GREY)),
    "v3-uncompressed": (GREY, {"compressors": None}, last(GREY)),
    "v3-gzip": (BANDS, {"chunks": (1, 20, 33), "compressors": zarr.codecs.GzipCodec()}, last(BANDS)),
    "v3-blosc": (BANDS, {"compressors": zarr.codecs.BloscCodec(cname="blosclz")}, last(BANDS)),
    "v3-channels-last": (last(BANDS), {"chunks": (32, 32, 3)}, last(BANDS)),
    "v3-shards": (BANDS, {"chunks": (1, 16, 16), "shards": (3, 32, 48)}, last(BANDS)),
    "v3-shards-index-first": (
        GREY,
        {"shards": {"shape": (32, 32), "index_location": "start"}, "chunks": (8, 16), "compressors": ZSTD},
        last(GREY),
    ),
    "v3-shards-blosc": (GREY, {"shards": (32, 32), "compressors": zarr.codecs.BloscCodec()}, last(GREY)),
    "v3-checksums": (BANDS, {"compressors": [ZSTD, zarr.codecs.Crc32cCodec()]}, last(BANDS)),
    "v3-checksums-first": (GREY, {"compressors": [zarr.codecs.Crc32cCodec(), ZSTD]}, last(GREY)),
    "v3-transposed-twice": (
        BANDS,
        {"filters": [zarr.codecs.TransposeCodec(order=order) for order in ((2, 0, 1), (0, 2, 1))]},
        last(BANDS),
    ),
    "v3-transposed": (BANDS, {"filters": zarr.codecs.TransposeCodec(order=(2, 0, 1))}, last(BANDS)),
    "v3-flat-names": (GREY, {"chunk_key_encoding": {"name": "v2", "separator": "."}}, last(GREY)),
    "v3-bool": (GREY > 128, {}, last((GREY > 128) * np.uint8(255))),
    "v3-float64": (REAL, {}, last(REAL.astype(np.float32))),
    "v3-big-endian": (BANDS.astype(">u2"), {"serializer": zarr.codecs.BytesCodec(endian="big")}, last(BANDS)),
    "v3-named-axes": (
        np.moveaxis(BANDS, 0, 1),
        {"dimension_names": ("y", "Channel", "x"), "chunks": (16, 2, 16)},
        last(BANDS),
    ),
    "v3-turned": (GREY.T, {"dimension_names": ("x", "y")}, last(GREY)),
    "v3-front-of-one": (GREY[None, None], {"chunks": (1, 1, 16, 16)}, last(GREY)),
    "v2": (GREY, V2, last(GREY)),
    "v2-blosc": (BANDS, {**V2, "compressors": numcodecs.Blosc(cname="lz4")}, last(BANDS)),
    "v2-zlib": (GREY, {**V2, "compressors": numcodecs.Zlib()}, last(GREY)),
    "v2-gzip": (GREY, {**V2, "compressors": numcodecs.GZip()}, last(GREY)),
    "v2-lz4": (GREY, {**V2, "compressors": numcodecs.LZ4()}, last(GREY)),
    "v2-bz2": (GREY, {**V2, "compressors": numcodecs.BZ2()}, last(GREY)),
    "v2-lzma": (GREY, {**V2, "compressors": numcodecs.LZMA()}, last(GREY)),
    "v2-uncompressed-big-endian": (BANDS.astype(">u2"), {**V2, "compressors": None}, last(BANDS)),
    "v2-columns-first": (BANDS, {**V2, "order": "F"}, last(BANDS)),
    "v2-folders": (GREY, {**V2, "chunk_key_encoding": {"name": "v2", "separator": "/"}}, last(GREY)),
    "v2-int16": (BANDS.astype(np.int16), V2, last(BANDS.astype(np.int16).astype(np.float32))),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Path, Any, NDArray[Any]]]]:
    folder, found = tmp_path_factory.mktemp("zarr"), {}
    with contextlib.ExitStack() as stack:

        def get(kind: str) -> tuple[Path, Any, NDArray[Any]]:
            if kind not in found:
                values, options, expected_HWC = KINDS[kind]
                path = make(folder / f"{kind}.zarr", values, **options)
                found[kind] = path, stack.enter_context(open_large(path)), expected_HWC
            return found[kind]

        yield get


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows_within())
def test_every_window_is_that_part_of_the_whole(made: Any, kind: str, window: Window) -> None:
    _, image, expected_HWC = made(kind)
    assert_same(image, window, expected_HWC)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_what_was_written(made: Any, kind: str) -> None:
    path, image, expected_HWC = made(kind)
    assert image.shape == (HEIGHT, WIDTH)
    assert_same(image, Window(0, 0, HEIGHT, WIDTH), expected_HWC)
    assert image.place is image.pixel_size is None
    assert image.describe().startswith(f"Zarr {kind[:2]}, {WIDTH} x {HEIGHT} pixels, {image.channels} channel")
    assert str(path) not in image.describe()


# ------------------------------------------------------------------------------------------------------- the identity


def test_the_identity_is_that_of_metadata_and_chunks_wherever_they_lie(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", GREY)

    def identity(path: Path) -> str:
        with open_large(path) as image:
            return image.identity

    first = identity(path)
    assert len(first) == 16
    shutil.copytree(path, tmp_path / "b.zarr")  # copies times too
    assert identity(tmp_path / "b.zarr") == first
    chunk = path / "c" / "1" / "1"
    os.utime(chunk, ns=(0, chunk.stat().st_mtime_ns + 1))
    assert identity(path) != first
    (tmp_path / "b.zarr" / "c" / "1" / "1").unlink()
    assert identity(tmp_path / "b.zarr") != first
    shutil.copytree(path, tmp_path / "c.zarr")
    before = identity(tmp_path / "c.zarr")
    change(tmp_path / "c.zarr" / "zarr.json", fill_value=9)
    assert identity(tmp_path / "c.zarr") != before


# ------------------------------------------------------------------------------------------------- missing and damaged


def chunk_of(path: Path) -> Path:
    """One file of chunks, of the first rows and columns."""
    (found,) = [p for name in ("c/0/0", "c/0/0/0", "c.0.0", "0.0", "0.0.0", "0/0") if (p := path / name).is_file()]
    return found


@pytest.mark.parametrize(
    "kind", ["v3", "v3-gzip", "v3-shards", "v3-shards-index-first", "v2", "v2-blosc", "v2-folders"]
)
def test_a_missing_chunk_is_named_and_never_silently_filled(made: Any, tmp_path: Path, kind: str) -> None:
    original, _, expected_HWC = made(kind)
    path = tmp_path / "a.zarr"
    shutil.copytree(original, path)
    chunk_of(path).unlink()
    with open_large(path) as image:
        assert_same(image, Window(40, 60, HEIGHT, WIDTH), expected_HWC)
        files = r"\(\d+ of \d+ files of chunks are there\)"
        with pytest.raises(
            ImageFileError, match=rf"chunk .*, in rows 5 to 9, columns 7 to 7, is missing {files}.*fill"
        ):
            image.read(Window(5, 7, 10, 8))
    with open_large(path, missing_chunks="fill") as image:
        assert re.search(r"chunks of .*, 1 of \d+ files of chunks missing and read as 0", image.describe())
        filled = image.read(Window(0, 0, 40, 60))
        assert filled[0, 0, 0] == 0
        assert np.array_equal(filled[39, 59], expected_HWC[39, 59])


def test_a_chunk_that_a_shard_leaves_out_is_named(tmp_path: Path) -> None:
    values = GREY.copy()
    values[16:32, 32:48] = 0
    path = make(tmp_path / "a.zarr", values, shards=(32, 48), config={"write_empty_chunks": False})
    with open_large(path) as image:
        assert_same(image, Window(0, 0, 16, WIDTH), values[..., None])
        assert_same(image, Window(0, 0, HEIGHT, 32), values[..., None])
        with pytest.raises(
            ImageFileError, match=r"chunk 1/2 of shard c/0/0, in rows 30 to 39, columns 40 to 49, is missing"
        ):
            image.read(Window(30, 40, 40, 50))
    with open_large(path, missing_chunks="fill") as image:
        assert np.array_equal(whole(image)[..., 0], values)


def test_filling_needs_a_fill_value_and_some_chunk(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", GREY, **V2)
    change(path / ".zarray", fill_value=7)
    chunk_of(path).unlink()
    with open_large(path, missing_chunks="fill") as image:
        assert (image.read(Window(0, 0, 16, 16)) == 7).all()
    text = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps(text | {"fill_value": None}))
    with (
        open_large(path, missing_chunks="fill") as image,
        pytest.raises(ImageFileError, match=r"chunk 0\.0, .* is missing"),
    ):
        image.read(Window(0, 0, 16, 16))
    for file in path.glob("?.?"):
        file.unlink()
    for missing in ("refuse", "fill"):
        with pytest.raises(ImageFileError, match="no chunk at all"):
            open_large(path, missing_chunks=missing).__enter__()  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("v3-turned", "v3-named-axes")])
def test_a_chunk_that_was_cut_short_is_found(made: Any, tmp_path: Path, kind: str, share: float) -> None:
    original, _, expected_HWC = made(kind)
    path = tmp_path / "a.zarr"
    shutil.copytree(original, path)
    chunk = chunk_of(path) if not kind.endswith("of-one") else path / "c/0/0/0/0"
    data = chunk.read_bytes()
    chunk.write_bytes(data[: int(len(data) * share)])
    for missing in ("refuse", "fill"):
        with open_large(path, missing_chunks=missing) as image:  # type: ignore[arg-type]
            assert_same(image, Window(48, 48, HEIGHT, WIDTH), expected_HWC)
            with pytest.raises(
                ImageFileError, match=r"chunk \S+ .*in rows 0 to 31, columns 0 to 47, cannot be decoded"
            ):
                image.read(Window(0, 0, 32, 48))


def test_a_flipped_bit_is_found_where_there_are_checksums(made: Any, tmp_path: Path) -> None:
    original, _, _ = made("v3-shards-index-first")
    path = tmp_path / "a.zarr"
    shutil.copytree(original, path)
    chunk = chunk_of(path)
    data = bytearray(chunk.read_bytes())
    for position in (3, 140, len(data) - 9):
        flipped = bytearray(data)
        flipped[position] ^= 4
        chunk.write_bytes(flipped)
        with open_large(path) as image, pytest.raises(ImageFileError):
            image.read(Window(0, 0, 32, 32))


def test_chunks_that_changed_places_are_found_by_the_checksum_of_the_index(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", GREY, shards=(32, 32), compressors=None)
    shard = path / "c" / "0" / "0"
    data = shard.read_bytes()
    index = len(data) - 4 * 16 - 4
    shard.write_bytes(data[:index] + data[index + 16 : index + 32] + data[index : index + 16] + data[index + 32 :])
    with open_large(path) as image, pytest.raises(ImageFileError, match="the checksum of the index of its shard does"):
        image.read(Window(0, 0, 9, 9))


def test_a_plain_chunk_of_another_length_is_counted(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", GREY, compressors=None)
    for length in (255, 257):
        (path / "c" / "0" / "0").write_bytes(bytes(length))
        with open_large(path) as image, pytest.raises(ImageFileError, match=f"{length} bytes in it where .* need 256"):
            image.read(Window(0, 0, 9, 9))


def test_values_that_are_not_finite_are_refused_where_they_are(tmp_path: Path) -> None:
    values = REAL.copy()
    values[3, 4] = np.nan
    with open_large(make(tmp_path / "a.zarr", values)) as image:
        assert np.isfinite(image.read(Window(4, 0, HEIGHT, WIDTH))).all()
        with pytest.raises(ImageFileError, match=r"1 NaN, 0 infinite .* in rows 0 to 9, columns 0 to 9"):
            image.read(Window(0, 0, 10, 10))


def test_a_chunk_that_is_too_large_to_decode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.zarr", GREY, chunks=(HEIGHT, WIDTH))
    monkeypatch.setattr("pixelwise.data.large_source.LARGEST_SEGMENT", HEIGHT * WIDTH - 1)
    with pytest.raises(ImageFileError, match=r"chunks of 75 x 93 values; .*save it again with chunks of about 512"):
        open_large(path).__enter__()


def test_a_large_image_takes_the_memory_of_a_window(tmp_path: Path) -> None:
    path, side, chunk = tmp_path / "a.zarr", 20_000, 2500
    array = zarr.create_array(path, shape=(side, side), dtype="u1", chunks=(chunk, chunk), zarr_format=2)
    array[:chunk, :chunk] = 7
    data = (path / "0.0").read_bytes()
    for row, column in np.ndindex(side // chunk, side // chunk):
        (path / f"{row}.{column}").write_bytes(data)
    tracemalloc.start()
    try:
        with open_large(path) as image:
            for corner in range(0, side - 3000, 1900):
                assert (image.read(Window(corner, corner, corner + 3000, corner + 3000)) == 7).all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**26 + 3 * 3000**2 + 3 * chunk**2 < side**2 / 3


def test_chunks_that_windows_share_are_decoded_once(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, expected_HWC = made("v3-shards")
    read: list[Any] = []
    original = ChunkFiles.read
    monkeypatch.setattr(ChunkFiles, "read", lambda self, chunk: (read.append(chunk), original(self, chunk))[1])
    with open_large(path) as image:
        assert_same(image, Window(15, 31, 17, 33), expected_HWC)
        assert sorted(read) == [(c, y, x) for c in range(3) for y in (0, 1) for x in (1, 2)]
        assert_same(image, Window(0, 16, 32, 48), expected_HWC)
        assert len(read) == 12


# --------------------------------------------------------------------------------------------------- nothing is run


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("where", ["filters", "compressor"])
def test_no_code_in_a_chunk_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path, trace = make(tmp_path / "a.zarr", GREY, **V2, compressors=None), tmp_path / "ran"
    for chunk in path.glob("?.?"):
        chunk.write_bytes(pickle.dumps(Bomb(trace)))
    change(path / ".zarray", **{where: [{"id": "pickle"}] if where == "filters" else {"id": "pickle"}})
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    with pytest.raises(ImageFileError, match=r"codec pickle; (these|filters) are"):
        open_large(path).__enter__()
    assert not trace.exists()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}]}, "codec numcodecs.pickle"),
        ({"codecs": []}, "damaged or unsupported"),
        ({"data_type": "r24"}, "values of type r24|data type 'r24' not understood"),
        ({"data_type": "complex64"}, "values of type complex64"),
        ({"data_type": {"name": "numpy.datetime64"}}, "values of type"),
        ({"chunk_grid": {"name": "rectangular", "configuration": {}}}, "chunks of a kind that is not known"),
        ({"shape": [HEIGHT]}, "1 dimensions|without names of axes"),
        ({"shape": [0, 5]}, "at least one pixel"),
        ({"shape": "large"}, "damaged or unsupported"),
        ({"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../"}}}, "a separator"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 4]}}}, "chunks of"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**40, 2**40]}}}, "decoded whole"),
        ({"node_type": "table"}, "damaged Zarr metadata"),
    ],
)
def test_metadata_that_is_not_known_is_refused(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    path = make(tmp_path / "a.zarr", GREY)
    change(path / "zarr.json", **values)
    with pytest.raises(ImageFileError, match=text):
        open_large(path).__enter__()


def test_shards_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", GREY, shards=(32, 32))
    (codec,) = json.loads((path / "zarr.json").read_text())["codecs"]
    gzip = {"name": "gzip", "configuration": {"level": 1}}
    index = [{"name": "bytes", "configuration": {"endian": "big"}}]
    inner = codec["configuration"]
    for codecs, text in (
        ([codec, gzip], "encoded once more"),
        ([codec | {"configuration": inner | {"index_codecs": index}}], "an index of a kind"),
        ([codec | {"configuration": inner | {"codecs": [codec]}}], "codec sharding_indexed"),
        ([codec | {"configuration": inner | {"chunk_shape": [5, 5]}}], "shards of"),
    ):
        change(path / "zarr.json", codecs=codecs)
        with pytest.raises(ImageFileError, match=text):
            open_large(path).__enter__()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"compressor": {"id": "zfpy"}}, "codec zfpy; these are read: blosc, gzip"),
        ({"filters": [{"id": "delta", "dtype": "u1"}]}, "codec delta; filters are not read"),
        ({"order": "K"}, "damaged or unsupported"),
        ({"chunks": [16]}, "chunks of"),
        ({"dtype": "|O"}, r"values of type \|O"),
        ({"dtype": [["a", "u1"]]}, "values of type"),
        ({"dimension_separator": "x"}, "a separator 'x'"),
    ],
)
def test_metadata_of_version_2_that_is_not_known_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = make(tmp_path / "a.zarr", GREY, **V2)
    change(path / ".zarray", **changes)
    with pytest.raises(ImageFileError, match=text):
        open_large(path).__enter__()


@pytest.mark.parametrize(
    ("codecs", "text"),
    [
        (["bytes", "gzip", "zstd"], "codec zstd after another that compresses"),
        (["bytes", "transpose"], "codecs in the order bytes, transpose"),
        (["zstd", "bytes"], "codecs in the order zstd, bytes"),
    ],
)
def test_codecs_in_an_order_that_has_no_known_lengths_are_refused(tmp_path: Path, codecs: list[str], text: str) -> None:
    path = make(tmp_path / "a.zarr", GREY)
    change(path / "zarr.json", codecs=[{"name": name, "configuration": {"order": [0, 1]}} for name in codecs])
    with pytest.raises(ImageFileError, match=text):
        open_large(path).__enter__()


@pytest.mark.parametrize("compressor", ["Zstd", "Zlib", "GZip", "BZ2", "LZMA", "LZ4", "Blosc"])
def test_a_chunk_that_would_grow_without_end_takes_no_more_than_its_place(tmp_path: Path, compressor: str) -> None:
    codec = getattr(numcodecs, compressor)()
    path = make(tmp_path / "a.zarr", GREY, **V2, compressors=codec)
    (path / "0.0").write_bytes(codec.encode(np.zeros(2**26, np.uint8)))
    tracemalloc.start()
    try:
        with open_large(path) as image, pytest.raises(ImageFileError, match=r"chunk 0\.0, .* cannot be decoded"):
            image.read(Window(0, 0, 9, 9))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_zarr_itself_is_not_needed(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, checked = made("v3-shards")[0], made("v3-checksums")[0]
    monkeypatch.setitem(sys.modules, "zarr", None)
    for path in (plain, checked):
        with open_large(path) as image:
            assert np.array_equal(whole(image), last(BANDS))
