"""The facts of a data set that a plan is made from: sizes, grey values, classes, objects, in numbers.

What the survey knows (sizes, channels, pixels per class) is of all images. The rest is measured on at most MOST_READ
of the training images, evenly chosen, and `read` says on how many. None is a fact that nobody measured.

N images, K classes, H rows, W columns, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.data.dataset import Dataset
from pixelwise.data.layouts import Sample
from pixelwise.data.masks import class_pixels
from pixelwise.data.targets import border_between
from pixelwise.errors import UsageError, printable
from pixelwise.task import Task
from pixelwise.training.spacing import pixel_spacing

MOST_READ = 32
MOST_PIXELS = 100_000
"""of an image, evenly chosen, for the percentiles"""
PERCENTILES = (0.5, 25.0, 50.0, 75.0, 99.5)
TOUCHING = 1
"""pixels: objects touch where a pixel of one has another so near, in rows and in columns"""
PHOTOGRAPHS = ("camvid", "voc")
LEAST_UPRIGHT, TIMES_SIDEWAYS, FEWEST_UPRIGHT = 0.2, 3.0, 8
"""Images have an up and a down where `up_down` is at least so large, so many times `left_right`, in so many images.
Measured, up_down and left_right: CamVid 0.86 and 0.06; ISBI 2012 0.00 and 0.03; DSB2018 0.00 and 0.00."""
Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSizes:
    """The objects of a class: single ones, or the 4-connected pieces of the class.

    count     in the images that were read
    area      median and smallest, pixels
    diameter  median and smallest, of the disc of such an area, pixels
    """

    count: int
    area: tuple[float, float]
    diameter: tuple[float, float]

    @classmethod
    def of(cls, areas: NDArray[np.integer[Any]]) -> ObjectSizes | None:
        """The sizes of objects of these areas; None where there are none.

        >>> ObjectSizes.of(np.array([314, 1, 5000]))
        ObjectSizes(count=3, area=(314.0, 1.0), diameter=(20.0, 1.1))
        """
        if not areas.size:
            return None
        median, least = float(np.median(areas)), float(areas.min())
        return cls(count=int(areas.size), area=(median, least), diameter=(disc(median), disc(least)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFacts:
    """A class of the masks.

    share     of the pixels that count, 0 to 1, in all masks
    presence  share of the images read that show the class
    objects   None for the first class, and where there are none
    """

    name: str
    share: float
    presence: float | None = None
    objects: ObjectSizes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The facts of a data set.

    images       training images, of which `read` were read
    smallest ... height and width, pixels: smallest and largest of each, most common, median of those read
    bits         per value in the files; 32 for real numbers
    intensities  per channel, the grey values at PERCENTILES
    void         share of the pixels that count nowhere
    instances    whether the masks number single objects
    touching     share of the objects that touch another one; None where masks number no objects
    up_down      how differently the classes lie in the lower and the upper half: half the sum, over the classes, of the
                 mean difference of their shares, 0 to 1; left_right: the same of the right and the left half
    photograph   whether the images have an up and a down
    spacing      height and width of a pixel, micrometres, where the files say it and agree
    """

    layout: str
    images: int
    read: int
    smallest: Size
    median: Size
    usual: Size
    largest: Size
    channels: int
    bits: int
    classes: tuple[ClassFacts, ...]
    void: float
    instances: bool
    photograph: bool
    own_validation: bool = False
    intensities: tuple[tuple[float, ...], ...] = ()
    touching: float | None = None
    up_down: float | None = None
    left_right: float | None = None
    spacing: tuple[float, float] | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Fingerprint:
        """The fingerprint that `to_dict` wrote; raises UsageError on anything else."""
        known = [field.name for field in fields(cls)]
        try:
            if sorted(values) != sorted(known):
                raise UsageError(f"it holds {sorted(values)[:10]}, it must hold {known}")
            classes = tuple(_class_from_dict(one) for one in values["classes"])
            intensities = tuple(tuple(map(float, channel)) for channel in values["intensities"])
            pairs = {key: _pair(values[key]) for key in ("smallest", "median", "usual", "largest", "spacing")}
            return cls(**{**values, **pairs, "classes": classes, "intensities": intensities})
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"not the fingerprint of a data set: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return asdict(self)

    @property
    def diameter(self) -> float | None:
        """The median diameter of the objects of a class, in the class where it is largest, pixels."""
        return max((one.objects.diameter[0] for one in self.classes if one.objects), default=None)

    @property
    def rarest(self) -> ClassFacts:
        """The class with the smallest share that is there at all."""
        there = [one for one in self.classes if one.share]
        return min(there or self.classes, key=lambda one: one.share)

    def describe(self) -> list[str]:
        """Lines for a person."""
        looked = f"{self.read} of {self.images} training images were read, evenly chosen"
        sizes = ", ".join(
            f"{word} {width} x {height}"
            for word, (height, width) in (
                ("smallest", self.smallest),
                ("median", self.median),
                ("largest", self.largest),
            )
        )
        kind = "photographs, with an up and a down" if self.photograph else "no up and down"
        return [
            looked if self.read else f"{self.images} training images, none was read",
            f"images: {sizes}; {self.channels} channel(s) of {self.bits} bits; {kind}{self._spacing_text()}",
            *self._intensity_lines(),
            *(_class_line(one) for one in self.classes),
            *([f"void: {percent(self.void)} of the pixels"] if self.void else []),
            *([] if self.touching is None else [f"objects that touch another one: {percent(self.touching)}"]),
        ]

    def _spacing_text(self) -> str:
        return "" if self.spacing is None else f"; a pixel is {self.spacing[0]:.3g} x {self.spacing[1]:.3g} micrometres"

    def _intensity_lines(self) -> list[str]:
        if not self.intensities:
            return []
        channels = "; ".join(" ".join(f"{value:.4g}" for value in channel) for channel in self.intensities)
        return [f"grey values at {', '.join(f'{p:g}' for p in PERCENTILES)} % of each channel: {channels}"]


