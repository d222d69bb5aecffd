"""Which pages of a TIFF are one image: the planes of its channels, and the levels of its pyramid.

one page              the image
OME-TIFF, ImageJ      the pages of the channels, joined
pages that are the first one, smaller: a pyramid; as are SubIFDs, and pages that call themselves overviews
other pages           refused, unless one is chosen; the count is that of `read_image`: overviews are none
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tifffile import TiffFile, TiffPage

from pixelwise.data.ome_metadata import OmeImage, read_ome
from pixelwise.data.pixel_size import PixelSize, tiff_pixel_size
from pixelwise.data.stored import refusal
from pixelwise.data.tiff_chain import OVERVIEW, TRANSPARENCY
from pixelwise.data.tiff_files import check_pages

MOST_LEVELS = 64
Planes = tuple[TiffPage, ...]


@dataclass(frozen=True, slots=True)
class TiffImage:
    """One image in a TIFF: for each level, full size first, the pages of its planes; and the size of its pixels."""

    levels: tuple[Planes, ...]
    pixel_size: PixelSize | None


def find_planes(path: Path, file: TiffFile, kinds: Sequence[int], page: int | None) -> TiffImage:
    """The image of a file whose pages are of `kinds` (subfile types): that of `page`, or the only one.

    Raises ImageFileError where there are several, or channels are missing or lie in other files.
    """
    full = [index for index, kind in enumerate(kinds) if not kind & (OVERVIEW | TRANSPARENCY)]
    check_pages(path, file, len(full))
    ome = read_ome(path, file.ome_metadata, len(kinds))
    indices = _only_image(path, file, full, ome) if page is None else (_chosen(path, full, page),)
    planes = tuple(_page(file, index) for index in indices)
    if page is None and ome is not None and len(planes) > 1:
        _check_channels(path, ome, planes)
    smaller = () if len(planes) > 1 else [_page(file, index) for index in _followers(kinds, full, indices[0], page)]
    size = (ome and ome.pixel_size) or tiff_pixel_size(file, planes[0])
    return TiffImage(levels=(planes, *_levels(planes, smaller)), pixel_size=size)


def same_at(full: int, small: int) -> tuple[float, float]:
    """The factors, from and to, by which `full` pixels become `small` ones, in whatever way they are rounded.

    >>> same_at(101, 50)
    (1.9803921568627452, 2.061224489795918)
    """
    return full / (small + 1), full / (small - 1) if small > 1 else float("inf")


def _only_image(path: Path, file: TiffFile, full: list[int], ome: OmeImage | None) -> tuple[int, ...]:
    """The pages of the channels of the only image; raises ImageFileError where there are several."""
    imagej = file.imagej_metadata or {}
    if len(full) == 1:
        return (full[0],)
    if ome is not None:
        return _channels(path, ome, full)
    if imagej.get("channels") == len(full):
        return tuple(full)
    if not all(_is_smaller(_page(file, full[0]), _page(file, index)) for index in full[1:]):
        raise _several(path, f"{len(full)} pages", len(full))
    return (full[0],)


def _channels(path: Path, ome: OmeImage, full: list[int]) -> tuple[int, ...]:
    if ome.elsewhere:
        found = f"an OME-TIFF of {ome.channels} channels, some of them in other files"
        raise refusal(path, found=found, rule="one file holds the image", fix="save all channels in one file")
    if ome.sections * ome.times > 1:
        found = f"an OME-TIFF of {ome.sections} sections, {ome.times} times and {ome.channels} channels"
        raise _several(path, f"{found} in {len(full)} pages", len(full))
    if ome.others:
        raise _several(path, f"an OME-TIFF of {ome.others + 1} images in {len(full)} pages", len(full))
    return ome.pages or tuple(full[: ome.channels])


def _several(path: Path, found: str, pages: int) -> Exception:
    fix = f"choose one page, 0 to {pages - 1}, or save each image as a file of its own"
    return refusal(path, found=found, rule="one flat image", fix=fix)


def _chosen(path: Path, full: list[int], page: int) -> int:
    if not 0 <= page < len(full):
        rule = f"pages 0 to {len(full) - 1}"
        raise refusal(path, found=f"no page {page}", rule=rule, fix="choose one of these pages")
    return full[page]


def _check_channels(path: Path, ome: OmeImage, planes: Planes) -> None:
    channels = sum(plane.shaped[0] * plane.shaped[4] for plane in planes)
    if channels != ome.channels:
        found = f"{channels} channels where the OME metadata announces {ome.channels}"
        raise refusal(path, found=found, rule="every channel is in the file", fix="save the image again")


def _followers(kinds: Sequence[int], full: list[int], first: int, page: int | None) -> list[int]:
    """The pages after the first that may be smaller copies of it: overviews up to the next full page, or all."""
    others = [] if page is None else [index for index in full if index > first]
    end = min(others, default=len(kinds))
    return [index for index in range(first + 1, end) if not kinds[index] & TRANSPARENCY]


def _page(file: TiffFile, index: int) -> TiffPage:
    try:
        return cast("TiffPage", file.pages[index])
    except IndexError as error:
        raise ValueError(f"there is no page {index}") from error


def _levels(planes: Planes, followers: Iterable[TiffPage]) -> list[Planes]:
    """Smaller copies of all planes, the largest first."""
    if len(planes) == 1:
        found = [(page,) for page in (*_inside(planes[0]), *followers) if _is_smaller(planes[0], page)]
    else:
        sets = zip(*(_inside(plane) for plane in planes), strict=False)
        found = [level for level in sets if _are_smaller(planes, level)]
    return sorted(found, key=lambda level: -level[0].shaped[2] * level[0].shaped[3])


def _inside(page: TiffPage) -> list[TiffPage]:
    """The pages in the SubIFDs of a page; theirs are not looked for, so there are no circles."""
    inside = page.pages
    if inside is None:
        return []
    return [cast("TiffPage", inside[index]) for index in range(min(len(page.subifds or ()), MOST_LEVELS))]


def _are_smaller(planes: Planes, level: Planes) -> bool:
    pairs = zip(planes, level, strict=True)
    return all(_is_smaller(full, page) and page.shaped == level[0].shaped for full, page in pairs)


def _is_smaller(full: TiffPage, page: TiffPage) -> bool:
    """Whether a page is of the same kind as another and has fewer pixels, by one factor for rows and columns."""
    (height, width), (rows, columns) = full.shaped[2:4], page.shaped[2:4]
    if _kind(full) != _kind(page) or not 0 < rows * columns < height * width:
        return False
    (low, high), (low2, high2) = same_at(height, rows), same_at(width, columns)
    return max(low, low2, 1.0) < min(high, high2)


def _kind(page: TiffPage) -> tuple[object, ...]:
    planes, depth, _, _, samples = page.shaped
    return planes, depth, samples, page.dtype, page.photometric
