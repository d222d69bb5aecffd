"""From a complete plan and a data set to everything the loop needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pixelwise.bundle import Network
from pixelwise.config import RunConfig
from pixelwise.data.augment import Preparation
from pixelwise.data.dataset import Dataset, Pair
from pixelwise.data.layouts import Sample
from pixelwise.data.loaders import Steps, TrainingSamples, training_batches
from pixelwise.data.normalise import Normalisation, measure
from pixelwise.inference.predict import Predictor
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
    validation: Sequence[Sample]
    normalisation: Normalisation
    network: Network
    samples: TrainingSamples
    job: Job

    def predictor(self, network: nn.Module) -> Predictor:
        """A network of this run, ready to predict."""
        return Predictor(
            network=network,
            task=self.job.task,
            normalisation=self.normalisation,
            runtime=self.job.runtime,
            settings=self.plan.predict,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSample:
    """Image and mask of a sample, by its index; a value, so that it can be sent to worker processes."""

    dataset: Dataset
    samples: tuple[Sample, ...]

    def __call__(self, index: int) -> Pair:
        """Read sample number `index`."""
        return self.dataset.read(self.samples[index])


def make_parts(
    plan: RunConfig, dataset: Dataset, split: tuple[list[Sample], list[Sample]], *, runtime: Runtime, ranks: Ranks
) -> Parts:
    """Measure the normalisation on the training images and wire the parts of a run together."""
    training, validation = split
    loss = parse_loss(plan.training.loss)
    normalisation = measure(dataset.read(sample)[0] for sample in training)
    network = Network(name=plan.model.name, in_channels=normalisation.channels, options=plan.model.options)
    with torch.device("meta"):
        network.build(dataset.task)  # refuses wrong arguments now, and takes no memory
    assert plan.training.crop is not None, "the plan fixes the size of a crop"
    void = NO_VOID if dataset.task.ignore_index is None else dataset.task.ignore_index
    preparation = Preparation(settings=plan.augment, crop=plan.training.crop, normalisation=normalisation, void=void)
    samples = TrainingSamples(
        read=ReadSample(dataset=dataset, samples=tuple(training)),
        names=[sample.name for sample in training],
        preparation=preparation,
        seed=plan.training.seed,
    )
    job = Job(task=dataset.task, settings=plan.training, runtime=runtime, ranks=ranks, loss=loss)
    return Parts(
        plan=plan,
        dataset=dataset,
        training=training,
        validation=validation,
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


def steps_of(job: Job, *, start: int, stop: int) -> Steps:
    """The samples that this process takes in the steps from `start` to `stop` (excluded)."""
    return Steps(start=start, stop=stop, batch=job.settings.batch, rank=job.ranks.rank, ranks=job.ranks.count)


def measure_step(parts: Parts) -> float:
    """Seconds that one step takes on this machine, from a few steps with weights that are then thrown away."""
    state, job = make_state(parts), parts.job
    network = job.ranks.wrap(state.network).train()
    steps = steps_of(job, start=0, stop=WARM_UP_STEPS + TIMED_STEPS)
    times = []
    began = time.perf_counter()
    for batch in training_batches(parts.samples, steps, workers=job.settings.workers):
        update_weights(state, network, batch, job)
        state.average.update(state.network, state.step)
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    slowest = job.ranks.gather(sum(times[WARM_UP_STEPS:]) / TIMED_STEPS)
    return max(slowest)
