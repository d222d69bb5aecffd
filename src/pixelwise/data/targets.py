"""What a network learns where objects touch: their inside, and the border between them, as classes of their own.

Learned as one class, touching objects become one blob. The winners of the Data Science Bowl 2018 (Buslaev, Seferbekov
and Durnov, "[ods.ai] topcoders") learned the border between nuclei as well: what is left of the masks without it falls
apart into single nuclei. A pixel is border where the square of 2 width + 1 pixels around it holds pixels of two objects
or more. So the border runs between objects, and not around an object that stands alone (i inside, b border):

    two objects that touch, width 1          1 1 1 2 2 2   ->   i i b b i i
    one pixel between them, width 1          1 1 . 2 2     ->   i i b i i
    two pixels between them, width 1         1 1 . . 2 2   ->   i i . . i i
    the same, width 2                        1 1 . . 2 2   ->   i i b b i i

H rows, W columns.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import UsageError

TargetForm = Literal["softmax3", "sigmoid2", "sigmoid2_full"]


def border_target(
    instances_HW: NDArray[np.integer[Any]], *, width: int, form: TargetForm = "softmax3"
) -> NDArray[np.uint8]:
    """The target that a network learns for a label image (0 background, each other number an object).

    All forms are (H, W). `softmax3`: 0 background, 1 inside (an object without its border), 2 border. The others are of
    two classes in bits, as masks of overlapping classes are: `sigmoid2` inside (1) and border (2), which never meet,
    `sigmoid2_full` whole objects (1) and border (2), so 3 is the border on an object. Raises UsageError for a width
    below 1 and for another form.

    >>> border_target(np.array([[1, 1, 1, 2, 2, 2, 0]]), width=1).tolist()
    [[1, 1, 2, 2, 1, 1, 0]]
    >>> border_target(np.array([[1, 1, 1, 2, 2, 2, 0]]), width=1, form="sigmoid2_full").tolist()
    [[1, 1, 3, 3, 1, 1, 0]]
    """
    border_HW = border_between(instances_HW, width=width)
    objects_HW = instances_HW > 0
    match form:
        case "softmax3" | "sigmoid2":  # the same numbers: inside and border exclude each other
            return np.where(border_HW, np.uint8(2), objects_HW.astype(np.uint8))
        case "sigmoid2_full":
            return objects_HW.astype(np.uint8) + np.uint8(2) * border_HW.astype(np.uint8)
        case _:
            raise UsageError(f"unknown form of target {form!r}; choose one of {', '.join(get_args(TargetForm))}")


def border_between(instances_HW: NDArray[np.integer[Any]], *, width: int) -> NDArray[np.bool_]:
    """Where two objects or more are within `width` pixels, in rows and in columns; objects and background alike.

    Raises UsageError for a width below 1.

    >>> border_between(np.array([[3, 0, 0, 4]]), width=2).tolist()
    [[False, True, True, False]]
    """
    if width < 1:
        raise UsageError(f"a border of {width} pixels: give a width of 1 or more")
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    numbers_HW = instances_HW.astype(np.float64)  # OpenCV compares no 32-bit integers; whole numbers up to 2**53 stay
    largest_HW = cv2.dilate(numbers_HW, square)
    smallest_HW = cv2.erode(np.where(instances_HW > 0, numbers_HW, np.inf), square)
    different: NDArray[np.bool_] = smallest_HW < largest_HW
    return different
