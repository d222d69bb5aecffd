"""What every way of reading a large image has in common: the protocol, its limits, the meaning of the values.

H rows, W columns, C channels; h, w those of a window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.georeference import GeoReference
from pixelwise.data.images import image_values
from pixelwise.data.stored import MOST_VALUES, Stored, refusal
from pixelwise.data.tiff_files import black_first
from pixelwise.tiles import Window

LARGEST_SEGMENT = 2**28
"""Most values of one tile, strip or chunk: it is decoded whole, whatever the window."""
KEPT_BYTES_OF_SEGMENTS = 2**26


class LargeImage(Protocol):
    """An image that is read window by window; valid while the context that gave it is open."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels, of the level that was opened."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the image."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values, uint8, uint16 or float32, as `read_image` gives them."""
        ...

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each level of a pyramid, the full size first."""
        ...

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that name the source, wherever it lies; what they notice is said where it is opened."""
        ...

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Height and width of a pixel in micrometres; None where the source does not say."""
        ...

    @property
    def place(self) -> GeoReference | None:
        """Where on the earth it lies, and which value says that nothing was measured; None where it does not say."""
        ...

    def read(self, window: Window) -> NDArray[Any]:
        """The pixels (h, w, C) of a window within the image; raises ImageFileError where they are damaged."""
        ...

    def describe(self) -> str:
        """One line for a person: format, size, type, levels, size of a pixel, place."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """How the stored values of a file become those of an image, by the rules of `read_image`.

    dtype       of the stored values
    bits        bits per value in the file
    palette     colours (N, 3) of the stored values, or None
    white_first whether the lowest value is white
    keeps_nan   whether NaN is declared to mean "nothing measured", and stays
    """

    path: Path
    dtype: np.dtype[Any]
    bits: int
    palette: NDArray[np.uint8] | None = None
    white_first: bool = False
    keeps_nan: bool = False

    def image(self, stored_HWC: NDArray[Any], where: str = "") -> NDArray[Any]:
        """The values of the image; raises ImageFileError where some are not finite, saying `where`."""
        if self.white_first:
            stored_HWC = black_first(stored_HWC, self.bits)
        if not self.keeps_nan or stored_HWC.dtype.kind != "f":
            return self._finite(stored_HWC, where)
        void_HWC = np.isnan(stored_HWC)
        image_HWC = self._finite(np.where(void_HWC, stored_HWC.dtype.type(0), stored_HWC), where)
        image_HWC[void_HWC] = np.nan
        return image_HWC

    def _finite(self, stored_HWC: NDArray[Any], where: str) -> NDArray[Any]:
        stored = Stored(pixels_HWC=stored_HWC, palette=self.palette, bits=self.bits)
        return image_values(self.path, stored, where=where)

    def form(self, channels: int) -> tuple[int, np.dtype[Any]]:
        """Channels and type of the image, for the stored channels; raises ImageFileError for types that are none."""
        image_HWC = self.image(np.zeros((1, 1, channels), self.dtype))
        return image_HWC.shape[2], image_HWC.dtype

    def nodata(self, stored: float | None) -> float | None:
        """A stored value that means "nothing measured", as a value of the image; None where no pixel can have it."""
        if stored is None or self.palette is not None:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            value_HWC = np.full((1, 1, 1), stored).astype(self.dtype)
            real = float(value_HWC.astype(np.float32).item())
        if self.dtype.kind == "f":
            return None if np.isinf(real) else real
        return float(self.image(value_HWC).item()) if value_HWC.item() == stored else None


class RecentSegments:
    """Decoded tiles and strips, the most recently used ones, up to `limit` bytes, and always the last.

    Neighbouring windows share tiles. Reading from several threads is safe.
    """

    def __init__(self, limit: int = KEPT_BYTES_OF_SEGMENTS) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[tuple[int, ...], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[int, ...], decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The segment of a key, decoded only where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        segment = decode()
        with self._lock:
            self._keep(key, segment)
        return segment

    def _keep(self, key: tuple[int, ...], segment: NDArray[Any]) -> None:
        if key in self._kept:
            return
        self._kept[key] = segment
        self.bytes += segment.nbytes
        while self.bytes > self.limit and len(self._kept) > 1:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes


def check_window(window: Window, shape: tuple[int, int], channels: int) -> None:
    """Stop at a window that is empty, leaves the image or has more than 2**30 values: a mistake of ours."""
    height, width = window.shape
    assert height > 0 < width, f"{window} is empty"
    assert 0 <= window.top <= window.bottom <= shape[0], f"{window} leaves an image of {shape}"
    assert 0 <= window.left <= window.right <= shape[1], f"{window} leaves an image of {shape}"
    assert height * width * channels <= MOST_VALUES, f"{window} of {channels} channels is too large to be read at once"


def place_of(window: Window) -> str:
    """A window in words, for errors.

    >>> place_of(Window(0, 16, 8, 32))
    'rows 0 to 7, columns 16 to 31'
    """
    return f"rows {window.top} to {window.bottom - 1}, columns {window.left} to {window.right - 1}"


def sizes_text(sizes: Sequence[tuple[int, int]]) -> str:
    """Heights and widths as a person says them: width first.

    >>> sizes_text([(480, 640), (240, 320)])
    '640 x 480, 320 x 240'
    """
    return ", ".join(f"{width} x {height}" for height, width in sizes)


def check_level(path: Path, level: int, levels: Sequence[tuple[int, int]]) -> None:
    """Refuse a level that the image does not have, naming those that it has; raises ImageFileError."""
    if not 0 <= level < len(levels):
        rule = f"levels 0 to {len(levels) - 1} ({sizes_text(levels)} pixels)"
        raise refusal(path, found=f"no level {level}", rule=rule, fix="choose one of these levels")


def check_segment(path: Path, kind: str, shape: Sequence[int], fix: str) -> None:
    """Refuse tiles, strips or chunks that are too large to be decoded at once; raises ImageFileError."""
    values = 1
    for side in shape:
        values *= int(side)
    if values > LARGEST_SEGMENT:
        found = f"{kind} of {' x '.join(map(str, shape))} values"
        rule = f"at most {LARGEST_SEGMENT} values, as each is decoded whole"
        raise refusal(path, found=found, rule=rule, fix=fix)


def description(kind: str, image: LargeImage, level: int, *details: str) -> str:
    """One line on an image: `kind`, size, type, `details`, and what else it knows of itself."""
    height, width = image.shape
    parts = [kind, f"{width} x {height} pixels", f"{image.channels} channels of {image.dtype}", *details]
    if len(image.levels) > 1:
        parts.append(f"level {level} of 0 to {len(image.levels) - 1} ({sizes_text(image.levels)})")
    if image.pixel_size is not None:
        parts.append("{:.4g} x {:.4g} µm per pixel".format(*reversed(image.pixel_size)))
    if image.place is not None:
        parts.append(str(image.place))
    return ", ".join(parts).replace("1 channels", "1 channel")
