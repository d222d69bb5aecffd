"""How the encoder learns: frozen for a while, and more slowly than the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelwise.config import TrainingConfig, read_config
from pixelwise.data.loaders import Batch
from pixelwise.errors import UsageError
from pixelwise.losses.registry import parse_loss
from pixelwise.models.encoders import build_encoder
from pixelwise.models.registry import MODELS, build_model
from pixelwise.models.unet import UNet
from pixelwise.runtime import Runtime
from pixelwise.task import Task
from pixelwise.training import setup
from pixelwise.training.distributed import Ranks
from pixelwise.training.encoder import find_encoder, frozen_steps, rates_by_name, stages_by_name
from pixelwise.training.loop import Job, fit, learning_network, update_weights
from pixelwise.training.optim import MovingAverage, make_optimizer, set_learning_rate
from pixelwise.training.resume import State
from pixelwise.training.supervision import auxiliary_heads

STEPS = 8


def settings_of(**values: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"steps": STEPS, "validate_every": 3, "batch": 2, "warmup": 0.0} | values)


def blueprint_of(**options: Any) -> tuple[nn.Module, Tensor]:
    with torch.device("meta"):
        return UNet(1, 2, **options), torch.empty(1, 1, 16, 16)


def make(runtime: Runtime, **values: Any) -> tuple[State, Job]:
    """A U-Net of three stages with a head, as `make_state` makes one."""
    settings = settings_of(**values)
    torch.manual_seed(0)
    network = UNet(1, 2, width=4, depth=2)
    blueprint, example = blueprint_of(width=4, depth=2)
    heads = auxiliary_heads(blueprint, example, 2)
    state = State(
        network=network,
        heads=heads,
        optimizer=make_optimizer(network, settings, heads=heads, rates=rates_by_name(blueprint, example, settings)),
        average=MovingAverage(network, settings.ema),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    task = Task.of(["dark", "bright"])
    return state, Job(task=task, settings=settings, runtime=runtime, ranks=Ranks(), loss=parse_loss("ce"))


def batches(start: int = 0, stop: int = STEPS) -> Iterator[Batch]:
    for step in range(start, stop):
        random = torch.Generator().manual_seed(step)
        image_BCHW = torch.randn(2, 1, 16, 16, generator=random)
        yield Batch(image_BCHW, (image_BCHW[:, 0] > 0).long(), ("first", "second"))


class Watcher:
    """A keeper that remembers all values of the network after every step, and puts it in use at every validation."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.values: list[dict[str, Tensor]] = []
        self.training: list[bool] = []

    def log(self, row: Mapping[str, Any]) -> None:
        if "loss" in row:
            self.values.append({name: value.clone() for name, value in self.state.network.state_dict().items()})

    def validate(self, state: State) -> Mapping[str, float | None]:
        state.network.eval()
        return {"mean_iou": 0.5}

    def save(self, state: State, *, improved: bool) -> None:
        pass


def train(state: State, job: Job, batches: Iterator[Batch]) -> list[dict[str, Tensor]]:
    """The values of the network before the training and after every step."""
    watcher = Watcher(state)
    watcher.log({"loss": 0.0})
    fit(state, batches, job=job, keeper=watcher, stopped=lambda: False)
    return watcher.values


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


# Freezing


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.5, 4), (0.3, 2), (1, 8)])
def test_the_frozen_steps_are_a_share_of_all(share, expected):
    assert frozen_steps(settings_of(freeze=share)) == expected
    assert frozen_steps(settings_of(freeze=share, steps=None)) == 0


def test_a_frozen_encoder_keeps_every_byte_then_learns(runtime):
    state, job = make(runtime, freeze=0.5, auxiliary=0.4, weight_decay=0.1)
    encoder = {f"encoder.{name}" for name in state.network.encoder.state_dict()}
    values = train(state, job, batches())
    for before, after in pairwise(values[:5]):
        assert not changed(before, after) & encoder, "also after the validation of step 3"
        assert changed(before, after) == set(values[0]) - encoder
    for before, after in pairwise(values[4:]):
        assert changed(before, after) == set(values[0])


def test_the_optimiser_knows_nothing_of_what_is_frozen_and_starts_afresh(runtime):
    state, job = make(runtime, freeze=0.5)
    encoder = set(state.network.encoder.parameters())
    train(state, job, batches(stop=4))
    assert state.step == 4
    assert not encoder & state.optimizer.state.keys()
    train(state, job, batches(start=4, stop=6))
    assert {float(state.optimizer.state[p]["step"]) for p in encoder} == {2.0}
    assert {float(state.optimizer.state[p]["step"]) for p in state.network.decoder.parameters()} == {6.0}


def test_an_encoder_may_stay_frozen_to_the_end_and_its_average_is_itself(runtime):
    state, job = make(runtime, freeze=1.0)
    values = train(state, job, batches())
    for name in state.network.encoder.state_dict():
        assert torch.equal(values[0][f"encoder.{name}"], state.average.values[f"encoder.{name}"])


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_stopping_anywhere_changes_nothing(runtime, stop):
    whole, job = make(runtime, freeze=0.5, encoder_rate=0.2, stage_rate=0.5, auxiliary=0.4)
    expected = train(whole, job, batches())
    state, job = make(runtime, freeze=0.5, encoder_rate=0.2, stage_rate=0.5, auxiliary=0.4)
    train(state, job, batches(stop=stop))
    found = train(state, job, batches(start=stop))
    assert not changed(expected[-1], found[-1])
    assert not changed(whole.heads.state_dict(), state.heads.state_dict())


