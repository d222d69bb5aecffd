"""TIFF images read window by window: every kind, what is damaged, what is refused."""

from __future__ import annotations

import contextlib
import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from windows_read import HEIGHT, WIDTH, assert_same, whole, windows_within

from pixelwise.data import tiff_segments
from pixelwise.data.images import read_image
from pixelwise.data.large_images import open_large
from pixelwise.data.large_source import RecentSegments
from pixelwise.errors import ImageFileError
from pixelwise.tiles import Window

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH, 5)).astype(np.uint16)
REAL = RNG.normal(size=(HEIGHT, WIDTH)).astype(np.float32)
SMOOTH = np.clip(np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] + [0, 20, 40], 0, 255).astype(np.uint8)

TILES: dict[str, Any] = {"tile": (16, 32)}
STRIPS: dict[str, Any] = {"rowsperstrip": 7}
CONTIG: dict[str, Any] = {"planarconfig": "contig", "photometric": "minisblack"}
PLANAR: dict[str, Any] = {"planarconfig": "separate", "photometric": "minisblack"}
KINDS: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
    "tiled": (RGB, {**TILES, "photometric": "rgb"}),
    "tiled-deflate": (RGB, {**TILES, "photometric": "rgb", "compression": "deflate"}),
    "tiled-deflate-predictor": (DEEP[..., :1], {**TILES, "compression": "deflate", "predictor": True}),
    "tiled-lzw": (GREY, {**TILES, "compression": "lzw"}),
    "tiled-zstd": (DEEP, {**TILES, **CONTIG, "compression": "zstd"}),
    "tiled-jpeg": (SMOOTH, {**TILES, "photometric": "ycbcr", "compression": "jpeg"}),
    "tiled-jpeg-rgb": (SMOOTH, {**TILES, "photometric": "rgb", "compression": "jpeg"}),
    "tiled-big-endian": (DEEP, {**TILES, **CONTIG, "byteorder": ">", "bigtiff": True}),
    "tiled-planar": (np.moveaxis(DEEP, 2, 0), {**TILES, **PLANAR, "compression": "deflate"}),
    "one-tile": (GREY, {"tile": (128, 128)}),
    "strips": (RGB, {**STRIPS, "photometric": "rgb"}),
    "strips-deflate": (RGB, {**STRIPS, "photometric": "rgb", "compression": "deflate"}),
    "strips-packbits": (GREY, {**STRIPS, "compression": "packbits"}),
    "strips-planar": (np.moveaxis(DEEP, 2, 0), {**STRIPS, **PLANAR}),
    "strips-planar-lzw": (np.moveaxis(DEEP, 2, 0), {**STRIPS, **PLANAR, "compression": "lzw"}),
    "strips-big-endian": (REAL, {**STRIPS, "byteorder": ">"}),
    "one-strip": (DEEP, CONTIG),
    "one-strip-bigtiff": (REAL.astype(np.float64), {"bigtiff": True}),
    "float-tiled-predictor": (REAL, {**TILES, "compression": "deflate", "predictor": 3}),
    "float16": (REAL.astype(np.float16), {**TILES}),
    "int16": (DEEP[..., 0].astype(np.int16), {**STRIPS, "compression": "deflate"}),
    "uint32": (DEEP[..., 0].astype(np.uint32), {**TILES}),
    "bits": (GREY > 128, {**TILES}),
    "bits-strips": (GREY > 128, {**STRIPS, "compression": "packbits"}),
    "white-first": (GREY, {**TILES, "photometric": "miniswhite", "metadata": None}),
    "palette": (GREY, {**TILES, "photometric": "palette", "colormap": RNG.integers(0, 65536, (3, 256), np.uint16)}),
    "alpha": (np.dstack([RGB, GREY]), {**TILES, "photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "one-pixel": (GREY[:1, :1], {}),
    "one-row": (GREY[:1], {"tile": (16, 16)}),
    "one-column": (GREY[:, :1], {"rowsperstrip": 1, "compression": "deflate"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Path, Any, NDArray[Any]]]]:
    """A file of each kind, opened, and its pixels as `read_image` reads them."""
    folder, files = tmp_path_factory.mktemp("kinds"), {}
    with contextlib.ExitStack() as stack:

        def make(kind: str) -> tuple[Path, Any, NDArray[Any]]:
            if kind not in files:
                path, (pixels, options) = folder / f"{kind}.tif", KINDS[kind]
                tifffile.imwrite(path, pixels, **{"photometric": "minisblack", **options})
                files[kind] = path, stack.enter_context(open_large(path)), read_image(path)
            return files[kind]

        yield make


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("one-") or "strip" in kind])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows_within())
def test_every_window_is_that_part_of_the_whole(made: Any, kind: str, window: Window) -> None:
    _, image, expected_HWC = made(kind)
    assert_same(image, window, expected_HWC)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_what_was_written(made: Any, kind: str) -> None:
    path, image, expected_HWC = made(kind)
    assert image.shape == expected_HWC.shape[:2]
    assert image.levels == (image.shape,)
    assert_same(image, Window(0, 0, *image.shape), expected_HWC)
    pixels, options = KINDS[kind]
    if options.get("compression") != "jpeg" and kind not in ("palette", "white-first") and pixels.dtype != bool:
        written = np.moveaxis(pixels, 0, 2) if "planar" in kind else np.atleast_3d(pixels)
        assert np.array_equal(whole(image), written.astype(expected_HWC.dtype))
    assert f"{image.shape[1]} x {image.shape[0]} pixels" in image.describe()
    assert str(path) not in image.describe()


