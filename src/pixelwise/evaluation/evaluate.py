"""The one evaluator: every score of pixelwise, in training, evaluation and after export, comes from here.

It reads one image at a time, predicts, counts, and keeps only a few small tables per image: always the confusion
matrix, and what `Measures` asks for, objects or the regions of the ISBI challenge. Shards that were evaluated elsewhere
(other processes, other ranks) add up exactly, in any order.

H rows, W columns, C channels, K classes. counts_KK: of overlapping classes counts_K22, a matrix for each class.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from pixelwise.errors import DataError, UsageError, printable
from pixelwise.evaluation.object_scores import ObjectScores, image_objects
from pixelwise.evaluation.scores import Scores, json_number
from pixelwise.inference.predict import Prediction
from pixelwise.metrics.confusion import (
    Array,
    Counts,
    count,
    count_overlapping,
    iou,
    mean_iou,
    pixel_accuracy,
    pixels_counted,
)
from pixelwise.metrics.instances import InstanceCounts, count_instances
from pixelwise.metrics.isbi import IsbiCounts, count_slice
from pixelwise.task import Task


class Named(Protocol):
    """Anything that can be evaluated: it has a name that no other one has."""

    @property
    def name(self) -> str:
        """What the image is called in every list of results."""


SampleT = TypeVar("SampleT", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures(Generic[SampleT]):
    """What is counted besides the confusion matrix.

    true_objects  the true objects (H, W) of a sample: 0 background, objects from 1; None: objects are not counted
    regions       whether the regions of the ISBI challenge are counted, in the scores of the last class
    """

    true_objects: Callable[[SampleT], Array] | None = None
    regions: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageResult:
    """What was counted in one image: `void` pixels, and `counts_KK` for the others (rows truth, columns prediction).

    instances, regions  what was counted besides, by `Measures`; None: nothing
    """

    name: str
    counts_KK: Counts
    void: int
    instances: InstanceCounts | None = None
    regions: IsbiCounts | None = None

    @cached_property
    def mean_iou(self) -> float:
        """Mean IoU of this image alone, over the classes in its truth or prediction; NaN where all is void."""
        return mean_iou(self.counts_KK)

    @cached_property
    def rank(self) -> float:
        """What images are ranked by: the DSB score where objects are counted, else the mean IoU; 0 where undefined."""
        score = self.mean_iou if self.instances is None else self.instances.dsb_score
        return 0.0 if math.isnan(score) else score

    @property
    def all_void(self) -> bool:
        """Whether the image has no pixel that counts, and so no score."""
        return not self.counts_KK.any()

    def to_dict(self) -> dict[str, Any]:
        """The scores of this image as JSON values; None where undefined. `iou` is in the order of the classes."""
        return {
            "name": self.name,
            "mean_iou": json_number(self.mean_iou),
            "pixel_accuracy": json_number(pixel_accuracy(self.counts_KK)),
            "iou": [json_number(value) for value in iou(self.counts_KK).tolist()],
            "pixels": pixels_counted(self.counts_KK),
            "void_pixels": self.void,
            "all_void": self.all_void,
            **({} if self.instances is None else {"objects": image_objects(self.instances)}),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The results of all images, in the order of their names. Raises UsageError where two have the same name."""

    task: Task
    images: tuple[ImageResult, ...]

    def __post_init__(self) -> None:
        twice = [name for name, times in Counter(image.name for image in self.images).items() if times > 1]
        if twice:
            raise UsageError(
                f"{printable(twice[0])} was evaluated twice ({len(twice)} such names); "
                "each image counts once: give each its own name, and each process its own images"
            )
        object.__setattr__(self, "images", tuple(sorted(self.images, key=lambda image: image.name)))

    @cached_property
    def scores(self) -> Scores:
        """The scores of the summed counts: one confusion matrix over all images."""
        total_KK = np.zeros(_counts_shape(self.task), np.int64)
        for image in self.images:
            total_KK += image.counts_KK
        void = sum(image.void for image in self.images)
        return Scores(counts_KK=total_KK, names=self.task.names, void=void, images=len(self.images))

    @cached_property
    def objects(self) -> ObjectScores | None:
        """The scores of the objects of all images; None where objects were not counted."""
        counted = [image.instances for image in self.images if image.instances is not None]
        return ObjectScores(counts=InstanceCounts.of(counted)) if counted else None

    @cached_property
    def regions(self) -> IsbiCounts | None:
        """What the ISBI challenge counts, of all images; None where it was not counted."""
        counted = [image.regions for image in self.images if image.regions is not None]
        return IsbiCounts.of(counted) if counted else None

    def worst(self, n: int) -> list[ImageResult]:
        """The n images of lowest `rank`, the lowest first; images that are all void (`all_void`) come last."""
        return sorted(self.images, key=lambda image: (image.all_void, image.rank, image.name))[:n]

    def best(self, n: int) -> list[ImageResult]:
        """The n images of highest `rank`, the highest first; images that are all void (`all_void`) come last."""
        return sorted(self.images, key=lambda image: (image.all_void, -image.rank, image.name))[:n]

    def to_dict(self) -> dict[str, Any]:
        """Scores and one row per image, as JSON values; `objects` only where they were counted."""
        return {
            **self.scores.to_dict(),
            **({} if self.objects is None else {"objects": self.objects.to_dict()}),
            "per_image": [image.to_dict() for image in self.images],
        }

    def table(self) -> list[str]:
        """The lines of the tables: of the classes, then, where they were counted, of the objects."""
        return [*self.scores.table(), *([] if self.objects is None else ["", *self.objects.table()])]


