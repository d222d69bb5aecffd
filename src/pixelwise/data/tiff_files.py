"""TIFF files of any type and number of channels, one page at a time, by tifffile and imagecodecs.

H rows, W columns, C channels. A band is never dropped, whatever the file calls it; overviews and the transparency
masks of a page are not pages.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tifffile import PHOTOMETRIC, TiffFile, TiffPage

from pixelwise.data.stored import ImageHeader, Stored, check_readable, displayed_size, refusal, upright
from pixelwise.data.tiff_chain import full_pages

# tifffile reports damage in its log as well as by its errors; ours are enough.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

COLOUR_SPACES = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
COMPRESSED_AS_JPEG = (6, 7, 34892)


def read_tiff_header(path: Path, page: int) -> ImageHeader:
    """The header of one page and the number of pages."""
    with TiffFile(path) as file:
        return page_header(path, *_choose(path, file, page))


def read_tiff(path: Path, page: int | None) -> Stored:
    """Decode one page, its channels last; raises ImageFileError where parts of it are missing."""
    with TiffFile(path) as file:
        chosen, pages = _choose(path, file, page or 0)
        check_readable(path, page_header(path, chosen, pages), page)
        check_complete(path, chosen)
        pixels_SDHWC = chosen.asarray(maxworkers=1).reshape(chosen.shaped)
        pixels_HWC = np.moveaxis(pixels_SDHWC[:, 0], 0, -2).reshape(*chosen.shaped[2:4], -1)
        bits = int(chosen.bitspersample)
        if counts_from_white(file, chosen):
            pixels_HWC = black_first(pixels_HWC, bits)
        return Stored(pixels_HWC=upright(pixels_HWC, page_orientation(chosen)), palette=page_palette(chosen), bits=bits)


def _choose(path: Path, file: TiffFile, index: int) -> tuple[TiffPage, int]:
    """One page, and how many there are; overviews are not counted."""
    pages = full_pages(path)
    check_pages(path, file, len(pages))
    if not 0 <= index < len(pages):
        rule = f"pages 0 to {len(pages) - 1}"
        raise refusal(path, found=f"no page {index}", rule=rule, fix="choose one of these pages")
    return cast("TiffPage", file.pages[pages[index]]), len(pages)


def check_pages(path: Path, file: TiffFile, pages: int) -> None:
    """Refuse a file of fewer pages than it announces: ImageJ writes one header for many."""
    claimed = int((file.imagej_metadata or {}).get("images", 1))
    if not pages or claimed > pages:
        found = f"{pages} pages where the file announces {max(claimed, 1)}"
        raise refusal(path, found=found, rule="every page has its own header", fix="save the stack again as plain TIFF")


def page_header(path: Path, page: TiffPage, pages: int) -> ImageHeader:
    """Size, channels and type of one page; refuses colour spaces and depths that are no flat image."""
    planes, depth, height, width, samples = page.shaped
    in_jpeg = page.photometric == PHOTOMETRIC.YCBCR and int(page.compression) in COMPRESSED_AS_JPEG
    if page.photometric not in COLOUR_SPACES and not in_jpeg:
        space = getattr(page.photometric, "name", page.photometric)
        raise refusal(path, found=f"colour space {space}", rule="grey, RGB or palette", fix="save it as RGB")
    if depth != 1 or page.dtype is None:
        found = f"a page of depth {depth} and type {page.dtype}"
        raise refusal(path, found=found, rule="a page is a flat image", fix="save each slice as a page of its own")
    height, width = displayed_size(height, width, page_orientation(page))
    channels = 3 if page.photometric == PHOTOMETRIC.PALETTE else planes * samples
    return ImageHeader(height=height, width=width, channels=channels, dtype=str(page.dtype), pages=pages)


def check_complete(path: Path, page: TiffPage) -> None:
    """Refuse tiles that lie behind the end of the file or were never written: they would be read as zeros."""
    size = path.stat().st_size
    offsets, lengths = page.dataoffsets, page.databytecounts
    missing = sum(length == 0 or offset + length > size for offset, length in zip(offsets, lengths, strict=True))
    if missing or not offsets:
        found = f"{missing} of {len(offsets)} strips or tiles are missing (the file was cut short or never finished)"
        raise refusal(path, found=found, rule="every pixel is in the file", fix="copy or save the file again")


def page_orientation(page: TiffPage) -> int:
    """The orientation of a page, 1 (upright) to 8."""
    return int(page.tags.valueof(274, default=1))


def page_palette(page: TiffPage) -> NDArray[np.uint8] | None:
    """The colours (N, 3) of the values of a page; None where they are no indices."""
    if page.photometric != PHOTOMETRIC.PALETTE:
        return None
    colours: NDArray[np.uint8] = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
    return colours


def counts_from_white(file: TiffFile, page: TiffPage) -> bool:
    """Whether the lowest value of a page is white.

    tifffile declares every array of bool so, and means the values as they are.
    """
    return page.photometric == PHOTOMETRIC.MINISWHITE and not file.is_shaped


def black_first(pixels_HWC: NDArray[Any], bits: int) -> NDArray[Any]:
    """Values that grow with brightness, from a file that counts from white; signed and real values stay."""
    if pixels_HWC.dtype.kind not in "bu":
        return pixels_HWC
    top = pixels_HWC.dtype.type(2**bits - 1)
    inverted_HWC: NDArray[Any] = np.bitwise_xor(pixels_HWC, top)
    return inverted_HWC
