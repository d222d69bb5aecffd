"""How large a pixel of a TIFF is: from OME metadata, from ImageJ, from Aperio's line, from the resolution tags."""

from __future__ import annotations

import math
import re
from typing import Any

from tifffile import TiffFile, TiffPage

MICROMETRES = {
    "pm": 1e-6,
    "Å": 1e-4,
    "nm": 1e-3,
    "µm": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25_400.0,
}
SPELLINGS = {
    **dict.fromkeys(("um", "μm", "micron", "microns", "micrometer", "micrometre", "\\u00b5m", "\\u00B5m"), "µm"),
    **dict.fromkeys(("nanometer", "nanometre"), "nm"),
    **dict.fromkeys(("millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("meter", "metre"), "m"),
    **dict.fromkeys(("inch", "inches"), "in"),
    **dict.fromkeys(("picometer", "picometre"), "pm"),
    **dict.fromkeys(("angstrom", "\\u00c5"), "Å"),
}
TAG_UNITS = {2: "in", 3: "cm"}
SCREENS = (72.0, 96.0, 150.0, 300.0)
"""Pixels per inch that programs write where nobody measured anything."""
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296

PixelSize = tuple[float, float]


def micrometres(length: Any, unit: str | None) -> float | None:
    """A length with its unit, in micrometres; None for unknown units and what is no positive number.

    >>> micrometres("250", "nanometer"), micrometres(1, "pixel")
    (0.25, None)
    """
    factor = MICROMETRES.get(SPELLINGS.get(unit or "", unit or ""))
    try:
        found = float(length) * (factor or 0)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and found > 0 else None


def both(height: float | None, width: float | None) -> PixelSize | None:
    """Height and width, where both are known."""
    return None if height is None or width is None else (height, width)


def tiff_pixel_size(file: TiffFile, page: TiffPage) -> PixelSize | None:
    """Height and width of a pixel of a page in micrometres, as ImageJ, Aperio or the resolution tags say it.

    A resolution of 72, 96, 150 or 300 pixels per inch is one of screens and printers, and says nothing.
    """
    if aperio := re.match(r"Aperio .*\|\s*MPP\s*=\s*([0-9.]+)", page.description, re.DOTALL):
        side = micrometres(aperio[1], "µm")
        return both(side, side)
    unit = (file.imagej_metadata or {}).get("unit") or TAG_UNITS.get(page.tags.valueof(RESOLUTION_UNIT, default=2))
    rows, columns = (_per_unit(page.tags.valueof(code)) for code in (Y_RESOLUTION, X_RESOLUTION))
    if not rows or not columns or (unit == "in" and rows in SCREENS and columns in SCREENS):
        return None
    return both(micrometres(1 / rows, unit), micrometres(1 / columns, unit))


def _per_unit(fraction: Any) -> float:
    """Pixels per unit, a fraction; 0 where there is none."""
    match fraction:
        case (int(top), int(bottom)) if bottom:
            return top / bottom
        case _:
            return 0.0
