"""The rules that complete a plan."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.config import RunConfig, read_config
from pixelwise.data.dataset import open_dataset
from pixelwise.data.synthetic import write_data_set
from pixelwise.errors import UsageError
from pixelwise.models.registry import MODELS, model_options
from pixelwise.training.fingerprint import Fingerprint, take_fingerprint
from pixelwise.training.plan import complete_plan, fix_length, make_plan, reasons_that_hold, stored_reasons, with_steps
from pixelwise.training.rules import RULES


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


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_of_the_network_stands_in_the_plan(dataset, name: str) -> None:
    asked = read_config(overrides=["training.steps=3", f"model.name={name}"]).with_values({"model": MODELS[name].small})
    plan = complete_plan(asked, dataset, training_images=2, device="cpu")
    assert plan.model.options.keys() == model_options(name).keys()
    assert plan.model.options.items() >= dict(MODELS[name].small).items()


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


# Reasons


def facts_of(dataset, **changes: object) -> Fingerprint:
    return replace(take_fingerprint(dataset, dataset.samples), **changes)  # type: ignore[arg-type]


def test_what_the_user_set_is_asked_of_no_rule(dataset) -> None:
    asked = read_config(overrides=["training.batch=3", "model.width=8", "training.steps=30", "augment.turn=none"])
    plan = make_plan(asked, facts_of(dataset), device="cpu")
    assert plan.config.training.batch == 3
    assert plan.config.model.options["width"] == 8
    assert set(plan.reasons) == {*RULES, "model.depth"} - {"training.batch"}
    assert plan.config.augment.turn is True


def test_every_chosen_value_stands_under_its_reason(dataset, tmp_path: Path) -> None:
    plan = make_plan(RunConfig().with_values({"training": {"epochs": 2}}), facts_of(dataset), device="cpu")
    text = plan.to_toml()
    lines = text.splitlines()
    for key, reason in plan.reasons.items():
        name = key.partition(".")[2]
        assert any(line == f"# why: {reason}" and below.startswith(f"{name} = ") for line, below in pairwise(lines)), (
            key
        )
    (tmp_path / "plan.toml").write_text(text)
    assert read_config(tmp_path / "plan.toml") == plan.config
    assert stored_reasons(text) == plan.reasons


def test_a_plan_that_is_run_again_asks_no_rule(dataset, tmp_path: Path) -> None:
    plan = make_plan(read_config(overrides=["training.steps=3"]), facts_of(dataset), device="cpu")
    (tmp_path / "plan.toml").write_text(plan.to_toml())
    again = make_plan(read_config(tmp_path / "plan.toml"), facts_of(dataset, photograph=True), device="cuda")
    assert again.config == plan.config
    assert again.reasons == {}


def test_a_changed_value_loses_its_reason(dataset) -> None:
    facts = facts_of(dataset)
    first = make_plan(read_config(overrides=["training.steps=3"]), facts, device="cpu")
    stored = {**first.reasons, "training.steps": "as many as fit"}
    changed = first.with_config(first.config.with_values({"training": {"batch": 5}, "model": {"width": 9}}))
    again = make_plan(changed.config, facts, device="cpu")
    held = reasons_that_hold(stored, again, facts, device="cpu")
    assert held == {key: why for key, why in first.reasons.items() if key not in ("training.batch", "model.width")}


def test_a_reason_of_several_lines_stays_a_comment() -> None:
    text = RunConfig().to_toml({"training.batch": "two\nlines", "predict.tile": "x"})
    assert "# why: two\\nlines\nbatch = 8" in text
    assert stored_reasons(text) == {"training.batch": "two\\nlines", "predict.tile": "x"}


def test_the_reason_of_a_length(dataset) -> None:
    facts = facts_of(dataset, images=10)
    asked = RunConfig().with_values({"training": {"epochs": 2.5, "batch": 4}})
    assert make_plan(asked, facts, device="cpu").reasons["training.steps"] == "2.5 passes over 10 images, 4 a step"
    assert make_plan(RunConfig(), facts, device="cpu").reasons["training.minutes"] == "no length was given"
    both = RunConfig().with_values({"training": {"epochs": 1, "minutes": 1}})
    with pytest.raises(UsageError, match="give one length"):
        make_plan(both, facts, device="cpu")


def test_the_facts_without_images_leave_the_target_alone(tmp_path: Path) -> None:
    dataset = open_dataset(touching_cells(tmp_path), masks="instances")
    asked = read_config(overrides=["training.steps=3"])
    assert complete_plan(asked, dataset, training_images=3, device="cpu").data.target == "classes"


@pytest.mark.parametrize(("name", "crop", "turn"), [("isbi2012", (256, 256), True), ("camvid", (256, 256), False)])
def test_real_data_get_the_settings_that_were_measured(real_data: Path, name: str, crop, turn: bool) -> None:
    dataset = open_dataset(real_data / name)
    plan = make_plan(RunConfig(), facts_of(dataset), device="cpu").config
    assert (plan.model.name, plan.model.options["width"], plan.model.options["depth"]) == ("unet", 16, 4)
    assert (plan.training.crop, plan.training.batch, plan.training.loss) == (crop, 4, "ce+dice")
    assert (plan.augment.turn, plan.augment.elastic, plan.data.target) == (turn, 10.0, "classes")
    assert plan.training.learning_rate == 0.002
    defaults = RunConfig()
    assert plan.predict == defaults.predict


def touching_cells(folder: Path) -> Path:
    data = write_data_set(folder / "touching", images=3, size=(80, 80), channels=1, seed=3)
    shutil.rmtree(data / "masks")
    (data / "instances").rename(data / "masks")
    return data
