"""Whether a mask lies on its image as it should, or turned or mirrored: its borders against the image's gradient.

The borders of a mask lie where the image changes. The gradient of the image is ranked, so that a few strong lines do
not decide, and averaged along the borders of the mask in each of the eight orientations of EXIF. A mask counts as
turned only where one orientation is far ahead of all others, and of the one in which the mask is stored.

H rows, W columns, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.data.mask_codes import Codes
from pixelwise.data.stored import upright

SIDE = 128
FEWEST_BORDER_PIXELS = 40
UPRIGHT, SAME_SIZE, TRANSPOSED = 1, (1, 2, 3, 4), (5, 6, 7, 8)
LEAST_AGREEMENT = 0.12
LEAST_LEAD = 0.10
LEAD_IN_DEVIATIONS = 4.0


def turn_scores(image_HWC: NDArray[Any], codes_HW: Codes) -> tuple[float, ...]:
    """How well the borders of a mask fit the gradient of its image, for the orientations 1 to 8 of the mask.

    A score of 0 is chance, 0.5 the most there is; NaN where the orientation would have another size than the image.
    Nothing at all where neither size fits, or the mask has hardly a border.
    """
    size, turned = codes_HW.shape, codes_HW.shape[::-1]
    orientations = [
        *(SAME_SIZE if size == image_HWC.shape[:2] else ()),
        *(TRANSPOSED if turned == image_HWC.shape[:2] else ()),
    ]
    borders_HW = _borders(codes_HW)
    if not orientations or np.count_nonzero(borders_HW) < FEWEST_BORDER_PIXELS or min(size) < 8:
        return ()
    ranks_hw = _ranked_gradient(image_HWC)
    height, width = ranks_hw.shape
    scores = [math.nan] * 8
    for orientation in orientations:
        shape = (height, width) if orientation in SAME_SIZE else (width, height)
        small_hw = cv2.resize(borders_HW, shape[::-1], interpolation=cv2.INTER_AREA)
        lying_hw = upright(small_hw[..., None], orientation)[..., 0]
        scores[orientation - 1] = float((lying_hw * ranks_hw).sum() / lying_hw.sum()) - 0.5
    return tuple(scores)


def clear_turn(scores: Sequence[float], *, stored: int = UPRIGHT) -> int | None:
    """The orientation 2 to 8 by which a mask has to be turned to fit its image; None where that is not clear.

    >>> clear_turn((0.02, 0.01, 0.35, -0.03, 0.0, 0.01, -0.02, 0.03))
    3
    >>> clear_turn((0.30, 0.01, 0.35, -0.03, 0.0, 0.01, -0.02, 0.03)) is None
    True
    """
    known = {number: score for number, score in enumerate(scores, start=1) if not math.isnan(score)}
    if len(known) < 2:
        return None
    best = max(known, key=lambda number: known[number])
    if best == stored:
        return None
    others = [score for number, score in known.items() if number != best]
    lead = known[best] - max(others)
    deviation = float(np.std(others)) if len(others) > 3 else 0.0
    ahead = lead > LEAST_LEAD and known[best] - float(np.mean(others)) > LEAD_IN_DEVIATIONS * deviation
    return best if ahead and known[best] > LEAST_AGREEMENT else None


def _borders(codes_HW: Codes) -> NDArray[np.float32]:
    borders_HW = np.zeros(codes_HW.shape, bool)
    down, right = codes_HW[1:] != codes_HW[:-1], codes_HW[:, 1:] != codes_HW[:, :-1]
    for part_HW, changes in ((borders_HW[1:], down), (borders_HW[:-1], down)):
        part_HW |= changes
    for part_HW, changes in ((borders_HW[:, 1:], right), (borders_HW[:, :-1], right)):
        part_HW |= changes
    return borders_HW.astype(np.float32)


def _ranked_gradient(image_HWC: NDArray[Any]) -> NDArray[np.float32]:
    """The rank of each pixel's gradient, from 0 to 1, in an image reduced to at most 128 pixels per side."""
    shrink = max(1.0, max(image_HWC.shape[:2]) / SIDE)
    width, height = (max(1, round(side / shrink)) for side in image_HWC.shape[1::-1])
    # Reduced first, one channel at a time: the mean of few pixels is cheap, and OpenCV takes any number of them so.
    channels = (np.ascontiguousarray(channel_HW) for channel_HW in np.moveaxis(image_HWC, 2, 0))
    reduced = [cv2.resize(channel_HW, (width, height), interpolation=cv2.INTER_AREA) for channel_HW in channels]
    grey_hw = np.asarray(np.mean(reduced, axis=0), np.float32)
    gradient_hw = np.hypot(cv2.Sobel(grey_hw, cv2.CV_32F, 1, 0), cv2.Sobel(grey_hw, cv2.CV_32F, 0, 1))
    return _ranks(gradient_hw)


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of values below each one, of 1024 levels; equal values share a rank, so that flat areas say nothing."""
    top = float(values.max())
    levels = (np.sqrt(values / top if top else values) * 1023).astype(np.int64)
    counts = np.bincount(levels.ravel(), minlength=1024)
    return ((np.cumsum(counts) - counts / 2) / values.size).astype(np.float32)[levels]
