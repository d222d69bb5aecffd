from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.cross_entropy import cross_entropy
from pixelwise.task import Task

TWO = Task.of(["background", "cell"])
FLAG = Task.of(["wet"], kind="overlapping")
FLAGS = Task.of(["road", "wet"], kind="overlapping")
GENERATOR = torch.Generator().manual_seed(0)


def logits_for(truth_scores: list[float]) -> Tensor:
    """Logits of one row of pixels of class 0, whose softmax gives class 0 these scores."""
    scores = torch.tensor(truth_scores, dtype=torch.float64)
    return torch.stack([scores.log(), (1 - scores).log()])[None, :, None]


def zeros(pixels: int) -> Tensor:
    return torch.zeros(1, 1, pixels, dtype=torch.long)


# Hand-worked values


def test_the_mean_of_three_pixels():
    loss = cross_entropy(logits_for([0.9, 0.6, 0.2]), zeros(3), TWO)
    assert loss.item() == pytest.approx(0.741875, abs=1e-6)


def test_weights_multiply_and_the_mean_divides_by_the_number_of_pixels():
    weight = torch.tensor([[[1.0, 1.0, 3.0]]])
    loss = cross_entropy(logits_for([0.9, 0.6, 0.2]), zeros(3), TWO, weight)
    assert loss.item() == pytest.approx(1.814833, abs=1e-6)


def test_the_worked_example_of_two_classes():
    logits = torch.tensor([[[[2.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [1.0, 3.0]]]])
    assert cross_entropy(logits, torch.tensor([[[0, 1], [0, 1]]]), TWO).item() == pytest.approx(0.268483, abs=1e-6)


def test_overlapping_classes_take_the_binary_form():
    scores = torch.tensor([0.8, 0.6, 0.1, 0.1], dtype=torch.float64)
    mask = torch.tensor([1, 1, 0, 0]).view(1, 1, 1, 4)
    assert cross_entropy(scores.logit().view(1, 1, 1, 4), mask, FLAG).item() == pytest.approx(0.236173, abs=1e-6)


def test_overlapping_classes_are_summed():
    mask = torch.tensor([1, 0]).view(1, 2, 1, 1)
    assert cross_entropy(torch.zeros(1, 2, 1, 1), mask, FLAGS).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_cross_entropy_of_torch(weighted):
    task = Task.of(["a", "b", "c"])
    logits = torch.randn(2, 3, 4, 5, generator=GENERATOR)
    mask = torch.randint(0, 3, (2, 4, 5), generator=GENERATOR)
    mask[:, 0] = 255
    weight = torch.rand(2, 4, 5, generator=GENERATOR) if weighted else torch.ones(2, 4, 5)
    per_pixel = torch.nn.functional.cross_entropy(logits, mask, ignore_index=255, reduction="none")
    expected = (per_pixel * weight).sum() / (mask != 255).sum()
    torch.testing.assert_close(cross_entropy(logits, mask, task, weight if weighted else None), expected)


# Void


@pytest.mark.parametrize("void", [255, -1])
def test_void_pixels_have_no_say_and_no_gradient(void):
    logits = logits_for([0.9, 0.6, 0.2, 0.01]).requires_grad_()
    mask = zeros(4)
    mask[..., 3] = void
    loss = cross_entropy(logits, mask, TWO)
    loss.backward()
    assert loss.item() == pytest.approx(0.741875, abs=1e-6)
    assert logits.grad is not None
    assert not logits.grad[..., 3].any()
    assert logits.grad[..., :3].all()


def test_void_of_overlapping_classes_is_void_class_by_class():
    # Of three pixels the first counts for both classes, the second for one of them, the third for none.
    logits = torch.zeros(1, 2, 1, 3)
    mask = torch.tensor([1, 1, 255, 0, 255, 255]).view(1, 2, 1, 3)
    assert cross_entropy(logits, mask, FLAGS).item() == pytest.approx(3 * math.log(2) / 2)


@pytest.mark.parametrize(("task", "shape"), [(TWO, (1, 3, 3)), (FLAGS, (1, 2, 3, 3))])
def test_a_batch_that_is_all_void_gives_zero_and_zero_gradient(task, shape):
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.full(shape, 255), task)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


# Numbers at the edge


@pytest.mark.parametrize(("task", "shape"), [(TWO, (1, 1, 2)), (FLAGS, (1, 2, 1, 2))])
def test_large_logits_stay_finite(task, shape):
    logits = torch.tensor([1e4, -1e4, -1e4, 1e4]).view(1, 2, 1, 2).requires_grad_()
    loss = cross_entropy(logits, torch.ones(shape, dtype=torch.long), task)
    loss.backward()
    assert loss.item() > 1000
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["exclusive", "overlapping"])
def test_the_gradient_is_that_of_finite_differences(kind):
    task = Task.of(["a", "b"], kind=kind)
    logits = torch.randn(1, 2, 2, 3, dtype=torch.float64, generator=GENERATOR).requires_grad_()
    mask = torch.randint(0, 2, (1, 2, 3) if kind == "exclusive" else (1, 2, 2, 3), generator=GENERATOR)
    mask[..., 0, 0] = 255
    weight = torch.rand(1, 2, 3, dtype=torch.float64, generator=GENERATOR)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, mask, task, weight), (logits,))


def test_half_precision_logits_are_scored_in_float32():
    loss = cross_entropy(torch.tensor([60.0, 0.0], dtype=torch.float16).view(1, 2, 1, 1), zeros(1) + 1, TWO)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(60)


def test_values_are_refused():
    with pytest.raises(UsageError, match="use the losses l1 or l2"):
        cross_entropy(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), Task.of(["height"], kind="values"))
