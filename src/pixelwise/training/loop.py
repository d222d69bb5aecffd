"""The training loop, from top to bottom, with nothing hidden.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pixelwise.config import TrainingConfig
from pixelwise.data.loaders import Batch
from pixelwise.errors import TrainingError, printable
from pixelwise.files import crash_point
from pixelwise.losses.registry import Loss
from pixelwise.runtime import Runtime
from pixelwise.task import Task
from pixelwise.training.distributed import Ranks
from pixelwise.training.encoder import find_encoder, frozen_steps
from pixelwise.training.optim import learning_rate, set_learning_rate
from pixelwise.training.pixel_weights import pixel_weights
from pixelwise.training.resume import State, seed_step
from pixelwise.training.supervision import SupervisedLogits, SupervisedNetwork


class Keeper(Protocol):
    """Where the loop leaves its results; `training/run.py` has the one that writes files."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Keep one row of the history."""

    def validate(self, state: State) -> Mapping[str, float | None]:
        """Scores of the averaged weights on the validation images; None where undefined."""

    def save(self, state: State, *, improved: bool) -> None:
        """Keep a checkpoint, and the model where it is the best so far."""


MOST_SKIPPED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that stays the same from step to step."""

    task: Task
    settings: TrainingConfig
    runtime: Runtime
    ranks: Ranks
    loss: Loss


def fit(state: State, batches: Iterable[Batch], *, job: Job, keeper: Keeper, stopped: Callable[[], bool]) -> bool:
    """Train from `state.step` to the last step of the settings; False where `stopped` asked for an earlier end.

    `batches` begins with the batch of step `state.step`. After every `validate_every` steps, and at the end, the
    averaged weights are validated and a checkpoint is kept. Raises TrainingError, naming step and files, for a loss
    that is not finite; the weights kept are then those of the checkpoint before.
    """
    settings, steps = job.settings, job.settings.steps
    assert steps is not None, "the plan fixes the number of steps"
    assert settings.validate_every is not None, "the plan fixes the steps between validations"
    first, unfrozen = state.step, frozen_steps(settings)
    began = time.monotonic()

    for batch in batches:
        # The network as it learns from here on.
        if state.step in (first, unfrozen):
            network = learning_network(state, job)

        # One update of the weights.
        rate = learning_rate(state.step, steps, settings)
        set_learning_rate(state.optimizer, rate)
        seed_step(settings.seed, state.step, job.ranks.rank)
        loss = update_weights(state, network, batch, job)
        crash_point("after-optimizer-step")
        state.average.update(state.network, state.step)
        state.step += 1

        # Its row in the history.
        took, began = time.monotonic() - began, time.monotonic()
        keeper.log({"step": state.step, "loss": loss, "learning_rate": rate, "timing": timing(took, settings.batch)})
        crash_point("mid-epoch")

        # Validation, the best model and a checkpoint.
        ended, asked = state.step == steps, job.ranks.any(stopped())
        if ended or state.step % settings.validate_every == 0:
            scores = keeper.validate(state)
            crash_point("during-validation")
            keeper.log({"step": state.step, "scores": dict(scores), "timing": timing(time.monotonic() - began)})
            score = chosen_by(scores)
            improved, state.best = score >= state.best, max(state.best, score)
            keeper.save(state, improved=improved)
            network.train()
            began = time.monotonic()
        elif asked:
            keeper.save(state, improved=False)
        if asked and not ended:
            return False
    return True


def chosen_by(scores: Mapping[str, float | None]) -> float:
    """What the best model is chosen by: how well single objects are found where they are, else the mean IoU.

    >>> chosen_by({"mean_iou": 0.9, "dsb_score": 0.4}), chosen_by({"mean_iou": None})
    (0.4, 0.0)
    """
    return scores.get("dsb_score", scores["mean_iou"]) or 0.0


def timing(seconds: float, images: int = 0) -> dict[str, float]:
    """What a clock measured, for a row of the history; kept apart from what was computed."""
    speed = {"images_per_second": round(images / seconds, 2)} if images else {}
    return {"seconds": round(seconds, 4), **speed}


def learning_network(state: State, job: Job) -> torch.nn.Module:
    """The network ready to learn in step `state.step`: with its heads, scales and frozen part, over all processes.

    It gives SupervisedLogits. It is made anew where the encoder begins to learn: the processes share out the gradients
    of those parameters only that learn when it is made.
    """
    encoder = find_encoder(state.network) if job.settings.freeze else None
    frozen = state.step < frozen_steps(job.settings)
    if encoder is not None:
        encoder.requires_grad_(not frozen)
    resting = encoder if frozen else None
    network = SupervisedNetwork(state.network, state.heads, scales=job.settings.scales, resting=resting)
    return job.ranks.wrap(network).train()


def update_weights(state: State, network: torch.nn.Module, batch: Batch, job: Job) -> float:
    """One step of the optimiser, with a `learning_network`; returns the loss, the mean over all processes."""
    image_BCHW = job.runtime.place_image(batch.image_BCHW)
    mask_BHW = batch.mask_BHW.to(job.runtime.device, non_blocking=True)
    border_BHW = None if batch.weight_BHW is None else batch.weight_BHW.to(job.runtime.device, non_blocking=True)
    weight_BHW = pixel_weights(mask_BHW, border_BHW, job.settings.class_weight_values, job.task)
    with job.runtime.autocast():
        logits: SupervisedLogits = network(image_BCHW)
    auxiliary = job.settings.auxiliary
    loss = logits.loss(lambda of_one: job.loss(of_one, mask_BHW, job.task, weight_BHW), auxiliary=auxiliary)

    # The scaler keeps small gradients of float16 from vanishing; in other precisions it does nothing.
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), job.settings.clip))

    # In float16 a single overflow is normal: the scaler skips that step. Many in a row are not.
    mean_loss = float(job.ranks.mean(loss.detach().clone()))
    state.skipped = 0 if math.isfinite(norm) else state.skipped + 1
    patience = MOST_SKIPPED if state.scaler.is_enabled() else 0
    if not math.isfinite(mean_loss) or state.skipped > patience:
        names = ", ".join(printable(name) for names in job.ranks.gather(batch.names) for name in names)
        raise TrainingError(
            f"in step {state.step + 1} the loss is {mean_loss} and the norm of the gradient {norm}, from {names}; "
            "look at these images, or lower training.learning_rate; the last checkpoint is kept"
        )
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return mean_loss
