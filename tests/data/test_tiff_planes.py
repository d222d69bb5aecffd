"""Which pages of a TIFF are one image: channels, pyramids, stacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from windows_read import HEIGHT, WIDTH, assert_same, whole, windows_within

from pixelwise.data.images import read_image
from pixelwise.data.large_images import open_large
from pixelwise.data.tiff_planes import same_at
from pixelwise.errors import ImageFileError
from pixelwise.tiles import Window

RNG = np.random.default_rng(1)
PLANES = RNG.integers(0, 65536, (4, HEIGHT, WIDTH)).astype(np.uint16)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
TILES: dict[str, Any] = {"tile": (32, 16), "compression": "deflate"}


def write_pyramid(path: Path, pixels: NDArray[Any], *, inside: bool, flag: int, **options: Any) -> list[NDArray[Any]]:
    """Full size, a half and a quarter; in SubIFDs, or as pages that follow."""
    levels = [pixels, pixels[::2, ::2], pixels[::4, ::4]]
    with tifffile.TiffWriter(path, bigtiff=True, ome=False) as file:
        file.write(levels[0], subifds=2 if inside else None, **TILES, **options)
        for level in levels[1:]:
            file.write(level, subfiletype=flag, metadata=None, **TILES, **options)
    return levels


@pytest.mark.parametrize(("inside", "flag"), [(True, 1), (False, 1), (False, 0)])
def test_pyramids_are_recognised_in_all_their_forms(tmp_path: Path, inside: bool, flag: int) -> None:
    path = tmp_path / "a.tif"
    levels = write_pyramid(path, RGB, inside=inside, flag=flag, photometric="rgb")
    for level, expected_HWC in enumerate(levels):
        with open_large(path, level=level) as image:
            assert image.levels == ((75, 93), (38, 47), (19, 24))
            assert np.array_equal(whole(image), expected_HWC)
            assert f"level {level} of 0 to 2 (93 x 75, 47 x 38, 24 x 19)" in image.describe()
    for level in (3, -1):
        with pytest.raises(
            ImageFileError, match=rf"no level {level}; rule: levels 0 to 2 \(93 x 75, 47 x 38, 24 x 19 pixels\)"
        ):
            open_large(path, level=level).__enter__()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows_within(38, 47))
def test_windows_of_a_level(tmp_path: Path, window: Window) -> None:
    path = tmp_path / "a.tif"
    if not path.exists():
        write_pyramid(path, RGB, inside=True, flag=1, photometric="rgb")
    with open_large(path, level=1) as image:
        assert_same(image, window, RGB[::2, ::2])


def test_levels_are_in_the_order_of_their_size(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step in (1, 4, 2):
            file.write(RGB[::step, ::step], photometric="rgb", metadata=None, **TILES)
    with open_large(tmp_path / "a.tif") as image:
        assert image.levels == ((75, 93), (38, 47), (19, 24))


def test_what_a_scanner_adds_to_a_slide_is_no_level(tmp_path: Path) -> None:
    """As in a slide of Aperio: thumbnail, level, label and overview after the slide."""
    description = "Aperio Image Library v12\r\n93x75 |AppMag = 20|MPP = 0.4990|Left = 25"
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(RGB, photometric="rgb", metadata=None, description=description, **TILES)
        file.write(RGB[::5, ::5], photometric="rgb", metadata=None)
        file.write(RGB[::2, ::2], photometric="rgb", metadata=None, **TILES)
        file.write(RGB[:40, :20], photometric="rgb", metadata=None, subfiletype=1)
        file.write(RGB[:20, :60], photometric="rgb", metadata=None, subfiletype=9)
    with open_large(tmp_path / "a.svs") as image:
        assert image.levels == ((75, 93), (38, 47), (15, 19))
        assert image.pixel_size == (0.499, 0.499)
        assert np.array_equal(whole(image), RGB)
    with open_large(tmp_path / "a.svs", level=1) as image:
        assert image.pixel_size == pytest.approx((0.499 * 75 / 38, 0.499 * 93 / 47))


def test_masks_of_transparency_are_no_levels_and_no_pages(tmp_path: Path) -> None:
    """As in an optimised GeoTIFF of GDAL: overview, mask, overview of the mask."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step, flag in ((1, 0), (2, 1), (1, 4), (2, 5)):
            plane = PLANES[0][::step, ::step]
            plane = plane > 9 if flag & 4 else plane
            file.write(plane, subfiletype=flag, metadata=None, photometric="minisblack", **TILES)
    with open_large(tmp_path / "a.tif") as image:
        assert image.levels == ((75, 93), (38, 47))


