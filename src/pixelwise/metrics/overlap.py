"""How two label images of one scene overlap: a sparse table of pixels that all measures of objects start from.

H rows, W columns, N objects of the truth, M predicted objects, P pairs of objects that touch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelwise.errors import DataError
from pixelwise.metrics.confusion import Array, Counts

IN_VOID = -1
LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """The pixels that objects of the truth and predicted objects have, alone and together; background is no object.

    Objects are numbered from 0 by their first pixel in reading order, so that renaming the ids of an image changes
    nothing here.

    truth_N          pixels of each object of the truth that are not void
    predicted_M      pixels of each predicted object that are not void; 0 where it lies in void alone
    void_M           pixels of each predicted object that are void
    pair_truth_P, pair_predicted_P, shared_P   two objects that touch, and their common pixels
    pixels           how many pixels are not void
    """

    truth_N: Counts
    predicted_M: Counts
    void_M: Counts
    pair_truth_P: Counts
    pair_predicted_P: Counts
    shared_P: Counts
    pixels: int

    @property
    def union(self) -> Counts:
        """Pixels of either object of each pair."""
        return self.truth_N[self.pair_truth_P] + self.predicted_M[self.pair_predicted_P] - self.shared_P


def count_overlap(instances_HW: Array, truth_HW: Array, void_HW: Array | None = None) -> Overlap:
    """Count the pixels of objects and of pairs of objects, in time linear in the pixels.

    Both are label images of whole numbers: 0 is background, each other number an object. `void_HW` is True where a
    pixel counts nowhere. Raises DataError where the sizes differ or a value is not a label.

    >>> found = count_overlap(np.array([[7, 7, 7, 0]]), np.array([[1, 1, 0, 2]]))
    >>> found.truth_N.tolist(), found.predicted_M.tolist(), found.shared_P.tolist()
    ([2, 1], [3], [2])
    """
    for what, labels_HW in (("instances", instances_HW), ("truth", truth_HW)):
        _check_labels(labels_HW, what, truth_HW.shape)
    predicted, truth = instances_HW.ravel(), truth_HW.ravel()
    if void_HW is not None:
        _check_void(void_HW, truth_HW.shape)
        truth = np.where(void_HW.ravel(), IN_VOID, truth.astype(np.int64))

    # Neighbours in a row mostly belong to the same pair: count runs, not pixels.
    starts_run = np.ones(truth.size, bool)
    starts_run[1:] = (truth[1:] != truth[:-1]) | (predicted[1:] != predicted[:-1])
    starts = np.flatnonzero(starts_run)
    lengths = np.diff(starts, append=truth.size)
    truth, predicted = truth[starts], predicted[starts]

    return _table(_number(truth), _number(predicted), lengths, truth >= 0)


def _table(truth: Counts, predicted: Counts, lengths: Counts, counted: Array) -> Overlap:
    """The overlap of runs of pixels: their objects (0 is none), their lengths, and which are not void."""
    both = np.flatnonzero((truth > 0) & (predicted > 0))
    columns = int(predicted.max(initial=0)) + 1
    codes, pair = np.unique(truth[both] * columns + predicted[both], return_inverse=True)
    return Overlap(
        truth_N=_sum_by(truth, lengths)[1:],
        predicted_M=_sum_by(predicted, lengths * counted)[1:],
        void_M=_sum_by(predicted, lengths * ~counted)[1:],
        pair_truth_P=codes // columns - 1,
        pair_predicted_P=codes % columns - 1,
        shared_P=_sum_by(pair, lengths[both]),
        pixels=int(lengths[counted].sum()),
    )


def _number(labels: Array) -> Counts:
    """Labels renamed 1, 2, ... by first appearance; background and void become 0."""
    values, first, place = np.unique(labels, return_index=True, return_inverse=True)
    objects = np.flatnonzero(values > 0)
    names = np.zeros(values.size, np.int64)
    names[objects[np.argsort(first[objects])]] = np.arange(1, objects.size + 1)
    return names[place]


def _sum_by(group: Counts, amount: Counts) -> Counts:
    """Sum of the amounts of each group 0, 1, ...; float64 holds whole numbers exactly up to 2^53."""
    return np.bincount(group, weights=amount).astype(np.int64)


def _check_labels(labels_HW: Array, what: str, shape: tuple[int, ...]) -> None:
    if labels_HW.ndim != 2 or labels_HW.shape != shape:
        raise DataError(
            f"{what} of shape {labels_HW.shape} beside a truth of shape {shape}: both must be rows × columns of the "
            "same image; predict at the size of the truth"
        )
    if labels_HW.dtype.kind not in "bui":
        raise DataError(f"{what} of type {labels_HW.dtype}: objects are whole numbers from 1, background is 0")
    if labels_HW.size and not 0 <= int(labels_HW.min()) <= int(labels_HW.max()) <= LARGEST_ID:
        raise DataError(
            f"{what} with values from {labels_HW.min()} to {labels_HW.max()}: objects are numbered 1 to {LARGEST_ID}, "
            "background is 0; mark pixels that do not count in `void_HW`"
        )


def _check_void(void_HW: Array, shape: tuple[int, ...]) -> None:
    if void_HW.shape != shape or void_HW.dtype != np.bool_:
        raise DataError(
            f"void of shape {void_HW.shape} and type {void_HW.dtype}: give True or False for each pixel of {shape}"
        )