# Learning rates


def test_the_rate_of_each_stage_is_that_of_the_formula(runtime):
    blueprint, example = blueprint_of(width=4, depth=2)
    rates = rates_by_name(blueprint, example, settings_of(encoder_rate=0.1, stage_rate=0.5))
    assert rates.keys() == {f"encoder.{name}" for name, _ in blueprint.encoder.named_parameters()}
    for name, rate in rates.items():
        level = int(name.removeprefix("encoder.levels.")[0])
        assert rate == {0: 0.025, 1: 0.05, 2: 0.1}[level]
    even = rates_by_name(blueprint, example, settings_of(encoder_rate=0.1))
    assert set(even.values()) == {0.1}
    assert even.keys() == rates.keys()


def test_groups_have_their_rate_and_decay(runtime):
    state, _ = make(runtime, encoder_rate=0.1, stage_rate=0.5, weight_decay=0.3)
    set_learning_rate(state.optimizer, 2.0)
    settings = {
        id(p): (group["lr"], group["weight_decay"]) for group in state.optimizer.param_groups for p in group["params"]
    }
    assert len(settings) == len([*state.network.parameters(), *state.heads.parameters()])
    for name, p in [*state.network.named_parameters(), *state.heads.named_parameters()]:
        levels = {"encoder.levels.0": 0.05, "encoder.levels.1": 0.1, "encoder.levels.2": 0.2}
        rate = next((rate for level, rate in levels.items() if name.startswith(level)), 2.0)
        assert settings[id(p)] == (rate, 0.3 if p.ndim > 1 else 0.0), name


def test_a_step_moves_each_parameter_by_its_own_rate(runtime):
    state, job = make(runtime, optimizer="sgd", momentum=0.0, weight_decay=0.0, encoder_rate=0.5, clip=1e9)
    set_learning_rate(state.optimizer, 0.125)
    before = {name: value.clone() for name, value in state.network.named_parameters()}
    update_weights(state, learning_network(state, job), next(batches()), job)
    for name, value in state.network.named_parameters():
        rate = 0.0625 if name.startswith("encoder.") else 0.125
        torch.testing.assert_close(value.detach(), before[name] - rate * value.grad, rtol=0, atol=1e-7)


def test_without_wishes_there_are_the_two_groups_of_always():
    groups = make_optimizer(UNet(1, 2, width=4, depth=1), settings_of()).param_groups
    assert [(group["weight_decay"], group["share"]) for group in groups] == [(0.01, 1.0), (0.0, 1.0)]


# Stages


def test_the_stages_of_a_network_of_timm():
    with torch.device("meta"):
        stages = stages_by_name(build_encoder("resnet18", 3), torch.empty(1, 3, 64, 64))
    of_layer = {name.split(".")[1]: stage for name, stage in stages.items()}
    assert of_layer == {"conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4}


class OneMap(nn.Module):
    """Two layers, of which the second gives no map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        feature_BCHW = self.first(image_BCHW)
        return [feature_BCHW, feature_BCHW * 2]


def test_what_no_map_depends_on_belongs_to_the_deepest_stage():
    with torch.device("meta"):
        stages = stages_by_name(OneMap(), torch.empty(1, 1, 2, 2))
    assert stages == {"first.weight": 0, "first.bias": 0, "second.weight": 1, "second.bias": 1}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_every_encoder_has_a_stage(name):
    with torch.device("meta"):
        network = build_model(name, in_channels=2, classes=3, options=MODELS[name].small)
        encoder = find_encoder(network)
        if encoder is None:
            assert rates_by_name(network, torch.empty(1, 2, 64, 64), settings_of(stage_rate=0.5)) == {}
            return
        stages = stages_by_name(encoder, torch.empty(1, 2, 64, 64))
    assert stages.keys() == {key for key, _ in encoder.named_parameters()}
    assert set(stages.values()) == set(range(max(stages.values()) + 1))
    assert max(stages.values()) > 0


# Refusals


@pytest.mark.parametrize(
    "setting",
    ["training.freeze=0.5", "training.encoder_rate=0.1", "training.stage_rate=0.5", "model.encoder_weights=imagenet"],
)
def test_a_network_without_an_encoder_is_refused_naming_those_with_one(setting, monkeypatch):
    monkeypatch.setattr(setup, "MODELS", {name: MODELS[name] for name in ("unet_paper", "unet", "fcn8s")})
    with torch.device("meta"):
        paper = build_model("unet_paper", in_channels=1, classes=2)
    key, _, value = setting.partition("=")
    names = "fcn8s" if value == "imagenet" else "unet, fcn8s"  # timm has no weights for the encoder of the U-Net
    with pytest.raises(UsageError, match=rf"{key} = {value}: unet_paper .*encoder.*choose one of {names}$"):
        setup.check_network(paper, read_config(overrides=[setting, "model.name=unet_paper"]))
    setup.check_network(paper, read_config(overrides=["model.name=unet_paper"]))
