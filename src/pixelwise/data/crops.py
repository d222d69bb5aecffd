"""Where on an image a training crop lies: anywhere, or so that a class drawn with equal chance is in it.

Rare classes would otherwise hardly ever be seen. The chosen pixel may come to lie anywhere in the crop: were it always
in the middle, a network would learn that objects are in the middle.

H rows, W columns. A crop larger than the image is centred on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_POSITIONS = 1000
ClassPixels = Mapping[int, NDArray[np.int32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A box of an image that becomes a crop.

    top, left  its first row and column; negative where the crop is larger than the image
    pixel      row and column of a pixel of the image that must be seen in the crop, however it is deformed
    """

    top: int
    left: int
    pixel: tuple[int, int] | None = None


def find_class_pixels(mask_HW: NDArray[Any], *, void: int, rng: np.random.Generator) -> ClassPixels:
    """Where each class of a mask is: for each value but `void`, up to 1000 positions (n, 2), drawn without repeats.

    >>> found = find_class_pixels(np.array([[0, 255], [0, 3]]), void=255, rng=np.random.default_rng(0))
    >>> {label: len(positions) for label, positions in found.items()}, found[3].tolist()
    ({0: 2, 3: 1}, [[1, 1]])
    """
    found = {}
    for label in np.unique(mask_HW):
        if label == void:
            continue
        pixels = np.flatnonzero(mask_HW == label)
        if pixels.size > MOST_POSITIONS:
            pixels = rng.choice(pixels, MOST_POSITIONS, replace=False, shuffle=False)
        found[int(label)] = np.stack(np.unravel_index(pixels, mask_HW.shape), axis=1).astype(np.int32)
    return found


def draw_pixel(pixels: ClassPixels, rng: np.random.Generator) -> tuple[int, int] | None:
    """A pixel of a class drawn with equal chance from those in the image; None where all of it is void."""
    if not pixels:
        return None
    positions = pixels[sorted(pixels)[rng.integers(len(pixels))]]
    row, column = positions[rng.integers(len(positions))]
    return int(row), int(column)


def place_crop(
    shape: tuple[int, int],
    size: tuple[int, int],
    *,
    rng: np.random.Generator,
    pixel: tuple[int, int] | None = None,
) -> Place:
    """A place for a crop of `size` in an image of `shape` (both height, width), uniform among those inside the image.

    With a `pixel`, uniform among those that hold it.

    >>> place_crop((100, 50), (64, 64), rng=np.random.default_rng(0), pixel=(99, 0))
    Place(top=36, left=-7, pixel=(99, 0))
    """
    shown = pixel or (None, None)
    top, left = (_first(shape[axis], size[axis], shown[axis], rng) for axis in (0, 1))
    return Place(top=top, left=left, pixel=pixel)


def _first(length: int, size: int, shown: int | None, rng: np.random.Generator) -> int:
    """First pixel of the crop along one side."""
    if length <= size:
        return -((size - length) // 2)
    least, most = 0, length - size
    if shown is not None:
        least, most = max(least, shown - size + 1), min(most, shown)
    return int(rng.integers(least, most, endpoint=True))
