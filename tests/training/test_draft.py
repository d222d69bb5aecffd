"""The data set that a plan is for, and the plan."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pixelwise.config import read_config
from pixelwise.data.synthetic import write_data_set
from pixelwise.training import draft
from pixelwise.training.draft import draft_plan, open_data
from pixelwise.training.rules import RULES, Choice


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    data = write_data_set(tmp_path / "cells", images=5, size=(80, 80), channels=1, seed=3)
    shutil.rmtree(data / "masks")
    (data / "instances").rename(data / "masks")
    return data


def asked(data: Path, *overrides: str):
    return read_config(overrides=[f"data.path={data}", "data.masks=instances", "training.steps=3", *overrides])


def test_a_draft_is_of_the_training_images_alone(cells: Path) -> None:
    made = draft_plan(asked(cells, "data.validation=0.4"), device="cpu")
    assert (len(made.split.train), len(made.split.validation)) == (3, 2)
    assert made.facts.images == made.facts.read == 3
    assert made.plan.config.data.target == "classes"
    assert made.dataset.coding.border == 0
    unread = draft_plan(asked(cells), device="cpu", most=0)
    assert unread.facts.read == 0


def test_the_data_is_opened_as_the_settings_say(cells: Path) -> None:
    made = draft_plan(asked(cells, "data.target=borders", "data.border=1"), device="cpu")
    assert (made.dataset.coding.border, made.dataset.task.names[-1]) == (1, "border")
    dataset, split = open_data(made.plan.config)
    assert (dataset, split) == (made.dataset, made.split)


def test_a_rule_that_chooses_borders_opens_the_data_with_them(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "data.target", lambda _: Choice("borders", "they touch"))
    opened: list[int] = []
    original = draft.open_data
    monkeypatch.setattr(draft, "open_data", lambda config: opened.append(config.data.border_width) or original(config))
    made = draft_plan(asked(cells), device="cpu")
    assert opened == [0, 2]
    assert (made.plan.config.data.target, made.dataset.coding.border) == ("borders", 2)
    assert made.dataset.task.names == ("background", "object", "border")
    assert all(sample in made.dataset.samples for part in (made.split.train, made.split.validation) for sample in part)
