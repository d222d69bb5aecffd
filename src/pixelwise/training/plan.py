"""From what the user asked for and what the data is to a complete plan: nothing left open, rerunnable as it stands.

Each rule is a small pure function.
"""

from __future__ import annotations

import math

from pixelwise.config import RunConfig
from pixelwise.data.dataset import Dataset
from pixelwise.errors import UsageError
from pixelwise.models.registry import model_options

PHOTOGRAPHS = ("camvid", "voc")
LARGEST_CROP, SMALLEST_CROP = 256, 32
CROP_MULTIPLE = 16
DEFAULT_MINUTES = 10.0
MOST_VALIDATIONS = 20
VALIDATION_SHARE = 0.15


def complete_plan(asked: RunConfig, dataset: Dataset, *, training_images: int) -> RunConfig:
    """Fill in whatever the user left open, except a length given in minutes (see `fix_length`).

    How the masks are read stays as asked: it is found again from the same data, and stored in the model.
    """
    settings = asked.training
    turn = asked.augment.turn if asked.augment.turn is not None else choose_turn(dataset.survey.layout)
    crop = settings.crop or choose_crop(dataset.survey.sizes[-1])
    elastic = asked.augment.elastic
    if "elastic" not in asked.augment.model_fields_set:
        elastic = choose_elastic(crop, most=elastic)
    steps = settings.steps
    if steps is None and settings.epochs is not None:
        steps = max(1, math.ceil(settings.epochs * training_images / settings.batch))
    minutes = DEFAULT_MINUTES if steps is None and settings.minutes is None else settings.minutes
    plan = asked.with_values(
        {
            "model": {**model_options(asked.model.name), **asked.model.options},
            "augment": {"turn": turn, "elastic": elastic},
            "training": {"crop": crop, "steps": steps, "minutes": minutes},
        }
    )
    return plan if steps is None else with_steps(plan, steps)


def choose_turn(layout: str) -> bool:
    """Quarter turns suit images without an up and a down; photographs have both."""
    return not any(name in layout.lower() for name in PHOTOGRAPHS)


def choose_elastic(crop: tuple[int, int], *, most: float) -> float:
    """The elastic displacement that does not fold a crop: the grid has a point every half crop.

    >>> choose_elastic((256, 256), most=10.0), choose_elastic((32, 64), most=10.0)
    (10.0, 3.2)
    """
    return min(most, min(crop) / 10)


def choose_crop(size: tuple[int, int]) -> tuple[int, int]:
    """The most common image size, rounded up to a multiple of 16, but at most 256 pixels a side.

    >>> choose_crop((520, 100)), choose_crop((1, 5))
    ((256, 112), (32, 32))
    """
    sides = [min(LARGEST_CROP, max(SMALLEST_CROP, math.ceil(n / CROP_MULTIPLE) * CROP_MULTIPLE)) for n in size]
    return sides[0], sides[1]


def with_steps(plan: RunConfig, steps: int, validations: int = MOST_VALIDATIONS) -> RunConfig:
    """The plan with its number of steps fixed, and the steps between validations where they were open."""
    every = plan.training.validate_every or max(1, math.ceil(steps / validations))
    return plan.with_values({"training": {"steps": steps, "validate_every": min(every, steps)}})


def fix_length(plan: RunConfig, *, seconds: float, step: float, validation: float) -> RunConfig:
    """The plan with as many steps as fit into `seconds`, where a step and a validation take the seconds given.

    There are up to 20 validations, fewer where they would take more than 15 % of the time, but at least 2; one more is
    kept free for the final scores.
    """
    validations = max(2, min(MOST_VALIDATIONS, int(VALIDATION_SHARE * seconds / max(validation, 1e-6))))
    steps = int((seconds - (validations + 1) * validation) / step)
    if steps < 1:
        raise UsageError(
            f"{seconds:.0f} seconds are too few: a step takes {step:.1f} and a validation {validation:.1f} seconds; "
            "give more --minutes, or a smaller training.batch, training.crop or model.width"
        )
    return with_steps(plan, steps, validations)
