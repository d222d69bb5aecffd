"""How a picture is kept in its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pixelwise.data.file_form import FileForm, read_alpha, read_cmyk, read_form
from pixelwise.data.images import SIGNATURES, read_image
from pixelwise.data.stored import upright

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".bmp", ".webp", ".ppm"])
def test_the_content_says_the_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PIXELS).save(path)
    form = read_form(path)
    assert form.fits_name(path)
    assert form.fits_name(path.with_suffix(suffix.upper()))
    assert not form.fits_name(path.with_suffix(".xyz"))
    assert (form.alpha, form.cmyk, form.orientation) == (False, False, 1)
    assert form.kind in {*SIGNATURES.values(), "WEBP"}


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0", b"RIFF"]
)
def test_damaged_files_raise_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert not read_form(tmp_path / "a.png").cmyk
    assert read_alpha(tmp_path / "a.png") is None
    assert read_cmyk(tmp_path / "a.png") is None


def test_a_folder_and_an_unknown_content_fit_any_name(tmp_path: Path) -> None:
    assert read_form(tmp_path) == FileForm()
    assert FileForm().fits_name(Path("a.png"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 9])
def test_orientations(suffix: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PIXELS).save(path, exif=exif)
    assert read_form(path).orientation == (1 if orientation == 9 else orientation)


def test_alpha_is_found_and_read_upright(tmp_path: Path) -> None:
    alpha = np.array([[0, 9, 99], [1, 2, 3]], np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.png"
    Image.fromarray(np.dstack([PIXELS, alpha])).save(path, exif=exif)
    assert read_form(path).alpha
    read = read_alpha(path)
    assert read is not None
    assert np.array_equal(read, upright(alpha[..., None], 6)[..., 0])
    assert read.shape == read_image(path).shape[:2]
    Image.fromarray(PIXELS).save(path)
    assert not read_form(path).alpha
    assert read_alpha(path) is None


def test_alpha_of_a_tiff_page(tmp_path: Path) -> None:
    pixels = np.dstack([PIXELS, PIXELS[..., :1]])
    for kind, expected in (("unassalpha", True), ("unspecified", False)):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[kind])
        assert read_form(tmp_path / "a.tif").alpha == expected


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_colours_of_a_printer(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("CMYK", (4, 2), (0, 255, 255, 0)).save(path)
    assert read_form(path).cmyk
    pixels = read_cmyk(path)
    assert pixels is not None
    assert pixels.shape == (2, 4, 3)
    assert pixels[0, 0, 0] > 200 > 50 > pixels[0, 0, 1]
    Image.new("RGB", (4, 2)).save(path)
    assert read_cmyk(path) is None
