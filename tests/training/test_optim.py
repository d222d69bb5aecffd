from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from pixelwise.config import TrainingConfig
from pixelwise.training.optim import SCHEDULES, MovingAverage, learning_rate, make_optimizer, set_learning_rate


def settings(**values: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"learning_rate": 1.0, "warmup": 0.0} | values)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1), nn.Linear(3, 3))


# The learning rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [1.0, 0.853553, 0.5, 0.146447]),
        ("poly", [1.0, 0.771889, 0.535887, 0.287175]),
        ("onecycle", [0.04, 0.935692, 0.811745, 0.283058]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    rates = [learning_rate(step, 4, settings(schedule=schedule)) for step in range(4)]
    assert rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_end_at_zero_and_never_leave_their_range(schedule):
    course = [SCHEDULES[schedule](step / 1000) for step in range(1001)]
    assert course[-1] == pytest.approx(0, abs=1e-12)
    assert max(course) == pytest.approx(1, abs=1e-4)
    assert min(course) >= 0
    assert max(abs(a - b) for a, b in pairwise(course)) < 0.01


def test_warm_up_is_a_straight_line_to_the_highest_rate():
    rates = [learning_rate(step, 20, settings(learning_rate=0.5, warmup=0.2)) for step in range(20)]
    assert rates[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert all(a > b for a, b in pairwise(rates[4:]))


def test_one_cycle_has_its_own_rise():
    with_warmup = settings(schedule="onecycle", warmup=0.5)
    assert learning_rate(0, 100, with_warmup) == pytest.approx(0.04)
    assert learning_rate(30, 100, with_warmup) == pytest.approx(1.0)


def test_the_shortest_training_has_a_rate():
    assert learning_rate(0, 1, settings(warmup=0.1)) == 1.0
    assert learning_rate(0, 1, settings(warmup=0.9)) == 1.0


# The optimiser


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_biases_and_norms_do_not_decay(name, kind):
    network = small_network()
    optimizer = make_optimizer(network, settings(optimizer=name, weight_decay=0.3))
    assert isinstance(optimizer, kind)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(list(network.parameters()))
    for key, parameter in network.named_parameters():
        assert decays[id(parameter)] == (0.3 if key in ("0.weight", "2.weight", "3.weight") else 0.0)


def test_the_momentum_is_that_of_the_settings():
    assert make_optimizer(small_network(), settings(momentum=0.8)).param_groups[0]["betas"] == (0.8, 0.999)
    sgd = make_optimizer(small_network(), settings(optimizer="sgd", momentum=0.8)).param_groups[0]
    assert (sgd["momentum"], sgd["nesterov"]) == (0.8, True)
    assert not make_optimizer(small_network(), settings(optimizer="sgd", momentum=0.0)).param_groups[0]["nesterov"]


def test_a_step_uses_the_rate_that_was_set():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer(nn.ParameterList([weight]), settings(optimizer="sgd", momentum=0.0))  # type: ignore[arg-type]
    weight.grad = torch.tensor([2.0])
    set_learning_rate(optimizer, 0.25)
    optimizer.step()
    assert weight.item() == 0.5


# The moving average


def test_the_moving_average_is_that_of_a_plain_loop():
    network = small_network()
    average = MovingAverage(network, 0.9)
    expected = {name: value.clone().double() for name, value in network.state_dict().items()}
    for step in range(100):
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn_like(value))
        network(torch.randn(2, 1, 5, 5))
        average.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
            torch.testing.assert_close(average.values[name].double(), expected[name].double(), atol=1e-5, rtol=1e-5)
    assert average.values["1.num_batches_tracked"].item() == 100


def test_a_decay_of_zero_copies():
    network = small_network()
    average = MovingAverage(network, 0.0)
    nn.init.constant_(network[0].weight, math.pi)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in average.values.items()}
    average.update(network, step=0)
    assert all(torch.equal(value, average.values[name]) for name, value in network.state_dict().items())
    assert not torch.equal(before["0.weight"], average.values["0.weight"])


def test_the_moving_average_leaves_the_network_alone():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    MovingAverage(network, 0.5).update(network, step=3)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
