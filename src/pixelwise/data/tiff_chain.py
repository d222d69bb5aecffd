"""The chain of pages in a TIFF file, walked by ourselves so that a damaged one cannot lead in circles or end unseen."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

MOST_PAGES = 100_000
SUBFILE_TYPE = 254
OVERVIEW, TRANSPARENCY = 1, 4


def full_pages(path: Path) -> list[int]:
    """Indices, in the chain of the file, of the pages that are neither an overview nor a transparency mask.

    Raises as `subfile_types` does.
    """
    return [index for index, kind in enumerate(subfile_types(path)) if not kind & (OVERVIEW | TRANSPARENCY)]


def subfile_types(path: Path) -> list[int]:
    """The kind of each page in the chain of the file: 0, or the sum of OVERVIEW, TRANSPARENCY and others.

    Raises ValueError where the chain returns to itself, leaves the file or has more than 100,000 pages, and
    struct.error where the file ends within it.
    """
    size = path.stat().st_size
    found: list[int] = []
    with path.open("rb") as file:
        order, is_big, offset = _start(file)
        seen: set[int] = set()
        while offset:
            if offset in seen or offset >= size or len(seen) >= MOST_PAGES:
                raise ValueError(f"the chain of pages is broken after page {len(seen)}")
            seen.add(offset)
            kind, offset = _page(file, offset, order, is_big)
            found.append(kind)
    return found


def _start(file: BinaryIO) -> tuple[str, bool, int]:
    """Byte order, whether it is a BigTIFF, and the offset of the first page."""
    order = "<" if file.read(2) == b"II" else ">"
    is_big = struct.unpack(order + "H", file.read(2))[0] == 43
    file.seek(8 if is_big else 4)
    return order, is_big, _number(file, order + ("Q" if is_big else "I"))


def _page(file: BinaryIO, offset: int, order: str, is_big: bool) -> tuple[int, int]:
    """The subfile type of the page at `offset`, and the offset of the next page."""
    file.seek(offset)
    count = _number(file, order + ("Q" if is_big else "H"))
    if count > 4096:
        raise ValueError(f"a page announces {count} tags")
    tag = struct.Struct(order + ("HHQI4x" if is_big else "HHII"))
    tags = tag.iter_unpack(file.read(count * tag.size))
    kind = next((value for code, _, _, value in tags if code == SUBFILE_TYPE), 0)
    return kind, _number(file, order + ("Q" if is_big else "I"))


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])
