"""Images that look alike: a hash of 64 bits that small changes leave as it is, and a search for hashes that are near.

The hash is the one of the discrete cosine transform: C. Zauner, Implementation and benchmarking of perceptual image
hash functions, master's thesis, Upper Austria University of Applied Sciences, Hagenberg 2010, section 3.2.1. An image
is reduced to 32 x 32 means; of its frequencies the 8 x 8 lowest that vary along both axes are each above the median of
them, or not. Brightness changes none of these frequencies, and contrast multiplies them all.

Hashes were compared for all images of 24 slices of ISBI 2012, 126 frames of CamVid and 172 images of the 2018 Data
Science Bowl, against themselves after a change, and against all others:

    saved as JPEG, quality 90      2 bits at most
    saved as JPEG, quality 50      4 bits at most in 320 images of 322, 5 in the others
    resized, by 1/4 to 2           4 bits at most, and 2 in 99 of a hundred
    brighter and of less contrast  4 bits at most
    other images of the Bowl       13 bits at least
    neighbouring slices of ISBI    9 bits at least
    frames of CamVid               2 to 4 bits in four pairs, in which the car hardly moves, else 5 at least

So images within `ALIKE` = 4 bits are taken for copies of each other. A copy that was cut (2 % of a side: up to 14
bits), mirrored or turned is not found.

H rows, W columns, C channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ALIKE = 4
SIDE, FREQUENCIES = 32, 8
FLATTEST = 0.1
FLATTEST_SHARE = 1e-4
UNDECIDED = 1e-3
BLOCK_PAIRS = 1 << 22


def perceptual_hash(pixels_HWC: NDArray[Any]) -> int | None:
    """64 bits that say what an image looks like, from 0 to 2**64 - 1; None where it shows too little to say so.

    `pixels_HWC` (or HW) has any type, number of channels and size from 1 x 1; the mean of the channels counts. An image
    says too little where the pattern that is hashed deviates by less than a tenth of a grey level (of real numbers: by
    less than 1/10000 of the largest): where it is constant, a single row or column, or varies along one axis only.

    >>> rows_HW, columns_HW = np.mgrid[:60, :80]
    >>> image_HW = (rows_HW - 20) ** 2 + rows_HW * columns_HW
    >>> perceptual_hash(image_HW) == perceptual_hash(image_HW / 7 + 30)
    True
    >>> perceptual_hash(np.zeros((60, 80), np.uint8)) is None
    True
    """
    grey_SS = _reduce(pixels_HWC)
    with np.errstate(all="ignore"):
        low_FF = dctn(grey_SS, norm="ortho")[1 : FREQUENCIES + 1, 1 : FREQUENCIES + 1]
        size = np.sqrt((low_FF**2).sum())
        if not size / SIDE > _least_deviation(pixels_HWC.dtype, grey_SS) or not np.isfinite(size):
            return None
    bits = low_FF > np.median(low_FF) + UNDECIDED * size
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def close_pairs(hashes: Sequence[int], *, within: int = ALIKE) -> Iterator[tuple[int, int]]:
    """All pairs (i, j), i < j, of positions whose hashes differ in at most `within` bits, in ascending order.

    All pairs are compared, in blocks of 4 million: of 20,000 hashes in about a second, with less than 100 MB.

    >>> list(close_pairs([0b0000, 0b1111, 0b0001], within=1))
    [(0, 2)]
    """
    for first, second in _close_blocks(np.array(hashes, np.uint64), within):
        yield from zip(first.tolist(), second.tolist(), strict=True)


def alike_groups(hashes: Sequence[int], *, within: int = ALIKE) -> list[list[int]]:
    """Positions of hashes that are near, in groups of two and more: each within `within` bits of another of its group.

    Two of a group can be further apart, as the frames of a slow film are. Any number of equal hashes costs no more than
    one.

    >>> alike_groups([0b0000, 0b111111, 0b0001, 0b0011], within=1)
    [[0, 2, 3]]
    """
    distinct, which = np.unique(np.array(hashes, np.uint64), return_inverse=True)
    parent = np.arange(len(distinct))
    for first, second in _close_blocks(distinct, within):
        parent = _joined(parent, first, second)
    groups = defaultdict(list)
    for position, label in enumerate(parent[which].tolist()):
        groups[label].append(position)
    return sorted(group for group in groups.values() if len(group) > 1)


def _close_blocks(hashes_N: NDArray[np.uint64], within: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Positions of the first and of the second of all close pairs, for some rows of the upper triangle at a time."""
    rows = max(1, BLOCK_PAIRS // max(1, len(hashes_N)))
    for start in range(0, len(hashes_N), rows):
        apart = np.bitwise_count(hashes_N[start : start + rows, None] ^ hashes_N[None, start:])
        first, second = np.nonzero(apart <= within)
        later = second > first
        yield first[later] + start, second[later] + start


def _joined(label_N: NDArray[Any], first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[Any]:
    """The labels of groups after joining those of each pair."""
    if not len(first):
        return label_N
    count = len(label_N)
    links = coo_array((np.ones(len(first), bool), (label_N[first], label_N[second])), shape=(count, count))
    _, joined = connected_components(links, directed=False)
    return np.asarray(joined[label_N])


def _reduce(pixels_HWC: NDArray[Any]) -> NDArray[np.float64]:
    """32 x 32 means over equal areas, of which a pixel may share in several; one band of rows at a time."""
    height, width = pixels_HWC.shape[:2]
    rows_SH, columns_SW = _area_weights(height), _area_weights(width)
    bands = []
    with np.errstate(all="ignore"):
        for weights_H in rows_SH:
            inside = np.flatnonzero(weights_H)
            band = slice(inside[0], inside[-1] + 1)
            part_hX = pixels_HWC[band].reshape(len(inside), -1).astype(np.float64)
            bands.append((weights_H[band] @ part_hX).reshape(width, -1).mean(axis=1))
        return np.asarray(np.stack(bands) @ columns_SW.T, np.float64)


def _area_weights(size: int) -> NDArray[np.float64]:
    """The share of each of `size` pixels in the mean of each of the 32 parts of a line; each row has the sum 1."""
    edges, pixels = np.linspace(0, size, SIDE + 1), np.arange(size)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.maximum(shared, 0) * (SIDE / size), np.float64)


def _least_deviation(dtype: np.dtype[Any], grey_SS: NDArray[np.float64]) -> float:
    return FLATTEST if dtype.kind in "bui" else FLATTEST_SHARE * float(np.abs(grey_SS).max())
