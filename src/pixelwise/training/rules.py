"""The rules that fill in a plan: each a small pure function of the facts and of what is settled already.

A rule gives a value and the reason for it, which becomes the comment in plan.toml. Rules follow measurements, and name
the page where these stand. RULES holds them in the order in which they are asked: a rule sees what those before it
said. What the user set is never asked for.

To add one: a function from a Question to a Choice, and a line in RULES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pixelwise.config import RunConfig
from pixelwise.inference.tiling import USUAL_SIDE
from pixelwise.models.registry import model_options
from pixelwise.training.fingerprint import Fingerprint, Size, percent

PAYS = "docs/decisions/0006-what-pays.md"

LARGEST_CROP, SMALLEST_CROP, CROP_MULTIPLE = 256, 32, 16
"""Pixels. Crops of 384 gave no gain over 256 (PAYS); 16 is the stride of the usual network; the least is two cells of
its deepest map."""
FEWEST_CELLS = 2
"""Cells that the deepest map should have along the shorter side of a crop: of one cell, all context is padding."""
DEEPEST = 6
CPU_WIDTH = 16
"""Channels of the U-Net's first level on a CPU: half the paper's (padded) 32, four times the steps (PAYS)."""
ELASTIC_SHARE = 10
"""The displacement grid has a point every half crop: a tenth of the side does not fold it."""
MOST_ELASTIC = 10.0
USUAL_BATCH, CPU_BATCH = 8, 4
USUAL_LOSS, USUAL_RATE, USUAL_BALANCE = "ce+dice", 2e-3, 0.5
LEAST_TOUCHING = 0.05
"""Share of objects that touch from which on it matters how they are told apart: below, one object in twenty at most is
lost by taking each connected piece for an object."""
CLASSES_SCORE, BORDERS_SCORE = 0.49, 0.41
"""of the two ways to single objects, see `choose_target`"""
VALIDATION, LEAST_VALIDATED = 0.15, 4
RARE = 0.01
"""Share of the pixels below which a class is called rare in a reason."""
USUAL_OVERLAP = 0.25
UNMEASURED = "the default; nothing was measured that says otherwise"


@dataclass(frozen=True, slots=True)
class Choice:
    """A value, and why."""

    value: Any
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a rule looks at: the facts of the data, the settings as far as they are settled, cpu, cuda or mps."""

    facts: Fingerprint
    plan: RunConfig
    device: str


Rule = Callable[[Question], Choice]


# What is learned


def choose_target(question: Question) -> Choice:
    """Classes; where single objects touch, too, as these are better cut at their necks in a training that is not long.

    DSB2018, 98 images to train on, 600 steps of 6 crops of 160 x 160, one seed, scored on 57 other images: DSB score
    CLASSES_SCORE with the classes cut at necks, BORDERS_SCORE with borders as a class of their own.
    """
    facts = question.facts
    if not facts.instances:
        return Choice("classes", "the masks hold classes, and do not number single objects")
    if facts.touching is None:
        return Choice("classes", "the masks number objects; none was looked at to see whether they touch")
    touching = f"{percent(facts.touching)} of the objects touch another one"
    if facts.touching < LEAST_TOUCHING:
        return Choice("classes", f"only {touching}, so a connected piece is an object")
    learned = f"{CLASSES_SCORE} against {BORDERS_SCORE} after 600 steps on DSB2018; for a long training try borders"
    return Choice(
        "classes", f"{touching}; cut at their necks they were found better than by learned borders, {learned}"
    )


def choose_validation(question: Question) -> Choice:
    """The share of images kept out, where the folder has no validation part."""
    facts = question.facts
    if facts.own_validation:
        return Choice(VALIDATION, "not used: the folder has a validation part of its own")
    if question.plan.data.folds:
        return Choice(VALIDATION, f"not used: one of {question.plan.data.folds} folds validates")
    kept = max(1, round(VALIDATION * facts.images / (1 - VALIDATION)))
    words = f"about {kept} of {facts.images + kept} images choose the best model"
    few = "; so few that their score is a rough one" if kept < LEAST_VALIDATED else ""
    return Choice(VALIDATION, words + few)


# The network


