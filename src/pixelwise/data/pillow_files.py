"""PNG, JPEG, BMP, GIF, WebP and PPM files: Pillow for 8 bits, imagecodecs for PNG with 16 bits.

H rows, W columns, C channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixelwise.data.png_chunks import ORIENTATION_TAG, PngFacts, read_png_facts
from pixelwise.data.stored import LARGEST_IMAGE, ImageHeader, Stored, check_readable, displayed_size, refusal, upright

# Pillow's own limit is lower than ours, and its warnings would be repeated for every file of a folder.
Image.MAX_IMAGE_PIXELS = LARGEST_IMAGE
warnings.filterwarnings("ignore", module=r"PIL\.")

CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}
WITHOUT_ALPHA = {"LA": "L", "RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
PALETTE_SIZE = 256


def read_pillow_header(path: Path, kind: str) -> ImageHeader:
    """The header of a file of `kind` (a Pillow format); refuses pixel formats that would lose data."""
    if kind == "PNG":
        return _png_header(read_png_facts(path))
    with _opened(path, kind) as image:
        if image.mode not in CHANNELS:
            rule = "8 bits per value, grey, colour or palette"
            raise refusal(path, found=f"pixel format {image.mode}", rule=rule, fix="save it as TIFF or 16-bit PNG")
        height, width = displayed_size(image.height, image.width, _orientation(image))
        # The other pictures of a JPEG are previews; every reader shows the first.
        pages = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
        dtype = "bool" if image.mode == "1" else "uint8"
        return ImageHeader(height=height, width=width, channels=CHANNELS[image.mode], dtype=dtype, pages=pages)


def read_pillow(path: Path, kind: str, page: int | None) -> Stored:
    """Decode the only picture of a file of `kind`."""
    if kind == "PNG":
        return _read_png(path, page)
    check_readable(path, read_pillow_header(path, kind), page)
    with _opened(path, kind) as image:
        return _stored(image, 1 if image.mode == "1" else 8, _orientation(image))


def _read_png(path: Path, page: int | None) -> Stored:
    facts = read_png_facts(path)
    check_readable(path, _png_header(facts), page)
    if facts.bits == 16:
        pixels_HWC = np.atleast_3d(imagecodecs.png_decode(path.read_bytes()))[..., : facts.channels]
        return Stored(pixels_HWC=upright(pixels_HWC, facts.orientation), bits=16)
    with _opened(path, "PNG") as image:
        return _stored(image, facts.bits, facts.orientation)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    with path.open("rb") as file, Image.open(file, formats=[kind]) as image:
        yield image


def _png_header(facts: PngFacts) -> ImageHeader:
    height, width = displayed_size(facts.height, facts.width, facts.orientation)
    dtype = {1: "bool", 16: "uint16"}.get(facts.bits, "uint8")
    return ImageHeader(height=height, width=width, channels=facts.channels, dtype=dtype, pages=facts.frames)


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(ORIENTATION_TAG, 1))


def _stored(image: Image.Image, bits: int, orientation: int) -> Stored:
    """The values of the file: Pillow stretches grey of 2 and 4 bits to 0..255, which is undone here."""
    if image.mode == "P":
        pixels_HWC = np.array(image)[..., None]
        return Stored(pixels_HWC=upright(pixels_HWC, orientation), palette=_palette(image), bits=8)
    if image.mode in WITHOUT_ALPHA:
        image = image.convert(WITHOUT_ALPHA[image.mode])
    pixels: NDArray[Any] = np.atleast_3d(np.array(image))
    if bits in (2, 4):
        pixels = pixels // (255 // (2**bits - 1))
    return Stored(pixels_HWC=upright(pixels, orientation), bits=bits)


def _palette(image: Image.Image) -> NDArray[np.uint8]:
    """All 256 colours; those that the file does not give are black."""
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return np.concatenate([colours, np.zeros((PALETTE_SIZE - len(colours), 3), np.uint8)])
