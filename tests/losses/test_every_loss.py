"""What every loss of LOSSES promises, whatever its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.losses.registry import LOSSES
from pixelwise.task import Task

VALUES = ("l1", "l2")
CLASSES = [name for name in LOSSES if name not in VALUES]
# Those whose value is a sum over pixels divided by their number: weights multiply it.
LINEAR = ("ce", "balanced_ce", "focal", "balanced_focal", "distance_ce", "hausdorff", "shape_aware", "structural")
# Those that count pixels: doubling all weights changes them by the smoothing only.
OVERLAPS = (
    "dice",
    "jaccard",
    "tversky",
    "focal_tversky",
    "log_cosh_dice",
    "generalised_dice",
    "sensitivity_specificity",
    "lovasz",
)
NEIGHBOURS = ("distance_ce", "hausdorff", "shape_aware", "structural")
TASKS = {
    "exclusive": Task.of(["a", "b", "c"]),
    "overlapping": Task.of(["a", "b", "c"], kind="overlapping"),
    "values": Task.of(["a", "b", "c"], kind="values"),
}


def cases(names=tuple(LOSSES)) -> list[tuple[str, str]]:
    return [
        (name, kind) for name in names for kind in (("values",) if name in VALUES else ("exclusive", "overlapping"))
    ]


def sample(kind: str, seed: int = 0, size: tuple[int, int] = (5, 6)) -> tuple[Tensor, Tensor]:
    """Logits in float64 and a mask with all classes, none void."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
    if kind == "exclusive":
        return logits, torch.randint(0, 3, (2, *size), generator=generator)
    if kind == "overlapping":
        return logits, torch.randint(0, 2, (2, 3, *size), generator=generator)
    return logits, torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)


def nothing(kind: str) -> float:
    return math.nan if kind == "values" else 255


def gradient(name: str, logits: Tensor, mask: Tensor, kind: str, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    found = LOSSES[name](logits, mask, TASKS[kind], weight)
    found.backward()
    assert logits.grad is not None
    return found.detach(), logits.grad


@pytest.mark.parametrize(("name", "kind"), cases())
def test_void_has_no_say_and_no_gradient(name, kind):
    logits, mask = sample(kind)
    mask[..., 1:3, 2] = nothing(kind)
    found, slope = gradient(name, logits, mask, kind)
    assert not slope[..., 1:3, 2].any()
    assert slope[..., 4].any()
    logits[..., 1:3, 2] = -7 * logits[..., 1:3, 2] + 30
    torch.testing.assert_close(gradient(name, logits, mask, kind)[0], found)


@pytest.mark.parametrize(("name", "kind"), [case for case in cases() if case[0] not in NEIGHBOURS])
def test_void_is_as_if_it_were_cut_off(name, kind):
    logits, mask = sample(kind)
    expected = LOSSES[name](logits[..., 1:], mask[..., 1:], TASKS[kind], None)
    mask[..., 0] = nothing(kind)
    torch.testing.assert_close(LOSSES[name](logits, mask, TASKS[kind], None), expected)


@pytest.mark.parametrize(("name", "kind"), cases())
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_that_is_all_void_gives_zero_and_zero_gradient(name, kind, weighted):
    logits, mask = sample(kind)
    weight = torch.rand(2, 5, 6, dtype=torch.float64) if weighted else None
    found, slope = gradient(name, logits, torch.full_like(mask, nothing(kind)), kind, weight)
    assert found.item() == 0
    assert not slope.any()


@pytest.mark.parametrize(("name", "kind"), cases())
def test_weights_that_are_all_zero_give_zero_gradient(name, kind):
    logits, mask = sample(kind)
    found, slope = gradient(name, logits, mask, kind, torch.zeros(2, 5, 6))
    assert found.item() == pytest.approx(0, abs=1e-12)
    assert not slope.any()


@pytest.mark.parametrize(("name", "kind"), cases())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_stay_finite(name, kind, dtype):
    logits, mask = sample(kind)
    for extreme in (1e4 * logits.sign(), 1e4 * logits.sign().roll(1, dims=1) * (logits > 0), 0 * logits):
        found, slope = gradient(name, extreme.to(dtype), mask, kind)
        assert found.isfinite()
        assert slope.isfinite().all()


@pytest.mark.parametrize(("name", "kind"), cases())
def test_a_mask_of_one_class_stays_finite(name, kind):
    logits, mask = sample(kind)
    for one in (torch.zeros_like(mask), torch.ones_like(mask)):
        found, slope = gradient(name, logits.float(), one, kind)
        assert found.isfinite()
        assert slope.isfinite().all()
        assert slope.any()


@pytest.mark.parametrize(("name", "kind"), cases(CLASSES))
def test_the_truth_loses_less_than_anything_else(name, kind):
    logits, mask = sample(kind)
    present, _ = TASKS[kind].truth(mask)
    right = 30.0 * (2 * present - 1)
    best, worst = (LOSSES[name](part, mask, TASKS[kind], None) for part in (right, -right))
    between = LOSSES[name](logits, mask, TASKS[kind], None)
    assert best < between < worst
    assert best.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("name", "kind"), cases())
