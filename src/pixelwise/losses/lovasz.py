"""Lovász losses: a convex surrogate of the Jaccard index, exact at the corners.

Berman, Rannen Triki and Blaschko, "The Lovász-softmax loss: a tractable surrogate for the optimization of the
intersection-over-union measure in neural networks", CVPR 2018, arXiv 1705.08790.

B batch, K outputs, H rows, W columns, N = B × H × W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwise.losses.contracts import target_of
from pixelwise.task import Task

UNITS_PER_PIXEL = 1 << 20


def lovasz(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    present_only: bool = False,
) -> Tensor:
    """Lovász extension of 1 - Jaccard at the errors of each class over the whole batch; the mean over the classes.

    Exclusive classes: the error is |score - truth| (Lovász-softmax, section 3.2). Overlapping classes: it is the hinge
    max(0, 1 - logit × sign), sign +1 where the class is there and -1 where not (Lovász hinge, section 3.1).
    `present_only` leaves out the classes absent from the batch, as the paper does; else such a class has the largest
    of its errors as its loss, and so a gradient against false positives. A pixel's weight is how many pixels it is.

    >>> half = torch.zeros(1, 2, 1, 4)
    >>> lovasz(half, torch.tensor([[[0, 0, 1, 1]]]), Task.of(["a", "b"])).item()
    0.5
    """
    target = target_of(mask_BHW, task, weight_BHW)
    errors_KN = _errors(logits_BKHW, target.present_BKHW, task).where(target.counts_BKHW, 0.0).movedim(1, 0).flatten(1)
    present_KN = target.present_BKHW.movedim(1, 0).flatten(1)
    weights_KN = target.weights_BKHW.expand_as(target.present_BKHW).movedim(1, 0).flatten(1)

    with torch.no_grad():
        parts = zip(errors_KN, present_KN, weights_KN, strict=True)
        slopes_KN = torch.stack([_slopes(*part).to(errors_KN.dtype) for part in parts])
        counted_K = ((present_KN * weights_KN).sum(dim=1) > 0) | torch.tensor(not present_only)
    loss_K = (errors_KN * slopes_KN).sum(dim=1)
    return loss_K.where(counted_K, 0.0).sum() / counted_K.sum().clamp(min=1)


def _errors(logits_BKHW: Tensor, present_BKHW: Tensor, task: Task) -> Tensor:
    if task.kind == "exclusive":
        return (task.activate(logits_BKHW) - present_BKHW.float()).abs()
    exact_BKHW = logits_BKHW.to(torch.promote_types(logits_BKHW.dtype, torch.float32))
    return (1 - exact_BKHW * (2.0 * present_BKHW - 1)).relu()


def _slopes(errors_N: Tensor, present_N: Tensor, weights_N: Tensor) -> Tensor:
    """Derivative of the extension by each error: what its pixel adds to 1 - Jaccard, the worst errors taken first.

    The quotients are in float64: steps of one in a million are lost in the rounding of float32.
    """
    order_N = errors_N.argsort(descending=True, stable=True)
    present_N, weights_N = present_N[order_N], weights_N[order_N]
    hits_N, extras_N = _running_sum(present_N * weights_N), _running_sum(~present_N * weights_N)
    union_N = hits_N[-1] + extras_N
    loss_N = (1 - (hits_N[-1] - hits_N) / union_N.clamp(min=1).double()).where(union_N > 0, 0.0)
    steps_N = loss_N.diff(prepend=loss_N.new_zeros(1))
    return torch.empty_like(steps_N).scatter_(0, order_N, steps_N)


def _running_sum(amounts_N: Tensor) -> Tensor:
    """In whole units of about a millionth of a pixel: exact, and the same on every device in any order of adding."""
    return (amounts_N.double() * UNITS_PER_PIXEL).round().long().cumsum(dim=0)
