"""The state of a training run, and the checkpoint that brings it back bit for bit.

A checkpoint holds the weights of the network and of its auxiliary heads, the moving average, the optimiser's tensors,
the step, the best score so far and the length of the log. It holds no state of random number generators, because none
is carried from step to step: order, crops and augmentation are keyed by (seed, epoch, index), and dropout by (seed,
step, rank), see `seed_step`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelwise.archive import Archive, load_archive, save_archive
from pixelwise.errors import BundleError, TrainingError, UnreadableError, printable
from pixelwise.files import system_refusals, write_atomically
from pixelwise.training.optim import MovingAverage

CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
DAMAGED = "checkpoint.damaged.safetensors"


@dataclass(slots=True, kw_only=True)
class State:
    """All that changes from step to step.

    heads    auxiliary heads, which learn beside the network and are no part of the saved model
    step     number of updates of the weights done
    best     highest mean IoU of a validation so far; -1 before the first
    skipped  steps in a row that the scaler skipped because float16 overflowed
    forced   in what the run was changed by resuming it with --force
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    scaler: torch.amp.GradScaler
    heads: nn.ModuleList = field(default_factory=nn.ModuleList)
    step: int = 0
    best: float = -1.0
    skipped: int = 0
    forced: list[str] = field(default_factory=list)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step, so that what is random inside the network depends on nothing but these numbers."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def save_checkpoint(folder: Path, state: State, *, log_bytes: int, identity: Mapping[str, str]) -> None:
    """Write the state to the run's folder; the checkpoint before stays beside it as a second one to fall back on.

    `identity` says what the run is made of (plan, data, versions); a resume with another one is refused.
    """
    description = {
        "step": state.step,
        "best": state.best,
        "skipped": state.skipped,
        "forced": state.forced,
        "scaler": state.scaler.state_dict(),
        "log_bytes": log_bytes,
        "identity": dict(identity),
    }
    current = folder / CHECKPOINT
    if current.is_file():
        write_atomically(folder / PREVIOUS, lambda temporary: _copy_or_link(current, temporary))
    save_archive(current, Archive(_tensors(state), description), kind="checkpoint")


def load_checkpoint(
    folder: Path, state: State, *, identity: Mapping[str, str], force: bool, warn: Callable[[str], None]
) -> int | None:
    """Bring the state back from the newest whole checkpoint, in place; returns the length of its log in bytes.

    None where there is no checkpoint yet. A damaged newest one is told to `warn` and the one before takes its place;
    where neither can be used, BundleError. Raises TrainingError, naming the differences, where the checkpoint is of
    another run; with `force` they are told to `warn` and kept in the state instead.
    """
    current, previous = folder / CHECKPOINT, folder / PREVIOUS
    if not current.is_file() and not previous.is_file():
        return None
    try:
        archive = load_archive(current, kind="checkpoint")
    except UnreadableError:
        raise
    except BundleError as error:
        warn(f"{error}; the checkpoint before it is used")
        archive = load_archive(previous, kind="checkpoint")
        with system_refusals(current):
            if current.is_file():
                current.replace(folder / DAMAGED)
            previous.replace(current)
    differences = compare_identities(archive.description["identity"], identity)
    if differences and not force:
        raise TrainingError(
            f"{printable(folder)} cannot be resumed: {'; '.join(differences)}; resume with what it was begun with, "
            "start a new run with another --name, or mix them knowingly with --force"
        )
    _restore(state, archive)
    for difference in differences:
        warn(f"resumed all the same: {difference}")
    state.forced = [*state.forced, *differences]
    return int(archive.description["log_bytes"])


def compare_identities(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, in words.

    >>> compare_identities({"training.batch": "8", "torch": "2.15"}, {"training.batch": "4", "torch": "2.15"})
    ['training.batch was 8, now it is 4']
    """
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return [f"{key} was {before.get(key, 'not set')}, now it is {now.get(key, 'not set')}" for key in keys]


def _copy_or_link(file: Path, temporary: Path) -> None:
    """A second name for a file, or a copy where the file system has no second names."""
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copyfile(file, temporary)


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"heads.{name}": value for name, value in state.heads.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.values.items()}
    for number, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items() if value is not None}
    return tensors


def _restore(state: State, archive: Archive) -> None:
    """Copy every value into the tensor that is there already, so that device and memory layout stay as they are."""
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "heads": {}, "average": {}, "optimizer": {}}
    for name, tensor in archive.tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    try:
        state.network.load_state_dict(parts["network"])
        state.heads.load_state_dict(parts["heads"])
        for name, value in state.average.values.items():
            value.copy_(parts["average"][name])
        _restore_optimizer(state.optimizer, parts["optimizer"])
    except (RuntimeError, KeyError, IndexError) as error:
        raise BundleError(f"the checkpoint is of another network or optimiser: {error}; start a new run") from error
    if archive.description["scaler"]:
        state.scaler.load_state_dict(archive.description["scaler"])
    state.step, state.best = int(archive.description["step"]), float(archive.description["best"])
    state.skipped, state.forced = int(archive.description["skipped"]), list(archive.description["forced"])


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        parameter = parameters[int(number)]
        same_layout = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        values.setdefault(int(number), {})[key] = same_layout
    optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