def test_the_gradient_is_that_of_finite_differences(name, kind):
    logits, mask = sample(kind, seed=1, size=(3, 3))
    mask[..., 0, 0] = nothing(kind)
    weight = 0.5 + torch.rand(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    chosen = LOSSES[name]
    assert torch.autograd.gradcheck(lambda x: chosen(x, mask, TASKS[kind], weight), (logits.requires_grad_(),))


@pytest.mark.parametrize(("name", "kind"), cases())
def test_a_step_down_the_gradient_lowers_the_loss(name, kind):
    logits, mask = sample(kind)
    found, slope = gradient(name, logits, mask, kind)
    lower = LOSSES[name](logits - 1e-3 * slope / slope.norm(), mask, TASKS[kind], None)
    assert lower < found


@pytest.mark.parametrize(("name", "kind"), cases())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_scored_in_float32(name, kind, dtype):
    logits, mask = sample(kind)
    half = logits.to(dtype)
    found, slope = gradient(name, half, mask, kind)
    assert found.dtype == (torch.float64 if kind == "values" else torch.float32)  # the dtype of the mask of values
    assert slope.dtype == dtype
    torch.testing.assert_close(found.float(), LOSSES[name](half.float(), mask, TASKS[kind], None).float())


@pytest.mark.parametrize(("name", "kind"), cases())
def test_autocast_does_not_round_the_loss(name, kind):
    logits, mask = sample(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LOSSES[name](logits.float(), mask, TASKS[kind], None)
    torch.testing.assert_close(found, LOSSES[name](logits.float(), mask, TASKS[kind], None))


@pytest.mark.parametrize(("name", "kind"), cases())
def test_weights_of_one_are_no_weights(name, kind):
    logits, mask = sample(kind)
    mask[..., 0, 0] = nothing(kind)
    torch.testing.assert_close(
        LOSSES[name](logits, mask, TASKS[kind], torch.ones(2, 5, 6)), LOSSES[name](logits, mask, TASKS[kind], None)
    )


@pytest.mark.parametrize(("name", "kind"), cases())
def test_a_pixel_of_weight_zero_has_no_gradient_whatever_stands_there(name, kind):
    logits, mask = sample(kind)
    weight = torch.ones(2, 5, 6, dtype=torch.float64)
    weight[:, 1:3, 2] = 0
    _, slope = gradient(name, logits, mask, kind, weight)
    assert not slope[..., 1:3, 2].any()
    assert slope[..., 4].any()


@pytest.mark.parametrize(("name", "kind"), cases())
def test_weights_at_void_pixels_are_not_looked_at(name, kind):
    logits, mask = sample(kind)
    mask[..., 0, 0] = nothing(kind)
    weight = torch.ones(2, 5, 6, dtype=torch.float64)
    expected = LOSSES[name](logits, mask, TASKS[kind], weight)
    weight[:, 0, 0] = 1e6
    torch.testing.assert_close(LOSSES[name](logits, mask, TASKS[kind], weight), expected)


@pytest.mark.parametrize(("name", "kind"), cases((*LINEAR, *VALUES)))
def test_weights_multiply_a_mean(name, kind):
    logits, mask = sample(kind)
    single, double = (LOSSES[name](logits, mask, TASKS[kind], torch.full((2, 5, 6), w)) for w in (1.0, 2.0))
    torch.testing.assert_close(double, 2 * single)


@pytest.mark.parametrize(("name", "kind"), cases(OVERLAPS))
def test_weights_count_pixels_in_an_overlap(name, kind):
    logits, mask = sample(kind)
    weight = torch.ones(2, 5, 6, dtype=torch.float64)
    weight[:, 0] = 2
    doubled = [torch.cat([part[..., :1, :], part], dim=-2) for part in (logits, mask)]
    torch.testing.assert_close(
        LOSSES[name](logits, mask, TASKS[kind], weight), LOSSES[name](*doubled, TASKS[kind], None), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("name", "kind"), cases())
def test_the_order_of_the_classes_does_not_matter(name, kind):
    logits, mask = sample(kind)
    order = torch.tensor([2, 0, 1])
    moved = order.argsort()[mask] if kind == "exclusive" else mask[:, order]
    expected = LOSSES[name](logits, mask, TASKS[kind], None)
    torch.testing.assert_close(LOSSES[name](logits[:, order], moved, TASKS[kind], None), expected)


@pytest.mark.parametrize(("name", "kind"), cases())
def test_the_order_of_images_and_the_direction_do_not_matter(name, kind):
    logits, mask = sample(kind)
    weight = torch.rand(2, 5, 6, dtype=torch.float64)
    expected = LOSSES[name](logits, mask, TASKS[kind], weight)
    for turned in (
        LOSSES[name](logits.flip(0), mask.flip(0), TASKS[kind], weight.flip(0)),
        LOSSES[name](logits.flip(-1), mask.flip(-1), TASKS[kind], weight.flip(-1)),
        LOSSES[name](logits.mT, mask.mT, TASKS[kind], weight.mT),
    ):
        torch.testing.assert_close(turned, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [case for case in cases() if case[0] not in NEIGHBOURS])
def test_the_order_of_the_pixels_does_not_matter(name, kind):
    logits, mask = sample(kind)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    shuffled = (part.flatten(-2)[..., order].unflatten(-1, (5, 6)) for part in (logits, mask))
    expected = LOSSES[name](logits, mask, TASKS[kind], None)
    torch.testing.assert_close(LOSSES[name](*shuffled, TASKS[kind], None), expected)


@pytest.mark.parametrize(("name", "kind"), cases(CLASSES))
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_class_absent_from_the_batch_is_pushed_down_where_it_is_predicted(name, kind, shift):
    _, mask = sample(kind)
    mask = mask.where(mask != 2, 0) if kind == "exclusive" else mask * torch.tensor([1, 1, 0]).view(1, 3, 1, 1)
    logits = 2.0 * TASKS[kind].truth(mask)[0].double() - 1
    logits[:, 2] = shift
    _, slope = gradient(name, logits, mask, kind)
    assert slope[:, 2].sum() > 0
    lower = logits.clone()
    lower[:, 2] -= 0.1
    assert LOSSES[name](lower, mask, TASKS[kind], None) < LOSSES[name](logits, mask, TASKS[kind], None)


@pytest.mark.parametrize(("name", "kind"), cases(CLASSES))
def test_a_class_absent_from_one_image_is_pushed_down_there(name, kind):
    logits, mask = sample(kind)
    logits[1, 2] = 2.0 + logits[1, 2].abs()
    mask[1] = mask[1].where(mask[1] != 2, 0) if kind == "exclusive" else mask[1] * torch.tensor([1, 1, 0]).view(3, 1, 1)
    _, slope = gradient(name, logits, mask, kind)
    assert slope[1, 2].sum() > 0


@pytest.mark.parametrize(("name", "kind"), cases())
def test_neither_the_logits_nor_the_mask_are_changed(name, kind):
    logits, mask = sample(kind)
    before = logits.clone(), mask.clone()
    LOSSES[name](logits, mask, TASKS[kind], torch.ones(2, 5, 6))
    assert torch.equal(logits, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize(("name", "kind"), cases())
def test_it_works_on_one_pixel_and_under_deterministic_algorithms(name, kind):
    logits, mask = sample(kind, size=(1, 1))
    torch.use_deterministic_algorithms(True)
    try:
        found, slope = gradient(name, logits, mask, kind)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.isfinite()
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", CLASSES)
def test_tasks_of_values_are_refused(name):
    with pytest.raises(UsageError, match="use the losses l1 or l2"):
        LOSSES[name](*sample("values"), TASKS["values"], None)
