"""Where on the earth an image lies: the tags of a GeoTIFF, kept as they are so that a result can carry them too.

OGC GeoTIFF Standard 1.1 (OGC 19-008r4): the tags and keys; annex B, the transformation. GDAL_NODATA is GDAL's own tag.
Nothing but the tags is read: a world file or an .aux.xml beside the image is not.

H rows, W columns, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPage

PIXEL_SCALE, TIE_POINTS, TRANSFORMATION = 33550, 33922, 34264
KEY_DIRECTORY, DOUBLE_PARAMETERS, TEXT_PARAMETERS = 34735, 34736, 34737
NODATA_TAG = 42113
RASTER_TYPE, PIXEL_IS_POINT = 1025, 2
CODES = (3072, 2048)  # of a projected, and of a geographic coordinate reference system
CITATIONS = (3073, 1026, 2049)  # of the projected system, of the whole, of the geographic system
USER_DEFINED = 32767
SHORT, DOUBLE, ASCII = 3, 12, 2  # types of values in TIFF
TYPES = {
    PIXEL_SCALE: DOUBLE,
    TIE_POINTS: DOUBLE,
    TRANSFORMATION: DOUBLE,
    KEY_DIRECTORY: SHORT,
    DOUBLE_PARAMETERS: DOUBLE,
    TEXT_PARAMETERS: ASCII,
}

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class GeoTag:
    """One tag of a GeoTIFF: its code, the TIFF type of its values, and the values (numbers, or one text)."""

    code: int
    dtype: int
    value: tuple[int, ...] | tuple[float, ...] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class GeoReference:
    """Where an image lies, by the tags of its file.

    tags    those of the GeoTIFF standard, in the order of their codes; none where only `nodata` is known
    nodata  the value of pixels where nothing was measured, as the image is read; NaN is possible; None: there is none

    >>> tags = (GeoTag(PIXEL_SCALE, DOUBLE, (0.5, 0.5, 0.0)), GeoTag(TIE_POINTS, DOUBLE, (0, 0, 0, 600.0, 5000.0, 0)),
    ...         GeoTag(KEY_DIRECTORY, SHORT, (1, 1, 0, 1, 3072, 0, 1, 32633)))
    >>> print(GeoReference(tags=tags))
    EPSG:32633 from (600.0, 5000.0), a pixel 0.5 x 0.5
    """

    tags: tuple[GeoTag, ...] = ()
    nodata: float | None = None

    @property
    def crs(self) -> str:
        """The coordinate reference system: `EPSG:` and its code, else what the file calls it, else nothing."""
        keys = self._keys()
        code = next((keys[key] for key in CODES if isinstance(keys.get(key), int)), USER_DEFINED)
        named = next((str(keys[key]) for key in CITATIONS if isinstance(keys.get(key), str)), "")
        return named if code in (0, USER_DEFINED) else f"EPSG:{code}"

    @property
    def transform(self) -> Transform | None:
        """(a, b, c, d, e, f): x = a column + b row + c and y = d column + e row + f; row and column 0 at the corner.

        None where the file gives none, or several points for a rubber sheet.
        """
        found = self._of_matrix() or self._of_scale()
        if found is None or self._keys().get(RASTER_TYPE) != PIXEL_IS_POINT:
            return found
        a, b, c, d, e, f = found
        return a, b, c - (a + b) / 2, d, e, f - (d + e) / 2

    def at_level(self, rows: float, columns: float) -> GeoReference:
        """The place of the same image with fewer pixels: each is `rows` high and `columns` wide in pixels of before."""
        from_middle = 0.5 if self._keys().get(RASTER_TYPE) == PIXEL_IS_POINT else 0.0
        return replace(self, tags=tuple(_scaled(tag, rows, columns, from_middle) for tag in self.tags))

    def extra_tags(self, nodata: float | None = None) -> list[tuple[int, int, int, Any, bool]]:
        """The tags for `extratags` of tifffile, for a file of the same size; with the result's own `nodata` value."""
        tags = [
            (tag.code, tag.dtype, 0 if tag.dtype == ASCII else len(tag.value), tag.value, True) for tag in self.tags
        ]
        return tags if nodata is None else [*tags, (NODATA_TAG, ASCII, 0, f"{nodata:.17g}", True)]

    def void(self, image_HWC: NDArray[Any]) -> NDArray[np.bool_]:
        """Where (H, W) nothing was measured: every channel has the nodata value; any channel, where that is NaN."""
        if self.nodata is None:
            return np.zeros(image_HWC.shape[:2], np.bool_)
        if np.isnan(self.nodata):
            return np.asarray(np.isnan(image_HWC).any(axis=2))
        return np.asarray((image_HWC == self.nodata).all(axis=2))

    def __str__(self) -> str:
        parts = [self.crs or ("unnamed coordinates" if self.tags else "")]
        if (transform := self.transform) is not None:
            a, b, c, d, e, f = transform
            parts.append(f"from ({c}, {f}), a pixel {np.hypot(a, d):.10g} x {np.hypot(b, e):.10g}")
        nodata = [] if self.nodata is None else [f"nodata {self.nodata:.10g}"]
        return ", ".join([*filter(None, [" ".join(filter(None, parts))]), *nodata])

    def _value(self, code: int) -> Any:
        return next((tag.value for tag in self.tags if tag.code == code), ())

    def _keys(self) -> dict[int, int | str]:
        """The GeoKeys that are a short number or a text."""
        directory, texts = self._value(KEY_DIRECTORY), str(self._value(TEXT_PARAMETERS) or "")
        keys: dict[int, int | str] = {}
        for key, where, count, value in zip(*(directory[first::4] for first in range(4, 8)), strict=False):
            if where == 0:
                keys[key] = value
            elif where == TEXT_PARAMETERS:
                keys[key] = texts[value : value + count].rstrip("|\0 ")
        return keys

    def _of_matrix(self) -> Transform | None:
        matrix = self._value(TRANSFORMATION)
        if len(matrix) != 16:
            return None
        a, b, _, c, d, e, _, f = matrix[:8]
        return a, b, c, d, e, f

    def _of_scale(self) -> Transform | None:
        scale, points = self._value(PIXEL_SCALE), self._value(TIE_POINTS)
        if len(scale) < 2 or len(points) != 6:
            return None
        column, row, _, x, y, _ = points
        return scale[0], 0.0, x - column * scale[0], 0.0, -scale[1], y + row * scale[1]


