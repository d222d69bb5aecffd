from __future__ import annotations

import math

import pytest
import torch

from pixelwise.errors import UsageError
from pixelwise.losses.compound import combo, exponential_logarithmic
from pixelwise.losses.tversky import dice
from pixelwise.task import Task

FLAG = Task.of(["wet"], kind="overlapping")
TWO = Task.of(["dry", "wet"])
LOGITS = torch.tensor([0.8, 0.6, 0.1, 0.1], dtype=torch.float64).logit().view(1, 1, 1, 4)
MASK = torch.tensor([1, 1, 0, 0]).view(1, 1, 1, 4)
BOTH = torch.cat([torch.zeros_like(LOGITS), LOGITS], dim=1)


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (1.0, 0.7, 0.144249),
        (1.0, 0.5, 0.236173 / 2),
        (0.0, 0.7, 0.222222),
        (0.5, 0.7, (0.144249 + 0.222222) / 2),
    ],
)
def test_the_combo_loss_of_the_worked_example(alpha, beta, expected):
    found = combo(LOGITS, MASK, FLAG, alpha=alpha, beta=beta, smooth=0.0)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_combo_loss_takes_each_exclusive_class_against_the_rest():
    # Of two classes both have the same binary cross-entropy, so the mean over the classes is that of one.
    found = combo(BOTH, MASK[:, 0], TWO, alpha=1.0, beta=0.5)
    assert found.item() == pytest.approx(0.236173 / 2, abs=1e-6)


def test_the_combo_loss_differs_from_the_paper_by_a_constant():
    papers = 0.4 * combo(LOGITS, MASK, FLAG, alpha=1.0) - 0.6 * (1 - dice(LOGITS, MASK, FLAG))
    torch.testing.assert_close(combo(LOGITS, MASK, FLAG, alpha=0.4), papers + 0.6)


@pytest.mark.parametrize(("dice_share", "gamma"), [(0.8, 0.3), (1.0, 1.0), (0.0, 0.3), (0.5, 2.0)])
def test_the_exponential_logarithmic_loss_of_the_worked_example(dice_share, gamma):
    overlap = (-math.log(0.777778)) ** gamma
    entropy = sum((-math.log(p)) ** gamma for p in (0.8, 0.6, 0.9, 0.9)) / 4
    expected = dice_share * overlap + (1 - dice_share) * entropy
    found = exponential_logarithmic(LOGITS, MASK, FLAG, gamma=gamma, dice_share=dice_share, smooth=0.0)
    assert found.item() == pytest.approx(expected, abs=2e-6)


def test_the_exponential_logarithmic_loss_of_exclusive_classes():
    # Dice of the dry class: 2 * 1.8 / (2.4 + 2).
    overlaps = [(-math.log(0.777778)) ** 0.3, (-math.log(3.6 / 4.4)) ** 0.3]
    entropy = sum((-math.log(p)) ** 0.3 for p in (0.8, 0.6, 0.9, 0.9)) / 4
    found = exponential_logarithmic(BOTH, MASK[:, 0], TWO, smooth=0.0)
    assert found.item() == pytest.approx(0.8 * sum(overlaps) / 2 + 0.2 * entropy, abs=2e-6)


@pytest.mark.parametrize("loss", [combo, exponential_logarithmic])
def test_a_perfect_prediction_loses_nothing_and_has_a_finite_gradient(loss):
    logits = (1e4 * (2.0 * MASK - 1)).requires_grad_()
    found = loss(logits, MASK, FLAG)
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        (combo, {"alpha": 1.1}),
        (combo, {"beta": -0.1}),
        (combo, {"smooth": -1.0}),
        (exponential_logarithmic, {"gamma": 0.0}),
        (exponential_logarithmic, {"dice_share": 2.0}),
    ],
)
def test_arguments_out_of_range_are_refused(loss, arguments):
    with pytest.raises(UsageError, match=f"{next(iter(arguments))} = .*: choose a number"):
        loss(LOGITS, MASK, FLAG, **arguments)
