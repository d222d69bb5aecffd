"""Zarr arrays and OME-Zarr images, window by window: versions 2 and 3, plain and in shards, in a local folder.

A missing chunk is refused: it stands for the fill value, but an interrupted copy looks the same. Where the program that
wrote the array leaves out chunks of that value (as some do by default), the caller may say so; then a missing chunk is
that value, if the array names one. An array without any chunk is always refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.images import DECODER_ERRORS, decoding
from pixelwise.data.large_source import (
    LargeImage,
    RecentSegments,
    Values,
    check_segment,
    check_window,
    description,
    place_of,
)
from pixelwise.data.pixel_size import PixelSize
from pixelwise.data.stored import refusal
from pixelwise.data.zarr_chunks import ChunkFiles, Coordinates, Ranges, chunk_files
from pixelwise.data.zarr_codecs import value_type
from pixelwise.data.zarr_layout import ZarrImage, find_image
from pixelwise.errors import MissingExtraError
from pixelwise.tiles import Window

SMALLER_CHUNKS = "save it again with chunks of about 512 x 512 pixels"
COPY_AGAIN = "copy or save the store again"
OR_FILL = (
    f"{COPY_AGAIN}; or, where the program that wrote it leaves out chunks of the fill value, "
    'allow it with --fill-missing (in Python missing_chunks="fill")'
)


@contextmanager
def open_large_zarr(
    folder: Path, *, level: int = 0, page: int | None = None, fill_missing: bool = False
) -> Iterator[LargeImage]:
    """Open an image in a Zarr folder; `fill_missing` reads missing chunks as the fill value.

    Its identity is made of the metadata of the array, and of the name, size and time of each chunk file: it does not
    notice pixels that were changed and leave all of these as they were. No code in the store is run: codecs are
    allowed by name. Raises ImageFileError for what is no single image, or not known.
    """
    with decoding(folder, "Zarr"):
        image = find_image(folder, level, page)
        chunks = chunk_files(image.array)
        check_segment(folder, "chunks", chunks.chunk, SMALLER_CHUNKS)
        dtype = value_type(image.array).newbyteorder("=")
        values = Values(path=folder, dtype=dtype, bits=1 if dtype.kind == "b" else dtype.itemsize * 8)
        if next(chunks.files(), None) is None:
            raise refusal(folder, found="no chunk at all", rule="an array with values", fix=COPY_AGAIN)
        fill = image.array.metadata.get("fill_value")
        filled = None if fill is None or not fill_missing else dtype.type(fill)
        opened = _LargeZarr(level, image, chunks, values, filled, RecentSegments())
    yield opened


@dataclass(frozen=True)
class _LargeZarr:
    level: int
    image: ZarrImage
    chunks: ChunkFiles
    values: Values
    filled: Any
    recent: RecentSegments
    place: None = None

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        return self.image.levels

    @property
    def shape(self) -> tuple[int, int]:
        return self.levels[self.level]

    @property
    def pixel_size(self) -> PixelSize | None:
        return self.image.pixel_size

    @property
    def channels(self) -> int:
        return self._form[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._form[1]

    @cached_property
    def _form(self) -> tuple[int, np.dtype[Any]]:
        return self.values.form(self._stored_channels)

    @cached_property
    def identity(self) -> str:
        metadata = json.dumps(self.image.array.metadata, sort_keys=True)
        name = hashlib.sha256(f"{self.level} {self.image.index} {self.filled} {metadata}".encode())
        root = len(str(self.image.array.folder))
        files = ((entry.path[root:], entry.stat().st_size, entry.stat().st_mtime_ns) for entry in self.chunks.files())
        for file in sorted(files):
            name.update(repr(file).encode("utf-8", "backslashreplace"))
        return name.hexdigest()[:16]

    def read(self, window: Window) -> NDArray[Any]:
        """The pixels (h, w, C) of a window."""
        check_window(window, self.shape, self.channels)
        ranges = self._ranges(window)
        stored_HWC = np.empty((*window.shape, self._stored_channels), self.values.dtype)
        for chunk in self.chunks.touched(ranges):
            try:
                found = self.recent.get(chunk, partial(self._chunk, chunk))
            except DECODER_ERRORS as error:
                raise self._refused(error, chunk, window) from error
            _copy_common(self._as_array(stored_HWC), ranges, found, self.chunks.region(chunk))
        return self.values.image(stored_HWC, f" in {place_of(window)}")

    def describe(self) -> str:
        """One line for a person."""
        sides = self.chunks.chunk[self.image.rows], self.chunks.chunk[self.image.columns]
        details = [f"chunks of {sides[1]} x {sides[0]}"]
        if self.filled is not None:
            missing = self.chunks.expected - sum(1 for _ in self.chunks.files())
            details.append(f"{missing} of {self.chunks.expected} files of chunks missing and read as {self.filled}")
        return description(f"Zarr v{self.image.array.version}", self, self.level, *details)

    def _ranges(self, window: Window) -> Ranges:
        """The region of the array that a window is, for each of its axes."""
        ranges = [(index, index + 1) for index in self.image.index]
        ranges[self.image.rows] = (window.top, window.bottom)
        ranges[self.image.columns] = (window.left, window.right)
        if self.image.channel is not None:
            ranges[self.image.channel] = (0, self.image.array.shape[self.image.channel])
        return ranges

    def _chunk(self, chunk: Coordinates) -> NDArray[Any]:
        """The values of a chunk; raises FileNotFoundError where it is missing and must not be."""
        found = self.chunks.read(chunk)
        if found is not None:
            return found
        if self.filled is None:
            raise FileNotFoundError
        return np.broadcast_to(self.filled, self.chunks.chunk)

    def _refused(self, error: BaseException, chunk: Coordinates, window: Window) -> Exception:
        """The error that a chunk causes, naming it, and the window in which it was needed."""
        if isinstance(error, MissingExtraError):
            return error
        where = f"chunk {self.chunks.name(chunk)}, in {place_of(window)},"
        if not isinstance(error, FileNotFoundError):
            found = f"{where} cannot be decoded ({str(error).strip() or type(error).__name__})"
            return refusal(self.values.path, found=found, rule="every chunk is whole", fix=COPY_AGAIN)
        there = sum(1 for _ in self.chunks.files())
        found = f"{where} is missing ({there} of {self.chunks.expected} files of chunks are there)"
        return refusal(self.values.path, found=found, rule="every pixel is in the store", fix=OR_FILL)

    def _as_array(self, stored_HWC: NDArray[Any]) -> NDArray[Any]:
        """The same memory with the axes of the array: those that are not rows, columns or channels have length 1."""
        image = self.image
        kept = [image.rows, image.columns, *([] if image.channel is None else [image.channel])]
        others = [axis for axis in range(len(image.index)) if axis not in kept]
        pixels = stored_HWC.reshape(*stored_HWC.shape[: len(kept)], *(1 for _ in others))
        return pixels.transpose(np.argsort(kept + others))

    @property
    def _stored_channels(self) -> int:
        return 1 if self.image.channel is None else self.image.array.shape[self.image.channel]


def _copy_common(into: NDArray[Any], ranges: Ranges, values: NDArray[Any], region: Ranges) -> None:
    """Copy what two regions of an array have in common, from the second to the first."""
    here, there = [], []
    for (low, high), (begin, end) in zip(ranges, region, strict=True):
        first, last = max(low, begin), min(high, end)
        here.append(slice(first - low, last - low))
        there.append(slice(first - begin, last - begin))
    into[tuple(here)] = values[tuple(there)]
