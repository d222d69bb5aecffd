from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pixelwise.inspection.gradients import (
    BLUR,
    blurs_until_zero,
    chain_gradients,
    gradient_norms,
    stored,
)
from pixelwise.models.unet import UNet

# The vanishing gradient


def test_twenty_layers_of_gain_001_leave_a_gradient_of_1e_40():
    plain = chain_gradients(20, gain=0.01)
    assert len(plain) == 20
    assert plain[0] == pytest.approx(1e-40, rel=1e-4)
    assert 0 < plain[0] < np.finfo(np.float32).tiny, "held as a subnormal number only"
    assert plain[-1] == pytest.approx(0.01)


def test_skip_connections_keep_it_at_1_22():
    residual = chain_gradients(20, gain=0.01, residual=True)
    assert residual[0] == pytest.approx(1.01**20, rel=1e-5)
    assert residual[0] == pytest.approx(1.220190, abs=1e-5)
    assert min(residual) == residual[-1] == pytest.approx(1.01)


def test_a_deeper_chain_loses_its_gradient_altogether():
    assert chain_gradients(30)[0] == 0
    assert chain_gradients(30, residual=True)[0] == pytest.approx(1.01**30, rel=1e-5)


# Where numbers end


def test_float32_blurs_to_zero_in_363_steps_and_float16_much_sooner():
    assert np.sum(BLUR) == pytest.approx(0.8)
    assert abs(blurs_until_zero(np.float32) - 363) <= 1  # counted from 0: in iteration 362
    assert abs(blurs_until_zero(np.float16) - 65) <= 1
    assert blurs_until_zero(np.float64) is None


def test_scipy_blurs_to_zero_in_as_many_steps():
    signal = pytest.importorskip("scipy.signal")
    image, kernel, first_subnormal = np.ones((8, 8), np.float32), np.array(BLUR, np.float32), None
    for iteration in range(1000):
        image = signal.convolve2d(image, kernel, mode="same", boundary="fill", fillvalue=0).astype(np.float32)
        if first_subnormal is None and image.max() < np.finfo(np.float32).tiny:
            first_subnormal = iteration
        if not image.any():
            break
    assert abs(iteration - 362) <= 1
    assert abs(first_subnormal - 308) <= 1
    assert abs(blurs_until_zero(np.float32) - 1 - iteration) <= 1


def test_float16_holds_no_1e_8_unless_it_is_scaled():
    assert stored(1e-8, np.float16) == 0
    assert stored(1e-8, np.float16, scale=65536) == pytest.approx(1e-8, rel=1e-3)
    assert stored(6.55e-4, np.float16) == pytest.approx(6.55e-4, rel=1e-3)
    assert stored(1e-8, np.float32) ** 2 == pytest.approx(1e-16)
    assert stored(2**-24, np.float16) == 2**-24, "the smallest that it holds"


# A real network


def test_norms_of_a_network_of_two_layers_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.fill_(2), network[0].bias.fill_(1), network[2].weight.fill_(-3)
    rows = gradient_norms(network, torch.sum, torch.tensor([[[[1.0, 3.0]]]]))
    # Values behind the first layer: 3 and 7. Its weight: -3 (1 + 3); its bias: -3 - 3; the weight of the last: 3 + 7.
    assert [(row.name, row.is_norm) for row in rows] == [("0", False), ("2", False)]
    assert [row.gradient for row in rows] == [pytest.approx(math.hypot(12, 6)), 10]
    assert [row.weight for row in rows] == [pytest.approx(math.hypot(2, 1)), 3]
    assert rows[1].to_dict() == {"name": "2", "gradient": 10, "weight": 3, "is_norm": False}


def test_norms_are_those_of_backward_and_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    network = UNet(1, 2, width=4, depth=2, dropout=0.2).eval()
    network.head.requires_grad_(False)
    image = torch.randn(2, 1, 16, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    rows = gradient_norms(network, lambda logits: logits.square().mean(), image)

    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert "head" not in [row.name for row in rows]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network.train()(image).square().mean().backward()
    for row in rows:
        parameters = list(network.get_submodule(row.name).parameters())
        assert row.gradient == pytest.approx(float(torch.cat([p.grad.flatten() for p in parameters]).norm()), rel=1e-5)
    assert {row.name for row in rows if row.is_norm} == {
        name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)
    }


def test_layers_that_the_loss_does_not_need_have_no_gradient():
    network = nn.ModuleDict({"used": nn.Conv2d(1, 1, 1), "unused": nn.Conv2d(1, 1, 1)})
    network.forward = network["used"].forward
    used, unused = gradient_norms(network, torch.sum, torch.ones(1, 1, 2, 2))
    assert used.gradient > 0
    assert unused.gradient == 0


def test_a_failing_loss_leaves_the_network_as_it_was():
    network = nn.BatchNorm2d(1).eval()

    def fail(logits: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gradient_norms(network, fail, torch.randn(2, 1, 3, 3))
    assert not network.training
    assert network.running_mean.item() == 0
    assert network.num_batches_tracked.item() == 0
