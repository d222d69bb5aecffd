"""How objects are made of scores, fitted to images whose objects are known: the thresholds and the smallest area.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pixelwise.evaluation.evaluate import SampleT
from pixelwise.inference.predict import Prediction
from pixelwise.metrics.confusion import Array
from pixelwise.metrics.instances import count_instances
from pixelwise.postprocess.instances import NECKS, InstanceSettings, tune
from pixelwise.task import Task

IN_VOID = -1


def tune_objects(
    samples: Iterable[SampleT],
    settings: InstanceSettings,
    *,
    read: Callable[[SampleT], tuple[Array, Array, Array]],
    predict: Callable[[Array], Prediction],
    task: Task,
    necks: Sequence[float] = NECKS,
) -> InstanceSettings:
    """The settings of the best DSB score, the mean over the samples, among those that `postprocess.tune` tries.

    `read` gives (image_HWC, mask_HW, true objects) of a sample; only its void pixels are taken from the mask. `necks`
    are those that are tried. Raises DataError for no samples.
    """

    def images() -> Iterable[tuple[Array, Array]]:
        for sample in samples:
            image_HWC, mask_HW, truth_HW = read(sample)
            void_HW = np.zeros(mask_HW.shape, bool) if task.ignore_index is None else mask_HW == task.ignore_index
            yield predict(image_HWC).scores_KHW, np.where(void_HW, IN_VOID, truth_HW)

    return tune(images(), settings, dsb_score_of, necks=necks)


def dsb_score_of(instances_HW: Array, truth_HW: Array) -> float:
    """Score of the 2018 Data Science Bowl of one image, whose truth is -1 where it is void.

    >>> dsb_score_of(np.array([[1, 1, 0, 2]]), np.array([[3, 3, 0, -1]]))
    1.0
    """
    counts = count_instances(instances_HW, np.maximum(truth_HW, 0), truth_HW == IN_VOID)
    return counts.dsb_score