@pytest.mark.parametrize("other", [PLANES[0], PLANES[0][:40], RGB[::2, ::2], PLANES[0, ::2, ::2].astype(np.uint32)])
def test_pages_that_are_not_the_first_in_small_need_a_choice(tmp_path: Path, other: NDArray[Any]) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(PLANES[0], photometric="minisblack", metadata=None)
        file.write(other, photometric="rgb" if other.ndim == 3 else "minisblack", metadata=None)
    with pytest.raises(ImageFileError, match="2 pages; rule: one flat image; fix: choose one page, 0 to 1"):
        open_large(path).__enter__()
    for page in (0, 1):
        with open_large(path, page=page) as image:
            assert np.array_equal(whole(image), read_image(path, page=page))
    for page in (2, -1):
        with pytest.raises(ImageFileError, match=f"no page {page}; rule: pages 0 to 1"):
            open_large(path, page=page).__enter__()


def test_a_chosen_page_has_the_overviews_that_follow_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for plane in PLANES[:2]:
            file.write(plane, metadata=None, **TILES)
            file.write(plane[::2, ::2], subfiletype=1, metadata=None, **TILES)
    for page in (0, 1):
        with open_large(path, page=page, level=1) as image:
            assert image.levels == ((75, 93), (38, 47))
            assert np.array_equal(whole(image)[..., 0], PLANES[page, ::2, ::2])


# -------------------------------------------------------------------------------------------------------- channels


def write_ome(path: Path, planes: NDArray[Any], axes: str, *, levels: int = 0, **metadata: Any) -> None:
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as file:
        options: dict[str, Any] = {"photometric": "minisblack", **TILES}
        file.write(planes, metadata={"axes": axes, **metadata}, subifds=levels or None, **options)
        for level in range(1, levels + 1):
            file.write(planes[..., :: 2**level, :: 2**level], subfiletype=1, **options)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows_within())
def test_channels_of_an_ome_tiff_are_joined(tmp_path: Path, window: Window) -> None:
    path = tmp_path / "a.ome.tif"
    if not path.exists():
        write_ome(path, PLANES, "CYX")
    with open_large(path) as image:
        assert_same(image, window, np.moveaxis(PLANES, 0, 2))


def test_a_pyramid_of_channels_and_the_size_of_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    size = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    write_ome(path, PLANES, "CYX", levels=2, **size)
    for level in range(3):
        with open_large(path, level=level) as image:
            assert image.levels == ((75, 93), (38, 47), (19, 24))
            assert np.array_equal(whole(image), np.moveaxis(PLANES, 0, 2)[:: 2**level, :: 2**level])
            height, width = image.shape
            assert image.pixel_size == pytest.approx((0.25 * 75 / height, 0.5 * 93 / width))


