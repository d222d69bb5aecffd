from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.class_weights import weight_map
from pixelwise.losses.cross_entropy import balanced_cross_entropy, cross_entropy
from pixelwise.losses.focal import balanced_focal, focal
from pixelwise.task import Task

TWO = Task.of(["background", "cell"])
THREE = Task.of(["a", "b", "c"])
FLAG = Task.of(["wet"], kind="overlapping")
FLAGS = Task.of(["road", "wet"], kind="overlapping")
GENERATOR = torch.Generator().manual_seed(0)
# Scores of the truth 0.9, 0.6 and 0.2; the last pixel is of class 1.
MASK = torch.tensor([[[0, 0, 1]]])


def logits_for(scores_of_first: list[float]) -> Tensor:
    scores = torch.tensor(scores_of_first, dtype=torch.float64)
    return torch.stack([scores.log(), (1 - scores).log()])[None, :, None]


LOGITS = logits_for([0.9, 0.6, 0.8])


@pytest.mark.parametrize(("gamma", "expected"), [(0.0, 0.741875), (2.0, 0.370942), (5.0, 0.177538)])
def test_the_worked_example(gamma, expected):
    assert focal(LOGITS, MASK, TWO, gamma=gamma).item() == pytest.approx(expected, abs=1e-6)


def test_the_worked_example_with_class_weights():
    found = focal(LOGITS, MASK, TWO, weight_map(MASK, [1.0, 3.0], TWO))
    assert found.item() == pytest.approx(1.057635, abs=1e-6)


@pytest.mark.parametrize(("score", "ratio"), [(0.9, 100), (0.968, 976.5625), (0.5, 4)])
def test_right_pixels_weigh_less_by_the_ratios_of_the_paper(score, ratio):
    logits, mask = logits_for([score]), torch.zeros(1, 1, 1, dtype=torch.long)
    assert (cross_entropy(logits, mask, TWO) / focal(logits, mask, TWO)).item() == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize(("task", "shape"), [(THREE, (2, 4, 5)), (FLAGS, (2, 2, 4, 5))])
def test_without_gamma_it_is_cross_entropy(task, shape):
    logits = torch.randn(2, task.outputs, 4, 5, generator=GENERATOR)
    mask = torch.randint(0, 2, shape, generator=GENERATOR)
    mask[..., 0, :] = 255
    weight = torch.rand(2, 4, 5, generator=GENERATOR)
    torch.testing.assert_close(focal(logits, mask, task, weight, gamma=0.0), cross_entropy(logits, mask, task, weight))
    balanced = balanced_cross_entropy(logits, mask, task, weight)
    torch.testing.assert_close(balanced_focal(logits, mask, task, weight, gamma=0.0), balanced)


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_it_is_the_sigmoid_focal_loss_of_torchvision(alpha):
    ops = pytest.importorskip("torchvision.ops")
    logits = torch.randn(2, 2, 4, 5, generator=GENERATOR)
    mask = torch.randint(0, 2, (2, 2, 4, 5), generator=GENERATOR)
    expected = ops.sigmoid_focal_loss(logits, mask.float(), alpha=alpha, gamma=2, reduction="none").sum(1).mean()
    torch.testing.assert_close(balanced_focal(logits, mask, FLAGS, alpha=alpha), expected)


def test_balance_multiplies_the_terms_of_each_class():
    # Two pixels of class 0 weigh 3 / (2 * 2), the one of class 1 weighs 3 / 2.
    terms = [-((1 - p) ** 2) * math.log(p) for p in (0.9, 0.6, 0.2)]
    expected = (0.75 * terms[0] + 0.75 * terms[1] + 1.5 * terms[2]) / 3
    assert balanced_focal(LOGITS, MASK, TWO).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("task", "shape"), [(TWO, (1, 1, 2)), (FLAGS, (1, 2, 1, 2))])
def test_certain_pixels_have_a_finite_gradient_whatever_gamma(gamma, task, shape):
    logits = torch.tensor([1e4, 20.0, -1e4, -20.0]).view(1, 2, 1, 2).requires_grad_()
    focal(logits, torch.zeros(shape, dtype=torch.long), task, gamma=gamma).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_alpha_is_for_overlapping_classes():
    with pytest.raises(UsageError, match=r"alpha = 0.25 is for overlapping classes; leave it out"):
        balanced_focal(LOGITS, MASK, TWO, alpha=0.25)


@pytest.mark.parametrize("arguments", [{"alpha": 1.5}, {"alpha": -0.1}, {"gamma": -1.0}, {"gamma": math.inf}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(UsageError, match=f"{next(iter(arguments))} = .*: choose a number"):
        balanced_focal(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), FLAG, **arguments)