def evaluate(
    samples: Iterable[SampleT],
    *,
    read: Callable[[SampleT], tuple[Array, Array]],
    predict: Callable[[Array], Prediction],
    task: Task,
    measures: Measures[SampleT] | None = None,
) -> Evaluation:
    """Predict and count every sample, one at a time.

    `read` gives (image_HWC, mask_HW) of a sample, `predict` the labels of an image at the size of the mask, and its
    objects where `measures` has the true ones. Raises UsageError for tasks of values, and DataError, naming the sample,
    where sizes or values do not fit. No samples give an Evaluation of no images, so that an idle
    process can take part in `merge`.
    """
    _require_classes(task)
    wanted: Measures[SampleT] = measures or Measures()

    def result(sample: SampleT) -> ImageResult:
        image_HWC, mask_HW = read(sample)
        with _naming(sample):
            prediction = predict(image_HWC)
            return _count(sample, prediction, mask_HW, task=task, measures=wanted)

    return Evaluation(task=task, images=tuple(result(sample) for sample in samples))


def merge(evaluations: Iterable[Evaluation]) -> Evaluation:
    """All images of several evaluations of one task as one; the order does not matter.

    Raises UsageError where there is none, where the tasks differ, or where an image is in two of them.
    """
    shards = list(evaluations)
    if not shards:
        raise UsageError("there is no evaluation to merge; give at least one")
    if any(shard.task != shards[0].task for shard in shards):
        raise UsageError("these evaluations are of different tasks; merge only those with the same classes and void")
    return Evaluation(task=shards[0].task, images=tuple(image for shard in shards for image in shard.images))


def _count(
    sample: SampleT, prediction: Prediction, mask_HW: Array, *, task: Task, measures: Measures[SampleT]
) -> ImageResult:
    if prediction.labels.shape != mask_HW.shape:
        raise DataError(
            f"the prediction is {_size(prediction.labels)} pixels, the mask {_size(mask_HW)}; "
            "scores need both at the same size"
        )
    count_classes = count_overlapping if task.kind == "overlapping" else count
    counts_KK = count_classes(prediction.labels, mask_HW, classes=task.outputs, ignore_index=task.ignore_index)
    void_HW = np.zeros(mask_HW.shape, bool) if task.ignore_index is None else mask_HW == task.ignore_index
    instances = regions = None
    if measures.true_objects is not None:
        assert prediction.instances_HW is not None, "objects are counted of predictors that find them"
        instances = count_instances(prediction.instances_HW, measures.true_objects(sample), void_HW)
    if measures.regions:
        if void_HW.any():
            raise DataError(f"{void_HW.sum()} pixels are void, and the measures of ISBI 2012 take every pixel")
        regions = count_slice(prediction.scores_KHW[-1], mask_HW == task.outputs - 1)
    return ImageResult(
        name=sample.name, counts_KK=counts_KK, void=int(void_HW.sum()), instances=instances, regions=regions
    )


@contextmanager
def _naming(sample: Named) -> Iterator[None]:
    """Errors about the data name the sample."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{printable(sample.name)}: {error}") from error


def _require_classes(task: Task) -> None:
    if task.kind == "values":
        raise UsageError(
            "a task of values cannot be evaluated yet: the scores here are for classes; evaluate the predicted files "
            "with your own measure"
        )


def _counts_shape(task: Task) -> tuple[int, ...]:
    return (task.outputs, 2, 2) if task.kind == "overlapping" else (task.outputs, task.outputs)


def _size(array: Array) -> str:
    return " × ".join(map(str, array.shape))