def test_an_ome_tiff_of_colours_is_one_page(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", RGB, photometric="rgb", metadata={"axes": "YXS"})
    with open_large(tmp_path / "a.ome.tif") as image:
        assert np.array_equal(whole(image), RGB)


@pytest.mark.parametrize(
    ("axes", "shape", "text"),
    [
        ("ZCYX", (2, 2), "an OME-TIFF of 2 sections, 1 times and 2 channels in 4 pages"),
        ("TYX", (4,), "an OME-TIFF of 1 sections, 4 times and 1 channels in 4 pages"),
    ],
)
def test_stacks_are_refused_unless_a_page_is_chosen(tmp_path: Path, axes: str, shape: tuple[int], text: str) -> None:
    path = tmp_path / "a.ome.tif"
    write_ome(path, PLANES.reshape(*shape, HEIGHT, WIDTH), axes)
    with pytest.raises(ImageFileError, match=f"{text}; .*choose one page, 0 to 3"):
        open_large(path).__enter__()
    for page in range(4):
        with open_large(path, page=page) as image:
            assert np.array_equal(whole(image)[..., 0], PLANES[page])


def test_several_images_in_one_ome_tiff_need_a_choice_but_for_those_of_a_scanner(tmp_path: Path) -> None:
    for name, refused in (("second", True), ("Label image", False), ("macro", False)):
        path = tmp_path / f"{name}.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as file:
            file.write(PLANES[:2], metadata={"axes": "CYX", "Name": "slide"}, photometric="minisblack")
            file.write(PLANES[2, :9, :9], metadata={"axes": "YX", "Name": name}, photometric="minisblack")
        if refused:
            with pytest.raises(ImageFileError, match="an OME-TIFF of 2 images in 3 pages"):
                open_large(path).__enter__()
        else:
            with open_large(path) as image:
                assert np.array_equal(whole(image), np.moveaxis(PLANES[:2], 0, 2))


def with_description(path: Path, text: str, planes: NDArray[Any]) -> Path:
    with tifffile.TiffWriter(path) as file:
        for index, plane in enumerate(planes):
            file.write(plane, description=text if index == 0 else None, metadata=None, photometric="minisblack")
    return path


def ome_xml(pixels: str, blocks: str, uuid: str = "urn:uuid:1") -> str:
    size = f'SizeX="{WIDTH}" SizeY="{HEIGHT}"'
    root = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}">'
    return f'{root}<Image ID="Image:0"><Pixels {size} {pixels}>{blocks}</Pixels></Image></OME>'


def test_the_channels_have_the_order_that_the_metadata_says(tmp_path: Path) -> None:
    blocks = "".join(f'<TiffData FirstC="{c}" IFD="{3 - c}" PlaneCount="1"/>' for c in range(4))
    path = with_description(tmp_path / "a.ome.tif", ome_xml('SizeC="4" SizeZ="1" SizeT="1"', blocks), PLANES)
    with open_large(path) as image:
        assert np.array_equal(whole(image), np.moveaxis(PLANES[::-1], 0, 2))


@pytest.mark.parametrize(
    ("pixels", "blocks", "text"),
    [
        ('SizeC="5"', "", "4 channels where the OME metadata announces 5"),
        ('SizeC="2"', '<TiffData FirstC="0" IFD="0"/><TiffData FirstC="1" IFD="7"/>', "there is no page 7"),
        ('SizeC="4"', '<TiffData IFD="0"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>', "some of them in other"),
        ('SizeC="four"', "", "damaged OME metadata"),
    ],
)
def test_channels_that_are_not_there_are_missed(tmp_path: Path, pixels: str, blocks: str, text: str) -> None:
    path = with_description(tmp_path / "a.ome.tif", ome_xml(pixels, blocks), PLANES)
    with pytest.raises(ImageFileError, match=text):
        open_large(path).__enter__()


def test_channels_of_other_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as file:
        text = ome_xml('SizeC="2"', '<TiffData IFD="0" PlaneCount="2"/>')
        file.write(PLANES[0], description=text, metadata=None)
        file.write(PLANES[1, :40], metadata=None)
    with pytest.raises(ImageFileError, match="channels of 93 x 75 and 93 x 40 pixels; rule: all channels have one"):
        open_large(path).__enter__()


def test_channels_of_imagej_are_joined_and_its_stacks_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES, imagej=True, metadata={"axes": "CYX", "unit": "um"}, resolution=(4, 2))
    with open_large(path) as image:
        assert np.array_equal(whole(image), np.moveaxis(PLANES, 0, 2))
        assert image.pixel_size == (0.5, 0.25)
    tifffile.imwrite(path, PLANES, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(ImageFileError, match=r"4 pages; .*choose one page, 0 to 3"):
        open_large(path).__enter__()


# -------------------------------------------------------------------------------------------------------- the factor


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(1.5, 64), st.sampled_from([np.floor, np.ceil, np.round]))
def test_a_smaller_copy_has_one_factor_however_it_is_rounded(height: int, width: int, factor: float, way: Any) -> None:
    sides = [(side, max(1, int(way(side / factor)))) for side in (height, width)]
    ranges = [same_at(*side) for side in sides]
    if all(side / factor >= 1 for side in (height, width)):
        assert all(low <= factor <= high for low, high in ranges)


def test_other_shapes_have_no_common_factor() -> None:
    (low, high), (low2, high2) = same_at(1000, 500), same_at(1000, 250)
    assert max(low, low2) > min(high, high2)
