"""How a picture is kept in its file, as far as the pixels do not tell: format, alpha, CMYK, orientation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import PHOTOMETRIC, TiffFile

from pixelwise.data.images import DECODER_ERRORS, SIGNATURES
from pixelwise.data.pillow_files import CHANNELS
from pixelwise.data.png_chunks import ORIENTATION_TAG, read_png_facts
from pixelwise.data.stored import upright

SUFFIXES_OF: dict[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
PNG_WITH_ALPHA = (4, 6)
ALPHA_SAMPLES = (1, 2)  # TIFF 6.0, ExtraSamples: associated and unassociated alpha
LOSSY = ("JPEG", "WEBP")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileForm:
    """How a picture is kept in its file; all of it is empty where the file cannot be read.

    kind         format by content: PNG, JPEG, TIFF, BMP, GIF, WEBP or PPM
    alpha        a channel says how transparent the pixels are
    cmyk         the colours are those of a printer
    orientation  EXIF or TIFF orientation, 1 (upright) to 8
    """

    kind: str = ""
    alpha: bool = False
    cmyk: bool = False
    orientation: int = 1

    def fits_name(self, path: Path) -> bool:
        """Whether the suffix of the file's name is one of its format; true where the format is not known."""
        return not self.kind or path.suffix.lower() in SUFFIXES_OF[self.kind]


def read_form(path: Path, page: int | None = None) -> FileForm:
    """How the picture is kept, from the head of its file; never raises.

    >>> read_form(Path("there is no such file"))
    FileForm(kind='', alpha=False, cmyk=False, orientation=1)
    """
    try:
        kind = _kind(path)
        match kind:
            case "":
                return FileForm()
            case "PNG":
                return _png_form(path)
            case "TIFF":
                return _tiff_form(path, page or 0)
            case _:
                return _pillow_form(path, kind)
    except DECODER_ERRORS:
        return FileForm()


def read_alpha(path: Path) -> NDArray[np.uint8] | None:
    """The alpha channel (H, W), upright, of a file that Pillow reads; None where there is none."""
    try:
        with Image.open(path) as image:
            if "A" not in image.getbands():
                return None
            alpha_HW1 = np.asarray(image.getchannel("A"), np.uint8)[..., None]
            return np.asarray(upright(alpha_HW1, read_form(path).orientation)[..., 0])
    except DECODER_ERRORS:
        return None


def read_cmyk(path: Path) -> NDArray[Any] | None:
    """The pixels of a CMYK file of any format as RGB (H, W, 3), upright; None where it holds none."""
    try:
        with Image.open(path) as image:
            if image.mode != "CMYK":
                return None
            return upright(np.asarray(image.convert("RGB")), read_form(path).orientation)
    except DECODER_ERRORS:
        return None


def _kind(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "WEBP"
    return next((kind for signature, kind in SIGNATURES.items() if start.startswith(signature)), "")


def _png_form(path: Path) -> FileForm:
    with path.open("rb") as file:
        colour_type = file.read(26)[25]
    try:
        orientation = read_png_facts(path).orientation
    except DECODER_ERRORS:
        orientation = 1
    return FileForm(kind="PNG", alpha=colour_type in PNG_WITH_ALPHA, orientation=_valid(orientation))


def _pillow_form(path: Path, kind: str) -> FileForm:
    try:
        with Image.open(path, formats=[kind]) as image:
            orientation = _valid(image.getexif().get(ORIENTATION_TAG, 1))
            alpha = image.mode in CHANNELS and "A" in image.getbands()
            return FileForm(kind=kind, alpha=alpha, cmyk=image.mode == "CMYK", orientation=orientation)
    except DECODER_ERRORS:
        return FileForm(kind=kind)


def _tiff_form(path: Path, page: int) -> FileForm:
    try:
        with TiffFile(path) as file:
            tags = file.pages[page]
            samples = tuple(int(sample) for sample in getattr(tags, "extrasamples", ()))
            return FileForm(
                kind="TIFF",
                alpha=any(sample in ALPHA_SAMPLES for sample in samples),
                cmyk=getattr(tags, "photometric", None) == PHOTOMETRIC.SEPARATED,
                orientation=_valid(file.pages[page].aspage().tags.valueof(ORIENTATION_TAG, default=1)),
            )
    except DECODER_ERRORS:
        return FileForm(kind="TIFF")


def _valid(orientation: Any) -> int:
    return int(orientation) if orientation in range(1, 9) else 1
