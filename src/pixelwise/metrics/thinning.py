"""Borders thinned to one pixel: the classic watershed of a binary map, with dams, as the ISBI 2012 challenge does it.

Vincent and Soille, "Watersheds in digital spaces: an efficient algorithm based on immersion simulations", IEEE PAMI
1991. A map of cells (low) and borders (high) has two levels, so the flood of the second level is all there is: the
cells grow into the borders at one pixel a step, and where two of them meet a dam stays. Neighbours are the four at the
sides. No routine of OpenCV or SciPy leaves such dams, and where exactly they lie depends on the order in which pixels
are flooded; here it is the challenge's own: first in, first out, column after column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pixelwise.metrics.confusion import Array

DAM, DRY, QUEUED, OUTSIDE = 0, -1, -2, -3


def thin_borders(cells_HW: Array) -> NDArray[np.int32]:
    """Label image of the cells, grown until only one pixel of border (0) is left between two of them.

    `cells_HW` is True inside cells. Where it is False everywhere there is one level and so one region: the whole image
    is label 1, and the border that fills it is gone.

    >>> thin_borders(np.array([[True, False, False, False, True]])).tolist()
    [[1, 1, 0, 2, 2]]
    """
    if not cells_HW.any():
        return np.ones(cells_HW.shape, np.int32)
    labels_WH, _ = ndimage.label(cells_HW.T)
    flooded_WH = np.pad(np.where(labels_WH > 0, labels_WH, DRY), 1, constant_values=OUTSIDE)

    # The flood starts from the border pixels beside a cell.
    shore_WH = np.pad(ndimage.binary_dilation(cells_HW.T) & ~cells_HW.T, 1)
    flooded_WH[shore_WH] = QUEUED
    flat = _flood(flooded_WH.ravel().tolist(), np.flatnonzero(shore_WH).tolist(), flooded_WH.shape[1])
    return np.array(flat, np.int32).reshape(flooded_WH.shape)[1:-1, 1:-1].T.copy()


def _flood(state: list[int], queue: list[int], stride: int) -> list[int]:
    """Give each pixel the one label of its neighbours, or a dam where they have several, in the order of the queue."""
    for pixel in queue:
        neighbours = (pixel - stride, pixel - 1, pixel + stride, pixel + 1)
        around = [state[n] for n in neighbours]
        labels = {label for label in around if label > 0}
        state[pixel] = labels.pop() if len(labels) == 1 else DAM
        if DRY in around:
            reached = [n for n in neighbours if state[n] == DRY]
            for n in reached:
                state[n] = QUEUED
            queue.extend(reached)
    return state
