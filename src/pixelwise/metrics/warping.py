"""Warping error: which wrong pixels change the topology, and which only move a border.

Jain, Bollmann, Richardson et al., "Boundary Learning by Optimization with Topological Constraints", CVPR 2010. The
truth is warped towards the prediction: wrong pixels are flipped, one at a time, where that changes no topology (a
simple point: cells 4-connected, borders 8-connected). What cannot be flipped is an error. The order, the one-pixel
frame of border and the kinds of error are those of the ISBI 2012 challenge.

A pixel is simple where Yokoi's connectivity number of its ring of eight is 1 (Yokoi, Toriwaki and Fukumura, "An
analysis of topological properties of digitized binary pictures using local features", CGIP 1975).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pixelwise.metrics.confusion import Array, Counts

RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
SIDES = (1, 3, 5, 7)
EIGHT = np.ones((3, 3), bool)


def _yokoi(code: int) -> int:
    """How many 4-connected pieces of cell in a ring of eight touch its centre; 0 also where all eight are cell."""
    bits = [code >> k & 1 for k in range(8)]
    return sum(bits[k] - bits[k] * bits[(k + 1) % 8] * bits[(k + 2) % 8] for k in SIDES)


PIECES = tuple(_yokoi(code) for code in range(256))
SIMPLE = tuple(pieces == 1 for pieces in PIECES)


@dataclass(frozen=True, slots=True)
class Warping:
    """What is left after warping: wrong pixels, and how many of them are pixels of splits and of mergers."""

    mismatches: int
    splits: int
    mergers: int


def warp(truth_HW: Array, map_HW: Array, threshold: float) -> Warping:
    """Warp the cells of the truth towards those of a map, and count the pixels that topology forbids to flip.

    `truth_HW` is True inside cells; `map_HW` holds the probability of not being border, and a cell is where it is above
    the threshold. Wrong pixels are tried from the one farthest from the threshold, again and again until none can be
    flipped.

    >>> warp(np.array([[True, False, True]] * 3), np.array([[1.0, 0, 1], [1, 1, 1], [1, 0, 1]]), 0.5)
    Warping(mismatches=1, splits=0, mergers=1)
    """
    map_WH = np.pad(map_HW.T.astype(np.float64), 1, constant_values=-np.inf)
    cells_WH = np.pad(truth_HW.T, 1)
    wrong = np.flatnonzero(cells_WH != (map_WH > threshold))
    distance = np.abs(map_WH.ravel()[wrong] - threshold).astype(np.float32)
    order = wrong[np.argsort(-distance, kind="stable")]

    left = _flip_simple(order.tolist(), _ring_codes(cells_WH).ravel().tolist(), _steps(cells_WH))
    warped = cells_WH.ravel().copy()
    flipped = np.setdiff1d(wrong, left)
    warped[flipped] = ~warped[flipped]
    return _classify(np.array(left, np.int64), warped.reshape(cells_WH.shape))


def _flip_simple(order: list[int], codes: list[int], steps: list[int]) -> list[int]:
    """Flip what is simple, sweep after sweep in the order given; the pixels left when a sweep flips none.

    A pixel that was not simple can only become so when a pixel of its ring flips. So instead of sweeping, each such
    pixel waits in a heap for its next turn: the turn of rank r in sweep s is s * len(order) + r.
    """
    rank = {pixel: r for r, pixel in enumerate(order)}
    turns = [r for r, pixel in enumerate(order) if SIMPLE[codes[pixel]]]
    while turns:
        turn = heapq.heappop(turns)
        pixel = order[turn % len(order)]
        if pixel not in rank or not SIMPLE[codes[pixel]]:
            continue
        del rank[pixel]
        for k, step in enumerate(steps):
            codes[pixel + step] ^= 1 << (k + 4) % 8
        for step in steps:
            waiting = rank.get(pixel + step)
            if waiting is not None and SIMPLE[codes[pixel + step]]:
                heapq.heappush(turns, turn + (waiting - turn) % len(order))
    return list(rank)


def _classify(left: Counts, warped_WH: Array) -> Warping:
    """Count splits and mergers among the pixels that are left.

    A border pixel that touches two cells would merge them. A cell pixel splits its cell where it touches two cells, or
    where its removal takes its own apart: with n pieces of the cell and k separate borders around it, n - k + 1 stay.
    """
    cells_WH, _ = ndimage.label(warped_WH)
    borders_WH, _ = ndimage.label(~warped_WH, structure=EIGHT)
    ring = left[:, None] + np.array(_steps(warped_WH))
    touched = _distinct(cells_WH.ravel()[ring])
    pieces = np.array(PIECES)[_ring_codes(warped_WH).ravel()[left]]
    apart = (touched == 1) & (pieces > _distinct(borders_WH.ravel()[ring]))
    cell = warped_WH.ravel()[left]
    return Warping(
        mismatches=left.size,
        splits=int((cell & (apart | (touched > 1))).sum()),
        mergers=int((~cell & (touched > 1)).sum()),
    )


def _distinct(labels: Array) -> Counts:
    """How many different labels each row has, without 0."""
    labels = np.sort(labels, axis=1)
    fresh = labels > 0
    fresh[:, 1:] &= labels[:, 1:] != labels[:, :-1]
    different: Counts = fresh.sum(axis=1)
    return different


def _steps(padded: Array) -> list[int]:
    """From a pixel to each of its ring, in the flattened array."""
    return [row * padded.shape[1] + column for row, column in RING]


def _ring_codes(padded: Array) -> Counts:
    """The ring of eight of every pixel inside the frame, as the bits of a number."""
    codes = np.zeros(padded.shape, np.int64)
    rows, columns = padded.shape
    for k, (row, column) in enumerate(RING):
        shifted = padded[1 + row : rows - 1 + row, 1 + column : columns - 1 + column]
        codes[1:-1, 1:-1] |= shifted.astype(np.int64) << k
    return codes
