from __future__ import annotations

import pytest
import torch

from pixelwise.errors import UsageError
from pixelwise.losses.cross_entropy import cross_entropy
from pixelwise.losses.registry import LOSSES, parse_loss
from pixelwise.losses.tversky import dice, jaccard
from pixelwise.task import Task

TASK = Task.of(["a", "b", "c"])
LOGITS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
WEIGHT = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(2))


def value(text: str) -> float:
    return parse_loss(text)(LOGITS, MASK, TASK, WEIGHT).item()


CE, DICE, JACCARD = (loss(LOGITS, MASK, TASK, WEIGHT).item() for loss in (cross_entropy, dice, jaccard))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ce", CE),
        ("ce+dice", CE + DICE),
        ("0.5*ce+dice", 0.5 * CE + DICE),
        (" 0.5 * ce + 2*dice +.25* jaccard", 0.5 * CE + 2 * DICE + 0.25 * JACCARD),
        ("dice+dice", 2 * DICE),
        ("1e-3*ce", 1e-3 * CE),
    ],
)
def test_a_sum_of_losses_is_their_sum(text, expected):
    assert value(text) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_finite_scalar_with_a_gradient(name):
    kind = "values" if name in ("l1", "l2") else "overlapping"
    logits = LOGITS.clone().requires_grad_()
    found = parse_loss(name)(logits, (LOGITS.roll(1) > 0).float(), Task.of(["a", "b", "c"], kind=kind), None)
    found.backward()
    assert found.shape == ()
    assert found.item() > 0
    assert logits.grad is not None
    assert logits.grad.any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dise", "there is no loss 'dise' in 'dise'; did you mean 'dice'?"),
        ("ce+jacard", "there is no loss 'jacard' in 'ce+jacard'; did you mean 'jaccard'?"),
        ("zzz", "there is no loss 'zzz' in 'zzz'; choose from ce, dice, jaccard, l1, l2"),
        ("", "there is no loss '' in ''"),
        ("ce+", "there is no loss '' in 'ce+'"),
        ("half*ce", "'half' in the loss 'half*ce' is not a number above 0"),
        ("2*3*ce", "'2*3' in the loss"),
        ("-1*ce", "not a number above 0"),
        ("0*ce", "not a number above 0"),
        ("nan*ce", "not a number above 0"),
        ("inf*ce", "not a number above 0"),
        ("*ce", "not a number above 0; write for example 0.5*ce+dice"),
    ],
)
def test_what_is_no_loss_is_refused(text, said):
    with pytest.raises(UsageError) as caught:
        parse_loss(text)
    assert said in str(caught.value)
