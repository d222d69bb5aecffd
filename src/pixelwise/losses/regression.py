"""Losses for tasks of real values.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.task import Task


def l1(logits_BKHW: Tensor, mask_BKHW: Tensor, task: Task, weight_BHW: Tensor | None = None) -> Tensor:
    """Mean absolute difference between the values and the mask over the pixels that count; void is NaN in the mask.

    >>> import torch
    >>> task = Task.of(["height"], kind="values")
    >>> round(l1(torch.tensor([[[[-0.5, 0.0, 2.0]]]]), torch.zeros(1, 1, 1, 3), task).item(), 6)
    0.833333
    """
    return _mean_error(Tensor.abs, logits_BKHW, mask_BKHW, task, weight_BHW)


def l2(logits_BKHW: Tensor, mask_BKHW: Tensor, task: Task, weight_BHW: Tensor | None = None) -> Tensor:
    """Mean squared difference between the values and the mask over the pixels that count; void is NaN in the mask."""
    return _mean_error(Tensor.square, logits_BKHW, mask_BKHW, task, weight_BHW)


def _mean_error(
    penalty: Callable[[Tensor], Tensor], logits_BKHW: Tensor, mask_BKHW: Tensor, task: Task, weight_BHW: Tensor | None
) -> Tensor:
    if task.kind != "values":
        raise UsageError("the losses l1 and l2 are for tasks of values; choose another, such as ce or dice")
    counts_BKHW = task.counts(mask_BKHW)
    truth_BKHW = mask_BKHW.where(counts_BKHW, 0.0)  # before the subtraction, so that no NaN reaches a gradient
    error_BKHW = penalty(task.activate(logits_BKHW) - truth_BKHW).where(counts_BKHW, 0.0)
    if weight_BHW is not None:
        error_BKHW = error_BKHW * weight_BHW[:, None]
    return error_BKHW.sum() / counts_BKHW.sum().clamp(min=1)
