"""Masks as run lengths: the text of the Kaggle contests, and the two forms of COCO.

Contests  "start length start length …" of the runs of 1, positions from 1. The Data Science Bowl 2018 and TGS Salt
          count down the columns, Carvana along the rows.
COCO      lengths of the runs of 0, 1, 0, 1, … down the columns, the first of 0 (maybe empty). Either as a list, or
          "compressed" to text: each number but the first three as its difference to the last but one, in groups of five
          bits, least first, each group a printable character from "0" on (Lin et al.: Microsoft COCO: common objects in
          context. ECCV 2014, arXiv 1405.0312; the format is that of its mask API).

H rows, W columns.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError, UsageError
from pixelwise.postprocess.morphology import Mask, check_map

Array = NDArray[Any]
Numbers = NDArray[np.int64]
Order = Literal["columns", "rows"]
ORDERS = ("columns", "rows")
MOST_PIXELS = 1 << 31
DIGIT, MORE, SIGN, FIRST_CHARACTER, BITS = 0x1F, 0x20, 0x10, 48, 5
LONGEST_NUMBER = 13


def encode_runs(mask_HW: Array, *, order: Order = "columns") -> str:
    """The runs of a mask as "start length start length …", positions counted from 1; empty for an empty mask.

    >>> mask = np.array([[0, 1, 0], [0, 1, 1], [0, 0, 1]])
    >>> encode_runs(mask), encode_runs(mask, order="rows")
    ('4 2 8 2', '2 1 5 2 9 1')
    """
    check_map(mask_HW, "mask")
    starts, lengths = _runs(np.flatnonzero(_flat(mask_HW, order)))
    return " ".join(map(str, np.stack([starts + 1, lengths], axis=1).ravel().tolist()))


def decode_runs(text: str, height: int, width: int, *, order: Order = "columns") -> Mask:
    """The mask (H, W) whose runs a text gives; an empty text is an empty mask.

    Runs may come in any order. Raises DataError for what is not pairs of numbers, and for runs that leave the image
    or overlap.

    >>> decode_runs("4 2 8 2", 3, 3).astype(int).tolist()
    [[0, 1, 0], [0, 1, 1], [0, 0, 1]]
    """
    _check_size(height, width)
    words = text.split()
    if len(words) % 2 or not all(re.fullmatch("[0-9]{1,12}", word) for word in words):
        raise DataError(f"run lengths {text[:40]!r}: give pairs of whole numbers, start and length")
    starts, lengths = np.array(words, np.int64).reshape(-1, 2).T
    ends = starts + lengths - 1
    if words and (starts.min() < 1 or lengths.min() < 1 or ends.max() > height * width):
        raise DataError(
            f"run lengths {text[:40]!r}: runs must lie within the {height * width} pixels of a {height} × {width} "
            "image, counted from 1; check the image's size"
        )
    changes = np.zeros(height * width + 1, np.int32)
    np.add.at(changes, starts - 1, 1)
    np.add.at(changes, ends, -1)
    covered = changes[:-1].cumsum()
    if covered.max() > 1:
        raise DataError(f"run lengths {text[:40]!r}: two runs overlap; write every pixel once")
    return _unflat(covered > 0, height, width, order)


def coco_counts(mask_HW: Array) -> list[int]:
    """The lengths of the runs of 0, 1, 0, 1, … down the columns; the first may be 0.

    >>> coco_counts(np.array([[0, 1, 0], [0, 1, 1], [0, 0, 1]]))
    [3, 2, 2, 2]
    """
    check_map(mask_HW, "mask")
    return _counts(np.flatnonzero(_flat(mask_HW, "columns")), mask_HW.size)


def box_counts(box_HW: Array, *, top: int, left: int, size: tuple[int, int]) -> list[int]:
    """`coco_counts` of an image of `size` (rows, columns) that is 0 outside of a box with the corner (top, left).

    It takes time for the box, not for the image.
    """
    columns, rows = np.nonzero(box_HW.T)
    return _counts((columns + left) * size[0] + rows + top, math.prod(size))


def compress_counts(counts: list[int]) -> str:
    """COCO's text for a list of counts.

    >>> compress_counts([3, 2, 2, 2]), compress_counts([0, 100])
    ('3220', '0T3')
    """
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            digit, value = value & DIGIT, value >> BITS
            # The last group's highest bit is the sign of all that is left.
            more = value != (-1 if digit & SIGN else 0)
            text.append(chr(FIRST_CHARACTER + digit + (MORE if more else 0)))
    return "".join(text)


def expand_counts(text: str) -> list[int]:
    """The list of counts that COCO's text stands for; raises DataError for what is no such text.

    >>> expand_counts("3220")
    [3, 2, 2, 2]
    """
    counts: list[int] = []
    for number in _numbers(text):
        digits = [ord(character) - FIRST_CHARACTER & DIGIT for character in number]
        value = sum(digit << (BITS * place) for place, digit in enumerate(digits))
        if digits[-1] & SIGN:
            value -= 1 << (BITS * len(digits))
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def to_coco_rle(mask_HW: Array, *, compressed: bool = True) -> dict[str, Any]:
    """A mask as COCO's `segmentation`: {"size": [H, W], "counts": text or list}.

    >>> to_coco_rle(np.array([[0, 1], [0, 1]]))
    {'size': [2, 2], 'counts': '22'}
    """
    counts = coco_counts(mask_HW)
    return {"size": list(mask_HW.shape), "counts": compress_counts(counts) if compressed else counts}


def from_coco_rle(segmentation: dict[str, Any]) -> Mask:
    """The mask of COCO's run lengths, compressed (text) or not (list).

    Raises DataError where the counts are not those of an image of the size given.

    >>> from_coco_rle({"size": [2, 2], "counts": [2, 2]}).astype(int).tolist()
    [[0, 1], [0, 1]]
    """
    try:
        height, width = segmentation["size"]
        counts = segmentation["counts"]
        runs = expand_counts(counts) if isinstance(counts, str) else [int(count) for count in counts]
        _check_size(height, width)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not run lengths of COCO: {error}; they hold size [rows, columns] and counts") from error
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise DataError(
            f"run lengths of {sum(runs)} pixels for an image of {height} × {width}; the counts must be 0 or more and "
            "add up to its pixels"
        )
    return _unflat(np.repeat(np.arange(len(runs)) % 2 == 1, runs), height, width, "columns")


def _flat(mask_HW: Array, order: Order) -> Mask:
    if order not in ORDERS:
        raise UsageError(f"order = {order!r}: choose one of {', '.join(ORDERS)}")
    flat: Mask = (mask_HW != 0).ravel(order="F" if order == "columns" else "C")
    return flat


def _unflat(flat: Mask, height: int, width: int, order: Order) -> Mask:
    if order not in ORDERS:
        raise UsageError(f"order = {order!r}: choose one of {', '.join(ORDERS)}")
    return np.ascontiguousarray(flat.reshape((height, width), order="F" if order == "columns" else "C"))


def _runs(positions: Numbers) -> tuple[Numbers, Numbers]:
    """Starts and lengths of the runs of consecutive numbers among ascending positions."""
    breaks = np.flatnonzero(np.diff(positions) > 1)
    starts = np.concatenate([positions[:1], positions[breaks + 1]])
    ends = np.concatenate([positions[breaks], positions[-1:]])
    return starts, ends - starts + 1


def _counts(positions: Numbers, size: int) -> list[int]:
    starts, lengths = _runs(positions)
    edges = np.stack([starts, starts + lengths], axis=1).ravel()
    tail = [size] if not edges.size or edges[-1] < size else []
    counts: list[int] = np.diff(np.concatenate([[0], edges, tail])).astype(int).tolist()
    return counts


def _numbers(text: str) -> list[str]:
    """Cut COCO's text after each character that says that no more follow."""
    last = "".join(chr(FIRST_CHARACTER + digit) for digit in range(MORE))
    more = "".join(chr(FIRST_CHARACTER + MORE + digit) for digit in range(MORE))
    number = f"[{re.escape(more)}]{{0,{LONGEST_NUMBER - 1}}}[{re.escape(last)}]"
    if not re.fullmatch(f"(?:{number})*", text):
        raise DataError(f"run lengths {text[:40]!r} are not COCO's: a character or the end is wrong; write them anew")
    return re.findall(number, text)


def _check_size(height: int, width: int) -> None:
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise DataError(f"an image of {height} × {width}: give at least 1 × 1 and at most {MOST_PIXELS} pixels")
