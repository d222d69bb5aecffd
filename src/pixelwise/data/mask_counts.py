"""How often each value occurs in a mask: all that is needed of it to know what its values mean (`mask_coding`).

H rows, W columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pixelwise.data.images import read_stored
from pixelwise.data.layouts import Source
from pixelwise.data.mask_codes import Codes, codes_of, files_kind, parts_of, read_codes, run_unique
from pixelwise.data.mask_values import in_colours, is_coloured
from pixelwise.data.stored import refusal
from pixelwise.task import Colour

MOST_DISTINCT = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCount:
    """How many pixels of the mask of one image have which code.

    path      the mask, or the first of its files
    counts    pixels per code: numbers, or colours 0xRRGGBB where `colours`
    palette   RGB per index, of a palette file
    objects   files of one object each; 0 for an ordinary mask
    parts     the words of the files, or the channels, that hold an overlapping class each; none: numbers, or no such
    """

    path: Path
    height: int
    width: int
    dtype: str
    counts: dict[int, int]
    colours: bool = False
    palette: tuple[Colour, ...] = ()
    objects: int = 0
    parts: tuple[str, ...] = ()


def count_mask(sources: Sequence[Source], kind: str) -> MaskCount:
    """Read the mask of one image and count its codes; raises ImageFileError where it holds no codes."""
    path = sources[0].path
    if len(sources) > 1:
        kind = files_kind(sources, kind)
        codes_HW = read_codes(sources, kind)
        return _counted(path, codes_HW, _Style(objects=len(sources), parts=parts_of(sources, kind)))
    stored = read_stored(path, page=sources[0].page)
    colours = kind == "colours" or (kind == "auto" and is_coloured(stored.pixels_HWC))
    codes_HW = codes_of(stored, path, "colours" if colours else kind)
    palette: tuple[Colour, ...] = ()
    if stored.palette is not None and not colours:
        palette = tuple((int(r), int(g), int(b)) for r, g, b in stored.palette)
    parts = parts_of(sources, kind, channels=stored.pixels_HWC.shape[2])
    return _counted(path, codes_HW, _Style(str(stored.pixels_HWC.dtype), colours, palette, parts=parts))


def count_in_colours(mask: MaskCount) -> MaskCount:
    """The counts of a grey or palette mask as those of colours, beside masks that are in colours.

    Grey values that 8 bits cannot hold become numbers that are no colour.
    """
    if mask.colours:
        return mask
    counts: Counter[int] = Counter()
    colours = in_colours(np.array(list(mask.counts), np.int64), mask.palette).tolist()
    for colour, pixels in zip(colours, mask.counts.values(), strict=True):
        counts[colour] += pixels
    return replace(mask, counts=dict(counts), colours=True, palette=())


@dataclass(frozen=True, slots=True)
class _Style:
    """What a MaskCount says beside the counts."""

    dtype: str = "uint8"
    colours: bool = False
    palette: tuple[Colour, ...] = ()
    objects: int = 0
    parts: tuple[str, ...] = ()


def _counted(path: Path, codes_HW: Codes, style: _Style) -> MaskCount:
    distinct, _, counts = run_unique(codes_HW)
    if len(distinct) > MOST_DISTINCT:
        found = f"{len(distinct)} different values in {codes_HW.size} pixels"
        raise refusal(path, found=found, rule="a mask has few values, in areas", fix="is it an image?")
    return MaskCount(
        path=path,
        height=codes_HW.shape[0],
        width=codes_HW.shape[1],
        dtype=style.dtype,
        counts=dict(zip(distinct.tolist(), counts.tolist(), strict=True)),
        colours=style.colours,
        palette=style.palette,
        objects=style.objects,
        parts=style.parts,
    )
