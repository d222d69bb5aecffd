"""From a complete plan and a data set to everything the loop needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelwise.bundle import Network, instances_of
from pixelwise.config import RunConfig
from pixelwise.data.augment import Preparation
from pixelwise.data.dataset import Dataset, Pair
from pixelwise.data.layouts import Sample
from pixelwise.data.loaders import Steps, TrainingSamples
from pixelwise.data.normalise import Normalisation, measure
from pixelwise.errors import UsageError
from pixelwise.inference.predict import Predictor
from pixelwise.losses.registry import parse_loss
from pixelwise.models.registry import MODELS, build_model
from pixelwise.runtime import Runtime
from pixelwise.training.distributed import Ranks
from pixelwise.training.encoder import find_encoder, rates_by_name, timm_name
from pixelwise.training.loop import Job
from pixelwise.training.optim import MovingAverage, make_optimizer
from pixelwise.training.pixel_weights import WeighBorders, with_class_weights
from pixelwise.training.resume import State
from pixelwise.training.supervision import auxiliary_heads, supervised_parts
from pixelwise.training.weights import EncoderWeights, expected_normalisation

NO_VOID = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a run: made once from the plan and the data, used by the loop and by the saved model.

    weights    what the encoder starts from; None: random weights
    blueprint  the network on the meta device: it takes no memory, and answers questions about its parts
    """

    plan: RunConfig
    dataset: Dataset
    training: Sequence[Sample]
    validation: Sequence[Sample]
    normalisation: Normalisation
    network: Network
    weights: EncoderWeights | None
    blueprint: nn.Module
    samples: TrainingSamples
    job: Job

    @property
    def example(self) -> Tensor:
        """One crop, on the meta device as the blueprint is."""
        assert self.plan.training.crop is not None, "the plan fixes the size of a crop"
        return torch.empty(1, self.normalisation.channels, *self.plan.training.crop, device="meta")

    def predictor(self, network: nn.Module) -> Predictor:
        """A network of this run, ready to predict."""
        return Predictor(
            network=network,
            task=self.job.task,
            normalisation=self.normalisation,
            runtime=self.job.runtime,
            settings=self.plan.predict,
            instances=instances_of(self.dataset.coding),
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
    """Wire the parts of a run together.

    The normalisation is what pretrained weights expect, else that of the training images. All of these are read here,
    so that one that cannot be read stops the run before its first step. The weights of the classes are those of the
    training masks.
    """
    training, validation = split
    assert plan.data.border_width == dataset.coding.border, "the data set was opened as the plan says"
    plan = with_class_weights(plan, dataset, training)
    loss = parse_loss(plan.training.loss)
    measured = measure(dataset.read(sample)[0] for sample in training)
    weights = EncoderWeights.of(plan.model)
    normalisation = (expected_normalisation(weights, dataset.survey) if weights else None) or measured
    network = Network(name=plan.model.name, in_channels=normalisation.channels, options=plan.model.options)
    with torch.device("meta"):
        blueprint = network.build(dataset.task)
    check_network(blueprint, plan)
    job = Job(task=dataset.task, settings=plan.training, runtime=runtime, ranks=ranks, loss=loss)
    return Parts(
        plan=plan,
        dataset=dataset,
        training=training,
        validation=validation,
        normalisation=normalisation,
        network=network,
        weights=weights,
        blueprint=blueprint,
        samples=training_samples(plan, dataset, training, normalisation),
        job=job,
    )


def training_samples(
    plan: RunConfig, dataset: Dataset, training: Sequence[Sample], normalisation: Normalisation
) -> TrainingSamples:
    """The endless sequence of crops that the run learns from."""
    settings, samples = plan.training, tuple(training)
    assert settings.crop is not None, "the plan fixes the size of a crop"
    void = NO_VOID if dataset.task.ignore_index is None else dataset.task.ignore_index
    weigh = None
    if settings.border_weight:
        weight, sigma = settings.border_weight, settings.border_sigma
        weigh = WeighBorders(dataset=dataset, samples=samples, weight=weight, sigma=sigma)
    return TrainingSamples(
        read=ReadSample(dataset=dataset, samples=samples),
        names=[sample.name for sample in samples],
        preparation=Preparation(settings=plan.augment, crop=settings.crop, normalisation=normalisation, void=void),
        seed=settings.seed,
        weigh=weigh,
    )


def check_network(blueprint: nn.Module, plan: RunConfig) -> None:
    """Refuse settings that ask for a part which the network lacks, naming the networks that have it.

    The network is on the meta device. Raises UsageError.
    """
    settings = plan.training
    needs: list[tuple[str, object, object, Callable[[nn.Module], object], str]] = [
        ("training.auxiliary", settings.auxiliary, 0, supervised_parts, "maps within it for a loss of their own"),
        ("training.freeze", settings.freeze, 0, find_encoder, "part that is an encoder"),
        ("training.encoder_rate", settings.encoder_rate, 1, find_encoder, "part that is an encoder"),
        ("training.stage_rate", settings.stage_rate, 1, find_encoder, "part that is an encoder"),
        ("model.encoder_weights", plan.model.encoder_weights, "", timm_name, "encoder with published weights"),
    ]
    for key, value, without, part, what in needs:
        if value != without and not part(blueprint):
            raise UsageError(
                f"{key} = {value}: {plan.model.name} with these arguments has no {what}; leave it out, "
                f"or choose one of {_models_with(part)}"
            )


def _models_with(part: Callable[[nn.Module], object]) -> str:
    """The names of the networks that have a part in their small form."""
    with torch.device("meta"):
        built = {name: build_model(name, in_channels=3, classes=2, options=MODELS[name].small) for name in MODELS}
    return ", ".join(name for name, network in built.items() if part(network))


def make_state(parts: Parts) -> State:
    """Fresh weights, optimiser and moving average; the same for the same seed."""
    job = parts.job
    torch.manual_seed(job.settings.seed)
    network = job.runtime.place(parts.network.build(job.task))
    heads = nn.ModuleList()
    if job.settings.auxiliary:
        heads = auxiliary_heads(parts.blueprint, parts.example, job.task.outputs)
        job.runtime.place(heads)
    rates = rates_by_name(parts.blueprint, parts.example, job.settings)
    return State(
        network=network,
        heads=heads,
        optimizer=make_optimizer(network, job.settings, heads=heads, rates=rates),
        average=MovingAverage(network, job.settings.ema),
        scaler=torch.amp.GradScaler(job.runtime.device.type, enabled=job.runtime.precision == "fp16"),
    )


def start_encoder(state: State, parts: Parts) -> list[str]:
    """Load the pretrained weights of the plan into a fresh state; what a person should know of it, in lines."""
    if parts.weights is None:
        return []
    loaded = parts.weights.load(state.network)
    state.average = MovingAverage(state.network, parts.job.settings.ema)
    return [f"{parts.weights.source}: {loaded}"] if loaded.missing else []


def steps_of(job: Job, *, start: int, stop: int) -> Steps:
    """The samples that this process takes in the steps from `start` to `stop` (excluded)."""
    return Steps(start=start, stop=stop, batch=job.settings.batch, rank=job.ranks.rank, ranks=job.ranks.count)
