"""The training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from pixelwise.config import TrainingConfig
from pixelwise.data.loaders import Batch
from pixelwise.errors import TrainingError
from pixelwise.losses.registry import parse_loss
from pixelwise.models.unet import UNet
from pixelwise.runtime import Runtime
from pixelwise.task import Task
from pixelwise.training.distributed import Ranks
from pixelwise.training.loop import Job, fit
from pixelwise.training.optim import MovingAverage, make_optimizer
from pixelwise.training.resume import State

STEPS = 12


class Memory:
    """A keeper that keeps everything in memory."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.saved: list[tuple[int, bool]] = []
        self.scores = iter((0.2, None, 0.1, 0.5, 0.5))

    def log(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    def validate(self, state: State) -> Mapping[str, float | None]:
        state.network.eval()
        return {"mean_iou": next(self.scores)}

    def save(self, state: State, *, improved: bool) -> None:
        self.saved.append((state.step, improved))


def make(runtime: Runtime, **settings: Any) -> tuple[State, Job]:
    torch.manual_seed(0)
    network = UNet(1, 2, width=4, depth=1)
    chosen = TrainingConfig(steps=STEPS, validate_every=5, batch=2, learning_rate=0.02, **settings)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    average = MovingAverage(network, chosen.ema)
    state = State(network=network, optimizer=make_optimizer(network, chosen), average=average, scaler=scaler)
    task = Task.of(["dark", "bright"])
    return state, Job(task=task, settings=chosen, runtime=runtime, ranks=Ranks(), loss=parse_loss("ce+dice"))


def batches(start: int = 0, bad: int | None = None) -> Iterator[Batch]:
    """Images whose bright half is class 1."""
    for step in range(start, STEPS):
        rng = np.random.default_rng(step)
        image = torch.from_numpy(rng.normal(size=(2, 1, 16, 16)).astype(np.float32)) * 0.1
        image[..., 8:] += 1
        mask = torch.zeros(2, 16, 16, dtype=torch.long)
        mask[..., 8:] = 1
        if step == bad:
            image[1, 0, 3, 3] = float("nan")
        yield Batch(image, mask, ("first.png", "sec\nond.png"))


def never() -> bool:
    return False


def test_the_loss_falls_and_every_step_has_its_row(runtime: Runtime) -> None:
    state, job = make(runtime)
    keeper = Memory()
    assert fit(state, batches(), job=job, keeper=keeper, stopped=never)
    losses = [row["loss"] for row in keeper.rows if "loss" in row]
    assert len(losses) == STEPS
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    assert [row["step"] for row in keeper.rows if "scores" in row] == [5, 10, 12]
    # Undefined scores count as 0; an equal score is an improvement, the later model is kept.
    assert keeper.saved == [(5, True), (10, False), (12, False)]


def test_a_loss_that_is_not_finite_stops_with_step_and_files(runtime: Runtime) -> None:
    state, job = make(runtime)
    keeper = Memory()
    with pytest.raises(TrainingError, match=r"step 4 .*first\.png, sec\\nond\.png.*learning_rate"):
        fit(state, batches(bad=3), job=job, keeper=keeper, stopped=never)
    assert all(torch.isfinite(value).all() for value in state.network.parameters())
    assert len([row for row in keeper.rows if "loss" in row]) == 3


def test_an_absurd_learning_rate_never_leaves_weights_that_are_not_finite(runtime: Runtime) -> None:
    state, job = make(runtime, warmup=0, clip=1e30)
    for group in state.optimizer.param_groups:
        group["weight_decay"] = 0.0
    job = Job(
        task=job.task,
        settings=job.settings.model_copy(update={"learning_rate": 1e30}),
        runtime=runtime,
        ranks=job.ranks,
        loss=job.loss,
    )
    with pytest.raises(TrainingError, match="learning_rate"):
        fit(state, batches(), job=job, keeper=Memory(), stopped=never)
    assert all(torch.isfinite(value).all() for value in state.network.parameters())


def test_a_wish_to_stop_is_granted_after_the_step_with_a_checkpoint(runtime: Runtime) -> None:
    state, job = make(runtime)
    keeper = Memory()
    assert not fit(state, batches(), job=job, keeper=keeper, stopped=lambda: state.step >= 2)
    assert keeper.saved == [(2, False)]
    assert fit(state, batches(start=2), job=job, keeper=keeper, stopped=never)

    whole, job = make(runtime)
    fit(whole, batches(), job=job, keeper=Memory(), stopped=never)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, state.network.state_dict()[name]), name


def test_a_batch_of_only_void_changes_nothing_but_the_decay(runtime: Runtime) -> None:
    state, job = make(runtime, weight_decay=0.0)
    before = {name: value.clone() for name, value in state.network.named_parameters()}
    void = [Batch(b.image_BCHW, torch.full_like(b.mask_BHW, 255), b.names) for b in batches()]
    keeper = Memory()
    fit(state, void, job=job, keeper=keeper, stopped=never)
    assert [row["loss"] for row in keeper.rows if "loss" in row] == [0.0] * STEPS
    for name, value in state.network.named_parameters():
        assert torch.equal(value, before[name]), name
