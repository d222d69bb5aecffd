"""The one evaluator: every score of pixelwise, in training, evaluation and after export, comes from here.

It reads one image at a time, predicts, counts, and keeps only a small matrix per image. Shards that were evaluated
elsewhere (other processes, other ranks) add up exactly, in any order.

H rows, W columns, C channels, K classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from pixelwise.errors import DataError, UsageError, printable
from pixelwise.evaluation.scores import Scores, json_number
from pixelwise.metrics.confusion import Array, Counts, count, iou, mean_iou, pixel_accuracy
from pixelwise.task import Task


class Named(Protocol):
    """Anything that can be evaluated: it has a name that no other one has."""

    @property
    def name(self) -> str:
        """What the image is called in every list of results."""


SampleT = TypeVar("SampleT", bound=Named)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageResult:
    """What was counted in one image: `void` pixels, and `counts_KK` for the others (rows truth, columns prediction)."""

    name: str
    counts_KK: Counts
    void: int

    @cached_property
    def mean_iou(self) -> float:
        """Mean IoU of this image alone, over the classes in its truth or prediction; NaN where all is void."""
        return mean_iou(self.counts_KK)

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
            "pixels": int(self.counts_KK.sum()),
            "void_pixels": self.void,
            "all_void": self.all_void,
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
        total_KK = np.zeros((self.task.outputs, self.task.outputs), np.int64)
        for image in self.images:
            total_KK += image.counts_KK
        void = sum(image.void for image in self.images)
        return Scores(counts_KK=total_KK, names=self.task.names, void=void, images=len(self.images))

    def worst(self, n: int) -> list[ImageResult]:
        """The n images of lowest mean IoU, the lowest first; images that are all void (`all_void`) come last."""
        return sorted(self.images, key=lambda image: (image.all_void, _rank(image), image.name))[:n]

    def best(self, n: int) -> list[ImageResult]:
        """The n images of highest mean IoU, the highest first; images that are all void (`all_void`) come last."""
        return sorted(self.images, key=lambda image: (image.all_void, -_rank(image), image.name))[:n]

    def to_dict(self) -> dict[str, Any]:
        """Scores and one row per image, as JSON values."""
        return {**self.scores.to_dict(), "per_image": [image.to_dict() for image in self.images]}


def evaluate(
    samples: Iterable[SampleT],
    *,
    read: Callable[[SampleT], tuple[Array, Array]],
    predict: Callable[[Array], Array],
    task: Task,
) -> Evaluation:
    """Predict and count every sample, one at a time.

    `read` gives (image_HWC, mask_HW) of a sample, `predict` the labels_HW of an image, at the size of the mask.
    Raises UsageError for tasks that are not exclusive, and DataError, naming the sample, where sizes or values do not
    fit. No samples give an Evaluation of no images, so that an idle process can take part in `merge`.
    """
    _require_exclusive(task)
    return Evaluation(task=task, images=tuple(_evaluate_one(sample, read, predict, task) for sample in samples))


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


def _evaluate_one(
    sample: SampleT, read: Callable[[SampleT], tuple[Array, Array]], predict: Callable[[Array], Array], task: Task
) -> ImageResult:
    image_HWC, mask_HW = read(sample)
    try:
        labels_HW = predict(image_HWC)
    except DataError as error:
        raise DataError(f"{printable(sample.name)}: {error}") from error
    if labels_HW.shape != mask_HW.shape:
        raise DataError(
            f"{printable(sample.name)}: the prediction is {_size(labels_HW)} pixels, the mask {_size(mask_HW)}; "
            "scores need both at the same size"
        )
    try:
        counts_KK = count(labels_HW, mask_HW, classes=task.outputs, ignore_index=task.ignore_index)
    except DataError as error:
        raise DataError(f"{printable(sample.name)}: {error}") from error
    return ImageResult(name=sample.name, counts_KK=counts_KK, void=mask_HW.size - int(counts_KK.sum()))


def _require_exclusive(task: Task) -> None:
    if task.kind != "exclusive":
        raise UsageError(
            f"a task of kind {task.kind!r} cannot be evaluated yet: the scores here are for exclusive classes, one per "
            "pixel; evaluate the predicted files with your own measure, or train with exclusive classes"
        )


def _rank(image: ImageResult) -> float:
    return 0.0 if math.isnan(image.mean_iou) else image.mean_iou


def _size(array: Array) -> str:
    return " × ".join(map(str, array.shape))
