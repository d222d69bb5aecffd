"""Reading one picture file: what each kind gives, and what is refused."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pixelwise.data.images import read_header, read_image
from pixelwise.data.stored import upright
from pixelwise.errors import ImageFileError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GREY16 = np.array([[0, 1, 256], [257, 40000, 65535]], np.uint16)


def save(path: Path, pixels: NDArray[Any], mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png(width: int, height: int, bits: int, colour: int, *, data: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND")


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def agrees(path: Path) -> NDArray[Any]:
    """The pixels, after checking that the header says the same without decoding."""
    image_HWC, header = read_image(path), read_header(path)
    assert image_HWC.shape == (header.height, header.width, header.channels)
    return image_HWC


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "named.jpg"])
def test_lossless_formats_give_the_pixels_by_content(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, RGB, format="PNG" if name == "named.jpg" else None)
    assert np.array_equal(agrees(path), RGB)


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {"quality": 95}), ("a.webp", {"lossless": True})])
def test_jpeg_and_webp(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    smooth = np.broadcast_to(np.arange(0, 64, 4, dtype=np.uint8)[:, None, None], (16, 16, 3))
    image_HWC = agrees(save(tmp_path / name, smooth, **options))
    assert abs(image_HWC.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("1", 1)])
def test_channels_follow_from_the_format_alone(tmp_path: Path, mode: str, channels: int) -> None:
    grey = np.full((4, 6, 3), 255, np.uint8)
    assert np.array_equal(agrees(save(tmp_path / "a.png", grey, mode)), np.full((4, 6, channels), 255))


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    transparent = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    assert np.array_equal(agrees(save(tmp_path / "a.png", transparent)), RGB)


def test_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putdata([0, 1, 2])
    image.putpalette([9, 8, 7, 255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert agrees(tmp_path / "a.png").tolist() == [[[9, 8, 7], [255, 0, 0], [0, 0, 255]]]


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    assert np.array_equal(agrees(save(tmp_path / "a.jpg", white, "CMYK")), white)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_grey_are_stretched(tmp_path: Path, bits: int) -> None:
    (tmp_path / "a.png").write_bytes(png(1, 1, bits, 0, data=bytes([0, 1 << (8 - bits)])))
    assert agrees(tmp_path / "a.png").tolist() == [[[{1: 255, 2: 85, 4: 17}[bits]]]]
    (tmp_path / "b.png").write_bytes(png(1, 1, bits, 0, data=b"\x00\xff"))
    assert agrees(tmp_path / "b.png").tolist() == [[[255]]]


def test_sixteen_bits_of_png_keep_their_precision(tmp_path: Path) -> None:
    assert np.array_equal(agrees(save(tmp_path / "g.png", GREY16))[..., 0], GREY16)
    rgba16 = np.array([256, 257, 1, 65535], ">u2").tobytes()
    (tmp_path / "c.png").write_bytes(png(1, 1, 16, 6, data=b"\0" + rgba16))
    assert agrees(tmp_path / "c.png").tolist() == [[[256, 257, 1]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_orientations_agree_with_pillow(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    save(path, RGB, exif=exif)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(agrees(path), expected)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_turning_keeps_every_pixel(orientation: int, height: int, width: int) -> None:
    pixels = np.arange(height * width).reshape(height, width, 1)
    turned = upright(pixels, orientation)
    assert sorted(turned.ravel()) == sorted(pixels.ravel())
    assert turned.shape[:2] == ((width, height) if orientation > 4 else (height, width))


@pytest.mark.parametrize(
    ("stored", "expected", "dtype"),
    [
        (np.array([[-5, 32767]], np.int16), [-5, 32767], np.float32),
        (np.array([[0.5, 2]], np.float16), [0.5, 2], np.float32),
        (np.array([[1, 2**24]], np.uint32), [1, 2**24], np.float32),
        (np.array([[0.25, -1e30]], np.float64), [0.25, np.float32(-1e30)], np.float32),
        (np.array([[False, True]]), [0, 255], np.uint8),
        (np.array([[3, 60000]], np.uint16), [3, 60000], np.uint16),
    ],
)
def test_types_of_tiff(tmp_path: Path, stored: NDArray[Any], expected: list[float], dtype: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stored)
    image_HWC = agrees(tmp_path / "a.tif")
    assert image_HWC.dtype == dtype
    assert image_HWC.ravel().tolist() == expected
    assert read_header(tmp_path / "a.tif").dtype == str(stored.dtype)


@pytest.mark.parametrize("bands", [2, 4, 13])
@pytest.mark.parametrize("planar", [True, False])
def test_all_bands_are_kept_last(tmp_path: Path, bands: int, planar: bool) -> None:
    image = RNG.integers(0, 60000, (6, 5, bands)).astype(np.uint16)
    pixels, config = (np.moveaxis(image, -1, 0), "separate") if planar else (image, "contig")
    tifffile.imwrite(tmp_path / "a.tif", pixels, planarconfig=config, photometric="minisblack")
    assert np.array_equal(agrees(tmp_path / "a.tif"), image)


@pytest.mark.parametrize("options", [{"compression": "lzw"}, {"tile": (16, 16), "bigtiff": True}, {"byteorder": ">"}])
def test_kinds_of_tiff_and_the_fourth_band_called_alpha(tmp_path: Path, options: dict[str, Any]) -> None:
    image = RNG.integers(0, 256, (40, 33, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=["unassalpha"], **options)
    assert np.array_equal(agrees(tmp_path / "a.tif"), image)


def test_white_first_tiff_is_turned_round(tmp_path: Path) -> None:
    for stored, expected in [(np.array([[0, 200]], np.uint8), [255, 55]), (np.array([[False, True]]), [255, 0])]:
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", metadata=None)
        assert agrees(tmp_path / "a.tif").ravel().tolist() == expected


def test_pages_are_chosen_and_overviews_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for value, subfile in [(1, 0), (9, 1), (2, 0)]:
            file.write(np.full((4, 4), value, np.uint8), subfiletype=subfile, metadata=None)
    assert read_header(path).pages == 2
    assert [read_image(path, page=page)[0, 0, 0] for page in (0, 1)] == [1, 2]
    for page, text in [(None, "2 frames or pages"), (2, "no page 2"), (-1, "no page -1")]:
        with pytest.raises(ImageFileError, match=text):
            read_image(path, page=page)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.roll(RGB, shift)) for shift in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFileError, match="3 frames or pages"):
        read_image(tmp_path / f"a.{suffix}")


def test_single_gif_is_read(tmp_path: Path) -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 1] = [10, 200, 30]
    assert np.array_equal(agrees(save(tmp_path / "a.gif", colours)), colours)


def test_values_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[np.nan, np.inf, np.nan, 1]], np.float32))
    with pytest.raises(ImageFileError, match="2 NaN, 1 infinite and 0 values beyond"):
        read_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.array([[1e300, 1, -1e300]]))
    with pytest.raises(ImageFileError, match="0 NaN, 0 infinite and 2 values beyond"):
        read_image(tmp_path / "b.tif")


def make_damaged() -> dict[str, bytes]:
    good = png(64, 64, 8, 0, data=RNG.bytes(64 * 65))
    loop = struct.pack("<IHHHIIHHIII", 8, 2, 256, 4, 1, 2**31, 257, 4, 1, 2**31, 8)
    return {
        "empty": b"",
        "text": b"hello\n",
        "html": b"<html></html>",
        "pickle": b"\x80\x04\x95",
        "half png": good[: len(good) // 2],
        "png of a signature": good[:8],
        "png without a header": good[:8] + chunk(b"IEND", b""),
        "png with a short header": good[:8] + chunk(b"IHDR", b"\0" * 9) + chunk(b"IEND", b""),
        "flipped": good.replace(b"IDAT\x78", b"IDAT\x87"),
        "bomb": png(30000, 30000, 8, 2),
        "larger bomb": png(2**31 - 1, 2**31 - 1, 8, 0),
        "no pixels": png(0, 0, 8, 0),
        "no such colour": png(1, 1, 8, 5, data=b"\0\0"),
        "text bomb": png(1, 1, 8, 0, data=b"\0\0", extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**7)))),
        "tiff in a circle": b"II*\0" + loop,
        "tiff beyond its end": b"II*\0" + struct.pack("<I", 9999),
    }


@pytest.mark.parametrize("name", make_damaged())
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x\n.png"
    path.write_bytes(make_damaged()[name])
    with pytest.raises(ImageFileError) as caught:
        read_image(path)
    (finding,) = caught.value.findings
    assert finding.file == path
    assert finding.found
    assert finding.rule
    assert finding.fix
    assert "\n" not in str(caught.value)


def test_truncated_files_never_give_pixels(tmp_path: Path) -> None:
    noise = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    options: dict[str, dict[str, Any]] = {"a.tif": {"tile": (16, 16)}, "b.tif": {"rowsperstrip": 4}}
    for name, how in options.items():
        tifffile.imwrite(tmp_path / name, noise, photometric="rgb", **how)
    save(tmp_path / "c.jpg", noise)
    save(tmp_path / "d.bmp", noise)
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(ImageFileError):
            read_image(path)


def test_a_png_that_was_cut_short_is_said_to_be(tmp_path: Path) -> None:
    good = make_damaged()["flipped"]
    for length in (8, 12, 20, 40, len(good) // 2, len(good) - 13):
        (tmp_path / "a.png").write_bytes(good[:length])
        with pytest.raises(ImageFileError, match=r"the file ends within a chunk, it was cut short"):
            read_image(tmp_path / "a.png")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.write(png(1, 1, 8, 0)[:20])
        file.truncate(10 * 2**30)
    for name, text in [("pipe.png", "not a regular"), ("dangling.png", "cannot be opened"), ("sparse.png", "damaged")]:
        with pytest.raises(ImageFileError, match=text):
            read_image(tmp_path / name)
    with pytest.raises(ImageFileError, match="a folder"):
        read_header(tmp_path)


@given(position=st.integers(0, 400), value=st.integers(0, 255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_a_changed_byte_gives_pixels_or_an_image_file_error(
    tmp_path: Path, suffix: str, position: int, value: int
) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path, RGB)
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(ImageFileError):
        assert read_image(path).ndim == 3