def choose_network(question: Question) -> Choice:
    """The padded U-Net, the network on which everything here was measured."""
    reason = f"learns from few images, and is what all defaults were measured with ({PAYS})"
    if question.facts.photograph and question.facts.channels == 3:
        reason += (
            "; for photographs an encoder with pretrained weights pays more than all else (mean IoU 0.327 instead of "
            "0.199 there): model.name=unet_encoder --encoder-weights imagenet"
        )
    return Choice("unet", reason)


def choose_width(question: Question) -> Choice:
    """Channels of the first level of the U-Net."""
    if question.device == "cpu":
        return Choice(CPU_WIDTH, f"on a CPU half the width gives four times the steps, and better scores ({PAYS})")
    return Choice(model_options("unet")["width"], f"a GPU has the speed for the full width ({PAYS})")


def choose_depth(question: Question) -> Choice:
    """Levels of the U-Net: its own 4, more where objects are wider than it sees, fewer where a crop has no cells left.

    One level more doubles what an output can see, see `unet_field`.
    """
    usual, diameter = model_options("unet")["depth"], question.facts.diameter or 0.0
    side = min(question.plan.training.crop or choose_crop(question).value)
    depth = usual
    while depth < DEEPEST and unet_field(depth) < min(diameter, side):
        depth += 1
    wanted = depth
    while depth > 1 and side >> depth < FEWEST_CELLS:
        depth -= 1
    seen = f"an output sees {unet_field(depth)} pixels, the usual object is {diameter:.0f} across"
    left = f"a crop of {side} pixels leaves {math.ceil(side / 2**depth)} cells at the bottom"
    if depth < wanted:
        return Choice(depth, f"not {wanted}: {left}")
    return Choice(depth, f"{seen}; {left}" if diameter else left)


def unet_field(depth: int) -> int:
    """How many pixels, along a side, an output of the padded U-Net can see, give or take the places of its pooling.

    Two 3x3 convolutions on each level on the way down and on the way up, and a pooling between two levels.

    >>> [unet_field(depth) for depth in (1, 2, 3, 4, 5)]
    [18, 44, 96, 200, 408]
    """
    return (13 << depth) - 8


# Crops and what is done to them


def choose_crop(question: Question) -> Choice:
    """The most common image size, rounded up to a multiple of 16, but at most 256 pixels a side."""
    height, width = question.facts.usual
    crop = crop_of(question.facts.usual)
    cut = max(height, width) > LARGEST_CROP
    why = f"crops of 384 gave no gain over {LARGEST_CROP} ({PAYS})" if cut else f"rounded up to {CROP_MULTIPLE}"
    return Choice(crop, f"most images are {width} x {height}; {why}")


def crop_of(size: Size) -> Size:
    """The crop for images of a size (height, width).

    >>> crop_of((520, 100)), crop_of((1, 5))
    ((256, 112), (32, 32))
    """
    sides = [min(LARGEST_CROP, max(SMALLEST_CROP, math.ceil(n / CROP_MULTIPLE) * CROP_MULTIPLE)) for n in size]
    return sides[0], sides[1]


def choose_turn(question: Question) -> Choice:
    """Quarter turns suit images without an up and a down; photographs have both."""
    facts = question.facts
    if not facts.photograph:
        return Choice(value=True, reason="the images have no up and no down, so a turned one is as good as a new one")
    measured = "" if facts.up_down is None else f": the classes differ by {facts.up_down:.2f} between the halves"
    return Choice(value=False, reason=f"the images have an up and a down{measured}")


def choose_elastic(question: Question) -> Choice:
    """The elastic displacement that does not fold a crop: the grid has a point every half crop."""
    side = min(question.plan.training.crop or choose_crop(question).value)
    if side < ELASTIC_SHARE * MOST_ELASTIC:
        return Choice(side / ELASTIC_SHARE, f"a tenth of the crop's side: more would fold crops of {side} pixels")
    return Choice(MOST_ELASTIC, f"deformation, noise and blur are worth having even in a short run ({PAYS})")


def choose_balance(question: Question) -> Choice:
    """How many crops are placed where a class drawn with equal chance is."""
    rarest = question.facts.rarest
    return Choice(USUAL_BALANCE, f"so that {rarest.name}, {percent(rarest.share)} of the pixels, is in enough crops")