def take_fingerprint(dataset: Dataset, training: Sequence[Sample], *, most: int = MOST_READ) -> Fingerprint:
    """The facts of a data set, from at most `most` of its training images, evenly chosen; 0: what the survey knows."""
    survey = dataset.survey
    counted = max(1, survey.all_pixels - survey.void_pixels)
    surveyed = Fingerprint(
        layout=survey.layout,
        images=len(training),
        read=0,
        smallest=survey.sizes[0],
        median=survey.sizes[2],
        usual=survey.sizes[2],
        largest=survey.sizes[1],
        channels=survey.channels[0],
        bits=max(bits_of(dtype) for dtype in survey.dtypes),
        classes=tuple(
            ClassFacts(name=name, share=round(pixels / counted, 6))
            for name, pixels in zip(survey.names, survey.pixels, strict=True)
        ),
        void=round(survey.void_pixels / max(1, counted + survey.void_pixels), 6),
        instances=survey.kind == "instances",
        photograph=is_photograph_layout(survey.layout),
        own_validation="val" in survey.pairs,
    )
    chosen = evenly(training, most)
    return _with_images(surveyed, [_look(dataset, sample) for sample in chosen], chosen) if chosen else surveyed


def evenly(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most `most` samples, evenly chosen from the first on.

    >>> evenly(list("abcdefg"), 3)
    ['a', 'c', 'e']
    """
    count = min(most, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def disc(area: float) -> float:
    """The diameter of a disc of that area, to a tenth of a pixel."""
    return round(2 * math.sqrt(area / math.pi), 1)


def bits_of(dtype: str) -> int:
    """Bits per value of a type in the image files.

    >>> bits_of("bool"), bits_of("uint16"), bits_of("float32")
    (1, 16, 32)
    """
    return 1 if dtype == "bool" else 8 * np.dtype(dtype).itemsize


def is_photograph_layout(layout: str) -> bool:
    """Whether a layout is one of photographs, which have an up and a down."""
    return any(name in layout.lower() for name in PHOTOGRAPHS)


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.5), percent(0.00012)
    ('50 %', '0.012 %')
    """
    return f"{100 * share:.3g} %"


# One image at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """What one image says: its size, some of its grey values, and for each class the areas of its objects.

    lower_K, right_K  share of each class in the lower half less that in the upper, and right less left
    """

    size: Size
    values_NC: NDArray[Any]
    present_K: NDArray[np.bool_]
    lower_K: NDArray[np.float64]
    right_K: NDArray[np.float64]
    areas_K: list[NDArray[np.int64]]
    touching: int


def _look(dataset: Dataset, sample: Sample) -> _Looked:
    image_HWC, mask_HW = dataset.read(sample)
    objects_HW, task = dataset.read_instances(sample), dataset.task
    areas = np.bincount(objects_HW.ravel())
    class_of = np.zeros(areas.size, np.int64)
    class_of[objects_HW.ravel()] = mask_HW.ravel()
    of_one_class = dataset.coding.kind == "instances" or task.kind == "overlapping"
    class_of = np.where(of_one_class, task.object_class, class_of)
    class_of[0], areas[0] = -1, 0
    near_HW = border_between(objects_HW, width=TOUCHING)
    (height, width), rows = mask_HW.shape, _spread(image_HWC.reshape(-1, image_HWC.shape[2]))
    return _Looked(
        size=(height, width),
        values_NC=rows,
        present_K=_shares(mask_HW, task) > 0,
        lower_K=_shares(mask_HW[(height + 1) // 2 :], task) - _shares(mask_HW[: height // 2], task),
        right_K=_shares(mask_HW[:, (width + 1) // 2 :], task) - _shares(mask_HW[:, : width // 2], task),
        areas_K=[areas[(class_of == label) & (areas > 0)] for label in range(task.outputs)],
        touching=np.unique(objects_HW[near_HW & (objects_HW > 0)]).size,
    )


def _spread(pixels_NC: NDArray[Any]) -> NDArray[Any]:
    return pixels_NC[:: math.ceil(len(pixels_NC) / MOST_PIXELS)]


def _shares(mask_HW: NDArray[np.uint8], task: Task) -> NDArray[np.float64]:
    pixels_K = class_pixels(mask_HW, task)[:-1]
    shares_K: NDArray[np.float64] = pixels_K / max(1, pixels_K.sum())
    return shares_K


# All images together


def _with_images(facts: Fingerprint, looked: Sequence[_Looked], chosen: Sequence[Sample]) -> Fingerprint:
    presence_K = np.mean([one.present_K for one in looked], axis=0)
    areas_K = [np.concatenate(each) for each in zip(*(one.areas_K for one in looked), strict=True)]
    objects = sum(areas.size for areas in areas_K)
    up_down, left_right = (_unlike([getattr(one, key) for one in looked]) for key in ("lower_K", "right_K"))
    upright = up_down >= max(LEAST_UPRIGHT, TIMES_SIDEWAYS * left_right) and len(looked) >= FEWEST_UPRIGHT
    heights, widths = zip(*(one.size for one in looked), strict=True)
    return replace(
        facts,
        read=len(looked),
        median=(int(np.median(heights)), int(np.median(widths))),
        classes=tuple(
            replace(one, presence=round(float(presence), 4), objects=ObjectSizes.of(areas))
            for one, presence, areas in zip(facts.classes, presence_K, areas_K, strict=True)
        ),
        intensities=_percentiles([one.values_NC for one in looked]),
        touching=round(sum(one.touching for one in looked) / max(1, objects), 4) if facts.instances else None,
        up_down=up_down,
        left_right=left_right,
        photograph=facts.photograph or upright,
        spacing=_common_spacing(chosen),
    )


def _unlike(differences_NK: Sequence[NDArray[np.float64]]) -> float:
    return round(float(np.abs(np.mean(differences_NK, axis=0)).sum() / 2), 4)


def _percentiles(values: Sequence[NDArray[Any]]) -> tuple[tuple[float, ...], ...]:
    """Per channel, of the values of all images; an image counts by what was taken of it."""
    percentiles = np.percentile(np.concatenate(values), PERCENTILES, axis=0)
    return tuple(tuple(float(f"{value:.6g}") for value in channel) for channel in percentiles.T)


def _common_spacing(chosen: Sequence[Sample]) -> tuple[float, float] | None:
    """The size of a pixel where all files say the same."""
    found = {pixel_spacing(path) for path in {sample.image.path for sample in chosen}}
    return next(iter(found)) if len(found) == 1 else None


# Text and JSON


def _class_line(one: ClassFacts) -> str:
    presence = "" if one.presence is None else f" in {percent(one.presence)} of the images"
    line = f"{printable(one.name)}: {percent(one.share)} of the pixels{presence}"
    if one.objects is None:
        return line
    (median, least), (across, _) = one.objects.area, one.objects.diameter
    return f"{line}; {one.objects.count} objects of {median:g} pixels ({across:g} across), the smallest {least:g}"


def _class_from_dict(values: dict[str, Any]) -> ClassFacts:
    sizes = values["objects"]
    if sizes is not None:
        area, diameter = (_pair(sizes[key]) for key in ("area", "diameter"))
        sizes = ObjectSizes(count=sizes["count"], area=area, diameter=diameter)  # type: ignore[arg-type]
    return ClassFacts(**{**values, "objects": sizes})


def _pair(values: Sequence[Any] | None) -> tuple[Any, Any] | None:
    if values is None:
        return None
    first, second = values
    return first, second
