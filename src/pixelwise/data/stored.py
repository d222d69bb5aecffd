"""What a picture file holds, before anyone says whether it is an image or a mask.

`image` code shows the values (a palette becomes colours, one bit becomes 0 and 255); `mask` code takes them as they
are stored (a palette index stays an index). Both start from a Stored.

H rows, W columns, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import Finding, ImageFileError

LARGEST_IMAGE = 2**28
MOST_VALUES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What `read_image` would return, known without decoding a pixel.

    height, width  pixels, as displayed (after the EXIF orientation)
    channels       of the image: 3 for a palette, alpha not counted
    dtype          of the values in the file: `bool`, `uint8`, `uint16`, `float32` ...
    pages          pictures in the file
    """

    height: int
    width: int
    channels: int
    dtype: str
    pages: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One decoded picture with the values of the file.

    pixels_HWC  upright (EXIF orientation applied), without alpha; palette indices where there is a palette
    palette     (N, 3) RGB colours of the indices, or None
    bits        bits per value in the file: 1, 2, 4, 8, 16 ...
    """

    pixels_HWC: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    bits: int = 8


def refusal(path: Path, *, found: str, rule: str, fix: str) -> ImageFileError:
    """The error that one picture file causes."""
    return ImageFileError(Finding(file=path, found=found, rule=rule, fix=fix))


def check_size(path: Path, header: ImageHeader) -> None:
    """Refuse a picture that is empty or too large, before memory is taken for it.

    Raises ImageFileError over 2**28 pixels (16384 x 16384) or 2**30 values over all channels.
    """
    pixels = header.height * header.width
    size = f"{header.width} x {header.height} pixels in {header.channels} channels"
    if pixels * header.channels < 1:
        raise refusal(path, found=size, rule="at least one pixel", fix="save the image again")
    if pixels > LARGEST_IMAGE or pixels * header.channels > MOST_VALUES:
        rule = f"at most {LARGEST_IMAGE} pixels and {MOST_VALUES} values"
        fix = "cut the image into smaller files; a TIFF is predicted as it is with -o OUT.zarr"
        raise refusal(path, found=size, rule=rule, fix=fix)


def check_readable(path: Path, header: ImageHeader, page: int | None) -> None:
    """Refuse a wrong size, and a file of several pictures unless one `page` is chosen; raises ImageFileError."""
    check_size(path, header)
    if header.pages > 1 and page is None:
        found = f"{header.pages} frames or pages"
        rule = "one picture per file (the pages of a TIFF can be chosen, the frames of other files cannot)"
        raise refusal(path, found=found, rule=rule, fix="save each frame as a file of its own")


def upright(pixels_HWC: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn and mirror the pixels of a file for display, by its EXIF or TIFF orientation 1 to 8; others change nothing.

    >>> upright(np.array([[[1], [2]]]), 6)[..., 0].tolist()
    [[1], [2]]
    """
    if orientation in (5, 6, 7, 8):
        pixels_HWC = pixels_HWC.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    return np.ascontiguousarray(pixels_HWC)


def displayed_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width after the orientation is applied."""
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)
