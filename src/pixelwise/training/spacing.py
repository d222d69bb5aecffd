"""How large a pixel is, where an image file says so: the resolution tags of TIFF, in the ways that microscopes use."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from tifffile import TiffFile, TiffFileError, TiffPage

SUFFIXES = (".tif", ".tiff")
MICROMETRES = {
    "inch": 25_400.0,
    "cm": 10_000.0,
    "mm": 1000.0,
    "micron": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "\\u00b5m": 1.0,
    "nm": 1e-3,
}
TAG_UNITS = {2: "inch", 3: "cm"}
SCREENS = (72.0, 96.0, 150.0, 300.0)
"""Pixels per inch that programs write where nobody measured anything."""


def pixel_spacing(path: Path) -> tuple[float, float] | None:
    """Height and width of a pixel in micrometres; None where the file does not say.

    A resolution of 72, 96, 150 or 300 pixels per inch is one of screens and printers, and says nothing.
    """
    if path.suffix.lower() not in SUFFIXES:
        return None
    with contextlib.suppress(OSError, TiffFileError, ValueError, TypeError, ArithmeticError, LookupError):
        return _read_spacing(path)
    return None


def _read_spacing(path: Path) -> tuple[float, float] | None:
    with TiffFile(path) as file:
        page, unit = file.pages[0], (file.imagej_metadata or {}).get("unit")
        return _spacing(page, unit) if isinstance(page, TiffPage) else None


def _spacing(page: TiffPage, unit: str | None) -> tuple[float, float] | None:
    """From pixels per unit, a fraction for each axis; the unit is ImageJ's, or that of the tag."""
    tags = page.tags
    unit = unit or TAG_UNITS.get(int(tags["ResolutionUnit"].value))
    rows, columns = (top / bottom for top, bottom in (tags["YResolution"].value, tags["XResolution"].value))
    if unit not in MICROMETRES or (unit == "inch" and rows in SCREENS and columns in SCREENS):
        return None
    found = MICROMETRES[unit] / rows, MICROMETRES[unit] / columns
    return found if all(math.isfinite(side) and side > 0 for side in found) else None
