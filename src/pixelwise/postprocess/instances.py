"""Objects from scores: seeds, a watershed from the seeds, and tidying up.

A network that only says "object or not" melts objects that touch into one. The winners of the 2018 Data Science Bowl
(Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl. Nature Methods 2019)
let it also find the border, the pixels of an object that lie where objects meet. The inside, the object without its
border, falls into one piece per object. These pieces are the seeds, and a watershed gives each its share of the
foreground:

    scores -> foreground, inside -> seeds -> watershed over 1 - inside, within the foreground -> objects

Where the border was missed, the inside is still narrow between two objects. So the seeds may be cut at their necks as
well (`split_by_distance`), which is also the one way to part objects that were learned without borders.

It is done in two steps, so that an image may be larger than memory (see inference/merge.py):

    evidence_of    what a pixel says by itself: foreground or not, seed or not, its height for the watershed
    objects_of     the objects of that evidence. Each connected piece of the foreground decides by itself what its
                   objects are; what lies around it, and where it lies in the image, do not matter. Only whether a hole
                   is filled also depends on what lies in the hole

K channels, H rows, W columns. instances_HW: int32, 0 background, objects from 1.
evidence_2HW: uint8; first FOREGROUND and SEED as bits, then the height, 0 to LEVELS (always 0 for `plain`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError, UsageError
from pixelwise.postprocess.morphology import (
    Connectivity,
    Labels,
    Mask,
    check_connectivity,
    connected_components,
    fill_object_holes,
    remove_small_objects,
    renumber,
)
from pixelwise.postprocess.watershed import split_by_distance, watershed

Form = Literal["softmax3", "sigmoid2", "sigmoid2_full", "plain"]
Array = NDArray[Any]
Scores = NDArray[np.float32]
Evidence = NDArray[np.uint8]
FORM_CHANNELS: dict[str, tuple[str, ...]] = {
    "softmax3": ("background", "inside", "border"),
    "sigmoid2": ("inside", "border"),
    "sigmoid2_full": ("mask", "border"),
    "plain": ("background", "foreground"),
}
"""What the channels of the scores are, in order, for each form of target. inside = mask - border."""
FOREGROUND, SEED = 1, 2
LEVELS = 255
LARGEST_AREA = 1 << 31
ROUNDING = 1e-3
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
NECKS = (0.0, 0.6, 0.7, 0.8)
AREAS = (1, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings:
    """How objects are made of scores. Raises UsageError for what is out of range.

    form           what the channels of the scores are: see FORM_CHANNELS
    foreground     a pixel is of an object where its foreground score is above this
    seed           a pixel is of a seed where its inside score is above this; not used for `plain`, which has no inside
    neck           two bulges of a seed (of the foreground, for `plain`) are two where the neck between them is narrower
                   than this share of the lesser bulge; 0: each connected piece is one
    smallest_seed  seeds of fewer pixels are dropped
    smallest       objects of fewer pixels are dropped
    fill_holes     whether background that one object encloses becomes a part of it
    connectivity   4: pixels are together that share a side; 8: or a corner

    >>> InstanceSettings.from_dict(InstanceSettings(form="plain", smallest=20).to_dict()).smallest
    20
    """

    form: Form
    foreground: float = 0.5
    seed: float = 0.5
    neck: float = 0.0
    smallest_seed: int = 1
    smallest: int = 1
    fill_holes: bool = True
    connectivity: Connectivity = 4

    def __post_init__(self) -> None:
        if self.form not in FORM_CHANNELS:
            raise UsageError(f"form = {self.form!r}: choose one of {', '.join(FORM_CHANNELS)}")
        for name, share in (("foreground", self.foreground), ("seed", self.seed), ("neck", self.neck)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} = {share}: give a number from 0 to 1")
        for name, area in (("smallest_seed", self.smallest_seed), ("smallest", self.smallest)):
            if type(area) is not int or not 1 <= area <= LARGEST_AREA:
                raise UsageError(f"{name} = {area!r}: give a whole number of pixels, at least 1")
        if type(self.fill_holes) is not bool:
            raise UsageError(f"fill_holes = {self.fill_holes!r}: choose true or false")
        check_connectivity(self.connectivity)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InstanceSettings:
        """The settings that `to_dict` wrote; raises UsageError on anything else."""
        known = [field.name for field in fields(cls)]
        try:
            if sorted(values) != sorted(known):
                raise UsageError(f"it holds {sorted(values)[:10]}, it must hold {known}")
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise UsageError(f"not the settings of instances: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)

    @property
    def channels(self) -> tuple[str, ...]:
        """What each channel of the scores is."""
        return FORM_CHANNELS[self.form]


def find_instances(scores_KHW: Array, settings: InstanceSettings) -> Labels:
    """The objects of an image, int32 (H, W), numbered from 1 in the order in which reading row by row meets them.

    scores_KHW are scores from 0 to 1 (what `Task.activate` gives), with the channels that `settings.channels` names.
    Every pixel of the foreground is of one object; a piece of foreground without a seed is an object of its own.
    Then the small objects go, and holes are filled. The result is the same on every machine.
    Raises DataError where the scores have another number of channels, no pixel, or values that are no scores.

    >>> inside = np.array([[0.9, 0.2, 0.8, 0.0]])
    >>> border = np.array([[0.1, 0.7, 0.1, 0.1]])
    >>> find_instances(np.stack([1 - inside - border, inside, border]), InstanceSettings(form="softmax3")).tolist()
    [[1, 2, 2, 0]]
    """
    return objects_of(evidence_of(scores_KHW, settings), settings)


def evidence_of(scores_KHW: Array, settings: InstanceSettings) -> Evidence:
    """What each pixel says by itself about objects, uint8 (2, H, W): of a part of an image as of the whole.

    First FOREGROUND and SEED as bits, then the height for the watershed, 0 to 255. Raises DataError like
    `find_instances`.

    >>> evidence_of(np.array([[[0.1, 0.2]], [[0.8, 0.3]], [[0.1, 0.5]]]), InstanceSettings(form="softmax3")).tolist()
    [[[3, 1]], [[51, 178]]]
    """
    _check_scores(scores_KHW, settings)
    foreground_HW, inside_HW = _foreground_and_inside(scores_KHW, settings.form)
    evidence_2HW = np.zeros((2, *foreground_HW.shape), np.uint8)
    evidence_2HW[0] = FOREGROUND * (foreground_HW > settings.foreground)
    if settings.form != "plain":
        evidence_2HW[0] |= SEED * ((evidence_2HW[0] > 0) & (inside_HW > settings.seed)).astype(np.uint8)
        evidence_2HW[1] = np.rint((1 - inside_HW) * LEVELS).clip(0, LEVELS)
    return evidence_2HW


def objects_of(evidence_2HW: Evidence, settings: InstanceSettings) -> Labels:
    """The objects of what `evidence_of` gave, as `find_instances` gives them. Raises DataError for other arrays.

    >>> objects_of(np.array([[[1, 0, 1, 1]], [[0, 0, 0, 0]]], np.uint8), InstanceSettings(form="plain")).tolist()
    [[1, 0, 2, 2]]
    """
    if evidence_2HW.dtype != np.uint8 or evidence_2HW.ndim != 3 or len(evidence_2HW) != 2 or not evidence_2HW.size:
        raise DataError(
            f"evidence of shape {evidence_2HW.shape} and type {evidence_2HW.dtype}; rule: uint8 of 2 × rows × columns; "
            "give what evidence_of makes"
        )
    return _tidy(_divide(evidence_2HW, settings), settings)


def tune(
    images: Iterable[tuple[Array, Array]],
    settings: InstanceSettings,
    score: Callable[[Labels, Array], float],
    *,
    necks: Sequence[float] = NECKS,
) -> InstanceSettings:
    """The settings with the thresholds and the smallest area for which the mean score over the images is best.

    images  scores_KHW and the true instances_HW of each; gone through once
    score   of the found and the true instances, higher is better; NaN (undefined) is left out of the mean

    The settings given are tried first, then all combinations of THRESHOLDS (foreground, seed), AREAS (smallest) and
    `necks`; of equals the first wins. Raises DataError for no images.
    """
    candidates = _candidates(settings, necks)
    totals, counted, empty = dict.fromkeys(candidates, 0.0), dict.fromkeys(candidates, 0), True
    for scores_KHW, truth_HW in images:
        empty = False
        divided: dict[InstanceSettings, Labels] = {}
        for candidate in candidates:
            # The areas share one watershed: they only matter afterwards.
            cut = replace(candidate, smallest=1)
            if cut not in divided:
                divided = {cut: _divide(evidence_of(scores_KHW, cut), cut)}
            value = score(_tidy(divided[cut], candidate), truth_HW)
            if not math.isnan(value):
                totals[candidate] += value
                counted[candidate] += 1
    if empty:
        raise DataError("there are no images to tune the instances with; give at least one")
    return max(candidates, key=lambda c: totals[c] / counted[c] if counted[c] else -math.inf)


def _divide(evidence_2HW: Evidence, settings: InstanceSettings) -> Labels:
    """Every pixel of the foreground gets an object; nothing is dropped yet."""
    allowed_HW = evidence_2HW[0] & FOREGROUND > 0
    if settings.form == "plain":
        return _pieces(allowed_HW, settings)
    seeds_HW = _pieces(evidence_2HW[0] & SEED > 0, settings)
    seeds_HW = renumber(remove_small_objects(seeds_HW, settings.smallest_seed))
    objects_HW = watershed(evidence_2HW[1], seeds_HW, allowed_HW, connectivity=settings.connectivity)

    # What no seed reaches is an object of its own.
    rest_HW = connected_components(allowed_HW & (objects_HW == 0), connectivity=settings.connectivity)
    return np.where(rest_HW > 0, rest_HW + objects_HW.max(), objects_HW).astype(np.int32)


def _pieces(mask_HW: Mask, settings: InstanceSettings) -> Labels:
    """The connected pieces of a mask, cut at their necks where that is wanted."""
    if settings.neck:
        return split_by_distance(mask_HW, neck=settings.neck, connectivity=settings.connectivity)
    return connected_components(mask_HW, connectivity=settings.connectivity)


def _tidy(instances_HW: Labels, settings: InstanceSettings) -> Labels:
    """Drop small objects, fill holes, number in reading order."""
    instances_HW = remove_small_objects(instances_HW, settings.smallest)
    if settings.fill_holes:
        instances_HW = fill_object_holes(instances_HW, connectivity=settings.connectivity)
    return renumber(instances_HW)


def _foreground_and_inside(scores_KHW: Array, form: Form) -> tuple[Scores, Scores]:
    """How much each pixel is of an object, and how much it is of the inside of one: both from 0 to 1."""
    first_HW, second_HW = scores_KHW[:2].astype(np.float32)
    match form:
        case "softmax3":
            return 1 - first_HW, second_HW
        case "sigmoid2":
            # Inside and border exclude each other: the probability of either is their sum.
            return np.minimum(first_HW + second_HW, 1), first_HW * (1 - second_HW)
        case "sigmoid2_full":
            return first_HW, first_HW * (1 - second_HW)
        case "plain":
            return second_HW, second_HW


def _check_scores(scores_KHW: Array, settings: InstanceSettings) -> None:
    channels = settings.channels
    if scores_KHW.ndim != 3 or len(scores_KHW) != len(channels) or not scores_KHW.size:
        raise DataError(
            f"scores of shape {scores_KHW.shape}: the form {settings.form} has the channels {', '.join(channels)}, "
            "each with rows × columns; choose the form that the model was trained with"
        )
    lowest, highest = float(scores_KHW.min()), float(scores_KHW.max())
    if not -ROUNDING <= lowest <= highest <= 1 + ROUNDING:  # also false for NaN
        raise DataError(f"scores from {lowest:g} to {highest:g}: scores are from 0 to 1; give scores, not logits")


def _candidates(settings: InstanceSettings, necks: Sequence[float]) -> list[InstanceSettings]:
    """The settings themselves and the grid around them, without repeats."""
    grid = [
        replace(settings, neck=neck, foreground=foreground, seed=seed, smallest=smallest)
        for neck in necks
        for foreground in THRESHOLDS
        for seed in ((settings.seed,) if settings.form == "plain" else THRESHOLDS)
        for smallest in AREAS
    ]
    return list(dict.fromkeys([settings, *grid]))