def read_georeference(page: TiffPage) -> GeoReference | None:
    """The place of a page and its nodata value as stored; None where its tags say nothing of either.

    A tag whose values are not those of the standard in type and number is as good as absent.
    """
    read = (_read_tag(page, code) for code in TYPES)
    tags = tuple(tag for tag in read if tag is not None)
    try:
        nodata = float(str(page.tags.valueof(NODATA_TAG)).strip("\0 "))
    except ValueError:
        nodata = None
    return GeoReference(tags=tags, nodata=nodata) if tags or nodata is not None else None


def _read_tag(page: TiffPage, code: int) -> GeoTag | None:
    found = page.tags.valueof(code)
    if TYPES[code] == ASCII:
        return GeoTag(code, ASCII, found) if isinstance(found, str) else None
    try:
        values = np.atleast_1d(np.asarray(found, np.float64)).tolist()
    except (ValueError, TypeError):
        return None
    if TYPES[code] == SHORT:
        whole = tuple(int(value) for value in values if 0 <= value < 2**16)
        return GeoTag(code, SHORT, whole) if len(whole) == len(values) >= 4 else None
    counts = {PIXEL_SCALE: len(values) in (2, 3), TIE_POINTS: len(values) % 6 == 0, TRANSFORMATION: len(values) == 16}
    return GeoTag(code, DOUBLE, tuple(values)) if counts.get(code, True) and np.isfinite(values).all() else None


def _scaled(tag: GeoTag, rows: float, columns: float, middle: float) -> GeoTag:
    """A tag for an image whose pixels are `rows` times as high; `middle` is where in a pixel its number stands."""
    if tag.code not in (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION):
        return tag
    values = np.array(tag.value, np.float64)
    if tag.code == PIXEL_SCALE:
        values[:2] *= (columns, rows)
    elif tag.code == TIE_POINTS:
        points = values.reshape(-1, 6)
        points[:, :2] = (points[:, :2] + middle) / (columns, rows) - middle
    else:
        larger = np.diag([columns, rows, 1.0, 1.0])
        larger[:2, 3] = (columns - 1) * middle, (rows - 1) * middle
        values = values.reshape(4, 4) @ larger
    return replace(tag, value=tuple(values.ravel().tolist()))
