"""What is said in the first pass over the images."""

from __future__ import annotations

import numpy as np
import pytest

from pixelwise.config import TrainingConfig
from pixelwise.training.watch import (
    FEWEST_ROWS,
    FirstEpoch,
    loss_stands_still,
    never_predicted,
    one_class_only,
    watched_steps,
)

NAMES = ["background", "cell", "debris"]
SETTINGS = TrainingConfig(steps=100, batch=2, warmup=0.1)


def pixels(*counts: int) -> np.ndarray:
    return np.array(counts, np.int64)


@pytest.mark.parametrize(
    ("predicted", "true", "words"),
    [
        ((100, 0, 0), (95, 4, 1), "background everywhere, and no cell, debris; likely cause: it is 95 % of the pixels"),
        ((0, 100, 0), (50, 40, 10), "cell everywhere, and no background, debris; likely cause: masks that do not"),
        ((100, 0, 0), (60, 40, 0), "background everywhere, and no cell; likely cause: masks"),
    ],
)
def test_one_class_alone_is_told(predicted: tuple[int, ...], true: tuple[int, ...], words: str) -> None:
    assert words in one_class_only(pixels(*predicted), pixels(*true), NAMES)


@pytest.mark.parametrize(
    ("predicted", "true"), [((99, 1, 0), (95, 4, 1)), ((100, 0, 0), (100, 0, 0)), ((0, 0, 0), (0, 0, 0))]
)
def test_nothing_is_told_of_one_class_where_all_is_well(predicted: tuple[int, ...], true: tuple[int, ...]) -> None:
    assert one_class_only(pixels(*predicted), pixels(*true), NAMES) == ""


def test_classes_that_are_never_predicted_are_told_with_their_share() -> None:
    rare = never_predicted(pixels(990, 10, 0), pixels(989, 10, 1), NAMES, pixels=1000)
    assert "debris (0.1 % of the pixels)" in rare
    assert "too rare" in rare
    assert "cell" not in rare
    common = never_predicted(pixels(60, 0, 40), pixels(60, 30, 10), NAMES, pixels=100)
    assert "cell (30 % of the pixels)" in common
    assert "too few steps" in common
    assert never_predicted(pixels(1, 1, 0), pixels(1, 1, 0), NAMES, pixels=2) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "masks that do not belong"),
        ({"learning_rate": 0.5}, "training.learning_rate = 0.5 is high; try 0.002"),
        ({"learning_rate": 1e-6}, "training.learning_rate = 1e-06 is low"),
        ({"freeze": 0.5}, "the encoder does not learn in the first 50 % of the steps"),
    ],
)
def test_a_loss_that_stands_still_is_told_with_the_likely_cause(settings: dict, words: str) -> None:
    rng = np.random.default_rng(0)
    losses = list(1 + 0.05 * rng.standard_normal(60))
    assert words in loss_stands_still(losses, TrainingConfig(**settings))


def test_a_loss_that_falls_or_is_too_young_is_not_told() -> None:
    assert loss_stands_still(list(np.linspace(1.0, 0.8, 60)), SETTINGS) == ""
    assert loss_stands_still([1.0] * (FEWEST_ROWS - 1), SETTINGS) == ""
    assert loss_stands_still([1.0] * FEWEST_ROWS, SETTINGS) != ""
    assert loss_stands_still(list(np.linspace(1.0, 1.5, 60)), SETTINGS) != "", "it may rise as well"


@pytest.mark.parametrize(
    ("settings", "images", "steps"),
    [
        (TrainingConfig(steps=1000, batch=8, warmup=0.1), 20, 100),
        (TrainingConfig(steps=1000, batch=8, warmup=0), 2000, 250),
        (TrainingConfig(steps=10, batch=8), 3, FEWEST_ROWS),
    ],
)
def test_it_lasts_a_pass_and_at_least_the_warm_up(settings: TrainingConfig, images: int, steps: int) -> None:
    assert watched_steps(settings, images) == steps


def watching(images: int = 60) -> tuple[FirstEpoch, list[str]]:
    said: list[str] = []
    return FirstEpoch(NAMES, SETTINGS, images=images, warn=said.append), said


def test_each_is_told_once_and_at_its_time() -> None:
    first, said = watching()  # 30 steps
    bad = np.array([[90, 0, 0], [8, 0, 0], [2, 0, 0]])
    for step in range(1, 101):
        first.see({"step": step, "loss": 1.0})
        if step % 10 == 0:
            first.see({"step": step, "scores": {}})
            first.validated(bad)
    assert len(said) == 2
    assert said[0].startswith("after 30 steps the loss does not fall")
    assert said[1].startswith("after 30 steps the network predicts background everywhere")


def test_nothing_is_told_of_a_good_run() -> None:
    first, said = watching()
    for step in range(1, 101):
        first.see({"step": step, "loss": 1 / step})
    first.validated(np.diag([90, 8, 2]))
    assert said == []


def test_the_last_validation_of_a_short_run_is_looked_at() -> None:
    said: list[str] = []
    first = FirstEpoch(NAMES, TrainingConfig(steps=3), images=500, warn=said.append)
    for step in range(1, 4):
        first.see({"step": step, "loss": 1.0})
        first.validated(np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1]]))
    assert len(said) == 1
    assert "never predicted so far: cell" in said[0]


def test_a_run_that_is_resumed_later_is_left_alone() -> None:
    first, said = watching()
    for step in range(50, 101):
        first.see({"step": step, "loss": 1.0})
        first.validated(np.array([[90, 0, 0], [8, 0, 0], [2, 0, 0]]))
    assert said == []


def test_overlapping_classes_are_looked_at_one_by_one() -> None:
    first, said = watching()
    for step in range(1, 31):
        first.see({"step": step, "loss": 1 / step})
    absent = [[70, 0], [30, 0]]  # rows: truth absent, present
    found = [[50, 5], [5, 40]]
    first.validated(np.array([found, absent, found]))
    assert len(said) == 1
    assert "never predicted so far: cell (30 % of the pixels)" in said[0]  # 30 of 100
