"""What the masks of a data set are meant to be, also where training refuses them, and by what rule that is known.

Training asks `infer_coding`, and so does this; where it refuses, a few accidents are undone and it is asked again:

-1                  void; so is the largest number of 16 or 32 bits beside small numbers: it is -1 without its sign
numbers from 1      the classes are 1 to K, and 0 is missing
several palettes    the colours say what an index means
strays              values that nowhere fill an area lie around those that do: JPEG noise, smooth edges
outliers            the few masks with other values are left aside, and named

Anything else can be meant in two ways, and is for a person to declare.

H rows, W columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.checkup import MaskRecord
from pixelwise.data.mask_codes import Codes
from pixelwise.data.mask_coding import TWO_CLASSES, MaskOptions, infer_coding
from pixelwise.data.mask_counts import MaskCount
from pixelwise.data.mask_values import in_colours
from pixelwise.data.masks import KINDS, Coding, MaskKind
from pixelwise.errors import DataError, Finding, UsageError
from pixelwise.task import VOID, Colour, Task

UNSIGNED_MINUS_ONES = (2**16 - 1, 2**32 - 1)
MOST_PEAKS = 64
RADIUS = 24  # grey levels, or of the most different of three colour parts
FOREIGN_SOLID = 9
LEAST_SOLID, LEAST_SOLID_SHARE, LEAST_SOLIDITY = 32, 2e-5, 0.25
MOST_STRAY_SHARE, MOST_STRAY_SOLIDITY = 0.25, 0.3
STRAY_SOLIDITY, STRAY_COLOUR_SHARE, FEWEST_STRAY_COLOURS = 0.02, 0.01, 5
FULL, NEARLY = 255, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """How the codes of masks become classes, with accidents undone.

    void    codes that are void beside those of the coding
    peaks   pairs (code found, code meant): a code without meaning is taken for the nearest of them; empty: it is not
    radius  how far from all peaks an area of a code must be to be foreign
    undone  what accident was undone: `numbered from 1`, `palettes`, or nothing
    refused what training says of these masks; empty where it takes them
    """

    coding: Coding
    task: Task
    void: tuple[int, ...] = ()
    peaks: tuple[tuple[int, int], ...] = ()
    radius: int = RADIUS
    undone: str = ""
    refused: tuple[Finding, ...] = ()

    def normal(self, mask_codes: Codes, *, colours: bool, palette: Sequence[Colour]) -> Codes:
        """Codes as the coding has them: colours where it is one of colours, void where they are void."""
        codes = mask_codes if colours or self.coding.kind != "colours" else in_colours(mask_codes, palette)
        if self.void:
            codes = np.where(np.isin(codes, self.void), self.coding.void_codes()[0], codes)
        return codes

    def exact(self, codes: Codes) -> Codes:
        """The class of each normal code, -1 for void, -2 where it has none."""
        return self.coding.classes_of(codes)

    def nearest(self, codes: Codes) -> Codes:
        """The class of each normal code, of the nearest code that is meant where it has none of its own."""
        classes = self.exact(codes)
        if not self.peaks or not (classes == -2).any():
            return classes
        found, meant = (np.array(part, np.int64) for part in zip(*self.peaks, strict=True))
        strays = codes[classes == -2]
        place = np.argmin(distances(strays, found, colours=self.coding.kind == "colours"), axis=1)
        classes[classes == -2] = self.exact(meant)[place]
        return classes

    def is_foreign(self, codes: Codes, solid: NDArray[np.int64]) -> bool:
        """Whether codes far from all that is meant fill areas, so that they are no noise."""
        if not self.peaks:
            return bool((self.exact(codes) == -2).any())
        colours = self.coding.kind == "colours"
        found = np.array([peak for peak, _ in self.peaks], np.int64)
        far = _largest_difference(codes, found, colours=colours).min(axis=1) > self.radius
        return bool(solid[far & (self.exact(codes) == -2)].sum() >= FOREIGN_SOLID)


def understand(masks: Sequence[MaskRecord], options: MaskOptions) -> Meaning:
    """What the masks are meant to be; raises DataError as `infer_coding` does, where it cannot be known.

    Raises UsageError where the options cannot be of these masks.
    """
    if options.masks == "overlapping":  # any number may be meant, so no accident can be told from a wish
        coding, task = infer_coding([mask.as_count() for mask in masks], options)
        return Meaning(coding=coding, task=task)
    void = _minus_ones(masks, options)
    if void and options.ignore_index is None:
        # Beside small numbers 255 is void as well; else it may be the foreground.
        options = replace(options, ignore_index=VOID if _small_values(masks) > {0} else void[0])
    counts = [_with_void(mask.as_count(), void, options) for mask in masks]
    try:
        coding, task = infer_coding(counts, options)
    except DataError as error:
        refused = error
    else:
        meaning = (
            _among_strays(_Accident(masks, counts, options)) if _has_stray_colours(masks, coding, options) else None
        )
        return meaning or Meaning(coding=coding, task=task, void=void)
    accident = _Accident(masks, counts, options)
    for undo in (_from_one, _by_colours, _declared_binary, _among_strays, _without_outliers):
        meaning = undo(accident)
        if meaning is not None:
            return replace(meaning, void=void, refused=tuple(refused.findings))
    raise refused


def declarations(masks: Sequence[MaskRecord], options: MaskOptions) -> list[MaskKind]:
    """The kinds that masks which are not understood can be declared to be."""
    found: list[MaskKind] = []
    kinds = [kind for kind in KINDS if kind != "overlapping"]  # it would understand all small numbers
    for kind in kinds if options.masks == "auto" else ():
        try:
            understand(masks, replace(options, masks=kind))
        except (DataError, UsageError):
            continue
        found.append(kind)
    return found


def distances(codes: Codes, targets: Codes, *, colours: bool) -> NDArray[np.int64]:
    """The squared distance of each code to each target: of numbers, or of colours as points in red, green and blue."""
    return np.asarray(((_parts(codes, colours)[:, None] - _parts(targets, colours)[None]) ** 2).sum(axis=2))


# The accidents


@dataclass(frozen=True, slots=True)
class _Accident:
    """Masks that training refuses, or should; `counts` belong to `masks`, with -1 as void already."""

    masks: Sequence[MaskRecord]
    counts: Sequence[MaskCount]
    options: MaskOptions


def _minus_ones(masks: Sequence[MaskRecord], options: MaskOptions) -> tuple[int, ...]:
    """The codes that are -1, with and without sign."""
    values = {int(code) for mask in masks if not mask.colours for code in mask.codes}
    found = [-1] if -1 in values and options.ignore_index != -1 else []
    small = _small_values(masks)
    if options.masks in ("auto", "index") and len(small) > 1 and small == set(range(len(small))):
        found += [code for code in UNSIGNED_MINUS_ONES if code in values]
    return tuple(found)


def _small_values(masks: Sequence[MaskRecord]) -> set[int]:
    values = {int(code) for mask in masks if not mask.colours for code in mask.codes}
    return values - {-1, VOID, *UNSIGNED_MINUS_ONES}


def _with_void(count: MaskCount, void: Sequence[int], options: MaskOptions) -> MaskCount:
    if not void or count.colours or not any(code in count.counts for code in void):
        return count
    changed: Counter[int] = Counter()
    for code, pixels in count.counts.items():
        changed[(options.ignore_index or 0) if code in void else code] += pixels
    return replace(count, counts=dict(changed))


def _from_one(accident: _Accident) -> Meaning | None:
    """Classes 1 to K without 0."""
    counts, options = accident.counts, accident.options
    values = set().union(*(count.counts for count in counts)) - {VOID, options.ignore_index}
    in_numbers = not any(count.colours or count.objects for count in counts) and options.masks in ("auto", "index")
    if options.classes or not in_numbers or len(values) < 2 or values != set(range(1, len(values) + 1)):
        return None
    names = TWO_CLASSES if len(values) == 2 else tuple(f"class {index}" for index in range(len(values)))
    return _asked_again(counts, replace(options, classes=names), undone="numbered from 1")


def _by_colours(accident: _Accident) -> Meaning | None:
    """Palettes that differ: an index means its colour."""
    masks, options = accident.masks, accident.options
    if options.masks != "auto" or not all(mask.palette for mask in masks):
        return None
    return _asked_again(accident.counts, replace(options, masks="colours"), undone="palettes")


def _declared_binary(accident: _Accident) -> Meaning | None:
    """What is nearer to 255 than to 0 is foreground, and so is 1 where it stands beside them, if that is declared."""
    values = set().union(*(count.counts for count in accident.counts))
    if accident.options.masks != "binary" or not values <= set(range(FULL + 1)) or max(values) <= FULL // 2:
        return None
    one = ((1, FULL),) if values == {0, 1, FULL} else ()
    coding = Coding(kind="binary", values=(0, FULL))
    names = accident.options.classes or TWO_CLASSES
    return Meaning(coding=coding, task=Task.of(names), peaks=((0, 0), (FULL, FULL), *one), radius=FULL)


def _among_strays(accident: _Accident) -> Meaning | None:
    """Few codes that fill areas, and others that do not; at second try only areas that most masks have."""
    masks, options = accident.masks, accident.options
    colours = options.masks == "colours" or any(mask.colours for mask in masks)
    found = find_peaks(masks, colours=colours)
    if options.masks == "instances" or len(found) < 2:
        return None
    common = [peak for peak in found if 2 * sum(_fills(mask, peak, colours=colours) for mask in masks) > len(masks)]
    meaning = _around(found, accident, colours=colours)
    return _around(common, accident, colours=colours) if meaning is None and len(common) > 1 else meaning


def _around(found: Sequence[int], accident: _Accident, *, colours: bool) -> Meaning | None:
    """What the masks mean when every code is taken for the nearest peak."""
    options = replace(accident.options, masks="colours") if colours else accident.options
    peaks = tuple((peak, peak if colours else _snapped(peak)) for peak in found)
    cleaned = [
        _cleaned(mask, count, peaks, colours=colours)
        for mask, count in zip(accident.masks, accident.counts, strict=True)
    ]
    meaning = _asked_again(cleaned, options, most=True)
    if meaning is None:
        return None
    known = meaning.exact(np.array([meant for _, meant in peaks], np.int64)) != -2
    return replace(meaning, peaks=tuple(peak for peak, kept in zip(peaks, known, strict=True) if kept))


def _fills(mask: MaskRecord, peak: int, *, colours: bool) -> bool:
    codes = _codes_of(mask, colours=colours)
    return bool(mask.solid[codes == peak].sum() >= FOREIGN_SOLID)


def _without_outliers(accident: _Accident) -> Meaning | None:
    """The meaning of the masks that agree, where they are most."""
    return _asked_again(accident.counts, accident.options, most=True)


def _asked_again(
    counts: Sequence[MaskCount], options: MaskOptions, *, undone: str = "", most: bool = False
) -> Meaning | None:
    """What `infer_coding` says; with `most`, of the masks that it does not name, where these are more than half."""
    try:
        coding, task = infer_coding(counts, options)
    except DataError as error:
        named = {finding.file for finding in error.findings if finding.rule.startswith("only ")}
        rest = [count for count in counts if count.path not in named]
        return _asked_again(rest, options, undone=undone) if most and named and len(rest) * 2 > len(counts) else None
    return Meaning(coding=coding, task=task, undone=undone)


# Strays


def find_peaks(masks: Sequence[MaskRecord], *, colours: bool) -> list[int]:
    """The codes that fill areas, where all others lie between or around them; empty where that is not so.

    A code fills areas where a quarter of its pixels or more have four neighbours of the same code.
    """
    codes, pixels, solid = _totals(masks, colours=colours)
    least = max(LEAST_SOLID, LEAST_SOLID_SHARE * pixels.sum())
    fills = (solid >= least) & (solid >= LEAST_SOLIDITY * pixels)
    peaks: list[int] = []
    for place in np.argsort(-solid, kind="stable")[: int(fills.sum()) * 4]:
        near = peaks and _largest_difference(codes[place : place + 1], np.array(peaks), colours=colours).min() <= RADIUS
        if fills[place] and not near:
            peaks.append(int(codes[place]))
    strays = ~np.isin(codes, peaks)
    if not peaks:
        return []
    far = _largest_difference(codes, np.array(peaks), colours=colours).min(axis=1) > RADIUS
    few = pixels[far].sum() <= MOST_STRAY_SHARE * pixels.sum()
    thin = solid[strays].sum() <= MOST_STRAY_SOLIDITY * pixels[strays].sum()
    return sorted(peaks) if few and thin and len(peaks) <= MOST_PEAKS else []


def _has_stray_colours(masks: Sequence[MaskRecord], coding: Coding, options: MaskOptions) -> bool:
    """Whether training would take smooth edges for classes: many colours of few pixels that nowhere fill an area."""
    if coding.kind != "colours" or options.classes:
        return False
    _, pixels, solid = _totals(masks, colours=True)
    thin = (solid <= STRAY_SOLIDITY * pixels) & (pixels <= STRAY_COLOUR_SHARE * pixels.sum())
    return int(thin.sum()) >= max(FEWEST_STRAY_COLOURS, 2 * int((~thin).sum()))


def _totals(masks: Sequence[MaskRecord], *, colours: bool) -> tuple[Codes, NDArray[np.int64], NDArray[np.int64]]:
    each = [_codes_of(mask, colours=colours) for mask in masks]
    codes, place = np.unique(np.concatenate(each), return_inverse=True)
    pixels, solid = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.int64)
    np.add.at(pixels, place, np.concatenate([mask.pixels for mask in masks]))
    np.add.at(solid, place, np.concatenate([mask.solid for mask in masks]))
    return codes, pixels, solid


def _codes_of(mask: MaskRecord, *, colours: bool) -> Codes:
    """The codes of a mask, as colours where these are wanted."""
    return mask.codes if mask.colours or not colours else in_colours(mask.codes, mask.palette)


def _snapped(peak: int) -> int:
    """0 and 255 where JPEG has moved them a little."""
    if abs(peak) <= NEARLY:
        return 0
    return FULL if abs(peak - FULL) <= NEARLY else peak


def _cleaned(mask: MaskRecord, count: MaskCount, peaks: Sequence[tuple[int, int]], *, colours: bool) -> MaskCount:
    """The counts with every code taken for the nearest peak."""
    codes = _codes_of(mask, colours=colours)
    found, meant = (np.array(part, np.int64) for part in zip(*peaks, strict=True))
    nearest = meant[np.argmin(distances(codes, found, colours=colours), axis=1)]
    cleaned: Counter[int] = Counter()
    for code, pixels in zip(nearest.tolist(), mask.pixels.tolist(), strict=True):
        cleaned[code] += pixels
    return replace(count, counts=dict(cleaned), colours=colours, palette=() if colours else count.palette)


def _parts(codes: Codes, colours: bool) -> NDArray[np.int64]:
    if not colours:
        return codes[:, None]
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)


def _largest_difference(codes: Codes, targets: Codes, *, colours: bool) -> NDArray[np.int64]:
    return np.asarray(np.abs(_parts(codes, colours)[:, None] - _parts(targets, colours)[None]).max(axis=2))


def summary_finding(error: DataError, masks: Sequence[MaskRecord]) -> list[Finding]:
    """The findings of a refusal; its summary as one of them, where it has none."""
    if error.findings:
        return list(error.findings)
    fix = "declare what the values are: --classes, --ignore-index, --masks"
    return [Finding(file=masks[0].path.parent, found=str(error), rule="masks that can be understood", fix=fix)]
