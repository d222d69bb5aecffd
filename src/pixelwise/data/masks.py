"""Reading masks: from the values on disk to class indices, by a Coding that is stored with the model.

A mask holds codes: whole numbers, or colours packed as 0xRRGGBB. What the codes mean is inferred once, from all masks
of a folder (`coding`), then applied to each mask in the same way. A code without meaning is an error that names file,
value and count; it never becomes a class.

The objects of an image (`read_objects`) are what its masks number, or the connected pieces of their classes.

H rows, W columns, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.data.layouts import Source
from pixelwise.data.mask_codes import GREY, WHITE, Codes, read_codes, read_each, run_unique
from pixelwise.data.targets import BorderPlace, TargetForm, border_target
from pixelwise.errors import DataError, Finding, UsageError
from pixelwise.task import VOID, Task

MaskKind = Literal["index", "binary", "colours", "instances", "overlapping"]
KINDS: tuple[MaskKind, ...] = ("index", "binary", "colours", "instances", "overlapping")
VALUES_NAMED = 8


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
    each = read_each(sources)
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
