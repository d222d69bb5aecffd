from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.regression import l1, l2
from pixelwise.task import Task

HEIGHT = Task.of(["height"], kind="values")
TWO = Task.of(["height", "depth"], kind="values")
LOSSES = [l1, l2]


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@pytest.mark.parametrize(("loss", "expected"), [(l1, 0.833333), (l2, 1.416667)])
def test_the_worked_example(loss, expected):
    assert loss(row(0.5, 3.0, 7.0), row(1.0, 3.0, 5.0), HEIGHT).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("loss", "expected"), [(l1, 2.5 / 3), (l2, 4.25 / 3)])
def test_void_is_nan_and_gives_no_gradient(loss, expected):
    values = row(-0.5, 0.0, 2.0, 99.0).requires_grad_()
    found = loss(values, row(0.0, 0.0, 0.0, math.nan), HEIGHT)
    found.backward()
    assert found.item() == pytest.approx(expected)
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert values.grad[..., 3] == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_void_in_one_output_leaves_the_others(loss):
    values = torch.zeros(1, 2, 1, 2)
    mask = torch.tensor([[1.0, math.nan], [1.0, 1.0]]).view(1, 2, 1, 2)
    assert loss(values, mask, TWO).item() == pytest.approx(1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_multiply_and_the_mean_divides_by_the_number_of_pixels(loss):
    weight = torch.tensor([[[1.0, 5.0]]])
    assert loss(row(1.0, 1.0), row(0.0, 0.0), HEIGHT, weight).item() == pytest.approx(3.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_that_is_all_void_gives_zero_and_zero_gradient(loss):
    values = torch.randn(1, 1, 2, 2, requires_grad=True)
    found = loss(values, torch.full((1, 1, 2, 2), math.nan), HEIGHT)
    found.backward()
    assert found.item() == 0
    assert values.grad is not None
    assert not values.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_large_values_stay_finite(loss):
    assert loss(torch.full((1, 1, 2, 2), 1e4), torch.full((1, 1, 2, 2), -1e4), HEIGHT).isfinite()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_finite_differences(loss):
    torch.manual_seed(0)
    values = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    mask[0, 0, 0, 0] = math.nan
    weight = torch.rand(1, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, mask, TWO, weight), (values,))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["exclusive", "overlapping"])
def test_tasks_of_classes_are_refused(loss, kind):
    with pytest.raises(UsageError, match="choose another, such as ce or dice"):
        loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), Task.of(["a", "b"], kind=kind))
