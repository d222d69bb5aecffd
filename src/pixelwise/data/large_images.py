"""Images of any size, read window by window: TIFF of any kind, Zarr and OME-Zarr, and every small picture alike.

The content decides how a file is read, not its name. What an image is, and what is refused, is that of
`pixelwise.data.images`; nothing is ever read as zeros because it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.images import ImageHeader, picture_format, read_header, read_image
from pixelwise.data.large_source import LargeImage as LargeImage
from pixelwise.data.large_source import check_level, check_window, description
from pixelwise.data.large_tiff import open_large_tiff
from pixelwise.data.large_zarr import open_large_zarr
from pixelwise.data.stored import check_readable, refusal
from pixelwise.files import file_hash
from pixelwise.tiles import Window

Missing = Literal["refuse", "fill"]


@contextmanager
def open_large(
    path: Path, *, level: int = 0, page: int | None = None, missing_chunks: Missing = "refuse"
) -> Iterator[LargeImage]:
    """Open an image of any size, to be read window by window while the context is open.

    path    a picture file, or the folder of a Zarr array or OME-Zarr image
    level   of a pyramid; 0 is the full size
    page    which picture of several: a page of a TIFF, counted as `read_image` does, or a plane of a Zarr array
    missing_chunks  what a Zarr store does not hold: refused, or read as its fill value, which is right only where the
            program that wrote it leaves out chunks of that value

    Pictures other than TIFF and Zarr are decoded whole when first read, within the limit of `read_image`. Raises
    ImageFileError naming the file, what is wrong with it, the rule and the remedy.

    >>> import tempfile, tifffile
    >>> path = Path(tempfile.mkdtemp()) / "a.tif"
    >>> tifffile.imwrite(path, np.arange(64, dtype=np.uint8).reshape(8, 8), tile=(16, 16))
    >>> with open_large(path) as image:
    ...     print(image.describe())
    ...     image.read(Window(1, 2, 3, 5))[..., 0].tolist()
    TIFF, 8 x 8 pixels, 1 channel of uint8, tiles of 16 x 16
    [[10, 11, 12], [18, 19, 20]]
    """
    with _opened(path, level, page, missing_chunks) as image:
        yield image


def _opened(path: Path, level: int, page: int | None, missing: Missing) -> AbstractContextManager[LargeImage]:
    if path.is_dir():
        return open_large_zarr(path, level=level, page=page, fill_missing=missing == "fill")
    kind = picture_format(path)
    if kind == "TIFF":
        return open_large_tiff(path, level=level, page=page)
    if page not in (None, 0):
        raise refusal(path, found=f"no page {page}", rule=f"a {kind} has one picture", fix="give no page")
    header = read_header(path)
    check_readable(path, header, None)
    check_level(path, level, [(header.height, header.width)])
    return nullcontext(_Picture(path, kind, header))


@dataclass(frozen=True)
class _Picture:
    """A picture that is decoded whole, when it is first read; its identity is the hash of its file."""

    path: Path
    kind: str
    header: ImageHeader
    pixel_size: None = None
    place: None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.header.height, self.header.width

    @property
    def channels(self) -> int:
        return self.header.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.header.dtype == "uint16" else np.uint8)

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        return (self.shape,)

    @cached_property
    def identity(self) -> str:
        return file_hash(self.path)[:16]

    @cached_property
    def _pixels(self) -> NDArray[Any]:
        return read_image(self.path)

    def read(self, window: Window) -> NDArray[Any]:
        """The pixels (h, w, C) of a window."""
        check_window(window, self.shape, self.channels)
        return self._pixels[window.slices].copy()

    def describe(self) -> str:
        """One line for a person."""
        return description(self.kind, self, 0)
