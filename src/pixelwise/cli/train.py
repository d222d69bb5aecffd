"""`pixelwise train`: from a folder of images and masks to a trained model, its scores and pictures of its results."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixelwise.cli.options import verb_of
from pixelwise.cli.runs import new_run_folder
from pixelwise.cli.screen import Screen
from pixelwise.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from pixelwise.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What stands behind `pixelwise train`."""

    data: Annotated[str | None, typer.Argument(help="Folder of images and masks.")] = None
    settings: Annotated[list[str] | None, typer.Argument(help="section.key=value, such as model.width=16")] = None
    minutes: Annotated[float | None, typer.Option(help="Length as a time budget [10 without any length].")] = None
    epochs: Annotated[float | None, typer.Option(help="Length in passes over the images.")] = None
    steps: Annotated[int | None, typer.Option(help="Length in updates of the weights.")] = None
    encoder_weights: Annotated[
        str | None, typer.Option(help="What the encoder starts from: imagenet, FILE.safetensors, or none.")
    ] = None
    name: Annotated[str | None, typer.Option(help="Name of the run in runs/.")] = None
    config: Annotated[Path | None, typer.Option(help="A plan.toml or another file of settings.")] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False
    force: Annotated[bool, typer.Option("--force", help="Resume although plan, data or machine differ.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do and take; write nothing.")] = False
    json: Annotated[bool, typer.Option("--json", help="Write the scores as JSON to stdout.")] = False

    def overrides(self) -> list[str]:
        """All settings of the command line as section.key=value."""
        short = {
            "training.minutes": self.minutes,
            "training.epochs": self.epochs,
            "training.steps": self.steps,
            "model.encoder_weights": self.encoder_weights,
        }
        typed = list(self.settings or [])
        if self.data is not None and self._data_is_setting:
            typed = [self.data, *typed]
        return [*typed, *(f"{key}={value}" for key, value in short.items() if value is not None)]

    def folder(self) -> str | None:
        """The folder of the data, where one was given."""
        return None if self._data_is_setting else self.data

    @property
    def _data_is_setting(self) -> bool:
        return self.data is not None and "=" in self.data and not Path(self.data).exists()


def start_training(options: TrainOptions) -> int:
    """Train a model. Everything about the run goes to runs/NAME: plan, model, log, scores, pictures."""
    began = time.monotonic()
    overrides = options.overrides()
    asked = read_asked(options.config, overrides, options.folder())
    if not asked.data.path and not (options.resume and options.name):
        raise UsageError("no data: give the folder of images and masks, pixelwise train DATA")
    folder = new_run_folder(Path(asked.data.path), options.name, resume=options.resume)

    from pixelwise.cli.planning import dry_run
    from pixelwise.cli.training import Order, carry_out
    from pixelwise.training.plan import stored_reasons

    typed = tuple(override.partition("=")[0].strip() for override in overrides)
    stored = stored_reasons(options.config.read_text("utf-8")) if options.config else {}
    order = Order(
        asked=asked,
        typed=typed,
        reasons={key: why for key, why in stored.items() if key not in typed},
        config=options.config is not None,
        folder=folder,
        resume=options.resume,
        force=options.force,
        began=began,
    )
    screen = Screen(json=options.json)
    if options.dry_run:
        dry_run(order, screen)
        return EXIT_DONE
    return EXIT_DONE if carry_out(order, screen) else EXIT_INTERRUPTED


train_verb = verb_of(start_training, TrainOptions)


def read_asked(config: Path | None, overrides: list[str], data: str | None) -> RunConfig:
    """The settings that the user asked for: file, then overrides.

    A length on the command line replaces the file's, and weights replace the file's weights with their checksum. Paths
    are made absolute.
    """
    from pixelwise.config import read_config
    from pixelwise.data.groups import TABLES

    lengths = [
        key for key in ("minutes", "epochs", "steps") if any(o.startswith(f"training.{key}=") for o in overrides)
    ]
    if len(lengths) > 1:
        raise UsageError(f"give one length, not {' and '.join('--' + key for key in lengths)}")
    if lengths:
        others = {"minutes", "epochs", "steps"} - set(lengths)
        overrides = [*(f"training.{key}=none" for key in sorted(others)), "training.validate_every=none", *overrides]
    if any(override.startswith("model.encoder_weights=") for override in overrides):
        overrides = ["model.encoder_sha256=", *overrides]  # the checksum in the file is of other weights
    asked = read_config(config, overrides)
    paths: dict[str, dict[str, str]] = {}
    if data is not None:
        paths["data"] = {"path": str(Path(data).resolve())}
    if Path(asked.data.groups).suffix.lower() in TABLES:
        paths.setdefault("data", {})["groups"] = str(Path(asked.data.groups).resolve())
    if asked.model.encoder_weights not in ("", "imagenet"):
        paths["model"] = {"encoder_weights": str(Path(asked.model.encoder_weights).resolve())}
    return asked.with_values(paths)
