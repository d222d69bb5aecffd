from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.tversky import dice, jaccard, tversky_index
from pixelwise.task import Task

FLAG = Task.of(["wet"], kind="overlapping")
FLAGS = Task.of(["road", "wet"], kind="overlapping")
THREE = Task.of(["a", "b", "c"])
GENERATOR = torch.Generator().manual_seed(0)
# The worked example: true positives 1.4, false negatives 0.6, false positives 0.2.
LOGITS = torch.tensor([0.8, 0.6, 0.1, 0.1], dtype=torch.float64).logit().view(1, 1, 1, 4)
MASK = torch.tensor([1, 1, 0, 0]).view(1, 1, 1, 4)


def random_case(classes: int = 3) -> tuple[Tensor, Tensor]:
    logits = torch.randn(2, classes, 3, 4, dtype=torch.float64, generator=GENERATOR)
    return logits, torch.randint(0, classes, (2, 3, 4), generator=GENERATOR)


# Hand-worked values


@pytest.mark.parametrize(
    ("missed", "invented", "index"),
    [(0.5, 0.5, 0.777778), (1.0, 1.0, 0.636364), (0.7, 0.3, 0.744681), (0.3, 0.7, 0.813953), (1.0, 0.0, 0.7)],
)
def test_the_index_of_the_worked_example(missed, invented, index):
    found = tversky_index(LOGITS, MASK, FLAG, missed=missed, invented=invented, smooth=0.0)
    assert found.tolist() == pytest.approx([index], abs=1e-6)


def test_dice_and_jaccard_of_the_worked_example():
    assert dice(LOGITS, MASK, FLAG).item() == pytest.approx(0.173913, abs=1e-6)
    assert jaccard(LOGITS, MASK, FLAG).item() == pytest.approx(1 - 1.9 / 2.7, abs=1e-6)


def test_the_mean_is_over_the_classes():
    logits, mask = random_case()
    indices = tversky_index(logits, mask, THREE)
    assert indices.shape == (3,)
    assert dice(logits, mask, THREE).item() == pytest.approx(1 - sum(indices.tolist()) / 3)


def test_a_perfect_prediction_loses_nothing_and_the_opposite_almost_all():
    mask = torch.tensor([[[0, 1, 2] * 100]])
    logits = 50.0 * torch.nn.functional.one_hot(mask, 3).movedim(-1, 1)
    assert dice(logits, mask, THREE).item() == pytest.approx(0, abs=1e-6)
    assert dice(logits.roll(1, dims=1), mask, THREE).item() > 0.99
    assert jaccard(logits.roll(1, dims=1), mask, THREE).item() > 0.99


def test_overlap_is_counted_over_the_whole_batch():
    logits, mask = random_case()
    side_by_side = torch.cat(list(logits), dim=-1)[None], torch.cat(list(mask), dim=-1)[None]
    torch.testing.assert_close(dice(logits, mask, THREE), dice(*side_by_side, THREE))


# Void and weights


@pytest.mark.parametrize("loss", [dice, jaccard])
def test_void_pixels_have_no_say_and_no_gradient(loss):
    logits, mask = random_case()
    expected = loss(logits[..., 1:], mask[..., 1:], THREE)
    mask[..., 0] = 255
    logits.requires_grad_()
    found = loss(logits, mask, THREE)
    found.backward()
    torch.testing.assert_close(found.detach(), expected)
    assert logits.grad is not None
    assert not logits.grad[..., 0].any()


@pytest.mark.parametrize("loss", [dice, jaccard])
def test_a_weight_of_zero_is_void_and_a_weight_of_two_is_two_pixels(loss):
    logits, mask = random_case()
    weight = torch.ones(2, 3, 4, dtype=torch.float64)
    weight[..., 0], weight[..., 1] = 0, 2
    doubled = [torch.cat([part[..., 1:], part[..., 1:2]], dim=-1) for part in (logits, mask)]
    torch.testing.assert_close(loss(logits, mask, THREE, weight), loss(*doubled, THREE))


@pytest.mark.parametrize("loss", [dice, jaccard])
@pytest.mark.parametrize(("task", "shape"), [(THREE, (1, 2, 2)), (FLAGS, (1, 2, 2, 2))])
def test_a_batch_that_is_all_void_gives_zero_and_zero_gradient(loss, task, shape):
    logits = torch.randn(1, task.outputs, 2, 2, requires_grad=True)
    found = loss(logits, torch.full(shape, 255), task)
    found.backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


# Absent classes


def test_an_absent_class_that_is_not_predicted_loses_nothing():
    logits = torch.tensor([40.0, -40.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    mask = torch.tensor([1, 0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert tversky_index(logits, mask, FLAGS).tolist() == pytest.approx([1.0, 1.0])


def test_an_absent_class_is_pushed_down_where_it_is_predicted():
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    mask = torch.tensor([1, 0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    dice(logits, mask, FLAGS).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 1e-3).all()
    assert (logits.grad[:, 0] < -1e-3).all()


# Numbers at the edge


@pytest.mark.parametrize("loss", [dice, jaccard])
def test_large_logits_stay_finite(loss):
    logits = torch.tensor([1e4, -1e4, 0.0, -1e4, 1e4, 0.0]).view(1, 3, 1, 2).requires_grad_()
    found = loss(logits, torch.zeros(1, 1, 2, dtype=torch.long), THREE)
    found.backward()
    assert 0 <= found.item() <= 1
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [dice, jaccard])
@pytest.mark.parametrize("kind", ["exclusive", "overlapping"])
def test_the_gradient_is_that_of_finite_differences(loss, kind):
    task = Task.of(["a", "b"], kind=kind)
    logits = torch.randn(1, 2, 2, 3, dtype=torch.float64, generator=GENERATOR).requires_grad_()
    mask = torch.randint(0, 2, (1, 2, 3) if kind == "exclusive" else (1, 2, 2, 3), generator=GENERATOR)
    mask[..., 0, 0] = 255
    weight = torch.rand(1, 2, 3, dtype=torch.float64, generator=GENERATOR)
    assert torch.autograd.gradcheck(lambda x: loss(x, mask, task, weight), (logits,))


def test_values_are_refused():
    with pytest.raises(UsageError, match="use the losses l1 or l2"):
        dice(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), Task.of(["height"], kind="values"))