def choose_batch(question: Question) -> Choice:
    """Crops per step."""
    if question.device == "cpu":
        return Choice(CPU_BATCH, f"twice the steps of 8: better in a few minutes, alike in more ({PAYS})")
    return Choice(USUAL_BATCH, f"8 and 4 end alike after enough steps; 8 is steadier ({PAYS})")


# The loss and the schedule


def choose_loss(_: Question) -> Choice:
    """Cross-entropy with Dice."""
    return Choice(USUAL_LOSS, f"with Dice, membranes were better than by cross-entropy alone ({PAYS})")


def choose_class_weights(question: Question) -> Choice:
    """None: Dice and the placing of the crops balance the classes."""
    rarest = question.facts.rarest
    reason = "Dice weighs all classes alike, and the crops are balanced (augment.balance)"
    if rarest.share < RARE:
        reason += f"; should {rarest.name} ({percent(rarest.share)} of the pixels) be missed, try median"
    return Choice("none", reason)


def choose_border_weight(question: Question) -> Choice:
    """None where borders are learned as a class of their own, else none unless it is asked for."""
    if question.plan.data.target == "borders":
        return Choice(0.0, "the borders are learned as a class of their own")
    if question.facts.instances:
        return Choice(0.0, f"{UNMEASURED}; the U-Net's own is 10, for objects that touch")
    return Choice(0.0, "no objects are to be told apart")


def choose_learning_rate(_: Question) -> Choice:
    """The highest learning rate."""
    return Choice(USUAL_RATE, f"0.005 gave no gain in the runs that were compared ({PAYS})")


def choose_schedule(_: Question) -> Choice:
    """Warm-up, then a cosine to 0."""
    return Choice("cosine", f"it falls to 0, so the best step is near the last in every run ({PAYS})")


# Prediction


def choose_tile(question: Question) -> Choice:
    """The window of prediction."""
    (height, width), limit = question.facts.largest, USUAL_SIDE**2
    whole = f"the largest image, {width} x {height}, is predicted whole; " if height * width <= limit else ""
    return Choice(
        0, f"{whole}larger ones in exact windows, as large as memory allows, or in windows of {USUAL_SIDE} pixels"
    )


def choose_overlap(_: Question) -> Choice:
    """How much of a window the next one covers again."""
    why = "for networks whose windows cannot be exact: they fade into one another where each has seen the least"
    return Choice(USUAL_OVERLAP, why)


RULES: dict[str, Rule] = {
    "data.target": choose_target,
    "data.validation": choose_validation,
    "model.name": choose_network,
    "training.crop": choose_crop,
    "training.batch": choose_batch,
    "augment.turn": choose_turn,
    "augment.elastic": choose_elastic,
    "augment.balance": choose_balance,
    "training.loss": choose_loss,
    "training.class_weights": choose_class_weights,
    "training.border_weight": choose_border_weight,
    "training.learning_rate": choose_learning_rate,
    "training.schedule": choose_schedule,
    "predict.tile": choose_tile,
    "predict.overlap": choose_overlap,
}
MODEL_RULES: dict[str, dict[str, Rule]] = {"unet": {"width": choose_width, "depth": choose_depth}}
"""Arguments of a network, by its name, that are not those of its paper."""


# What is settled elsewhere


def explain_normalisation(question: Question) -> Choice:
    """How grey values are scaled."""
    if question.plan.model.encoder_weights:
        return Choice("as the weights expect", "pretrained weights expect their own scale, where they can say it")
    values = question.facts.intensities
    between = "" if not values else f"; 99 % of them are from {_least(values):g} to {_most(values):g}"
    return Choice("mean 0, deviation 1", f"by the training images, each channel for itself{between}")


def explain_objects(question: Question) -> Choice:
    """How single objects are made of the scores."""
    tuned = "how, is tuned on the validation images at the end"
    if question.plan.data.target == "borders":
        return Choice("watershed from the insides", tuned)
    if question.facts.instances:
        return Choice("pieces, cut at necks", tuned)
    return Choice("none", "classes are predicted, and no single objects")


NOTES: dict[str, Rule] = {"normalisation": explain_normalisation, "objects": explain_objects}
"""What no setting says: measured when training begins, or tuned at its end."""


def _least(values: tuple[tuple[float, ...], ...]) -> float:
    return min(channel[0] for channel in values)


def _most(values: tuple[tuple[float, ...], ...]) -> float:
    return max(channel[-1] for channel in values)
