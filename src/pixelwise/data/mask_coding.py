"""What the values in the masks of a folder mean, inferred from all of them, or refused with the reason.

The pixels are counted per value once, file by file (`mask_counts`). From the counts follows a Coding and a Task
(`infer_coding`): numbers 0, 1, 2 ... are classes; 0 and 255 are background and foreground; numbers too large for
classes are objects; colours are classes in the order black first, then by their number. 255 is void, unless told or
known otherwise. Gaps, numbers from 1, smoothed edges and mixed codings are refused: each of them is more often an
accident than a wish, and each can be declared. So is one single value, unless the classes are named.

Where the borders between objects are to be learned, all numbers and colours but 0 are objects. That classes overlap
is never inferred, as any small number may be a sum of theirs: it is declared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pixelwise.data.known_classes import KNOWN_CLASSES, KnownClasses
from pixelwise.data.mask_codes import WHITE
from pixelwise.data.mask_counts import MaskCount, count_in_colours
from pixelwise.data.masks import Coding, MaskKind, code_text, coding_text, unknown_codes
from pixelwise.data.overlapping_masks import overlapping_coding
from pixelwise.data.stored import refusal
from pixelwise.data.targets import BorderPlace, TargetForm
from pixelwise.errors import DataError, Finding, UsageError
from pixelwise.task import VOID, Colour, Task, distinct_colours

TWO_CLASSES = ("background", "foreground")
BORDER = "border"
BORDER_CLASSES = ("background", "object")
MOST_COLOURS = 64
SMOOTH_SHARE = 0.8
MOST_SURE_CLASSES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOptions:
    """What the user declares about masks, and the layout they were found in.

    border  width in pixels of the borders between objects that are to be learned; 0: the classes as they are
    form    of the target that is learned where borders are (see `data/targets.py`)
    place   where borders are
    """

    classes: tuple[str, ...] = ()
    ignore_index: int | None = None
    masks: MaskKind | Literal["auto"] = "auto"
    layout: str = ""
    border: int = 0
    form: TargetForm = "softmax3"
    place: BorderPlace = "between"

    @property
    def counted(self) -> MaskKind | Literal["auto"]:
        """As what the masks are to be counted; raises UsageError where borders are wanted of masks without objects."""
        if not self.border:
            return self.masks
        if self.masks not in ("auto", "instances"):
            raise UsageError(
                f"data.target=borders learns the borders between single objects, and data.masks={self.masks} has none; "
                "give masks that tell the objects apart, and data.masks=instances"
            )
        if self.masks == "auto" and self.layout in KNOWN_CLASSES:
            raise UsageError(
                f"data.target=borders learns the borders between single objects, and the masks of {self.layout} hold "
                "classes; leave it out, or set data.masks=instances where they hold objects after all"
            )
        return "instances"


def infer_coding(masks: Sequence[MaskCount], options: MaskOptions) -> tuple[Coding, Task]:
    """The coding of all masks of a folder, and the task.

    Raises DataError with a finding per file that contradicts; and for no masks, or for one value in all of them unless
    the classes are named.
    """
    values = _values(masks) - {options.ignore_index}
    if not masks or (len(values) < 2 and not options.classes):
        raise _nothing_to_tell_apart(masks, values - {VOID})
    if options.border:
        return _border_coding(masks, options)
    if options.masks == "overlapping":
        coding, task = overlapping_coding(masks, options.classes, options.ignore_index)
        check_same_meaning(masks, coding)
        check_codes(masks, coding)
        return coding, task
    known = None if options.classes else KNOWN_CLASSES.get(options.layout)
    if options.masks == "colours" or any(mask.colours for mask in masks):
        return _colour_coding([count_in_colours(mask) for mask in masks], options, known)
    if options.masks != "instances":
        _check_palettes(masks)
    if known is not None:
        options = replace(options, classes=known.names, ignore_index=_first(options.ignore_index, known.void))
    coding = _number_coding(masks, options)
    check_codes(masks, coding)
    return coding, _task(coding, masks, options, known)


def check_codes(masks: Iterable[MaskCount], coding: Coding) -> None:
    """Raise DataError naming every mask with codes that `coding` does not know, with their pixels."""
    findings = [unknown_codes(mask.path, coding, mask.counts) for mask in masks]
    problems = [finding for finding in findings if finding is not None]
    if problems:
        raise DataError(f"values that are no class, in {len(problems)} of the masks", problems)


# Numbers


def _check_palettes(masks: Sequence[MaskCount]) -> None:
    """Refuse palettes that give one index two colours: the same class then has other numbers in other files."""
    seen: dict[int, tuple[Colour, Path]] = {}
    problems = []
    for mask in (mask for mask in masks if mask.palette):
        for code in mask.counts:
            colour, path = seen.setdefault(code, (mask.palette[code], mask.path))
            if colour != mask.palette[code]:
                found = f"index {code} is the colour {mask.palette[code]}, but {colour} in {path.name}"
                fix = "set data.masks=colours, which goes by the colours"
                problems.append(Finding(file=mask.path, found=found, rule="one palette for all masks", fix=fix))
    if problems:
        raise DataError("the palettes of the masks differ", problems)


def _number_coding(masks: Sequence[MaskCount], options: MaskOptions) -> Coding:
    values = _values(masks)
    void = () if options.ignore_index is None else (options.ignore_index,)
    if options.masks == "instances" or (options.masks == "auto" and any(mask.objects for mask in masks)):
        return Coding(kind="instances", void=void)
    two_values = _two_values(masks, values - set(void), options)
    if two_values and options.masks != "index" and len(options.classes) in (0, 2):
        return Coding(kind="binary", values=two_values, void=void)
    if options.masks == "binary":
        return _smoothed_or_else(masks, Coding(kind="binary", values=(0, max(255, *values)), void=void))
    if options.classes:
        return _declared_index(values, options)
    classes = values - {_first(options.ignore_index, VOID)}
    if options.masks == "auto" and classes and min(classes) >= 0 and max(classes) > VOID:
        return Coding(kind="instances", void=void)
    return _inferred_index(masks, classes, options)


def _two_values(masks: Sequence[MaskCount], values: set[int], options: MaskOptions) -> tuple[int, int] | None:
    """0 with 255, with the largest 16-bit number, or with the 1 of one bit; any two numbers if declared binary."""
    if options.masks == "binary" and len(values) == 2:
        return min(values), max(values)
    if values <= {0, 1} and all(mask.dtype == "bool" for mask in masks):
        return 0, 1
    _check_not_mixed(masks, values, options)
    return next(((0, top) for top in (255, 2**16 - 1) if values == {0, top}), None)


def _check_not_mixed(masks: Sequence[MaskCount], values: set[int], options: MaskOptions) -> None:
    """Refuse a folder where some files say 0 and 1, others 0 and 255, and none says both."""
    ones = [mask for mask in masks if 1 in mask.counts]
    tops = [mask for mask in masks if 255 in mask.counts]
    if options.ignore_index is not None or values != {0, 1, 255} or any(255 in mask.counts for mask in ones):
        return
    rule = "all masks of a folder say foreground in one way"
    fix = "change 255 to 1 in these files; if 255 is void, set data.ignore_index=255"
    found = f"values 0 and 255, but 0 and 1 in {len(ones)} other files such as {ones[0].path.name}"
    raise DataError(
        "the masks mix two codings", [Finding(file=mask.path, found=found, rule=rule, fix=fix) for mask in tops]
    )


def _declared_index(values: set[int], options: MaskOptions) -> Coding:
    """Numbers for named classes: from 0; from 1 where 0 is void, or where 0 is absent and the last number occurs."""
    count = len(options.classes)
    void = _first(options.ignore_index, VOID)
    first = 1 if void == 0 or (0 not in values and count in values and void != count) else 0
    return Coding(kind="index", values=tuple(range(first, first + count)), void=(void,))


def _inferred_index(masks: Sequence[MaskCount], classes: set[int], options: MaskOptions) -> Coding:
    """Numbers without gap from 0 (from 1 where 0 is void)."""
    void = _first(options.ignore_index, VOID)
    first = 1 if void == 0 else 0
    without_gap = tuple(range(first, first + len(classes)))
    if len(classes) >= 2 and classes == set(without_gap):
        if options.masks == "auto":
            _check_not_objects(masks, len(classes))
        return Coding(kind="index", values=without_gap, void=(void,))
    if len(classes) < 2:
        raise _nothing_to_tell_apart(masks, classes)
    if classes == set(range(1, len(classes) + 1)):
        found = f"values 1 to {len(classes)} and no 0 in all masks together"
        fix = f"name the {len(classes)} classes with data.classes; if 0 is a class too, name {len(classes) + 1}"
        rule = "classes are numbered from 0, unless they are named"
        finding = Finding(file=masks[0].path, found=found, rule=rule, fix=fix)
        raise DataError("the masks are numbered from 1", [finding])
    run = next(count for count in range(len(classes) + 1) if first + count not in classes)
    expected = Coding(kind="index", values=tuple(range(first, first + max(2, run))), void=(void,))
    return _smoothed_or_else(masks, expected)


def _nothing_to_tell_apart(masks: Sequence[MaskCount], values: set[int]) -> DataError:
    found = f"the masks hold only {sorted(values) or 'void'}"
    fix = "name all classes in the order of their values with data.classes, or correct the masks"
    findings = [Finding(file=mask.path, found=found, rule="at least two classes", fix=fix) for mask in masks[:1]]
    return DataError("there is nothing to tell apart", findings)


def _check_not_objects(masks: Sequence[MaskCount], count: int) -> None:
    """Refuse numbers that may count objects: of more than 8 bits, or many and gapless in each file."""
    lasts = {max(mask.counts) for mask in masks}
    gapless = all(len(mask.counts) == max(mask.counts) + 1 for mask in masks)
    wide = any(mask.dtype in ("uint16", "uint32", "int32") for mask in masks)
    if not ((wide and count > 2) or (count > MOST_SURE_CLASSES and gapless and len(lasts) > 1)):
        return
    found = f"the numbers 0 to {count - 1} may be classes or objects"
    fix = "set data.masks=instances for objects, data.masks=index for classes"
    raise DataError("classes or objects?", [Finding(file=masks[0].path, found=found, rule="one of them", fix=fix)])


def _smoothed_or_else(masks: Sequence[MaskCount], expected: Coding) -> Coding:
    """`expected`, or 0 and 255 where they hold most pixels, so that the strays are counted against what was meant."""
    total = sum(sum(mask.counts.values()) for mask in masks)
    extremes = sum(mask.counts.get(code, 0) for mask in masks for code in (0, 255))
    near = sum(pixels for mask in masks for code, pixels in mask.counts.items() if code < 8 or 247 < code < 256)
    smoothed = near > SMOOTH_SHARE * total and any(mask.counts.get(255) for mask in masks) and extremes
    return Coding(kind="binary", values=(0, 255)) if smoothed and len(_values(masks)) > 8 else expected


# Objects and their borders


def check_same_meaning(masks: Sequence[MaskCount], coding: Coding) -> None:
    """Refuse masks that a model's coding reads without an error, and yet not as they are meant.

    Masks of 0 and 255 alone say foreground with 255: no void, where the model numbers its classes or adds them up, and
    no single object, where it tells objects apart.
    """
    if _values(masks) != {0, VOID} or any(mask.objects for mask in masks):
        return
    found, where = "the values 0 and 255 alone", "as in the masks of the training"
    if coding.kind == "index" and VOID in coding.void_codes():
        fix = "save the foreground of these masks as its class number"
        raise refusal(masks[0].path, found=found, rule=f"{coding_text(coding)}, {where}", fix=fix)
    if coding.kind == "overlapping" and VOID in coding.void_codes():
        rule = f"{coding_text(coding)}; a file or a channel for each class may have 0 and 255"
        fix = "give the masks of all classes, or set data.masks=binary where there is one class"
        raise refusal(masks[0].path, found=found, rule=rule, fix=fix)
    if coding.kind == "instances":
        rule = f"a number, a colour or a file for each object, {where}"
        raise refusal(masks[0].path, found=found, rule=rule, fix="number the objects, or evaluate a model of classes")


def _border_coding(masks: Sequence[MaskCount], options: MaskOptions) -> tuple[Coding, Task]:
    """Masks of objects, of which the inside and the border are learned; refused where none holds two objects."""
    void = () if options.ignore_index is None else (options.ignore_index,)
    coding = Coding(kind="instances", void=void, border=options.border, form=options.form, place=options.place)
    check_codes(masks, coding)
    if all(mask.objects < 2 and coding.classes_in(list(mask.counts)).count(1) < 2 for mask in masks):
        found = "no mask holds two objects"
        rule = "a number, a colour or a file for each object, where their borders are learned (data.target=borders)"
        fix = "give masks that tell the objects apart, or leave data.target out"
        raise DataError("there is no border to learn", [Finding(file=masks[0].path, found=found, rule=rule, fix=fix)])
    names = _with_border(options.classes)
    if options.form == "softmax3":
        return coding, _task(coding, masks, replace(options, classes=names), None)
    return coding, Task.of(names[1:], kind="overlapping")


def _with_border(names: tuple[str, ...]) -> tuple[str, ...]:
    """Background, object and border, from none, from those of background and object, or as they are."""
    if len(names) not in (0, 2, 3):
        raise UsageError(
            f"{len(names)} class names: with data.target=borders name two with data.classes, background and object"
        )
    return (*(names or BORDER_CLASSES), BORDER)[:3]


# Colours


def _colour_coding(masks: Sequence[MaskCount], options: MaskOptions, known: KnownClasses | None) -> tuple[Coding, Task]:
    if options.masks not in ("auto", "colours"):
        coloured = next(mask for mask in masks if mask.colours)
        rule = f"numbers, for masks of kind {options.masks}"
        raise refusal(coloured.path, found="a mask in colours", rule=rule, fix="set data.masks=colours")
    _check_eight_bits(masks)
    values = _values(masks)
    if known is not None and values <= {*map(_packed, known.colours), _packed(known.void_colour)}:
        coding = _colours(map(_packed, known.colours), void=[_packed(known.void_colour)])
        task = Task(names=known.names, colours=known.colours, ignore_index=known.void)
        return coding, task
    void = [] if options.ignore_index is None else [options.ignore_index]  # of colours: 0xRRGGBB, so 0 is black
    values -= set(void)
    coding = _colours(sorted(values), void=void)
    _check_colours(masks, values, options)
    names = options.classes or tuple(code_text(code, "colours") for code in sorted(values))
    return coding, Task(names=names, colours=tuple(map(_unpacked, sorted(values))), ignore_index=VOID)


def _check_eight_bits(masks: Sequence[MaskCount]) -> None:
    """Refuse numbers that are no grey of 8 bits, beside masks in colours."""
    rule, fix = "only colours of 8 bits, as all masks of a folder alike", "save the masks in one way"
    problems = []
    for mask in masks:
        strays = [code for code in mask.counts if not 0 <= code <= WHITE]
        found = f"value {code_text(max(strays, key=abs, default=0), 'colours')} beside colours"
        problems += [Finding(file=mask.path, found=found, rule=rule, fix=fix)] if strays else []
    if problems:
        raise DataError("numbers beside masks in colours", problems)


def _check_colours(masks: Sequence[MaskCount], values: set[int], options: MaskOptions) -> None:
    wanted = len(options.classes) or len(values)
    if 2 <= len(values) <= MOST_COLOURS and wanted == len(values):
        return
    total: Counter[int] = Counter()
    for mask in masks:
        total.update(mask.counts)
    common = [code for code, _ in total.most_common(wanted)] if options.classes else []
    common = common or [code for code, pixels in total.items() if pixels > sum(total.values()) / 1000]
    problems = [unknown_codes(mask.path, _colours(common, void=[]), mask.counts) for mask in masks] if common else []
    rule = f"{wanted} colours, one per class" if options.classes else f"2 to {MOST_COLOURS} colours, one per class"
    fix = "save the masks losslessly and unsmoothed, and name their classes with data.classes"
    summary = f"{len(values)} colours in the masks; rule: {rule}; fix: {fix}"
    raise DataError(summary, [problem for problem in problems if problem is not None])


def _colours(codes: Iterable[int], void: Sequence[int]) -> Coding:
    values = tuple(code_text(code, "colours") for code in codes)
    return Coding(kind="colours", values=values, void=tuple(code_text(code, "colours") for code in void))


# The task


def _task(coding: Coding, masks: Sequence[MaskCount], options: MaskOptions, known: KnownClasses | None) -> Task:
    count = len(coding.values) or 2
    names = options.classes or (TWO_CLASSES if count == 2 else tuple(f"class {index}" for index in range(count)))
    void = next(iter(coding.void_codes()), VOID)
    colours = known.colours if known is not None else _palette_colours(coding, masks) or distinct_colours(len(names))
    return Task(names=names, colours=colours, ignore_index=void if len(names) <= void <= VOID else VOID)


def _palette_colours(coding: Coding, masks: Sequence[MaskCount]) -> tuple[Colour, ...]:
    """The colours of the classes in the palettes of the masks; none where a mask has no palette."""
    if not masks or coding.kind == "instances" or not all(mask.palette for mask in masks):
        return ()
    return tuple(masks[0].palette[code] for code in coding.value_codes())


def _values(masks: Iterable[MaskCount]) -> set[int]:
    return set().union(*(mask.counts for mask in masks))


def _first(declared: int | None, otherwise: int) -> int:
    return otherwise if declared is None else declared


def _packed(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _unpacked(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255
