"""Which network a command is about: one of MODELS by its name, or a saved one."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelwise.cli.runs import RUNS, find_model
from pixelwise.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from pixelwise.bundle import Bundle
    from pixelwise.task import Task

LARGEST_SIDE = 65536
SIZE_OF_SAVED = (256, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The network that is inspected: a name of MODELS with all its options, and, if it was saved, the bundle."""

    name: str
    in_channels: int
    task: Task
    options: Mapping[str, Any]
    size: tuple[int, int]
    bundle: Bundle | None = None

    def on_paper(self) -> nn.Module:
        """The network without memory for its weights."""
        import torch

        with torch.device("meta"):
            return self._fresh()

    def build(self) -> nn.Module:
        """The network, with the saved weights or fresh ones, the same each time."""
        import torch

        if self.bundle is not None:
            return self.bundle.build_network()
        torch.manual_seed(0)
        return self._fresh()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "in_channels": self.in_channels,
            "classes": self.task.outputs,
            "options": dict(self.options),
            "saved": self.bundle is not None,
        }

    def _fresh(self) -> nn.Module:
        from pixelwise.models.registry import build_model

        return build_model(self.name, in_channels=self.in_channels, classes=self.task.outputs, options=self.options)


def find_subject(model: str, settings: Sequence[str], *, channels: int | None, classes: int | None) -> Subject:
    """The network that a user means by a name of MODELS, a run or a model file.

    Raises UsageError, naming the nearest, where there is none.
    """
    from pixelwise.models.registry import MODELS

    if model in MODELS:
        return _named(model, settings, channels, classes)
    if not Path(model).exists() and not (RUNS / model).exists():
        near = difflib.get_close_matches(model, [*MODELS, *(path.name for path in RUNS.glob("*"))], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"there is no model, run or file {printable(model)!r}; {hint}pixelwise models lists the models"
        )
    if settings or channels is not None or classes is not None:
        raise UsageError("a saved model has its own settings, channels and classes; leave them out")
    return _saved(find_model(model))


def _named(name: str, settings: Sequence[str], channels: int | None, classes: int | None) -> Subject:
    from pixelwise.config import read_config
    from pixelwise.models.contracts import check_argument
    from pixelwise.models.registry import MODELS, model_options
    from pixelwise.task import MOST_CLASSES, Task

    foreign = [setting for setting in settings if not setting.startswith("model.")]
    if foreign:
        raise UsageError(f"{foreign[0]!r} says nothing of the network; write model.option=value")
    asked = read_config(overrides=settings).model
    unused = sorted(asked.model_fields_set - asked.options.keys())
    if unused:
        raise UsageError(f"model.{unused[0]} is not an option of the network; leave it out")
    published = MODELS[name].published
    outputs = published.classes if classes is None else classes
    check_argument("classes", outputs, lowest=1, highest=MOST_CLASSES)
    names = [f"class {number}" for number in range(outputs)]
    return Subject(
        name=name,
        in_channels=published.in_channels if channels is None else channels,
        task=Task.of(names, kind="exclusive" if outputs > 1 else "overlapping"),
        options=model_options(name) | asked.options,
        size=published.size,
    )


def _saved(path: Path) -> Subject:
    from pixelwise.bundle import Bundle
    from pixelwise.models.registry import model_options

    bundle = Bundle.load(path)
    network = bundle.network
    return Subject(
        name=network.name,
        in_channels=network.in_channels,
        task=bundle.task,
        options=model_options(network.name) | dict(network.options),
        size=SIZE_OF_SAVED,
        bundle=bundle,
    )


def parse_size(text: str) -> tuple[int, int]:
    """Rows and columns from "512" or "360x480".

    >>> parse_size("512"), parse_size("360x480")
    ((512, 512), (360, 480))
    """
    found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise UsageError(
            f"--size {text!r}: give pixels from 1 to {LARGEST_SIDE}, such as 512, or 360x480 rows x columns"
        )
    return sides[0], sides[-1]
