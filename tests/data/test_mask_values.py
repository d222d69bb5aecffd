"""Codes of masks that training refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pixelwise.data.layouts import Source
from pixelwise.data.mask_counts import count_mask
from pixelwise.data.mask_values import in_colours, read_values, solid_pixels
from pixelwise.errors import ImageFileError

MASK = np.array([[0, 1, 1], [0, 2, 2]], np.uint8)


def save(path: Path, values: np.ndarray, **options: object) -> list[Source]:
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="minisblack")
    else:
        Image.fromarray(values).save(path, **options)
    return [Source(path)]


def test_plain_masks_are_read_as_by_training(tmp_path: Path) -> None:
    for name, pixels in (("grey", MASK), ("rgb", np.dstack([MASK * 9, MASK, MASK]))):
        sources = save(tmp_path / f"{name}.png", pixels)
        values, count = read_values(sources, "auto"), count_mask(sources, "auto")
        codes, pixels_per_code = np.unique(values.codes_HW, return_counts=True)
        assert dict(zip(codes.tolist(), pixels_per_code.tolist(), strict=True)) == count.counts
        assert (values.colours, values.palette, values.dtype) == (count.colours, count.palette, count.dtype)
        assert values.quirk == ""
        assert values.refused is None


def test_a_palette_is_kept_and_shared(tmp_path: Path) -> None:
    picture = Image.fromarray(MASK)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    for name in ("a", "b"):
        picture.save(tmp_path / f"{name}.png")
    first, second = (read_values([Source(tmp_path / f"{name}.png")], "auto") for name in ("a", "b"))
    assert first.palette[:3] == ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    assert first.palette is second.palette
    assert np.array_equal(first.codes_HW, MASK)


@pytest.mark.parametrize(
    ("stored", "codes"),
    [
        (MASK / 255, MASK),
        ((MASK > 0) * 0.996, (MASK > 0) * 254),
        (MASK + 0.25, MASK),
        (MASK - 0.25, MASK),
        (MASK * 100.5, np.rint(MASK * 100.5)),
    ],
)
def test_fractions_are_shares_of_255_or_rounded(stored: np.ndarray, codes: np.ndarray, tmp_path: Path) -> None:
    values = read_values(save(tmp_path / "a.tif", stored.astype(np.float32)), "auto")
    assert values.quirk == "fractions"
    assert np.array_equal(values.codes_HW, codes)
    assert values.refused is not None
    assert "no whole numbers" in values.refused.found
    with pytest.raises(ImageFileError, match="no whole numbers"):
        count_mask([Source(tmp_path / "a.tif")], "auto")


def test_whole_floats_are_no_fractions_and_nan_is_refused(tmp_path: Path) -> None:
    assert read_values(save(tmp_path / "a.tif", MASK.astype(np.float32)), "auto").quirk == ""
    broken = MASK.astype(np.float32)
    broken[0, 0] = np.nan
    with pytest.raises(ImageFileError, match="no whole numbers"):
        read_values(save(tmp_path / "b.tif", broken), "auto")


def test_a_mask_in_the_alpha_channel(tmp_path: Path) -> None:
    black = np.zeros((2, 3, 3), np.uint8)
    values = read_values(save(tmp_path / "a.png", np.dstack([black, MASK * 100])), "auto")
    assert values.quirk == "alpha"
    assert np.array_equal(values.codes_HW, MASK * 100)
    # Alpha that says nothing, or colours that do: the colours count.
    opaque = read_values(save(tmp_path / "b.png", np.dstack([black, MASK * 0 + 255])), "auto")
    coloured = read_values(save(tmp_path / "c.png", np.dstack([MASK, MASK, MASK, MASK * 100])), "auto")
    assert (opaque.quirk, coloured.quirk) == ("", "")
    assert np.array_equal(coloured.codes_HW, MASK)


def test_nearly_grey_jpeg_is_grey_and_png_is_not(tmp_path: Path) -> None:
    rgb = np.full((16, 16, 3), 100, np.uint8)
    rgb[..., 2] = 103
    assert read_values(save(tmp_path / "a.png", rgb), "auto").colours
    values = read_values(save(tmp_path / "a.jpg", rgb, quality=100), "auto")
    assert values.quirk == "nearly grey"
    assert abs(int(values.codes_HW[0, 0]) - 100) < 3
    assert read_values([Source(tmp_path / "a.jpg")], "colours").colours


def test_several_files_are_one_object_each(tmp_path: Path) -> None:
    sources = save(tmp_path / "1.png", (MASK == 1) * np.uint8(255)) + save(
        tmp_path / "2.png", (MASK == 2) * np.uint8(9)
    )
    assert np.array_equal(read_values(sources, "auto").codes_HW, MASK > 0)


def test_indices_greys_and_void_as_colours() -> None:
    assert in_colours(np.array([1, 0]), [(1, 2, 3), (4, 5, 6)]).tolist() == [0x040506, 0x010203]
    assert in_colours(np.array([0, 255, -1]), ()).tolist() == [0, 0xFFFFFF, -1]


@given(arrays(np.int64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 2)))
def test_solid_pixels_have_four_equal_neighbours(codes: np.ndarray) -> None:
    solid = solid_pixels(codes)
    for (y, x), value in np.ndenumerate(codes):
        inside = 0 < y < codes.shape[0] - 1 and 0 < x < codes.shape[1] - 1
        near = [codes[y - 1, x], codes[y + 1, x], codes[y, x - 1], codes[y, x + 1]] if inside else [None]
        assert solid[y, x] == all(other == value for other in near)
