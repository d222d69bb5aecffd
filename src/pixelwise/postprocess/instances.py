"""Objects from scores: seeds, a watershed from the seeds, and tidying up.

A network that only says "object or not" melts objects that touch into one. The winners of the 2018 Data Science Bowl
(Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl. Nature Methods 2019)
let it also find the border, the pixels of an object that lie where objects meet. The inside, the object without its
border, falls into one piece per object. These pieces are the seeds, and a watershed gives each its share of the
foreground:

    scores -> foreground, inside -> seeds -> watershed over 1 - inside, within the foreground -> objects

Where the border was missed, the inside is still narrow between two objects. So the seeds may be cut at their necks as
well (`split_by_distance`), which is also the one way to part objects that were learned without borders.

The watershed floods a landscape from its seeds, level by level; on a level all shores advance one pixel at a time
(Beucher and Meyer: The morphological approach to segmentation: the watershed transformation. 1993, "hierarchical
queues"). So a pixel goes to a seed from which it can be reached over the lowest pass, and on a plain to the nearest.
No line is left between the objects.

K channels, H rows, W columns. instances_HW: int32, 0 background, objects from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import DataError, UsageError
from pixelwise.postprocess.morphology import (
    Connectivity,
    Labels,
    Mask,
    check_connectivity,
    check_map,
    connected_components,
    fill_object_holes,
    remove_small_objects,
    renumber,
)

Form = Literal["softmax3", "sigmoid2", "sigmoid2_full", "plain"]
Array = NDArray[Any]
Scores = NDArray[np.float32]
FORM_CHANNELS: dict[str, tuple[str, ...]] = {
    "softmax3": ("background", "inside", "border"),
    "sigmoid2": ("inside", "border"),
    "sigmoid2_full": ("mask", "border"),
    "plain": ("background", "foreground"),
}
"""What the channels of the scores are, in order, for each form of target. inside = mask - border."""
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
    _check_scores(scores_KHW, settings)
    return _tidy(_divide(scores_KHW, settings), settings)


def watershed(height_HW: Array, seeds_HW: Array, allowed_HW: Array, *, connectivity: Connectivity = 4) -> Labels:
    """Flood a landscape from seeds: every allowed pixel that is connected to a seed gets the label of one.

    height_HW   whole numbers, best few different ones: each is a level of the flood
    seeds_HW    0, or the label of a seed; seeds keep their pixels
    allowed_HW  where the flood may go

    A pixel goes to a seed from which the highest pixel on the way is lowest, and of those to the one whose flood comes
    first. Of floods that come together, the one that comes from below wins, then from the right, the left, above, and
    then from the corners.

    >>> watershed(np.array([[0, 1, 9, 1, 0]]), np.array([[1, 0, 0, 0, 2]]), np.ones((1, 5), bool)).tolist()
    [[1, 1, 2, 2, 2]]
    """
    # A frame of forbidden pixels, so that neighbours in the flat arrays are neighbours in the image.
    width = height_HW.shape[1] + 2
    height, labels = (np.pad(map_HW, 1).ravel() for map_HW in (height_HW, seeds_HW.astype(np.int32)))
    free = np.pad((allowed_HW != 0) & (seeds_HW == 0), 1).ravel()
    steps = (-width, -1, 1, width) + ((-width - 1, -width + 1, width - 1, width + 1) if connectivity == 8 else ())

    # The front advances pixel by pixel; shores above the water wait until it has risen.
    waiting = _advance(labels, free, np.flatnonzero(labels), steps)
    while waiting.size:
        level = height[waiting].min()
        front, shores = waiting, []
        while front.size:
            flooded = height[front] <= level
            shores.append(front[~flooded])
            front = _advance(labels, free, front[flooded], steps)
        waiting = np.concatenate(shores)
    return labels.reshape(-1, width)[1:-1, 1:-1].copy()


def split_by_distance(mask_HW: Array, *, neck: float = 0.5, connectivity: Connectivity = 4) -> Labels:
    """Cut the pieces of a mask at their necks: two bulges part where the way between them is narrow.

    The height of a pixel is its distance to the background (the edge of the image is none). Two tops are of two
    objects where every way between them comes below `neck` times the lower top: 0 never cuts, 1 cuts at any dent. The
    rule compares a neck with the lesser bulge, so it needs no scale, and large and small objects may touch. For convex
    objects such as nuclei 0.7 to 0.8 is good.

    >>> mask = np.array([[1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1, 1]])
    >>> split_by_distance(np.pad(mask, 1), neck=0.8)[2].tolist()
    [0, 1, 1, 1, 2, 2, 2, 2, 0]
    """
    check_map(mask_HW, "mask")
    inside_HW = mask_HW != 0
    if inside_HW.all():
        return np.ones(mask_HW.shape, np.int32)  # no distance is defined
    distance_HW: Scores = cv2.distanceTransform(inside_HW.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)

    # One basin per local maximum, heights in half pixels; the numbers of the tops read row by row.
    tops_HW = inside_HW & (distance_HW == cv2.dilate(distance_HW, np.ones((3, 3), np.uint8)))
    seeds_HW = renumber(connected_components(tops_HW, connectivity=connectivity))
    height_HW = np.rint(2 * (distance_HW.max() - distance_HW)).astype(np.int32)
    basins_HW = watershed(height_HW, seeds_HW, inside_HW, connectivity=connectivity)
    return renumber(_merge_basins(distance_HW, basins_HW, neck, connectivity))


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
        _check_scores(scores_KHW, settings)
        empty = False
        divided: dict[InstanceSettings, Labels] = {}
        for candidate in candidates:
            # The areas share one watershed: they only matter afterwards.
            cut = replace(candidate, smallest=1)
            if cut not in divided:
                divided = {cut: _divide(scores_KHW, cut)}
            value = score(_tidy(divided[cut], candidate), truth_HW)
            if not math.isnan(value):
                totals[candidate] += value
                counted[candidate] += 1
    if empty:
        raise DataError("there are no images to tune the instances with; give at least one")
    return max(candidates, key=lambda c: totals[c] / counted[c] if counted[c] else -math.inf)


def _divide(scores_KHW: Array, settings: InstanceSettings) -> Labels:
    """Every pixel of the foreground gets an object; nothing is dropped yet."""
    foreground_HW, inside_HW = _foreground_and_inside(scores_KHW, settings.form)
    allowed_HW = foreground_HW > settings.foreground
    if settings.form == "plain":
        return _pieces(allowed_HW, settings)
    seeds_HW = _pieces(allowed_HW & (inside_HW > settings.seed), settings)
    seeds_HW = renumber(remove_small_objects(seeds_HW, settings.smallest_seed))
    height_HW = np.rint((1 - inside_HW) * LEVELS).astype(np.int32)
    objects_HW = watershed(height_HW, seeds_HW, allowed_HW, connectivity=settings.connectivity)

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


def _advance(labels: Labels, free: Mask, front: NDArray[np.intp], steps: tuple[int, ...]) -> NDArray[np.intp]:
    """Give each free neighbour of the front its label; returns the neighbours, direction by direction."""
    reached = []
    for step in steps:
        ahead = front + step
        taken = free[ahead]
        pixels = ahead[taken]
        labels[pixels] = labels[front[taken]]
        free[pixels] = False
        reached.append(pixels)
    return np.concatenate(reached)


def _merge_basins(distance_HW: Scores, basins_HW: Labels, neck: float, connectivity: Connectivity) -> Labels:
    """Join basins over their passes, highest first, where a pass is not below `neck` times the lower top."""
    count = int(basins_HW.max())
    if not count:
        return basins_HW
    heights = np.zeros(count + 1, np.float32)
    np.maximum.at(heights, basins_HW, distance_HW)
    tops, owner = heights.tolist(), list(range(count + 1))
    for height, first, second in _passes(distance_HW, basins_HW, connectivity):
        one, other = sorted((_root(owner, first), _root(owner, second)))
        if one != other and height >= neck * min(tops[one], tops[other]):
            owner[other] = one
            tops[one] = max(tops[one], tops[other])
    return np.array([_root(owner, basin) for basin in range(count + 1)], np.int32)[basins_HW]


def _passes(distance_HW: Scores, basins_HW: Labels, connectivity: Connectivity) -> list[tuple[float, int, int]]:
    """The highest pass between every two basins that touch, highest first, then by number."""
    rows, columns = basins_HW.shape
    found = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))[: 2 if connectivity == 4 else 4]:
        here = np.s_[: rows - down, max(0, -right) : columns - max(0, right)]
        there = np.s_[down:, max(0, right) : columns + min(0, right)]
        meet = (basins_HW[here] != basins_HW[there]) & (basins_HW[here] > 0) & (basins_HW[there] > 0)
        pair = np.sort(np.stack([basins_HW[here][meet], basins_HW[there][meet]]), axis=0)
        found.append((np.minimum(distance_HW[here][meet], distance_HW[there][meet]), *pair))
    heights, firsts, seconds = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((seconds, firsts, -heights))
    passes: dict[tuple[int, int], float] = {}
    for height, first, second in zip(*(part[order].tolist() for part in (heights, firsts, seconds)), strict=True):
        passes.setdefault((first, second), height)
    return [(height, first, second) for (first, second), height in passes.items()]


def _root(owner: list[int], basin: int) -> int:
    """The basin that a basin was joined to in the end."""
    while owner[basin] != basin:
        owner[basin] = owner[owner[basin]]
        basin = owner[basin]
    return basin


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
