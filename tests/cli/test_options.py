"""Options of a verb as one value."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from pixelwise.cli.main import VERBS
from pixelwise.cli.options import verb_of
from pixelwise.cli.train import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Wanted:
    name: Annotated[str, typer.Argument(help="A name.")]
    many: Annotated[int, typer.Option(help="How many.")] = 3
    loud: Annotated[bool, typer.Option("--loud", help="Shout.")] = False


def run_of(*arguments: str) -> tuple[list[Wanted], str]:
    seen: list[Wanted] = []

    def greet(wanted: Wanted) -> None:
        """Say something."""
        seen.append(wanted)

    app = typer.Typer()
    app.command()(verb_of(greet, Wanted))
    return seen, CliRunner().invoke(app, list(arguments)).output


def test_the_fields_are_the_options() -> None:
    assert run_of("me", "--many", "5", "--loud")[0] == [Wanted(name="me", many=5, loud=True)]
    assert run_of("me")[0] == [Wanted(name="me")]
    seen, said = run_of("--many", "5")
    assert seen == []
    assert "name" in said.lower()


def test_help_is_that_of_the_fields_and_the_function() -> None:
    said = run_of("--help")[1]
    for words in ("Say something.", "A name.", "How many.", "--loud"):
        assert words in said


def test_verbs_take_at_most_ten_parameters_of_their_own() -> None:
    for name, verb in VERBS.items():
        written = len(inspect.getfullargspec(verb).args)
        assert written <= 10, name


def test_what_stands_on_the_command_line_becomes_settings() -> None:
    options = TrainOptions(data="model.width=8", settings=["training.batch=2"], steps=3, encoder_weights="none")
    assert options.folder() is None
    assert options.overrides() == [
        "model.width=8",
        "training.batch=2",
        "training.steps=3",
        "model.encoder_weights=none",
    ]
    assert TrainOptions(data="cells", minutes=0.5).overrides() == ["training.minutes=0.5"]
    assert TrainOptions(data="cells").folder() == "cells"
