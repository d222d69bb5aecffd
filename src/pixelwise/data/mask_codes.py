"""The codes of a mask as they lie on disk: whole numbers, or colours packed as 0xRRGGBB; of one file or of several.

What they mean is said by a Coding (`masks`). A file that holds no codes is refused, with its name, what was found and
what to do.

H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.images import read_stored
from pixelwise.data.layouts import Source
from pixelwise.data.stored import Stored, refusal

Codes = NDArray[np.int64]
GREY, WHITE = 0x010101, 0xFFFFFF  # the colours of the grey levels 1 and 255


def read_codes(sources: Sequence[Source], kind: str) -> Codes:
    """The codes of a mask (H, W): numbers, or 0xRRGGBB for `colours`; of several files, 1 where any has an object.

    Of several files of overlapping classes, the k-th from 0 adds 2**k where its class is.
    """
    if len(sources) == 1:
        return codes_of(read_stored(sources[0].path, page=sources[0].page), sources[0].path, kind)
    if kind == "overlapping":
        return _in_bits(read_each(sources))
    if kind != "instances":
        rule = f"one mask per image for masks of kind {kind}"
        found = f"{len(sources)} masks for one image"
        raise refusal(sources[0].path, found=found, rule=rule, fix="set data.masks=instances, or merge the files")
    return reduce(np.logical_or, read_each(sources)).astype(np.int64)


def object_of(source: Source) -> NDArray[np.bool_]:
    """Where a file that holds one object is not 0; raises ImageFileError where it has more than two values."""
    codes_HW = codes_of(read_stored(source.path, page=source.page), source.path, "instances")
    return _two_values(codes_HW, source.path)


def _two_values(values_HW: NDArray[Any], path: Path) -> NDArray[np.bool_]:
    there_HW: NDArray[np.bool_] = values_HW != 0
    largest = values_HW.max()
    strays = int(np.count_nonzero(there_HW & (values_HW != largest)))
    if strays:
        found = f"{strays} pixels are neither 0 nor {largest}"
        rule = "a mask of one object or of one class has two values"
        raise refusal(path, found=found, rule=rule, fix="save it losslessly")
    return there_HW


def codes_of(stored: Stored, path: Path, kind: str) -> Codes:
    """The codes in a decoded file; colours of three equal parts everywhere are numbers, unless `colours` are asked.

    Where a file of `instances` is in colours, each colour but black is an object, with the code 0xRRGGBB. The channels
    of a file of `overlapping` classes are a class each.

    Raises ImageFileError for fractions, NaN, and channels that make neither numbers nor colours.
    """
    pixels_HWC = stored.pixels_HWC
    if stored.palette is not None and kind == "colours":
        pixels_HWC = stored.palette[pixels_HWC[..., 0]]
    if kind == "overlapping" and pixels_HWC.shape[2] > 1:
        return _in_bits(_channels(pixels_HWC, path))
    if pixels_HWC.shape[2] == 3:
        return _colour_codes(pixels_HWC, path, kind)
    if pixels_HWC.shape[2] != 1:
        found = f"{pixels_HWC.shape[2]} channels"
        raise refusal(path, found=found, rule="a mask has one channel, or three of a colour", fix="save one channel")
    if kind == "colours":
        return _colour_codes(np.repeat(pixels_HWC, 3, axis=2), path, kind)
    return _whole(pixels_HWC[..., 0], path)


def run_unique(codes_HW: Codes) -> tuple[Codes, tuple[NDArray[np.intp], NDArray[np.intp]], NDArray[np.int64]]:
    """The distinct codes of a mask, sorted; the code and length of each run of equal pixels; the pixels per code.

    Masks are made of runs, so this sorts few numbers instead of all pixels.
    """
    flat = codes_HW.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size))
    distinct, inverse = np.unique(flat[starts], return_inverse=True)
    counts = np.zeros(len(distinct), np.int64)
    np.add.at(counts, inverse, lengths)
    return distinct, (inverse, lengths), counts


def files_kind(sources: Sequence[Source], kind: str) -> str:
    """The kind of a mask in several files: what is declared, else instances.

    Raises ImageFileError where nothing is declared and their names are words, as those of classes.
    """
    if kind != "auto":
        return kind
    words = [source.label for source in sources if source.label and source.label != source.path.stem]
    if len(words) == len(sources) and not any(word.isdecimal() for word in words):
        found = f"one of several masks of an image: {', '.join(words)}"
        fix = "set data.masks=overlapping for a class per file, data.masks=instances for an object per file"
        raise refusal(sources[0].path, found=found, rule="files of objects are numbered", fix=fix)
    return "instances"


def parts_of(sources: Sequence[Source], kind: str, *, channels: int = 1) -> tuple[str, ...]:
    """What holds one class each, of overlapping ones: the words of several files, or several channels of one."""
    if kind != "overlapping" or (len(sources) == 1 and channels == 1):
        return ()
    if len(sources) > 1:
        return tuple(source.label for source in sources)
    return tuple(f"channel {channel}" for channel in range(channels))


def _in_bits(parts: Iterable[NDArray[np.bool_]]) -> Codes:
    """Codes of overlapping classes: the k-th part adds 2**k where it is."""
    return reduce(np.bitwise_or, (part_HW.astype(np.int64) << k for k, part_HW in enumerate(parts)))


def _channels(pixels_HWC: NDArray[Any], path: Path) -> Iterator[NDArray[np.bool_]]:
    """Where each channel is not 0; raises ImageFileError where one has more than two values, or all are the same."""
    if pixels_HWC.any() and (pixels_HWC == pixels_HWC[..., :1]).all():
        found = f"{pixels_HWC.shape[2]} channels that are all the same"
        fix = "save numbers in one channel, or each class in a channel of its own"
        raise refusal(path, found=found, rule="a channel per class, or one channel of numbers", fix=fix)
    return (_two_values(_whole(pixels_HWC[..., channel], path), path) for channel in range(pixels_HWC.shape[2]))


def _colour_codes(pixels_HWC: NDArray[Any], path: Path, kind: str) -> Codes:
    red, green, blue = (_whole(pixels_HWC[..., part], path) for part in range(3))
    alike = kind != "colours" and bool((red == green).all() and (green == blue).all())
    if alike:
        return red
    if kind not in ("colours", "instances"):
        raise refusal(path, found="a mask in colours", rule=f"numbers, for masks of kind {kind}", fix=SET_COLOURS)
    if red.size and max(part.max() for part in (red, green, blue)) > 255:
        raise refusal(path, found="colours of more than 8 bits", rule="RGB of 8 bits", fix="save the mask in 8 bits")
    return red << 16 | green << 8 | blue


SET_COLOURS = "set data.masks=colours, or save class numbers"


def _whole(values_HW: NDArray[Any], path: Path) -> Codes:
    if values_HW.dtype.kind == "f":
        odd = int((~np.isfinite(values_HW) | (values_HW != np.trunc(values_HW)) | (abs(values_HW) > 2**53)).sum())
        if odd:
            found = f"{odd} values that are no whole numbers"
            raise refusal(path, found=found, rule="a mask holds class numbers", fix="threshold the probabilities")
    return values_HW.astype(np.int64)


def read_each(sources: Sequence[Source]) -> Iterator[NDArray[np.bool_]]:
    """Where each of several files of one object is; raises ImageFileError where they differ in size."""
    first: NDArray[np.bool_] | None = None
    for source in sources:
        one_HW = object_of(source)
        first = one_HW if first is None else first
        if one_HW.shape != first.shape:
            found = f"{_size(one_HW)} pixels where its neighbour has {_size(first)}"
            raise refusal(source.path, found=found, rule="objects of one image have one size", fix="correct the file")
        yield one_HW


def _size(array_HW: NDArray[Any]) -> str:
    return f"{array_HW.shape[1]} x {array_HW.shape[0]}"
