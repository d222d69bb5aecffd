"""The weight of each pixel in the loss: that of its class, and more where the background between objects is narrow.

w = w_c + w_0 exp(-(d1 + d2)^2 / (2 sigma^2)): Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, arXiv 1505.04597,
equation 2. The first term follows from the mask of a crop. The second one needs the whole image, so it is computed once
per image and deformed together with it.

N images, K classes, B batch, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixelwise.config import RunConfig
from pixelwise.data.dataset import Dataset
from pixelwise.data.layouts import Sample
from pixelwise.data.masks import class_pixels
from pixelwise.errors import UsageError
from pixelwise.losses.border import border_weights
from pixelwise.losses.class_weights import effective_number, inverse_frequency, median_frequency, weight_map
from pixelwise.task import Task


def by_effective_number(pixels_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """`effective_number` of pixels, as if a class of the mean size had as many prototypes as it has pixels.

    The published beta of 0.9999 is for images: it weighs all classes of many more than 10,000 pixels alike.

    >>> by_effective_number(np.array([9_000_000, 1_000_000])).round(3).tolist()
    [0.357, 1.643]
    """
    return effective_number(pixels_K, beta=1 - 1 / max(2.0, pixels_K.sum() / max(1, np.count_nonzero(pixels_K))))


Rule = Callable[[NDArray[np.int64]], NDArray[np.float64]]
RULES: dict[str, Rule] = {
    "inverse": lambda pixels_NK: inverse_frequency(pixels_NK.sum(axis=0)),
    "median": lambda pixels_NK: median_frequency(pixels_NK),
    "effective": lambda pixels_NK: by_effective_number(pixels_NK.sum(axis=0)),
}
DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighBorders:
    """The border weights of a sample, by its index; a value, so that it can be sent to worker processes.

    weight, sigma  of `border_weights`
    """

    dataset: Dataset
    samples: tuple[Sample, ...]
    weight: float
    sigma: float

    def __call__(self, index: int) -> NDArray[np.float32]:
        """The border term (H, W) of sample number `index`."""
        instances_HW = self.dataset.read_instances(self.samples[index])
        return border_weights(instances_HW, weight=self.weight, sigma=self.sigma)


def with_class_weights(plan: RunConfig, dataset: Dataset, training: Sequence[Sample]) -> RunConfig:
    """The plan with the weights of the classes in numbers, found from the training masks where a rule is given.

    Raises UsageError where there are weights already and they are not those of the rule, or not one for each class.
    """
    rule, given = RULES.get(plan.training.class_weights), plan.training.class_weight_values
    if rule is None:
        if given and len(given) != dataset.task.outputs:
            raise UsageError(
                f"training.class_weight_values has {len(given)} weights for the {dataset.task.outputs} classes "
                f"{', '.join(dataset.task.names)}; give one for each"
            )
        return plan
    found = rounded(rule(count_pixels(dataset, training)))
    if given and given != found:
        raise UsageError(
            f"training.class_weight_values = {list(given)}, but training.class_weights = {plan.training.class_weights} "
            f"gives {list(found)} for these training images; leave the values out, or keep them by "
            "training.class_weights=none"
        )
    return plan.with_values({"training": {"class_weight_values": found}})


def count_pixels(dataset: Dataset, samples: Sequence[Sample]) -> NDArray[np.int64]:
    """The pixels of each class in each sample (N, K); void is not counted."""
    return np.stack([class_pixels(dataset.read(sample)[1], dataset.task)[:-1] for sample in samples])


def rounded(weights_K: NDArray[Any]) -> tuple[float, ...]:
    """The weights to six digits, so that a person can read them, and the plan and the run have the same.

    >>> rounded(np.array([2 / 3, 1000 / 7]))
    (0.666667, 142.857)
    """
    return tuple(float(f"{weight:.{DIGITS}g}") for weight in weights_K)


def pixel_weights(
    mask_BHW: Tensor, border_BHW: Tensor | None, class_weights: Sequence[float], task: Task
) -> Tensor | None:
    """weight_BHW of the losses: the weight of each pixel's class (1 without any) and its border term; None: all are 1.

    >>> mask, border = torch.tensor([[[0, 1]]]), torch.tensor([[[7.0, 0.0]]])
    >>> pixel_weights(mask, border, [0.5, 2.0], Task.of(["a", "b"])).tolist()
    [[[7.5, 2.0]]]
    """
    weight_BHW = weight_map(mask_BHW, class_weights, task) if class_weights else None
    if border_BHW is None:
        return weight_BHW
    return border_BHW + (torch.ones_like(border_BHW) if weight_BHW is None else weight_BHW)
