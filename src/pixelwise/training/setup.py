"""From a complete plan and a data set to everything the loop needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pixelwise.bundle import Network
from pixelwise.config import RunConfig
from pixelwise.data.augment import Preparation
from pixelwise.data.dataset import Dataset
from pixelwise.data.layouts import Sample
from pixelwise.data.loaders import Steps, TrainingSamples, training_batches
from pixelwise.data.normalise import Normalisation, measure
from pixelwise.losses.registry import parse_loss
from pixelwise.runtime import Runtime
from pixelwise.training.distributed import Ranks
from pixelwise.training.loop import Job, update_weights
from pixelwise.training.optim import MovingAverage, make_optimizer
from pixelwise.training.resume import State

NO_VOID = -1
WARM_UP_STEPS, TIMED_STEPS = 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a run: made once from the plan and the data, used by the loop and by the saved model."""

    plan: RunConfig
    dataset: Dataset
    training: Sequence[Sample]
    normalisation: Normalisation
    network: Network
    samples: TrainingSamples
    job: Job


def make_parts(
    plan: RunConfig, dataset: Dataset, training: Sequence[Sample], *, runtime: Runtime, ranks: Ranks
) -> Parts:
    """Measure the normalisation on the training images and wire the parts of a run together."""
    normalisation = measure(dataset.read(sample)[0] for sample in training)
    network = Network(name=plan.model.name, in_channels=normalisation.channels, options=plan.model.options)
    with torch.device("meta"):
        network.build(dataset.task)  # refuses wrong arguments now, and takes no memory
    assert plan.training.crop is not None, "the plan fixes the size of a crop"
    void = NO_VOID if dataset.task.ignore_index is None else dataset.task.ignore_index
    preparation = Preparation(settings=plan.augment, crop=plan.training.crop, normalisation=normalisation, void=void)
    samples = TrainingSamples(
        read=lambda index: dataset.read(training[index]),
        names=[sample.name for sample in training],
        preparation=preparation,
        seed=plan.training.seed,
    )
    loss = parse_loss(plan.training.loss)
    job = Job(task=dataset.task, settings=plan.training, runtime=runtime, ranks=ranks, loss=loss)
    return Parts(
        plan=plan,
        dataset=dataset,
        training=training,
        normalisation=normalisation,
        network=network,
        samples=samples,
        job=job,
    )


def make_state(parts: Parts) -> State:
    """Fresh weights, optimiser and moving average; the same for the same seed."""
    job = parts.job
    torch.manual_seed(job.settings.seed)
    network = job.runtime.place(parts.network.build(job.task))
    return State(
        network=network,
        optimizer=make_optimizer(network, job.settings),
        average=MovingAverage(network, job.settings.ema),
        scaler=torch.amp.GradScaler(job.runtime.device.type, enabled=job.runtime.precision == "fp16"),
    )


def measure_step(parts: Parts) -> float:
    """Seconds that one step takes on this machine, from a few steps with weights that are then thrown away."""
    state, job = make_state(parts), parts.job
    network = job.ranks.wrap(state.network).train()
    steps = Steps(
        start=0, stop=WARM_UP_STEPS + TIMED_STEPS, batch=job.settings.batch, rank=job.ranks.rank, ranks=job.ranks.count
    )
    times = []
    began = time.perf_counter()
    for batch in training_batches(parts.samples, steps, workers=job.settings.workers):
        update_weights(state, network, batch, job)
        state.average.update(state.network, state.step)
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    slowest = job.ranks.gather(sum(times[WARM_UP_STEPS:]) / TIMED_STEPS)
    return max(slowest)
