from __future__ import annotations

import pytest
import torch

from pixelwise.errors import UsageError
from pixelwise.losses.cross_entropy import cross_entropy
from pixelwise.losses.focal import focal
from pixelwise.losses.registry import LOSSES, loss_arguments, parse_loss
from pixelwise.losses.tversky import dice, jaccard, tversky
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
        ("zzz", "there is no loss 'zzz' in 'zzz'; choose from ce, balanced_ce, focal, "),
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


# Arguments


def loss(function, **arguments) -> float:
    return function(LOGITS, MASK, TASK, WEIGHT, **arguments).item()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("focal(gamma=3)", loss(focal, gamma=3.0)),
        ("focal()", loss(focal)),
        (
            "0.5*focal(gamma=3)+tversky(missed=0.7,invented=0.3)",
            0.5 * loss(focal, gamma=3.0) + loss(tversky, missed=0.7, invented=0.3),
        ),
        (" 2 * dice ( squared = true , smooth = 1e+0 ) + ce", 2 * loss(dice, squared=True, smooth=1.0) + CE),
        ("ce(reduction=sum,label_smoothing=.1)", loss(cross_entropy, reduction="sum", label_smoothing=0.1)),
        ("ce(reduction=sum)+ce", loss(cross_entropy, reduction="sum") + CE),
    ],
)
def test_arguments_reach_the_loss(text, expected):
    assert value(text) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("focal(gama=3)", "the loss focal has no argument 'gama' in 'focal(gama=3)'; did you mean 'gamma'?"),
        ("dice(zzz=3)", "the loss dice has no argument 'zzz' in 'dice(zzz=3)'; it has squared, smooth"),
        ("l1(x=1)", "the loss l1 has no argument 'x' in 'l1(x=1)'; it has none"),
        ("focall(gamma=3)", "there is no loss 'focall' in 'focall(gamma=3)'; did you mean 'focal'?"),
        ("focal(gamma=3", "has no closing bracket at its end"),
        ("focal(gamma=3)x", "has no closing bracket at its end; write for example 0.5*ce+focal(gamma=3)"),
        ("focal(gamma=3)*2", "has no closing bracket at its end"),
        ("focal gamma=3)", "there is no loss 'focal gamma=3)'"),
        ("focal(3)", "'3' in the loss 'focal(3)': write arguments as name=value"),
        ("focal(gamma=3,)", "'' in the loss 'focal(gamma=3,)': write arguments as name=value"),
        ("focal(gamma=3,gamma=4)", "the argument 'gamma' is given twice in the loss 'focal(gamma=3,gamma=4)'"),
        ("focal(gamma=two)", "gamma=two in the loss 'focal(gamma=two)': give a number, such as 2.0"),
        ("focal(gamma=)", "give a number, such as 2.0"),
        ("focal(gamma=nan)", "give a number"),
        ("focal(gamma=inf)", "give a number"),
        ("focal(gamma=true)", "give a number"),
        ("focal(gamma=1+1)", "gamma=1+1"),
        ("focal(gamma=(1))", "give a number"),
        ("dice(squared=1)", "give true or false, such as false"),
        ("dice(squared=True)", "give true or false, such as false"),
        ("ce(reduction=1)", "give a word, such as mean"),
        ("ce(reduction=__import__('os'))", "give a word, such as mean"),
        ("structural(radius=1.5)", "give a whole number, such as 1"),
        ("balanced_focal(alpha=none)", "alpha=none in the loss 'balanced_focal(alpha=none)': give a number"),
        ("focal(gamma=-1)", "gamma = -1: choose a number of at least 0"),
        ("ce(reduction=total)", "reduction = total: choose one of mean, weighted_mean, sum"),
        ("dice(smooth=-1)", "smooth = -1"),
        ("ce+balanced_focal(alpha=2)", "alpha = 2: choose a number from 0 to 1"),
        ("structural(radius=0)", "radius = 0: choose a number from 1 to 50"),
    ],
)
def test_what_is_no_argument_is_refused(text, said):
    with pytest.raises(UsageError) as caught:
        parse_loss(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", LOSSES)
def test_every_default_may_be_written_out(name):
    written = ",".join(f"{k}={str(v).lower()}" for k, v in loss_arguments(name).items() if v is not None)
    kind = "values" if name in ("l1", "l2") else "exclusive"
    task = Task.of(["a", "b", "c"], kind=kind)
    mask = LOGITS.roll(1) if kind == "values" else MASK
    found = parse_loss(f"{name}({written})")(LOGITS, mask, task, WEIGHT)
    torch.testing.assert_close(found, LOSSES[name](LOGITS, mask, task, WEIGHT))


def test_every_argument_has_a_default_and_a_name_of_its_own():
    assert loss_arguments("tversky") == {"missed": 0.7, "invented": 0.3, "smooth": 0.5}
    assert loss_arguments("l1") == {}


def test_arguments_of_an_unknown_loss_are_refused():
    with pytest.raises(UsageError, match="there is no loss 'focl'; did you mean 'focal'"):
        loss_arguments("focl")
