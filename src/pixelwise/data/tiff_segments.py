"""The pixels of one page of a TIFF, window by window: only the tiles or strips that a window touches are decoded.

Rows that are not compressed are read from where they lie, so their strips may be of any size.

H rows, W columns, C channels of the page.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPage

from pixelwise.data.images import DECODER_ERRORS
from pixelwise.data.jpeg_stream import check_jpeg
from pixelwise.data.large_source import RecentSegments, check_segment, place_of
from pixelwise.data.stored import refusal
from pixelwise.data.tiff_files import COMPRESSED_AS_JPEG, check_complete
from pixelwise.errors import ImageFileError
from pixelwise.tiles import Window

WITH_TILES = (
    "write it again in tiles, for example with: "
    "gdal_translate -co TILED=YES -co COMPRESS=DEFLATE -co BIGTIFF=IF_SAFER IN OUT"
)
READ_AGAIN = "copy or save the file again"


@dataclass(frozen=True)
class PagePixels:
    """A page of an open file; `descriptor` is that of the file, read at given offsets and never moved."""

    path: Path
    descriptor: int
    page: TiffPage
    recent: RecentSegments

    def __post_init__(self) -> None:
        """Refuse a page of which parts are missing, or too large to be decoded; raises ImageFileError."""
        check_complete(self.path, self.page)
        needed = self.page.shaped[0] * self.grid[0] * self.grid[1]
        if len(self.page.dataoffsets) < needed:
            found = f"{len(self.page.dataoffsets)} {self.kind}s where its size needs {needed}"
            raise refusal(self.path, found=found, rule="every pixel is in the file", fix=READ_AGAIN)
        if self.is_plain:
            self._check_rows()
        else:
            tile = (*self.segment, self.page.shaped[4])
            check_segment(self.path, f"{self.kind}s", tile, WITH_TILES)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored values, in the order of bytes of this machine."""
        return np.dtype(self.page.dtype)

    @property
    def kind(self) -> str:
        """What the page is cut into."""
        return "tile" if self.page.is_tiled else "strip"

    @cached_property
    def segment(self) -> tuple[int, int]:
        """Height and width of a tile or strip."""
        height, width = self.page.shaped[2:4]
        if not self.page.is_tiled:
            return min(int(self.page.rowsperstrip), height), width
        if self.page.tiledepth != 1 or min(self.page.tilelength, self.page.tilewidth) < 1:
            raise ValueError(f"tiles of {self.page.tilewidth} x {self.page.tilelength} x {self.page.tiledepth}")
        return int(self.page.tilelength), int(self.page.tilewidth)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles or strips, in each plane."""
        height, width = self.page.shaped[2:4]
        return -(-height // self.segment[0]), -(-width // self.segment[1])

    @cached_property
    def is_plain(self) -> bool:
        """Whether the values lie in the file row by row, as they are."""
        page = self.page
        as_stored = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_subsampled
        return as_stored and not page.is_tiled and page.bitspersample == self.dtype.itemsize * 8

    def read(self, window: Window) -> NDArray[Any]:
        """The stored values (h, w, planes x samples) of a window; raises ImageFileError where they are damaged."""
        planes, samples = self.page.shaped[0], self.page.shaped[4]
        values_HWC = np.empty((*window.shape, planes * samples), self.dtype)
        for plane in range(planes):
            into = values_HWC[..., plane * samples : (plane + 1) * samples]
            (self._read_rows if self.is_plain else self._read_segments)(plane, window, into)
        return values_HWC

    def _read_rows(self, plane: int, window: Window, into: NDArray[Any]) -> None:
        pixel = self.dtype.itemsize * self.page.shaped[4]
        stored = self.dtype.newbyteorder(self.page.parent.byteorder)
        for row in range(window.top, window.bottom):
            strip, within = divmod(row, self.segment[0])
            start = self.page.dataoffsets[plane * self.grid[0] + strip] + within * self._row_bytes + window.left * pixel
            data = self._bytes(start, window.shape[1] * pixel, f"row {row}")
            into[row - window.top] = np.frombuffer(data, stored).reshape(-1, into.shape[2])

    def _read_segments(self, plane: int, window: Window, into: NDArray[Any]) -> None:
        (height, width), (rows, columns) = self.segment, self.grid
        touched = product(
            range(window.top // height, -(-window.bottom // height)),
            range(window.left // width, -(-window.right // width)),
        )
        for row, column in touched:
            index = (plane * rows + row) * columns + column
            bottom, right = min((row + 1) * height, self.page.shaped[2]), min((column + 1) * width, self.page.shaped[3])
            tile = Window(row * height, column * width, bottom, right)
            values = self.recent.get((self.page.offset, index), partial(self._decode, index, tile))
            part = window.overlap(tile)
            assert part is not None
            into[part.within(window).slices] = values[part.within(tile).slices]

    def _decode(self, index: int, tile: Window) -> NDArray[Any]:
        """The values of one tile or strip (at least those within the image)."""
        name = f"{self.kind} {index} ({place_of(tile)})"
        page = self.page
        data = self._bytes(page.dataoffsets[index], page.databytecounts[index], name)
        try:
            if page.compression in COMPRESSED_AS_JPEG and page.jpegheader is None:
                check_jpeg(data, self.segment)
            values, *_ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
            if values is None or values.shape[1] < tile.shape[0] or values.shape[2] < tile.shape[1]:
                raise ValueError("it does not fill its place")
        except ImageFileError:
            raise
        except DECODER_ERRORS as error:
            found = f"{name} cannot be decoded ({str(error).strip() or type(error).__name__})"
            raise refusal(self.path, found=found, rule=f"every {self.kind} is whole", fix=READ_AGAIN) from error
        decoded: NDArray[Any] = values[0]
        return decoded

    def _bytes(self, offset: int, length: int, name: str) -> bytes:
        try:
            data = os.pread(self.descriptor, length, offset)
        except OSError as error:
            found = f"{name} cannot be read ({error.strerror})"
            raise refusal(self.path, found=found, rule="a file that can be read", fix="check the disk") from error
        if len(data) < length:
            found = f"{name} lies beyond the end of the file"
            raise refusal(self.path, found=found, rule="every pixel is in the file", fix=READ_AGAIN)
        return data

    @property
    def _row_bytes(self) -> int:
        return int(self.page.shaped[3] * self.page.shaped[4] * self.dtype.itemsize)

    def _check_rows(self) -> None:
        """Refuse strips that are shorter than their rows."""
        (rows, _), height = self.grid, self.page.shaped[2]
        last = height - (rows - 1) * self.segment[0]
        for index in range(self.page.shaped[0] * rows):
            needed = (last if index % rows == rows - 1 else self.segment[0]) * self._row_bytes
            offset, length = self.page.dataoffsets[index], self.page.databytecounts[index]
            if length < needed:
                found = f"strip {index} at {offset} has {length} bytes where its rows need {needed}"
                raise refusal(self.path, found=found, rule="every pixel is in the file", fix=READ_AGAIN)
