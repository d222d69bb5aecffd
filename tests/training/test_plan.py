"""The rules that complete a plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.config import RunConfig, read_config
from pixelwise.data.dataset import open_dataset
from pixelwise.data.synthetic import write_data_set
from pixelwise.errors import UsageError
from pixelwise.models.registry import MODELS, model_options
from pixelwise.training.plan import (
    choose_crop,
    choose_model_options,
    choose_turn,
    complete_plan,
    fix_length,
    with_steps,
)


@pytest.fixture
def dataset(tmp_path: Path):
    return open_dataset(write_data_set(tmp_path / "cells", images=3, size=(40, 50), channels=1, seed=0))


def test_a_complete_plan_reads_back_as_itself(dataset, tmp_path: Path) -> None:
    plan = complete_plan(
        read_config(overrides=["training.steps=30", "model.width=8"]), dataset, training_images=2, device="cpu"
    )
    assert plan.training.crop == (48, 64)
    assert plan.augment.turn is True
    assert plan.model.options == model_options("unet") | {"width": 8}
    assert plan.training.validate_every == 2
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml())
    assert read_config(path) == plan
    assert complete_plan(read_config(path), dataset, training_images=2, device="cpu") == plan


def test_lengths(dataset) -> None:
    asked = RunConfig().with_values({"training": {"epochs": 2.5, "batch": 4}})
    assert complete_plan(asked, dataset, training_images=10, device="cpu").training.steps == 7
    open_ended = complete_plan(RunConfig(), dataset, training_images=10, device="cpu")
    assert open_ended.training.steps is None
    assert open_ended.training.minutes == 10


def test_a_time_budget_becomes_a_number_of_steps() -> None:
    plan = fix_length(RunConfig(), budget=110, used=10, step=1.0, validation=0.1)
    assert plan.training.steps == 97
    assert plan.training.validate_every == 5
    rare = fix_length(RunConfig(), budget=100, used=0, step=1.0, validation=5.0)
    assert rare.training.steps == 80
    assert rare.training.validate_every == 27
    with pytest.raises(UsageError, match=r"12 seconds are used already.*at least --minutes 0\.3"):
        fix_length(RunConfig(), budget=6, used=12, step=2.0, validation=0.1)


def test_given_steps_between_validations_are_kept() -> None:
    plan = RunConfig().with_values({"training": {"validate_every": 7}})
    assert with_steps(plan, 100).training.validate_every == 7
    assert with_steps(plan, 3).training.validate_every == 3


@pytest.mark.parametrize(
    ("size", "crop"), [((512, 512), (256, 256)), ((360, 480), (256, 256)), ((31, 33), (32, 48)), ((1, 5000), (32, 256))]
)
def test_crops(size: tuple[int, int], crop: tuple[int, int]) -> None:
    assert choose_crop(size) == crop


def test_the_unet_is_narrower_on_a_cpu_and_every_other_network_is_that_of_its_paper() -> None:
    assert choose_model_options("unet", "cpu") == {**choose_model_options("unet", "cuda"), "width": 16}
    for name in set(MODELS) - {"unet"}:
        assert choose_model_options(name, "cpu") == choose_model_options(name, "cuda") == model_options(name)


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_of_the_network_stands_in_the_plan(dataset, name: str) -> None:
    asked = read_config(overrides=["training.steps=3", f"model.name={name}"]).with_values({"model": MODELS[name].small})
    plan = complete_plan(asked, dataset, training_images=2, device="cpu")
    assert plan.model.options.keys() == model_options(name).keys()
    assert plan.model.options.items() >= dict(MODELS[name].small).items()


@pytest.mark.parametrize(("layout", "turn"), [("CamVid", False), ("VOC", False), ("images+masks", True)])
def test_photographs_are_not_turned(layout: str, turn: bool) -> None:
    assert choose_turn(layout) is turn


def test_masks_of_any_coding_are_read_alike_when_a_plan_is_repeated(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "cells", images=3, size=(40, 50), channels=1, seed=0)
    for path in (data / "masks").iterdir():
        with Image.open(path) as mask:
            pixels = np.array(mask)
        Image.fromarray(pixels * np.uint8(255)).save(path)
    dataset = open_dataset(data)
    assert dataset.coding.kind == "binary"
    plan = complete_plan(read_config(overrides=["training.steps=3"]), dataset, training_images=2, device="cpu")
    again = open_dataset(data, classes=plan.data.classes, ignore_index=plan.data.ignore_index, masks=plan.data.masks)
    assert (again.coding, again.task) == (dataset.coding, dataset.task)


def test_small_crops_are_deformed_less_unless_told(dataset) -> None:
    small = ["training.steps=3", "training.crop=[32,64]"]
    assert complete_plan(read_config(overrides=small), dataset, training_images=2, device="cpu").augment.elastic == 3.2
    told = read_config(overrides=[*small, "augment.elastic=9"]).with_values({"training": {"batch": 2}})
    assert complete_plan(told, dataset, training_images=2, device="cpu").augment.elastic == 9
