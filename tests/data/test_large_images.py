"""One way to open every image: the choice by content, and small pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from PIL import Image
from windows_read import HEIGHT, WIDTH, assert_same, whole, windows_within

from pixelwise.data.images import read_image
from pixelwise.data.large_images import open_large
from pixelwise.data.large_source import check_segment, sizes_text
from pixelwise.errors import ImageFileError
from pixelwise.tiles import TileGrid, Window

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
PICTURES: dict[str, NDArray[Any]] = {
    "a.png": RGB,
    "b.jpg": RGB,
    "c.bmp": RGB,
    "d.webp": RGB,
    "grey.png": RGB[..., 0],
    "deep.png": RNG.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16),
    "bits.png": RGB[..., 0] > 128,
    "named.tif": RGB,
}


def save(folder: Path, name: str) -> Path:
    Image.fromarray(PICTURES[name]).save(folder / name, format="PNG" if name == "named.tif" else None)
    return folder / name


@pytest.mark.parametrize("name", PICTURES)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows_within())
def test_pictures_are_read_in_windows_too(tmp_path: Path, name: str, window: Window) -> None:
    path = tmp_path / name
    if not path.exists():
        save(tmp_path, name)
    with open_large(path) as image:
        assert_same(image, window, read_image(path))


def test_what_a_picture_says_of_itself(tmp_path: Path) -> None:
    path = save(tmp_path, "named.tif")
    with open_large(path) as image:
        assert image.describe() == "PNG, 93 x 75 pixels, 3 channels of uint8"
        assert image.levels == ((HEIGHT, WIDTH),)
        assert image.place is image.pixel_size is None
        first = image.identity
    path.rename(tmp_path / "other")
    os.utime(tmp_path / "other", ns=(0, 0))
    with open_large(tmp_path / "other") as image:
        assert image.identity == first  # of the content alone
    save(tmp_path, "grey.png")
    with open_large(tmp_path / "grey.png") as image:
        assert image.identity != first


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with open_large(tmp_path / "a.png") as image:
        assert image.shape == (WIDTH, HEIGHT)
        assert np.array_equal(whole(image), read_image(tmp_path / "a.png"))


def test_a_window_is_a_copy(tmp_path: Path) -> None:
    path = save(tmp_path, "a.png")
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", tile=(16, 16))
    for name in (path, tmp_path / "a.tif"):
        with open_large(name) as image:
            image.read(Window(0, 0, 9, 9))[:] = 0
            assert_same(image, Window(0, 0, 9, 9), RGB)


@pytest.mark.parametrize(("core", "halo"), [(16, 5), (40, 40), (100, 3)])
def test_tiles_with_halos_give_the_whole_image(tmp_path: Path, core: int, halo: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", tile=(32, 16), compression="deflate")
    built = np.zeros_like(RGB)
    with open_large(tmp_path / "a.tif") as image:
        for tile in TileGrid(image.shape, core).tiles(halo):
            pixels = image.read(tile.read)
            built[tile.write.slices] = pixels[tile.write.within(tile.read).slices]
    assert np.array_equal(built, RGB)


@pytest.mark.parametrize("choice", [{"level": 1}, {"level": -1}, {"page": 1}, {"page": -1}])
def test_a_picture_has_one_level_and_one_page(tmp_path: Path, choice: dict[str, int]) -> None:
    ((word, number),) = choice.items()
    with pytest.raises(ImageFileError, match=f"no {word} {number}"):
        open_large(save(tmp_path, "a.png"), **choice).__enter__()  # type: ignore[arg-type]
    with open_large(tmp_path / "a.png", level=0, page=0) as image:
        assert image.shape == (HEIGHT, WIDTH)


def test_what_cannot_be_an_image_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("hello")
    frames = [Image.fromarray(np.roll(RGB, shift)) for shift in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    for name, text in (
        ("pipe.tif", "not a regular file"),
        ("empty.tif", "the file is empty"),
        ("text.tif", "no known picture"),
        ("absent.tif", "cannot be opened"),
        ("moving.gif", "3 frames"),
    ):
        with pytest.raises(ImageFileError, match=text):
            open_large(tmp_path / name).__enter__()


def test_errors_of_the_caller_are_not_taken_for_damage(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB)
    for name in (tmp_path / "a.tif", save(tmp_path, "a.png")):
        with pytest.raises(KeyError, match="mine"), open_large(name):
            raise KeyError("mine")


def test_sizes_in_words_and_the_limit_of_a_segment() -> None:
    assert sizes_text([(1, 2)]) == "2 x 1"
    check_segment(Path("a"), "tiles", (2**14, 2**14, 1), "")
    with pytest.raises(ImageFileError, match="tiles of 16384 x 16384 x 2 values; rule: at most 268435456 values"):
        check_segment(Path("a"), "tiles", (2**14, 2**14, 2), "cut it")
