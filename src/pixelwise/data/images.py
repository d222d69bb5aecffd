"""Reading images: any picture file to an array (H, W, C), with nothing lost and nothing guessed.

The content decides the format, not the name of the file. What an image is does not depend on its pixels: three equal
channels stay three. The rules:

palette          RGB colours
alpha            dropped, not blended; but every band of a TIFF is kept
CMYK             converted to RGB (in JPEG); refused in TIFF
orientation      EXIF and TIFF orientation applied, all eight
1 bit, bool      0 and 255
2 and 4 bits     stretched to 0..255, as displayed
uint8, uint16    as stored; float32 as stored
other numbers    float32, rounded to its 24 bits (exact for int16, float16 and whole numbers up to 2**24)
NaN, infinity    refused, also where float64 does not fit into float32
several frames   refused, unless `page` chooses one page of a TIFF

H rows, W columns, C channels.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixelwise.data.pillow_files import read_pillow, read_pillow_header
from pixelwise.data.stored import ImageHeader as ImageHeader
from pixelwise.data.stored import Stored, check_size, refusal
from pixelwise.data.tiff_files import read_tiff, read_tiff_header
from pixelwise.errors import ImageFileError

SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    **{b"P%d" % number + blank: "PPM" for number in range(1, 7) for blank in (b" ", b"\t", b"\r", b"\n")},
}
FORMATS = "PNG, JPEG, TIFF, BMP, GIF, WebP or PPM"
# A damaged file can make a decoder fail in any of these ways.
DECODER_ERRORS = (
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    SyntaxError,
    EOFError,
    MemoryError,
    Warning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_image(path: Path, *, page: int | None = None) -> NDArray[Any]:
    """The pixels `image_HWC` of a picture file, as uint8, uint16 or float32, by the rules at the top of this file.

    `page` chooses a page of a TIFF, counted from 0. Raises ImageFileError naming the file, what is wrong with it, the
    rule and the remedy; never hangs on a pipe, and takes no memory for an image beyond 2**28 pixels.
    """
    return image_values(path, read_stored(path, page=page))


def image_values(path: Path, stored: Stored, *, where: str = "") -> NDArray[Any]:
    """The values that an image has, for those stored in its file, by the rules at the top of this file.

    `where` is said with values that are not finite. Raises ImageFileError as `read_image` does.

    >>> image_values(Path("a.tif"), Stored(pixels_HWC=np.array([[[False], [True]]]), bits=1)).ravel().tolist()
    [0, 255]
    """
    pixels_HWC = stored.pixels_HWC
    if stored.palette is not None:
        return np.take(stored.palette, pixels_HWC[..., 0], axis=0)
    if stored.bits in (1, 2, 4):
        return pixels_HWC.astype(np.uint8) * np.uint8(255 // (2**stored.bits - 1))
    if pixels_HWC.dtype in (np.uint8, np.uint16):
        return pixels_HWC
    return _finite_float(path, pixels_HWC, where)


def read_header(path: Path, *, page: int | None = None) -> ImageHeader:
    """Size, channels, type and pages, without decoding a pixel; raises ImageFileError as `read_image` does."""
    kind = picture_format(path)
    with decoding(path, kind):
        header = read_tiff_header(path, page or 0) if kind == "TIFF" else read_pillow_header(path, kind)
    check_size(path, header)
    return header


def read_stored(path: Path, *, page: int | None = None) -> Stored:
    """One picture with the values of the file (palette indices, 1-bit values), upright; raises ImageFileError."""
    kind = picture_format(path)
    if page is not None and kind != "TIFF" and page != 0:
        raise refusal(path, found=f"no page {page}", rule=f"a {kind} has one picture", fix="give no page")
    with decoding(path, kind):
        return read_tiff(path, page) if kind == "TIFF" else read_pillow(path, kind, None)


def picture_format(path: Path) -> str:
    """What the first bytes say; refuses what is no regular file before opening it."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            found = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise refusal(path, found=found, rule="an image is a file", fix="give the path of a picture file")
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        found = f"cannot be opened ({error.strerror})"
        raise refusal(path, found=found, rule="a file that can be read", fix="check path and permissions") from error
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "WEBP"
    for signature, kind in SIGNATURES.items():
        if start.startswith(signature):
            return kind
    found = "the content is no known picture" if start else "the file is empty"
    raise refusal(path, found=found, rule=f"{FORMATS}, by content", fix="copy or export the picture again")


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageFileError."""
    try:
        yield
    except ImageFileError:
        raise
    except DECODER_ERRORS as error:
        found = f"damaged or unsupported {kind} ({str(error).strip() or type(error).__name__})"
        raise refusal(path, found=found, rule="a complete picture", fix="copy or export it again") from error


def _finite_float(path: Path, pixels_HWC: NDArray[Any], where: str) -> NDArray[np.float32]:
    if pixels_HWC.dtype.kind not in "iuf":
        rule = "whole or real numbers"
        raise refusal(path, found=f"values of type {pixels_HWC.dtype}", rule=rule, fix="save it as float32")
    with np.errstate(over="ignore", invalid="ignore"):
        image_HWC = pixels_HWC.astype(np.float32)
    if not np.isfinite(image_HWC).all():
        nan, infinite = int(np.isnan(pixels_HWC).sum()), int(np.isinf(pixels_HWC).sum())
        too_large = int((~np.isfinite(image_HWC)).sum()) - nan - infinite
        found = f"{nan} NaN, {infinite} infinite and {too_large} values beyond float32{where}"
        raise refusal(path, found=found, rule="finite values", fix="replace these values, then save again")
    return image_HWC
