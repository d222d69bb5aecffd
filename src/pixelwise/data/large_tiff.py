"""TIFF images of any size, window by window: tiled or in strips, BigTIFF, pyramids, OME-TIFF, GeoTIFF.

Values are those of `read_image`: palettes become colours, few bits are stretched, no band is dropped. Memory is that of
the window, of one tile or strip, and of a few that neighbouring windows share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from pixelwise.data.georeference import GeoReference, read_georeference
from pixelwise.data.images import decoding
from pixelwise.data.large_source import (
    LargeImage,
    RecentSegments,
    Values,
    check_level,
    check_window,
    description,
    place_of,
)
from pixelwise.data.pixel_size import PixelSize
from pixelwise.data.stored import refusal
from pixelwise.data.tiff_chain import subfile_types
from pixelwise.data.tiff_files import counts_from_white, page_header, page_orientation, page_palette
from pixelwise.data.tiff_planes import TiffImage, find_planes
from pixelwise.data.tiff_segments import PagePixels
from pixelwise.tiles import Window

LONGEST_TAG = 4096


@contextmanager
def open_large_tiff(path: Path, *, level: int = 0, page: int | None = None) -> Iterator[LargeImage]:
    """Open an image in a TIFF, of any size; raises ImageFileError for what `pixelwise.data.tiff_planes` refuses.

    Its identity is made of the tags of its pages, the places and lengths of its tiles, and size and time of the file:
    it does not notice pixels that were changed and leave all of these as they were.
    """
    with ExitStack() as stack:
        with decoding(path, "TIFF"):
            kinds = subfile_types(path)
            file = stack.enter_context(TiffFile(path))
            descriptor = stack.enter_context(path.open("rb", buffering=0)).fileno()
            image = _open(path, file, descriptor, find_planes(path, file, kinds, page), level)
        yield image


def _open(path: Path, file: TiffFile, descriptor: int, found: TiffImage, level: int) -> _LargeTiff:
    levels = tuple(planes[0].shaped[2:4] for planes in found.levels)
    check_level(path, level, levels)
    planes: tuple[TiffPage, ...] = found.levels[level]
    for page in planes:
        _check_plane(path, page, planes[0])
    values = Values(
        path=path,
        dtype=np.dtype(planes[0].dtype),
        bits=int(planes[0].bitspersample),
        palette=page_palette(planes[0]),
        white_first=counts_from_white(file, planes[0]),
    )
    recent = RecentSegments()
    place = read_georeference(found.levels[0][0])
    return _LargeTiff(
        level=level,
        levels=levels,
        planes=tuple(PagePixels(path, descriptor, page, recent) for page in planes),
        values=replace(
            values, keeps_nan=place is not None and place.nodata is not None and bool(np.isnan(place.nodata))
        ),
        full_pixel_size=found.pixel_size,
        full_place=place,
    )


def _check_plane(path: Path, page: TiffPage, first: TiffPage) -> None:
    """Refuse a page that is no flat, upright image, or is not like the first of its image."""
    page_header(path, page, 1)
    if page_orientation(page) != 1:
        found = f"orientation {page_orientation(page)}"
        fix = "save the image turned upright, for example with: magick IN -auto-orient OUT"
        raise refusal(path, found=found, rule="a large image is stored upright", fix=fix)
    if 0 in page.shaped:
        raise refusal(path, found="an image without a pixel", rule="at least one pixel", fix="save the image again")
    if (page.shaped[2:4], page.dtype, page.photometric) != (first.shaped[2:4], first.dtype, first.photometric):
        found = f"channels of {first.shaped[3]} x {first.shaped[2]} and {page.shaped[3]} x {page.shaped[2]} pixels"
        rule = "all channels have one size and one type"
        raise refusal(path, found=found, rule=rule, fix="choose one page, or save the channels alike")


@dataclass(frozen=True)
class _LargeTiff:
    level: int
    levels: tuple[tuple[int, int], ...]
    planes: tuple[PagePixels, ...]
    values: Values
    full_pixel_size: PixelSize | None
    full_place: GeoReference | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.levels[self.level]

    @property
    def channels(self) -> int:
        return self._form[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._form[1]

    @cached_property
    def _form(self) -> tuple[int, np.dtype[Any]]:
        return self.values.form(sum(plane.page.shaped[0] * plane.page.shaped[4] for plane in self.planes))

    @property
    def pixel_size(self) -> PixelSize | None:
        if self.full_pixel_size is None:
            return None
        rows, columns = self._factors
        return self.full_pixel_size[0] * rows, self.full_pixel_size[1] * columns

    @cached_property
    def place(self) -> GeoReference | None:
        if self.full_place is None:
            return None
        place = self.full_place if self.level == 0 else self.full_place.at_level(*self._factors)
        return replace(place, nodata=self.values.nodata(place.nodata))

    @property
    def _factors(self) -> tuple[float, float]:
        return self.levels[0][0] / self.shape[0], self.levels[0][1] / self.shape[1]

    @cached_property
    def identity(self) -> str:
        file = self.values.path.stat()
        name = hashlib.sha256(repr((file.st_size, file.st_mtime_ns, self.level)).encode())
        for plane in self.planes:
            name.update(repr((plane.page.shaped, [_told(tag) for tag in plane.page.tags])).encode())
            name.update(np.asarray((plane.page.dataoffsets, plane.page.databytecounts), np.int64).tobytes())
        return name.hexdigest()[:16]

    def read(self, window: Window) -> NDArray[Any]:
        """The pixels (h, w, C) of a window."""
        check_window(window, self.shape, self.channels)
        parts = [plane.read(window) for plane in self.planes]
        stored_HWC = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        return self.values.image(stored_HWC, f" in {place_of(window)}")

    def describe(self) -> str:
        """One line for a person."""
        height, width = self.planes[0].segment
        return description("TIFF", self, self.level, f"{self.planes[0].kind}s of {width} x {height}")


def _told(tag: Any) -> tuple[int, int, Any]:
    """A tag as far as it says what an image is; the tables of tiles are told apart."""
    return int(tag.code), int(tag.count), tag.value if tag.count <= LONGEST_TAG else None
