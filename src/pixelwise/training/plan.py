"""From what the user asked for and what the data is to a complete plan: nothing left open, rerunnable as it stands.

Each rule is a small pure function.
"""

from __future__ import annotations

import math
from typing import Any

from pixelwise.config import RunConfig
from pixelwise.data.dataset import Dataset
from pixelwise.errors import UsageError
from pixelwise.models.registry import model_options
from pixelwise.training.weights import pin_weights

PHOTOGRAPHS = ("camvid", "voc")
LARGEST_CROP, SMALLEST_CROP = 256, 32
CROP_MULTIPLE = 16
PAYS_ON_CPU: dict[str, dict[str, Any]] = {"unet": {"width": 16}}
DEFAULT_MINUTES = 10.0
MOST_VALIDATIONS = 20
VALIDATION_SHARE = 0.15


def complete_plan(asked: RunConfig, dataset: Dataset, *, training_images: int, device: str) -> RunConfig:
    """Fill in whatever the user left open, except a length given in minutes (see `fix_length`).

    How the masks are read stays as asked: it is found again from the same data, and stored in the model. `device` is
    the kind that trains: cpu, cuda or mps.
    """
    settings = asked.training
    turn = asked.augment.turn if asked.augment.turn is not None else choose_turn(dataset.survey.layout)
    crop = settings.crop or choose_crop(dataset.survey.sizes[-1])
    elastic = asked.augment.elastic
    if "elastic" not in asked.augment.model_fields_set:
        elastic = choose_elastic(crop, most=elastic)
    steps = settings.steps
    if steps is None and settings.epochs is not None and settings.minutes is not None:
        raise UsageError("training.epochs and training.minutes are both set; give one length")
    if steps is None and settings.epochs is not None:
        steps = max(1, math.ceil(settings.epochs * training_images / settings.batch))
    options = choose_model_options(asked.model.name, device) | asked.model.options
    minutes = DEFAULT_MINUTES if steps is None and settings.minutes is None else settings.minutes
    plan = asked.with_values(
        {
            "model": options | pin_weights(asked.model),
            "augment": {"turn": turn, "elastic": elastic},
            "training": {"crop": crop, "steps": steps, "minutes": minutes},
        }
    )
    return plan if steps is None else with_steps(plan, steps)


def choose_model_options(name: str, device: str) -> dict[str, Any]:
    """The arguments of a network: its paper's, but for what was measured to pay on a CPU.

    Half the width of the U-Net gives more steps in the same time, and better scores (docs/decisions/0006-what-pays.md).

    >>> choose_model_options("unet", "cpu")["width"], choose_model_options("unet", "cuda")["width"]
    (16, 32)
    """
    return model_options(name) | (PAYS_ON_CPU.get(name, {}) if device == "cpu" else {})


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


def fix_length(plan: RunConfig, *, budget: float, used: float, step: float, validation: float) -> RunConfig:
    """The plan with as many steps as fit into the seconds of a budget of which some are used already.

    `step` and `validation` are the seconds that one takes. There are up to 20 validations, fewer where they would take
    more than 15 % of the time, but at least 2; one more is kept free for the final scores.
    """
    left = budget - used
    validations = max(2, min(MOST_VALIDATIONS, int(VALIDATION_SHARE * left / max(validation, 1e-6))))
    steps = int((left - (validations + 1) * validation) / step)
    if steps < 1:
        needed = (used + 3 * validation + step) / 60
        raise UsageError(
            f"{budget / 60:.2g} minutes are too few: {used:.0f} seconds are used already, a step takes {step:.1f} and "
            f"a validation {validation:.1f} seconds; give at least --minutes {math.ceil(10 * needed) / 10:g}"
        )
    return with_steps(plan, steps, validations)
