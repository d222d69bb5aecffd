"""Reading windows in tests: where they may lie, and what they must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from pixelwise.data.large_images import LargeImage
from pixelwise.tiles import Window

HEIGHT, WIDTH = 75, 93


@st.composite
def windows_within(draw: st.DrawFn, height: int = HEIGHT, width: int = WIDTH) -> Window:
    """Any window of an image, down to one pixel."""
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Window(top, left, draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width)))


def whole(image: LargeImage) -> NDArray[Any]:
    """All pixels of a small image."""
    return image.read(Window(0, 0, *image.shape))


def assert_same(image: LargeImage, window: Window, expected_HWC: NDArray[Any]) -> None:
    """The window has the pixels of the whole array, its type and its channels."""
    found = image.read(window)
    assert found.dtype == image.dtype == expected_HWC.dtype
    assert image.channels == expected_HWC.shape[2]
    assert np.array_equal(found, expected_HWC[window.slices], equal_nan=found.dtype.kind == "f")
