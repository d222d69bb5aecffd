"""The place of an image on the earth: what rasterio says of the same file is the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from windows_read import whole

from pixelwise.data.georeference import (
    ASCII,
    DOUBLE,
    KEY_DIRECTORY,
    PIXEL_SCALE,
    SHORT,
    TEXT_PARAMETERS,
    TIE_POINTS,
    TRANSFORMATION,
    GeoReference,
    GeoTag,
)
from pixelwise.data.large_images import open_large
from pixelwise.errors import ImageFileError
from pixelwise.tiles import Window

RNG = np.random.default_rng(3)
BANDS = RNG.integers(1, 255, (3, 40, 60), np.uint8)
AFFINES = {
    "north-up": (0.5, 0.0, 412_345.5, 0.0, -0.25, 5_312_000.25),
    "turned": (0.4, 0.3, 1000.0, 0.3, -0.4, 2000.0),
}


def write_geotiff(path: Path, affine: str = "north-up", **options: Any) -> Path:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "count": 3, "height": 40, "width": 60, "dtype": "uint8", "tiled": True}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(*AFFINES[affine]), "blockxsize": 16, "blockysize": 16}
    bands = options.pop("bands", BANDS)
    with rasterio.open(path, "w", **{**profile, "count": len(bands), "dtype": bands.dtype, **place, **options}) as file:
        file.write(bands)
    return path


def rewritten(path: Path, place: GeoReference, shape: tuple[int, int], nodata: float | None = None) -> Any:
    """What rasterio reads in a file that got the tags of a place."""
    rasterio = pytest.importorskip("rasterio")
    tags = place.extra_tags(nodata)
    tifffile.imwrite(path, np.zeros(shape, np.uint8), tile=(16, 16), extratags=tags, metadata=None)
    with rasterio.open(path) as file:
        return file.crs, tuple(file.transform)[:6], file.nodata, file.gcps, file.tags()


@pytest.mark.parametrize("point", ["AREA", "POINT"])
@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "+proj=laea +lat_0=45 +lon_0=9 +datum=WGS84 +units=m"])
def test_what_is_written_back_is_what_was_read(tmp_path: Path, affine: str, point: str, crs: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", affine, crs=crs)
    with rasterio.open(path, "r+") as file:
        file.update_tags(AREA_OR_POINT=point.title())
    with rasterio.open(path) as file:
        expected_crs, expected = file.crs, tuple(file.transform)[:6]
    with open_large(path) as image:
        place = image.place
        assert np.array_equal(whole(image), np.moveaxis(BANDS, 0, 2))
    assert place is not None
    assert place.transform == pytest.approx(expected, rel=1e-12)
    found_crs, transform, nodata, _, tags = rewritten(tmp_path / "b.tif", place, (40, 60), nodata=255)
    assert found_crs == expected_crs
    assert transform == pytest.approx(expected, rel=1e-12)
    assert nodata == 255
    assert tags["AREA_OR_POINT"] == point.title()
    assert place.crs == (crs if crs.startswith("EPSG") else "unknown")


@pytest.mark.parametrize("point", ["AREA", "POINT"])
@pytest.mark.parametrize("affine", AFFINES)
def test_overviews_have_the_corners_of_the_image(tmp_path: Path, affine: str, point: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", affine)
    with rasterio.open(path, "r+") as file:
        file.update_tags(AREA_OR_POINT=point.title())
        file.build_overviews([4], rasterio.enums.Resampling.nearest)
    with open_large(path) as image, open_large(path, level=1) as small:
        assert small.shape == (10, 15)
        assert small.levels == image.levels == ((40, 60), (10, 15))
        assert image.place is not None
        full, place = image.place.transform, small.place
    assert full is not None
    assert place is not None
    a, b, c, d, e, f = full
    expected = (4 * a, 4 * b, c, 4 * d, 4 * e, f)
    assert place.transform == pytest.approx(expected, rel=1e-12)
    assert rewritten(tmp_path / "b.tif", place, (10, 15))[1] == pytest.approx(expected, rel=1e-12)


def test_points_of_a_rubber_sheet_are_kept(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    corners = [(0.0, 0.0, 10.0, 50.0), (0.0, 60.0, 11.0, 50.0), (40.0, 0.0, 10.0, 49.0), (40.0, 60.0, 11.25, 49.5)]
    points = [rasterio.control.GroundControlPoint(*corner) for corner in corners]
    path = write_geotiff(tmp_path / "a.tif", transform=None, gcps=points, crs="EPSG:4326")
    with open_large(path) as image:
        place = image.place
    assert place is not None
    assert place.transform is None
    found, crs = rewritten(tmp_path / "b.tif", place, (40, 60))[3]
    assert [(p.row, p.col, p.x, p.y) for p in found] == corners
    assert crs.to_epsg() == 4326
    small = rewritten(tmp_path / "c.tif", place.at_level(4, 2), (10, 30))[3][0]
    assert [(p.row, p.col, p.x, p.y) for p in small] == [(row / 4, col / 2, x, y) for row, col, x, y in corners]


def test_the_words_for_a_person(tmp_path: Path) -> None:
    with open_large(write_geotiff(tmp_path / "a.tif", nodata=7)) as image:
        text = "EPSG:32633 from (412345.5, 5312000.25), a pixel 0.5 x 0.25, nodata 7"
        assert image.describe() == f"TIFF, 60 x 40 pixels, 3 channels of uint8, tiles of 16 x 16, {text}"
    assert str(GeoReference(nodata=float("nan"))) == "nodata nan"
    assert str(GeoReference(tags=(GeoTag(PIXEL_SCALE, DOUBLE, (1.0, 1.0, 0.0)),))) == "unnamed coordinates"


# ------------------------------------------------------------------------------------------------------------ nodata


def test_nodata_is_told_and_no_pixel_is_changed(tmp_path: Path) -> None:
    bands = BANDS.copy()
    bands[:, 5:9, 6:8] = 7
    bands[0, 20, 20] = 7  # of one channel only
    rasterio = pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", bands=bands, nodata=7)
    with rasterio.open(path) as file:
        expected = file.dataset_mask() == 0
    with open_large(path) as image:
        pixels, place = whole(image), image.place
    assert place is not None
    assert place.nodata == 7
    assert np.array_equal(pixels, np.moveaxis(bands, 0, 2))
    assert np.array_equal(place.void(pixels), expected)
    assert expected[5:9, 6:8].all()
    assert not expected[20, 20]


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        (np.float32, -9999.0, -9999.0),
        (np.float32, -3.4028234663852886e38, -3.4028234663852886e38),
        (np.float64, -9999.1, float(np.float32(-9999.1))),
        (np.int16, -32768, -32768.0),
        (np.uint16, 65535, 65535.0),
        (np.uint8, 255, 255.0),
    ],
)
def test_nodata_as_the_image_is_read(tmp_path: Path, dtype: type, nodata: float, expected: float) -> None:
    bands = np.full((1, 40, 60), 3, dtype)
    bands[0, 1, 2:4] = nodata
    with open_large(write_geotiff(tmp_path / "a.tif", bands=bands, nodata=nodata)) as image:
        assert image.place is not None
        assert image.place.nodata == expected
        void = image.place.void(whole(image))
    assert np.argwhere(void).tolist() == [[1, 2], [1, 3]]


@pytest.mark.parametrize(
    ("text", "pixels", "expected"),
    [
        ("-9999", np.zeros((2, 2), np.uint8), None),
        ("0.5", np.zeros((2, 2), np.uint8), None),
        ("nan", np.zeros((2, 2), np.uint8), None),
        ("1", np.eye(2, dtype=bool), 255.0),
        ("-1.7976931348623157e+308", np.zeros((2, 2)), None),
    ],
)
def test_nodata_that_no_pixel_can_have_is_none(
    tmp_path: Path, text: str, pixels: NDArray[Any], expected: float | None
) -> None:
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pixels, extratags=[(42113, 2, 0, text, True)], **options)
    with open_large(tmp_path / "a.tif") as image:
        assert image.place is not None
        assert image.place.nodata == expected
        assert image.place.tags == ()
        assert not image.place.void(np.full((2, 2, 1), 9.0)).any()


def test_nodata_of_a_palette_is_an_index_and_no_colour(tmp_path: Path) -> None:
    colours = RNG.integers(0, 65536, (3, 256), np.uint16)
    options: dict[str, Any] = {"photometric": "palette", "colormap": colours, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", BANDS[0], extratags=[(42113, 2, 0, "0", True)], **options)
    with open_large(tmp_path / "a.tif") as image:
        assert image.place is not None
        assert image.place.nodata is None


def test_nan_is_read_where_it_is_declared_and_infinity_never(tmp_path: Path) -> None:
    bands = RNG.normal(size=(2, 40, 60)).astype(np.float32)
    bands[0, 3, 4] = np.nan
    path = write_geotiff(tmp_path / "a.tif", bands=bands, nodata=np.nan)
    with open_large(path) as image:
        pixels = whole(image)
        assert np.array_equal(pixels, np.moveaxis(bands, 0, 2), equal_nan=True)
        assert image.place is not None
        assert np.argwhere(image.place.void(pixels)).tolist() == [[3, 4]]
    bands[1, 9, 9] = np.inf
    with open_large(write_geotiff(tmp_path / "b.tif", bands=bands, nodata=np.nan)) as image:
        with pytest.raises(ImageFileError, match="0 NaN, 1 infinite"):
            image.read(Window(9, 0, 10, 60))
        assert np.isnan(image.read(Window(3, 4, 4, 5))).sum() == 1


def test_tiles_that_gdal_left_out_are_not_read_as_zeros(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "a.tif", bands=np.zeros((3, 40, 60), np.uint8), nodata=0, SPARSE_OK=True)
    with pytest.raises(ImageFileError, match="strips or tiles are missing"):
        open_large(path).__enter__()


# ---------------------------------------------------------------------------------------------------------- bad tags


@pytest.mark.parametrize(
    "tag",
    [
        (PIXEL_SCALE, SHORT, 1, 5),
        (PIXEL_SCALE, DOUBLE, 3, (np.nan, 1.0, 0.0)),
        (TIE_POINTS, DOUBLE, 5, (1.0,) * 5),
        (TRANSFORMATION, DOUBLE, 15, (1.0,) * 15),
        (KEY_DIRECTORY, SHORT, 3, (1, 1, 0)),
        (KEY_DIRECTORY, 4, 4, (1, 1, 2**20, 1)),
        (TEXT_PARAMETERS, SHORT, 2, (1, 2)),
    ],
)
def test_a_tag_that_breaks_the_standard_is_as_good_as_absent(tmp_path: Path, tag: tuple[Any, ...]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", BANDS[0], extratags=[(*tag, True)], metadata=None)
    with open_large(tmp_path / "a.tif") as image:
        assert image.place is None
        assert np.array_equal(whole(image)[..., 0], BANDS[0])


def test_keys_that_point_nowhere_name_nothing() -> None:
    directory = (1, 1, 0, 3, 1026, TEXT_PARAMETERS, 90, 50, 3072, 0, 1, 32767, 1025, 0)
    place = GeoReference(tags=(GeoTag(KEY_DIRECTORY, SHORT, directory), GeoTag(TEXT_PARAMETERS, ASCII, "short|")))
    assert place.crs == ""
    assert place.transform is None
    assert str(place) == "unnamed coordinates"


def test_an_image_without_tags_has_no_place(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", BANDS[0])
    with open_large(tmp_path / "a.tif") as image:
        assert image.place is None
