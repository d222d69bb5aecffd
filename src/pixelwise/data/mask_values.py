"""The codes of a mask, also of one that training refuses: fractions, a mask in alpha, colours that are grey.

Training takes a mask as it is or not at all (`masks`). A doctor has to look at what is wrong, so this reading goes on
where that one stops, and says what it would have said.

H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.file_form import LOSSY, FileForm, read_alpha, read_form
from pixelwise.data.images import read_stored
from pixelwise.data.layouts import Source
from pixelwise.data.mask_codes import GREY, Codes, codes_of, files_kind, parts_of, read_codes
from pixelwise.data.stored import Stored, refusal
from pixelwise.errors import Finding, ImageFileError
from pixelwise.task import Colour

NEARLY_GREY = 8  # levels by which JPEG lets the channels of a grey picture differ


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskValues:
    """The codes of the mask of one image, and what is odd about how they are kept.

    codes_HW  whole numbers, or colours 0xRRGGBB where `colours`
    palette   RGB per index, of a palette file
    quirk     "" or how the codes were got where training gets none: `fractions`, `alpha`, `nearly grey`
    refused   what training says of this file, where it cannot take it
    parts     what holds an overlapping class each (see `parts_of`)
    """

    codes_HW: Codes
    dtype: str
    form: FileForm
    colours: bool = False
    palette: tuple[Colour, ...] = ()
    quirk: str = ""
    refused: Finding | None = None
    parts: tuple[str, ...] = ()


def read_values(sources: Sequence[Source], kind: str) -> MaskValues:
    """The codes of the mask of one image, read as a mask of `kind` (a MaskKind, or auto).

    Several sources are one file per object, whose codes are 1 where any has an object, or one per class. Raises
    ImageFileError where a file cannot be read, holds NaN, or has channels that make neither numbers nor colours.
    """
    first = sources[0]
    form = read_form(first.path, first.page)
    if len(sources) > 1:
        kind = files_kind(sources, kind)
        codes_HW = read_codes(sources, kind)
        return MaskValues(codes_HW=codes_HW, dtype="uint8", form=form, parts=parts_of(sources, kind))
    stored = read_stored(first.path, page=first.page)
    odd = _in_alpha(stored, first, form) or _fractions(stored, first, form)
    odd = odd or (_nearly_grey(stored, form, kind) if kind != "overlapping" else None)
    if odd is not None:
        return odd
    colours = kind == "colours" or (kind == "auto" and is_coloured(stored.pixels_HWC))
    palette: tuple[Colour, ...] = ()
    if stored.palette is not None and not colours:
        palette = _colours_of(stored.palette.tobytes())
    codes_HW = codes_of(stored, first.path, "colours" if colours else kind)
    return MaskValues(
        codes_HW=codes_HW,
        dtype=_dtype(stored),
        form=form,
        colours=colours,
        palette=palette,
        parts=parts_of(sources, kind, channels=stored.pixels_HWC.shape[2]),
    )


def in_colours(codes: Codes, palette: Sequence[Colour]) -> Codes:
    """Palette indices, or grey values, as colours 0xRRGGBB; -1 stays, and what 8 bits cannot hold becomes no colour.

    >>> in_colours(np.array([0, 1]), [(0, 0, 0), (255, 0, 0)]).tolist() == [0, 0xFF0000]
    True
    """
    if palette:
        table = np.array([red << 16 | green << 8 | blue for red, green, blue in palette], np.int64)
        return table[codes]
    return np.where(codes >= 0, codes * GREY, codes)


def solid_pixels(codes_HW: Codes) -> NDArray[np.bool_]:
    """Pixels whose four neighbours all have their code; those at the rim of the mask are never solid.

    Areas that somebody drew are solid inside. What JPEG, smoothing and resizing leave between them is not.
    """
    solid_HW = np.zeros(codes_HW.shape, bool)
    down, right = codes_HW[1:] == codes_HW[:-1], codes_HW[:, 1:] == codes_HW[:, :-1]
    if min(codes_HW.shape) > 2:
        solid_HW[1:-1, 1:-1] = down[1:, 1:-1] & down[:-1, 1:-1] & right[1:-1, 1:] & right[1:-1, :-1]
    return solid_HW


def _dtype(stored: Stored) -> str:
    return str(stored.pixels_HWC.dtype)


def _in_alpha(stored: Stored, source: Source, form: FileForm) -> MaskValues | None:
    """A file of one single colour, of which alpha shows some areas and hides others, is a mask."""
    if not form.alpha or stored.palette is not None or (stored.pixels_HWC != stored.pixels_HWC[:1, :1]).any():
        return None
    alpha_HW = read_alpha(source.path)
    if alpha_HW is None or (alpha_HW == alpha_HW[:1, :1]).all():
        return None
    found = "one single colour; the areas are in its alpha channel"
    problem = refusal(source.path, found=found, rule="a mask has one channel", fix="save the alpha channel as the mask")
    return MaskValues(
        codes_HW=alpha_HW.astype(np.int64), dtype="uint8", form=form, quirk="alpha", refused=problem.findings[0]
    )


def _fractions(stored: Stored, source: Source, form: FileForm) -> MaskValues | None:
    """Fractions from 0 to 1 are taken as shares of 255, others are rounded."""
    values_HWC = stored.pixels_HWC
    if values_HWC.dtype.kind != "f" or values_HWC.shape[2] != 1:
        return None
    try:
        codes_of(stored, source.path, "auto")
        return None
    except ImageFileError as error:
        refused = error.findings[0]
        if not np.isfinite(values_HWC).all() or np.abs(values_HWC).max() > 2**31:
            raise
    values_HW = values_HWC[..., 0].astype(np.float64)
    scale = 255 if values_HW.min() >= 0 and values_HW.max() <= 1 else 1
    codes_HW = np.rint(values_HW * scale).astype(np.int64)
    return MaskValues(codes_HW=codes_HW, dtype=_dtype(stored), form=form, quirk="fractions", refused=refused)


def _nearly_grey(stored: Stored, form: FileForm, kind: str) -> MaskValues | None:
    """Three channels that differ a little, in a format that changes values, were three equal ones."""
    pixels_HWC = stored.pixels_HWC
    if kind != "auto" or form.kind not in LOSSY or not is_coloured(pixels_HWC):
        return None
    wide_HWC = pixels_HWC.astype(np.int64)
    if int((wide_HWC.max(axis=2) - wide_HWC.min(axis=2)).max()) > NEARLY_GREY:
        return None
    return MaskValues(codes_HW=wide_HWC[..., 1], dtype=_dtype(stored), form=form, quirk="nearly grey")


def is_coloured(pixels_HWC: NDArray[Any]) -> bool:
    """Whether three channels differ anywhere.

    >>> is_coloured(np.array([[[1, 1, 2]]])), is_coloured(np.array([[[1, 1, 1]]])), is_coloured(np.array([[[1, 2]]]))
    (True, False, False)
    """
    return pixels_HWC.shape[2] == 3 and bool((pixels_HWC != pixels_HWC[..., :1]).any())


@lru_cache(maxsize=1024)
def _colours_of(palette: bytes) -> tuple[Colour, ...]:
    """The same tuple for the same palette, since thousands of masks share one."""
    numbers = iter(palette)
    return tuple(zip(numbers, numbers, numbers, strict=True))
