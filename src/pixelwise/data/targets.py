"""What a network learns where objects touch: their inside, and the border between them, as classes of their own.

Learned as one class, touching objects become one blob. The winners of the Data Science Bowl 2018 (Buslaev, Seferbekov
and Durnov, "[ods.ai] topcoders") learned the border between nuclei as well: what is left of the masks without it falls
apart into single nuclei. A pixel is border where the square of 2 width + 1 pixels around it holds pixels of two objects
or more. So the border runs `between` objects, and not around an object that stands alone (i inside, b border):

    two objects that touch, width 1          1 1 1 2 2 2   ->   i i b b i i
    one pixel between them, width 1          1 1 . 2 2     ->   i i b i i
    two pixels between them, width 1         1 1 . . 2 2   ->   i i . . i i
    the same, width 2                        1 1 . . 2 2   ->   i i b b i i

Borders between objects are few pixels, and a short training does not learn them. The contour `around` every object is
learned at once, and parts touching objects as well (Chen et al.: DCAN: Deep contour-aware networks for accurate gland
segmentation. CVPR 2016, arXiv 1604.02677). A pixel of an object is border where the square holds anything else:

    two objects that touch, width 1          . 1 1 1 2 2 2   ->   . b i b b i b

H rows, W columns.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import UsageError

TargetForm = Literal["softmax3", "sigmoid2", "sigmoid2_full"]
BorderPlace = Literal["between", "around"]


def border_target(
    instances_HW: NDArray[np.integer[Any]],
    *,
    width: int,
    form: TargetForm = "softmax3",
    place: BorderPlace = "between",
) -> NDArray[np.uint8]:
    """The target that a network learns for a label image (0 background, each other number an object).

    All forms are (H, W). `softmax3`: 0 background, 1 inside (an object without its border), 2 border. The others are of
    two classes in bits, as masks of overlapping classes are: `sigmoid2` inside (1) and border (2), which never meet,
    `sigmoid2_full` whole objects (1) and border (2), so 3 is the border on an object. `place` says where borders are.
    Raises UsageError for a width below 1 and for another form or place.

    >>> border_target(np.array([[1, 1, 1, 2, 2, 2, 0]]), width=1).tolist()
    [[1, 1, 2, 2, 1, 1, 0]]
    >>> border_target(np.array([[1, 1, 1, 2, 2, 2, 0]]), width=1, form="sigmoid2_full").tolist()
    [[1, 1, 3, 3, 1, 1, 0]]
    """
    if place not in get_args(BorderPlace):
        raise UsageError(f"unknown place of borders {place!r}; choose {' or '.join(get_args(BorderPlace))}")
    border_HW = (border_between if place == "between" else border_around)(instances_HW, width=width)
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
    return _differ(instances_HW, np.where(instances_HW > 0, instances_HW, np.inf), width)


def border_around(instances_HW: NDArray[np.integer[Any]], *, width: int) -> NDArray[np.bool_]:
    """Where a pixel of an object has background or another object within `width` pixels, in rows and in columns.

    The edge of the image is neither. Raises UsageError for a width below 1.

    >>> border_around(np.array([[3, 3, 3, 0, 4]]), width=1).tolist()
    [[False, False, True, False, True]]
    """
    return _differ(instances_HW, instances_HW, width) & (instances_HW > 0)


def _differ(instances_HW: NDArray[np.integer[Any]], lowest_HW: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Where the square around a pixel holds different numbers; what is infinite in `lowest_HW` is none."""
    if width < 1:
        raise UsageError(f"a border of {width} pixels: give a width of 1 or more")
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # OpenCV compares no 32-bit integers; whole numbers up to 2**53 stay as they are in float64.
    largest_HW = cv2.dilate(instances_HW.astype(np.float64), square)
    smallest_HW = cv2.erode(lowest_HW.astype(np.float64), square)
    different: NDArray[np.bool_] = smallest_HW < largest_HW
    return different
