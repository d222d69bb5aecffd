from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from pixelwise.errors import UsageError
from pixelwise.losses.structural import structural
from pixelwise.task import Task

FLAG = Task.of(["wet"], kind="overlapping")
TWO = Task.of(["dry", "wet"])
GENERATOR = torch.Generator().manual_seed(0)


def standardised(values: np.ndarray, known: np.ndarray, radius: int) -> np.ndarray:
    ticks = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * 1.5**2))

    def around(map_: np.ndarray) -> np.ndarray:
        return correlate(map_, np.outer(ticks, ticks), mode="constant")

    mean = around(values * known) / around(known)
    deviation = np.sqrt(np.maximum(around(values**2 * known) / around(known) - mean**2, 1e-8))
    return (values - mean + 0.01) / (deviation + 0.01)


def by_hand(logits: np.ndarray, truth: np.ndarray, known: np.ndarray, share: float, radius: int) -> float:
    scores = 1 / (1 + np.exp(-logits))
    entropy = -np.where(truth == 1, np.log(scores), np.log(1 - scores))
    differs = np.abs(standardised(truth, known, radius) - standardised(scores, known, radius)) * known
    hard = differs > 0.1 * differs.max()
    part = (differs * entropy * hard * known).sum() / hard.sum()
    return share * (entropy * known).sum() / known.sum() + (1 - share) * part


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("void", [False, True])
def test_it_is_the_formula_of_the_paper(radius, share, void):
    logits = torch.randn(1, 1, 7, 9, dtype=torch.float64, generator=GENERATOR)
    mask = (torch.rand(1, 1, 7, 9, generator=GENERATOR) > 0.5).long()
    known = np.ones((7, 9))
    if void:
        mask[..., 2, 3:5], known[2, 3:5] = 255, 0
    truth = (mask == 1)[0, 0].double().numpy()
    expected = by_hand(logits[0, 0].numpy(), truth, known, share, radius)
    found = structural(logits, mask, FLAG, entropy_share=share, radius=radius)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_perfect_prediction_loses_nothing():
    mask = (torch.rand(1, 1, 8, 8, generator=GENERATOR) > 0.5).long()
    assert structural(60.0 * (2 * mask - 1), mask, FLAG).item() == pytest.approx(0, abs=1e-6)


def test_what_has_no_structure_leaves_the_cross_entropy():
    logits, mask = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    assert structural(logits, mask, FLAG).item() == pytest.approx(0.5 * math.log(2), abs=1e-6)
    assert structural(logits, mask, FLAG, entropy_share=0.0).item() == 0


def test_two_exclusive_classes_are_one_class_and_its_opposite():
    logit = torch.randn(1, 1, 5, 5, generator=GENERATOR)
    mask = (torch.rand(1, 1, 5, 5, generator=GENERATOR) > 0.5).long()
    both, opposite = torch.cat([torch.zeros_like(logit), logit], 1), torch.cat([-logit, logit], 1)
    overlapping = structural(opposite, torch.cat([1 - mask, mask], 1), Task.of(["dry", "wet"], kind="overlapping"))
    torch.testing.assert_close(structural(both, mask[:, 0], TWO), overlapping)


@pytest.mark.parametrize("arguments", [{"entropy_share": 1.5}, {"threshold": -0.1}, {"radius": 0}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(UsageError, match=f"{next(iter(arguments))} = .*: choose a number from"):
        structural(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), FLAG, **arguments)
