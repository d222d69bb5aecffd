from __future__ import annotations

import math

import pytest
import torch

from pixelwise.errors import UsageError
from pixelwise.losses.contracts import (
    check_range,
    check_word,
    log_complements,
    mean_over_entries,
    mean_over_pixels,
    power,
    target_of,
)
from pixelwise.task import Task

THREE = Task.of(["a", "b", "c"])
FLAGS = Task.of(["road", "wet"], kind="overlapping")


@pytest.mark.parametrize("task", [THREE, FLAGS])
def test_the_logarithm_of_the_complement_is_that_of_one_minus_the_score(task):
    logits = 3 * torch.randn(2, task.outputs, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_complements(logits, task), (1 - task.activate(logits)).log())


def test_the_complement_of_a_certain_class_is_exact_in_float32():
    logits = torch.tensor([80.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert log_complements(logits, THREE)[0, 0].item() == pytest.approx(math.log(2) - 80)


def test_equal_scores_of_two_classes_are_no_exception():
    logits = torch.zeros(1, 2, 1, 1, requires_grad=True)
    found = log_complements(logits, Task.of(["a", "b"]))
    found.sum().backward()
    assert found.flatten().tolist() == pytest.approx([-math.log(2)] * 2)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("exponent", [0.3, 1.0, 2.0])
def test_a_power_of_zero_has_no_gradient(exponent):
    values = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    found = power(values, exponent)
    found.sum().backward()
    assert found.tolist() == pytest.approx([0, 0.25**exponent, 1])
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0, exponent * 0.25 ** (exponent - 1), exponent])


def test_means_divide_by_pixels_or_by_pairs():
    # Of three pixels the first counts for both classes, the second for one of them, the third for none.
    mask = torch.tensor([1, 1, 255, 0, 255, 255]).view(1, 2, 1, 3)
    target = target_of(mask, FLAGS, torch.tensor([[[1.0, 2.0, math.nan]]]))
    terms = torch.tensor([1.0, 2.0, math.nan, 3.0, math.nan, math.inf]).view(1, 2, 1, 3)
    assert mean_over_pixels(terms, target).item() == pytest.approx((1 + 3 + 2 * 2) / 2)
    assert mean_over_entries(terms, target).item() == pytest.approx((1 + 3 + 2 * 2) / 3)


def test_what_is_out_of_range_is_refused():
    check_range("x", 1.0, lowest=1, highest=1)
    with pytest.raises(UsageError, match="x = nan: choose a number from 0 to 1"):
        check_range("x", math.nan, lowest=0, highest=1)
    with pytest.raises(UsageError, match="x = inf: choose a number of at least 0"):
        check_range("x", math.inf, lowest=0)
    with pytest.raises(UsageError, match="x = c: choose one of a, b"):
        check_word("x", "c", ("a", "b"))