def test_only_the_tiles_that_a_window_touches_are_decoded(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, _ = made("tiled-deflate")
    decoded: list[int] = []
    original = tiff_segments.PagePixels._decode
    monkeypatch.setattr(
        tiff_segments.PagePixels, "_decode", lambda self, i, t: (decoded.append(i), original(self, i, t))[1]
    )
    with open_large(path) as image:
        image.read(Window(15, 31, 17, 33))
        assert decoded == [0, 1, 3, 4]
        image.read(Window(0, 0, 32, 64))  # the same four tiles, still there
        assert decoded == [0, 1, 3, 4]
        image.read(Window(74, 92, 75, 93))
        assert decoded == [0, 1, 3, 4, 14]


def test_decoded_tiles_are_kept_up_to_a_limit_and_always_the_last() -> None:
    recent, decoded = RecentSegments(limit=20), []

    def get(index: int, size: int = 8) -> int:
        return recent.get((0, index), lambda: (decoded.append(index), np.full(size, index, np.uint8))[1])[0]

    assert [get(i) for i in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert decoded == [1, 2, 3, 2]  # 2 was the least recently used when 3 came
    assert get(9, size=500) == 9
    assert recent.bytes == 500
    assert get(9) == 9
    assert decoded[-1] == 9


def test_a_large_image_takes_the_memory_of_a_window(tmp_path: Path) -> None:
    path, side, tile = tmp_path / "a.tif", 20_000, 1000 // 16 * 16
    count = -(-side // tile)
    plain = np.zeros((tile, tile), np.uint8)

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for index in range(count * count):
            plain[0, 0] = index % 251
            yield plain

    options: dict[str, Any] = {"compression": "deflate", "compressionargs": {"level": 1}}
    tifffile.imwrite(path, tiles(), shape=(side, side), dtype=np.uint8, tile=(tile, tile), metadata=None, **options)
    tracemalloc.start()
    try:
        with open_large(path) as image:
            assert image.shape == (side, side)
            for row, column in ((0, 0), (7, 12), (20, 20), (20, 3), (11, 19)):
                top, left = row * tile, column * tile
                pixels = image.read(Window(top, left, min(top + 1500, side), min(left + 1500, side)))
                assert pixels[0, 0, 0] == (row * count + column) % 251
                assert pixels.sum(dtype=int) >= pixels[0, 0, 0]
            image.read(Window(0, 0, 1, side))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kept = 2**26
    assert peak < kept + 4 * 1500**2 + 4 * tile**2
    assert side**2 > 4 * peak


def test_a_huge_strip_of_plain_rows_is_read_where_it_lies(tmp_path: Path) -> None:
    path, height, width = tmp_path / "a.tif", 30_000, 20_000
    tifffile.imwrite(path, GREY[:2, :2], metadata=None)  # then made large, with a hole in it
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        places = {
            name: tags[name].valueoffset for name in ("ImageLength", "ImageWidth", "RowsPerStrip", "StripByteCounts")
        }
        types = {name: "<I" if int(tags[name].dtype) == 4 else "<H" for name in places}
        start = tags["StripOffsets"].value[0]
    values = {"ImageLength": height, "ImageWidth": width, "RowsPerStrip": height, "StripByteCounts": height * width}
    with path.open("r+b") as out:
        for name, place in places.items():
            out.seek(place)
            out.write(struct.pack(types[name], values[name]))
        out.truncate(start + height * width)
        out.seek(start + 25_000 * width + 12_345)
        out.write(b"\x11\x22")
    tracemalloc.start()
    try:
        with open_large(path) as image:
            assert image.read(Window(25_000, 12_344, 25_001, 12_348)).ravel().tolist() == [0, 0x11, 0x22, 0]
            assert image.read(Window(24_000, 12_000, 26_000, 12_400)).sum() == 0x33
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 2000 * 400


# ------------------------------------------------------------------------------------------------------- identity


def test_the_identity_is_that_of_the_file_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, tile=(16, 16), subifds=1, compression="deflate")
        file.write(GREY[::2, ::2], tile=(16, 16), subfiletype=1, compression="deflate")

    def identity(path: Path, **options: Any) -> str:
        with open_large(path, **options) as image:
            return image.identity

    first = identity(path)
    assert len(first) == 16
    assert identity(path) == first != identity(path, level=1)
    os.link(path, tmp_path / "b.tif")
    assert identity(tmp_path / "b.tif") == first
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert identity(path) != first
    other, when = GREY.copy(), path.stat().st_mtime_ns
    other[:16, :16] = 0
    before = identity(path)
    tifffile.imwrite(tmp_path / "c.tif", other, tile=(16, 16), compression="deflate")
    os.utime(tmp_path / "c.tif", ns=(0, when))
    assert identity(tmp_path / "c.tif") != before


# --------------------------------------------------------------------------------------------- damaged and refused


@pytest.mark.parametrize("kind", ["tiled", "tiled-deflate", "tiled-jpeg", "strips", "strips-planar-lzw", "one-strip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_short_is_refused_at_once(made: Any, tmp_path: Path, kind: str, share: float) -> None:
    data = made(kind)[0].read_bytes()
    path = tmp_path / "a.tif"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageFileError), open_large(path):
        pass


def broken_tile(path: Path, index: int, data: bytes | None) -> None:
    """Overwrite the bytes of one tile, or only its length by 0."""
    with tifffile.TiffFile(path) as file:
        tag, offset = file.pages[0].tags[325], file.pages[0].dataoffsets[index]
        length = file.pages[0].databytecounts[index]
    with path.open("r+b") as out:
        if data is None:
            out.seek(tag.valueoffset + index * (4 if int(tag.dtype) == 4 else 2))
            out.write(struct.pack("<I" if int(tag.dtype) == 4 else "<H", 0))
        else:
            out.seek(offset)
            out.write((data * length)[:length])


@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "jpeg"])
def test_a_damaged_tile_is_named_and_the_others_are_read(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SMOOTH, tile=(16, 32), photometric="rgb", compression=compression)
    expected_HWC = read_image(path)
    broken_tile(path, 4, b"\0")
    with open_large(path) as image:
        assert_same(image, Window(0, 0, 16, WIDTH), expected_HWC)
        with pytest.raises(ImageFileError, match=r"tile 4 \(rows 16 to 31, columns 32 to 63\) cannot be decoded"):
            image.read(Window(20, 0, 21, WIDTH))
        assert_same(image, Window(20, 64, 70, WIDTH), expected_HWC)


def test_half_a_jpeg_tile_is_not_filled_up_with_grey(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, tile=(64, 64), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
    with path.open("r+b") as out:
        out.seek(offset + length // 2)
        out.write(bytes(length - length // 2))
    with open_large(path) as image, pytest.raises(ImageFileError, match=r"tile 1 .*the JPEG stream was cut short"):
        whole(image)


def test_fewer_strips_than_the_size_needs_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(BOMBS["few-strips"])
    with pytest.raises(ImageFileError, match="1 strips where its size needs 9"):
        open_large(tmp_path / "a.tif").__enter__()


def test_a_tile_that_was_never_written_is_never_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, tile=(16, 16))
    broken_tile(path, 3, None)
    with pytest.raises(ImageFileError, match="1 of 30 strips or tiles are missing"), open_large(path):
        pass


def test_a_file_that_shrinks_while_it_is_read_is_said_to(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, tile=(16, 16))
    with open_large(path) as image:
        os.truncate(path, 2000)
        with pytest.raises(ImageFileError, match=r"tile 29 .* lies beyond the end"):
            image.read(Window(70, 90, 75, 93))
    tifffile.imwrite(path, GREY)
    with open_large(path) as image:
        os.truncate(path, 2000)
        with pytest.raises(ImageFileError, match="row 74 lies beyond the end"):
            image.read(Window(74, 90, 75, 93))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_where_they_are(tmp_path: Path, bad: float) -> None:
    values = REAL.copy()
    values[40, 50] = bad
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(16, 16))
    with open_large(tmp_path / "a.tif") as image:
        assert_same(image, Window(0, 0, 40, WIDTH), REAL[..., None])
        with pytest.raises(ImageFileError, match="beyond float32 in rows 30 to 49, columns 50 to 50"):
            image.read(Window(30, 50, 50, 51))


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_only_upright_images_are_read(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, tile=(16, 16), extratags=[(274, 3, 1, orientation, True)])
    with pytest.raises(ImageFileError, match=f"orientation {orientation}; .*upright; fix: save the image turned"):
        open_large(path).__enter__()


def test_colour_spaces_that_read_image_refuses_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([RGB, GREY]), photometric="separated", tile=(16, 16))
    with pytest.raises(ImageFileError, match="colour space SEPARATED"), open_large(tmp_path / "a.tif"):
        pass


def test_a_strip_that_is_too_large_to_decode_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixelwise.data.large_source.LARGEST_SEGMENT", HEIGHT * WIDTH - 1)
    for name, options in (("a", {"compression": "deflate"}), ("b", {"tile": (96, 96)})):
        tifffile.imwrite(tmp_path / f"{name}.tif", GREY, **options)
        with pytest.raises(ImageFileError, match="decoded whole; fix: write it again in tiles"):
            open_large(tmp_path / f"{name}.tif").__enter__()
    tifffile.imwrite(tmp_path / "c.tif", GREY)
    with open_large(tmp_path / "c.tif") as image:
        assert np.array_equal(whole(image)[..., 0], GREY)


def tiff(*tags: tuple[int, int, int, int], following: int = 0, data: bytes = b"") -> bytes:
    """A little-endian TIFF of one page: (code, type, count, value or place)."""
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + page + struct.pack("<I", following) + data


SIZE = 2**31 - 1
BOMBS = {
    "huge": tiff(
        (256, 4, 1, SIZE),
        (257, 4, 1, SIZE),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 9),
    ),
    "huge-plain": tiff(
        (256, 4, 1, SIZE), (257, 4, 1, SIZE), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 9)
    ),
    "many-tiles": tiff(
        (256, 4, 1, SIZE),
        (257, 4, 1, SIZE),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (322, 3, 1, 16),
        (323, 3, 1, 16),
        (324, 4, SIZE, 8),
        (325, 4, SIZE, 8),
    ),
    "tile-of-nothing": tiff(
        (256, 4, 1, 9),
        (257, 4, 1, 9),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (322, 3, 1, 0),
        (323, 3, 1, 0),
        (324, 4, 1, 8),
        (325, 4, 1, 8),
    ),
    "loop": tiff((256, 4, 1, 9), (257, 4, 1, 9), following=8),
    "inner-loop": tiff(
        (256, 4, 1, 4), (257, 4, 1, 2), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 8), (330, 4, 1, 8)
    ),
    "beyond": tiff((256, 4, 1, 9), (257, 4, 1, 9), following=2**31),
    "no-tags": tiff(),
    "only-a-start": b"II*\0\x08\0\0\0",
    "no-size": tiff((258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 8)),
    "few-strips": tiff(
        (256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 8), (262, 3, 1, 1), (278, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 9)
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_headers_that_lie_are_refused_quickly(tmp_path: Path, name: str) -> None:
    path, start = tmp_path / "a.tif", time.monotonic()
    path.write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        with contextlib.suppress(ImageFileError), open_large(path) as image:
            assert name == "inner-loop"  # an overview of the size of the image is none
            assert image.levels == ((2, 4),)
            assert whole(image).ravel().tolist() == list(BOMBS[name][8:16])
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 5


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows_within(), position=windows_within(400, 256))
@pytest.mark.parametrize("kind", ["tiled-lzw", "strips"])
def test_a_changed_byte_gives_pixels_or_an_image_file_error(
    made: Any, tmp_path: Path, kind: str, window: Window, position: Window
) -> None:
    data = bytearray(made(kind)[0].read_bytes())
    data[position.top % len(data)] = position.left
    (tmp_path / "a.tif").write_bytes(data)
    with contextlib.suppress(ImageFileError), open_large(tmp_path / "a.tif") as image:
        height, width = image.shape
        if window.bottom <= height and window.right <= width:
            assert image.read(window).shape == (*window.shape, image.channels)


@pytest.mark.parametrize("window", [Window(0, 0, 0, 5), Window(0, 0, 5, 94), Window(-1, 0, 5, 5), Window(5, 5, 2, 9)])
def test_a_window_outside_of_the_image_is_our_own_mistake(made: Any, window: Window) -> None:
    with pytest.raises(AssertionError):
        made("tiled")[1].read(window)
