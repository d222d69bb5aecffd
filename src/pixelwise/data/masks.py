"""Reading masks: from the values on disk to class indices, by a Coding that is stored with the model.

A mask holds codes: whole numbers, or colours packed as 0xRRGGBB. What the codes mean is inferred once, from all masks
of a folder (`coding`), then applied to each mask in the same way. A code without meaning is an error that names file,
value and count; it never becomes a class.

The objects of an image (`read_objects`) are what its masks number, or the connected pieces of their classes.

H rows, W columns, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.data.images import read_stored
from pixelwise.data.layouts import Source
from pixelwise.data.stored import Stored, refusal
from pixelwise.data.targets import BorderPlace, TargetForm, border_target
from pixelwise.errors import DataError, Finding, UsageError
from pixelwise.task import VOID, Task

MaskKind = Literal["index", "binary", "colours", "instances", "overlapping"]
KINDS: tuple[MaskKind, ...] = ("index", "binary", "colours", "instances", "overlapping")
Codes = NDArray[np.int64]
VALUES_NAMED = 8
GREY, WHITE = 0x010101, 0xFFFFFF  # the colours of the grey levels 1 and 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How codes on disk become class indices.

    kind    index: a number per class; binary: background and foreground; colours: an RGB colour per class;
            instances: 0 is background, every other number, or every further file, an object;
            overlapping: a number is the sum of those of the classes that are there; of several files, or of several
            channels, each is a class
    values  the code of each class, in the order of the indices: numbers, or colours like `#ff0000`; none for instances
    void    codes that count nowhere
    border  instances only: borders of this width in pixels are learned (see `data/targets.py`); 0: the classes are
            background and object
    form    of what is learned where borders are: three exclusive classes, or two that overlap
    place   whether borders lie between objects or around them

    >>> Coding.from_dict(Coding(kind="binary", values=(0, 255)).to_dict())
    Coding(kind='binary', values=(0, 255), void=(), border=0, form='softmax3', place='between')
    """

    kind: MaskKind
    values: tuple[int | str, ...] = ()
    void: tuple[int | str, ...] = ()
    border: int = 0
    form: TargetForm = "softmax3"
    place: BorderPlace = "between"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind of mask {self.kind!r}; choose one of {', '.join(KINDS)}")
        codes = [*self.value_codes(), *self.void_codes()]
        if len(set(codes)) != len(codes):
            raise UsageError(f"the values {self.values} and void {self.void} of a mask must all differ")
        if bool(self.values) == (self.kind == "instances") or (self.kind == "binary" and len(self.values) != 2):
            raise UsageError(f"masks of kind {self.kind} with the values {self.values}")
        if self.kind == "overlapping" and codes[: len(self.values)] != [2**k for k in range(len(self.values))]:
            raise UsageError(f"overlapping classes have the values 1, 2, 4 ..., got {self.values}")
        if type(self.border) is not int or self.border < 0 or (self.border and self.kind != "instances"):
            raise UsageError(f"masks of kind {self.kind} with borders of {self.border} pixels")
        if self.form not in get_args(TargetForm):
            raise UsageError(f"unknown form of target {self.form!r}; choose one of {', '.join(get_args(TargetForm))}")
        if self.place not in get_args(BorderPlace):
            raise UsageError(f"unknown place of borders {self.place!r}; choose {' or '.join(get_args(BorderPlace))}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Coding:
        """The coding that `to_dict` wrote; raises UsageError on anything else."""
        try:
            kind, codes, void = values["kind"], tuple(values["values"]), tuple(values["void"])
            border, form = values.get("border", 0), values.get("form", "softmax3")
            place = values.get("place", "between")
        except (KeyError, TypeError) as error:
            raise UsageError(f"not the coding of masks: {error}") from error
        return cls(kind=kind, values=codes, void=void, border=border, form=form, place=place)

    def to_dict(self) -> dict[str, Any]:
        """The coding as plain JSON values."""
        codes = {"values": list(self.values), "void": list(self.void)}
        return {"kind": self.kind, **codes, "border": self.border, "form": self.form, "place": self.place}

    def value_codes(self) -> list[int]:
        """The code of each class as a number."""
        return [_code(value) for value in self.values]

    def void_codes(self) -> list[int]:
        """The codes that count nowhere, as numbers."""
        return [_code(value) for value in self.void]

    def classes_of(self, codes: Codes) -> Codes:
        """The class index of each code, borders left aside: -1 for void, -2 where the code has no meaning.

        Of overlapping classes it is the set of those that are there, in bits (see task.py).
        """
        void = np.isin(codes, self.void_codes())
        if self.kind == "overlapping":
            return np.where(void, -1, np.where((codes >= 0) & (codes < 2 ** len(self.values)), codes, -2))
        if self.kind == "instances":
            return np.where(void, -1, np.where(codes < 0, -2, codes != 0))
        known = np.array(self.value_codes(), np.int64)
        order = np.argsort(known)
        place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        return np.where(void, -1, np.where(known[order][place] == codes, order[place], -2))

    def classes_in(self, codes: Sequence[int]) -> list[int]:
        """The class index of each code, as `classes_of`, for plain numbers."""
        return cast("list[int]", self.classes_of(np.array(codes, np.int64)).tolist())

    def count_classes(self, classes: Iterable[int], pixels: Iterable[int]) -> Counter[int]:
        """The pixels of each class index, from those of each of `classes_of`: a set counts for each class in it."""
        counts: Counter[int] = Counter()
        for index, number in zip(classes, pixels, strict=True):
            if self.kind == "overlapping" and index >= 0:
                counts.update({k: number for k in range(len(self.values)) if index >> k & 1})
            else:
                counts[index] += number
        return counts


def read_mask(sources: Sequence[Source], coding: Coding, task: Task) -> NDArray[np.uint8]:
    """The mask_HW of an image: classes, or the bits of overlapping ones (see task.py); `task.ignore_index` where void.

    Several sources are one file per object, or per overlapping class in their order. Raises DataError naming file,
    values, counts and rule where a code has no meaning in `coding`, a value is not whole, or the masks of one image
    differ in size.
    """
    if coding.border:
        objects_HW = read_objects(sources, coding, task)
        target_HW = border_target(objects_HW, width=coding.border, form=coding.form, place=coding.place)
        return np.where(objects_HW < 0, np.uint8(_void(task)), target_HW)
    return _read_numbered(
        sources, coding, task, lambda classes: np.where(classes == -1, _void(task), classes), np.uint8
    )


def read_objects(sources: Sequence[Source], coding: Coding, task: Task) -> NDArray[np.int32]:
    """The objects (H, W) of an image: 0 background, numbers from 1 for the objects, -1 where the pixel counts nowhere.

    Of masks of kind `instances`, each code but 0 is an object, in as many pieces as it may be; and so is each of
    several files, where the first file that claims a pixel has it. In all other masks the objects are the pieces
    (4-connected) of each class but the first, which is the background between them; of overlapping classes, the pieces
    of the first. Raises DataError as `read_mask`.
    """
    if coding.kind != "instances":
        return _pieces(read_mask(sources, coding, task), task)
    if len(sources) == 1:
        return _read_numbered(sources, coding, task, _in_order, np.int32)
    each = _read_each(sources)
    objects_HW = next(each).astype(np.int32)
    for number, one_HW in enumerate(each, start=2):
        np.copyto(objects_HW, number, where=one_HW & (objects_HW == 0))
    return objects_HW


def class_pixels(mask_HW: NDArray[np.uint8], task: Task) -> NDArray[np.int64]:
    """The pixels of each class in a mask that was read, then those of void (K + 1). Overlapping classes count each.

    >>> class_pixels(np.array([[0, 1, 3, 255]], np.uint8), Task.of(["a", "b"], kind="overlapping")).tolist()
    [2, 1, 1]
    """
    pixels = np.bincount(mask_HW.ravel(), minlength=VOID + 1)
    known = pixels[: task.codes]
    if task.kind == "overlapping":
        known = (np.arange(task.codes) >> np.arange(task.outputs)[:, None] & 1) @ known
    return np.append(known, mask_HW.size - pixels[: task.codes].sum())


def unknown_codes(path: Path, coding: Coding, counts: dict[int, int]) -> Finding | None:
    """What to say about codes without meaning, with the pixels of each; None where all have one."""
    classes = coding.classes_of(np.array(list(counts), np.int64))
    strays = {code: pixels for (code, pixels), index in zip(counts.items(), classes, strict=True) if index == -2}
    if not strays:
        return None
    total = sum(strays.values())
    share = float(f"{100 * total / max(1, sum(counts.values())):.2g}")
    shown = ", ".join(code_text(code, coding.kind) for code in sorted(strays)[:VALUES_NAMED])
    more = f" and {len(strays) - VALUES_NAMED} more" if len(strays) > VALUES_NAMED else ""
    found = f"{'value' if len(strays) == 1 else 'values'} {shown}{more} in {total} pixels ({share:g} %)"
    rule = "only " + coding_text(coding)
    fix = "save the mask losslessly and unsmoothed; else name all classes (data.classes) or the kind (data.masks)"
    return Finding(file=path, found=found, rule=rule, fix=fix)


def coding_text(coding: Coding) -> str:
    """The codes that a mask may hold, for a person."""
    values = [code_text(code, coding.kind) for code in coding.value_codes()]
    text = f"{values[0]} to {values[-1]}" if _consecutive(coding) else ", ".join(values)
    text = text or "0 for background and numbers above for objects"
    text = f"0, {text} and sums of them" if coding.kind == "overlapping" else text
    void = ", ".join(code_text(code, coding.kind) for code in coding.void_codes())
    return f"{text}, and {void} for void" if void else text


def code_text(code: int, kind: str) -> str:
    """A code as a person writes it: a number or `#rrggbb`; of a grey that no colour has, its number.

    >>> code_text(0xFF0000, "colours"), code_text(300 * GREY, "colours"), code_text(3, "index")
    ('#ff0000', '300', '3')
    """
    if kind != "colours":
        return str(code)
    return f"#{code:06x}" if 0 <= code <= WHITE else str(code if code < 0 else code // GREY)


def read_codes(sources: Sequence[Source], kind: str) -> Codes:
    """The codes of a mask (H, W): numbers, or 0xRRGGBB for `colours`; of several files, 1 where any has an object.

    Of several files of overlapping classes, the k-th from 0 adds 2**k where its class is.
    """
    if len(sources) == 1:
        return codes_of(read_stored(sources[0].path, page=sources[0].page), sources[0].path, kind)
    if kind == "overlapping":
        return _in_bits(_read_each(sources))
    if kind != "instances":
        rule = f"one mask per image for masks of kind {kind}"
        found = f"{len(sources)} masks for one image"
        raise refusal(sources[0].path, found=found, rule=rule, fix="set data.masks=instances, or merge the files")
    return reduce(np.logical_or, _read_each(sources)).astype(np.int64)


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
    return (_two_values(pixels_HWC[..., channel], path) for channel in range(pixels_HWC.shape[2]))


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


def _read_each(sources: Sequence[Source]) -> Iterator[NDArray[np.bool_]]:
    """Where each of several files of one object is; raises ImageFileError where they differ in size."""
    first: NDArray[np.bool_] | None = None
    for source in sources:
        one_HW = object_of(source)
        first = one_HW if first is None else first
        if one_HW.shape != first.shape:
            found = f"{_size(one_HW)} pixels where its neighbour has {_size(first)}"
            raise refusal(source.path, found=found, rule="objects of one image have one size", fix="correct the file")
        yield one_HW


def _read_numbered(
    sources: Sequence[Source],
    coding: Coding,
    task: Task,
    number: Callable[[Codes], Codes],
    dtype: type[np.integer[Any]],
) -> NDArray[Any]:
    """The mask of an image with the `number` of its class in place of each code; -1 is the class of void."""
    codes_HW = read_codes(sources, coding.kind)
    distinct, (inverse, lengths), counts = run_unique(codes_HW)
    classes = coding.classes_of(distinct)
    problem = unknown_codes(sources[0].path, coding, dict(zip(distinct.tolist(), counts.tolist(), strict=True)))
    if problem:
        raise DataError("a mask cannot be read", [problem])
    if task.ignore_index is None and (classes == -1).any():
        raise DataError(f"{sources[0]}: the mask has void pixels, but the task declares no ignore_index")
    return np.repeat(number(classes).astype(dtype)[inverse], lengths).reshape(codes_HW.shape)


def _in_order(classes: Codes) -> Codes:
    """1, 2, 3 ... for the codes that are objects, with background and void as they are."""
    return np.where(classes == 1, np.cumsum(classes == 1), classes)


def _pieces(mask_HW: NDArray[np.uint8], task: Task) -> NDArray[np.int32]:
    """The 4-connected pieces of each class but the first, or of the first that overlaps, from 1; -1 for void."""
    void_HW = mask_HW == _void(task)
    objects_HW = np.where(void_HW, np.int32(-1), np.int32(0))
    found = 0
    overlapping = task.kind == "overlapping"
    layers = [mask_HW & 1 & ~void_HW] if overlapping else [mask_HW == label for label in range(1, task.codes)]
    for layer_HW in layers:
        count, pieces_HW = cv2.connectedComponents(layer_HW.astype(np.uint8), connectivity=4)
        objects_HW[pieces_HW > 0] = pieces_HW[pieces_HW > 0] + found
        found += count - 1
    return objects_HW


def _void(task: Task) -> int:
    return VOID if task.ignore_index is None else task.ignore_index


def _code(value: int | str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return value
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            return int(value[1:], 16)
        except ValueError as error:
            raise UsageError(f"mask value {value!r}: write colours as #rrggbb") from error
    raise UsageError(f"mask value {value!r}: give a whole number, or a colour as #rrggbb")


def _consecutive(coding: Coding) -> bool:
    codes = coding.value_codes()
    return coding.kind != "colours" and len(codes) > 2 and codes == list(range(codes[0], codes[0] + len(codes)))


def _size(array_HW: NDArray[Any]) -> str:
    return f"{array_HW.shape[1]} x {array_HW.shape[0]}"
