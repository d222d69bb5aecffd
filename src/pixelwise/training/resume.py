"""The state of a training run, and the checkpoint that brings it back bit for bit.

A checkpoint holds the weights, their moving average, the optimiser's tensors, the step, the best score so far and the
length of the log. It holds no state of random number generators, because none is carried from step to step: order,
crops and augmentation are keyed by (seed, epoch, index), and dropout by (seed, step, rank), see `seed_step`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelwise.archive import Archive, load_archive, save_archive
from pixelwise.errors import BundleError, TrainingError
from pixelwise.training.optim import MovingAverage

CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


@dataclass(slots=True, kw_only=True)
class State:
    """All that changes from step to step.

    step  number of updates of the weights done
    best  highest mean IoU of a validation so far; -1 before the first
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    scaler: torch.amp.GradScaler
    step: int = 0
    best: float = -1.0


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step, so that what is random inside the network depends on nothing but these numbers."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def save_checkpoint(folder: Path, state: State, *, log_bytes: int, identity: dict[str, str]) -> None:
    """Write the state to the run's folder; the checkpoint before stays beside it as a second one to fall back on.

    `identity` says what the run is made of (plan, data, versions); a resume with another one is refused.
    """
    description = {
        "step": state.step,
        "best": state.best,
        "scaler": state.scaler.state_dict(),
        "log_bytes": log_bytes,
        "identity": identity,
    }
    current, previous = folder / CHECKPOINT, folder / PREVIOUS
    if current.is_file():
        with contextlib.suppress(OSError):
            previous.unlink(missing_ok=True)
            os.link(current, previous)
    save_archive(current, Archive(_tensors(state), description), kind="checkpoint")


def load_checkpoint(
    folder: Path, state: State, *, identity: dict[str, str] | None, warn: Callable[[str], None]
) -> int | None:
    """Bring the state back from the newest whole checkpoint, in place; returns the length of its log in bytes.

    None where there is no checkpoint yet. A damaged newest one is told to `warn` and the one before is used; where
    neither can be used, BundleError. Raises TrainingError, naming the difference, where the checkpoint is of another
    run; `identity` None resumes it all the same.
    """
    candidates = [path for path in (folder / CHECKPOINT, folder / PREVIOUS) if path.is_file()]
    if not candidates:
        return None
    for path in candidates:
        try:
            archive = load_archive(path, kind="checkpoint")
        except BundleError as error:
            warn(str(error))
            continue
        if identity is not None:
            _check_identity(archive.description["identity"], identity, path)
        _restore(state, archive)
        return int(archive.description["log_bytes"])
    raise BundleError(f"no checkpoint in {folder} can be used; start a new run with another --name")


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.values.items()}
    for number, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items() if value is not None}
    return tensors


def _restore(state: State, archive: Archive) -> None:
    """Copy every value into the tensor that is there already, so that device and memory layout stay as they are."""
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
    for name, tensor in archive.tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    state.network.load_state_dict(parts["network"])
    for name, value in state.average.values.items():
        value.copy_(parts["average"][name])
    _restore_optimizer(state.optimizer, parts["optimizer"])
    if archive.description["scaler"]:
        state.scaler.load_state_dict(archive.description["scaler"])
    state.step, state.best = int(archive.description["step"]), float(archive.description["best"])


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        parameter = parameters[int(number)]
        same_layout = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        values.setdefault(int(number), {})[key] = same_layout
    optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_identity(saved: dict[str, str], present: dict[str, str], path: Path) -> None:
    for key in sorted(saved.keys() | present.keys()):
        if saved.get(key) != present.get(key):
            raise TrainingError(
                f"{path} cannot be resumed: its {key} is {saved.get(key)}, now it is {present.get(key)}; "
                "resume with what it was begun with, or start a new run with another --name"
            )
