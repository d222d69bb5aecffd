from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pixelwise.losses.lovasz import lovasz
from pixelwise.task import Task

THREE = Task.of(["a", "b", "c"])
FLAG = Task.of(["wet"], kind="overlapping")
GENERATOR = torch.Generator().manual_seed(0)


def extension(errors: list[float], truth: list[int]) -> float:
    """The Lovász extension by definition: sorted errors times what each adds to 1 - Jaccard of a set of mistakes."""

    def jaccard_loss(mistakes: list[int]) -> float:
        missed = sum(truth[i] for i in mistakes)
        invented = len(mistakes) - missed
        return 1 - (sum(truth) - missed) / (sum(truth) + invented) if mistakes else 0.0

    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    steps = [jaccard_loss(order[: n + 1]) - jaccard_loss(order[:n]) for n in range(len(order))]
    return sum(errors[i] * step for i, step in zip(order, steps, strict=True))


def random_case() -> tuple[Tensor, Tensor]:
    logits = torch.randn(2, 3, 3, 4, dtype=torch.float64, generator=GENERATOR)
    return logits, torch.randint(0, 3, (2, 3, 4), generator=GENERATOR)


def test_the_softmax_form_is_the_extension_at_the_errors_of_the_scores():
    logits, mask = random_case()
    scores = logits.softmax(1)
    each = []
    for number in range(3):
        truth = mask == number
        errors = (scores[:, number] - truth.double()).abs()
        each.append(extension(errors.flatten().tolist(), truth.flatten().int().tolist()))
    assert lovasz(logits, mask, THREE).item() == pytest.approx(sum(each) / 3, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 1)), min_size=1, max_size=8))
def test_the_hinge_form_is_the_extension_at_the_hinges(pixels):
    logits, truth = (list(part) for part in zip(*pixels, strict=True))
    errors = [max(0.0, 1 - logit * (2 * there - 1)) for logit, there in pixels]
    found = lovasz(torch.tensor(logits).double().view(1, 1, 1, -1), torch.tensor(truth).view(1, 1, 1, -1), FLAG)
    assert found.item() == pytest.approx(extension(errors, truth), abs=1e-5)


@pytest.mark.parametrize("truth", [[1, 1, 0], [1, 0, 0], [1, 1, 1]])
def test_at_the_corners_it_is_one_minus_jaccard(truth):
    mask = torch.tensor([[truth]])
    for labels in itertools.product((0, 1), repeat=3):
        guess = torch.tensor([[labels]])
        logits = 1e3 * torch.stack([1 - guess, guess], dim=1).float()
        present = [n for n in (0, 1) if (mask == n).any()]
        jaccards = [((mask == n) & (guess == n)).sum() / ((mask == n) | (guess == n)).sum() for n in present]
        found = lovasz(logits, mask, Task.of(["a", "b"]), present_only=True)
        assert found.item() == pytest.approx(1 - sum(jaccards).item() / len(present), abs=1e-6)


def test_an_absent_class_loses_its_largest_error_unless_left_out():
    logits = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]).T.reshape(1, 3, 1, 2)
    mask = torch.tensor([[[0, 1]]])
    scores = logits.softmax(1)
    with_all, without = lovasz(logits, mask, THREE), lovasz(logits, mask, THREE, present_only=True)
    assert with_all.item() == pytest.approx((2 * without.item() + scores[0, 2].max().item()) / 3, abs=1e-6)


def test_a_weight_of_zero_is_void_and_a_weight_of_two_is_two_pixels():
    logits, mask = random_case()
    weight = torch.ones(2, 3, 4, dtype=torch.float64)
    weight[..., 0], weight[..., 1] = 0, 2
    doubled = [torch.cat([part[..., 1:], part[..., 1:2]], dim=-1) for part in (logits, mask)]
    torch.testing.assert_close(lovasz(logits, mask, THREE, weight), lovasz(*doubled, THREE))
    void = mask.clone()
    void[..., 0] = 255
    torch.testing.assert_close(lovasz(logits, void, THREE), lovasz(logits[..., 1:], mask[..., 1:], THREE))


def test_small_steps_survive_many_pixels():
    # All errors are 1/2, so the loss is 1/2 however many steps it is summed from.
    mask = torch.zeros(1, 500, 1000, dtype=torch.long)
    mask[:, :1] = 1
    found = lovasz(torch.zeros(1, 2, 500, 1000), mask, Task.of(["a", "b"]))
    assert found.item() == pytest.approx(0.5, abs=1e-5)


def test_it_is_the_lovasz_loss_of_segmentation_models():
    losses = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, mask = random_case()
    theirs = losses.LovaszLoss(mode="multiclass", per_image=False, from_logits=True)
    logits = logits.float()
    torch.testing.assert_close(lovasz(logits, mask, THREE, present_only=True), theirs(logits, mask))


@pytest.mark.parametrize(("task", "shape"), [(THREE, (1, 2, 2)), (FLAG, (1, 1, 2, 2))])
@pytest.mark.parametrize("present_only", [False, True])
def test_all_void_gives_zero_and_zero_gradient(task, shape, present_only):
    logits = torch.randn(1, task.outputs, 2, 2, requires_grad=True)
    found = lovasz(logits, torch.full(shape, 255), task, present_only=present_only)
    found.backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
