"""Cross-entropy between the scores of a network and the mask.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from pixelwise.task import Task


def cross_entropy(logits_BKHW: Tensor, mask_BHW: Tensor, task: Task, weight_BHW: Tensor | None = None) -> Tensor:
    """Mean over the pixels that count of -log(score of the truth), each times its weight where weights are given.

    Exclusive classes: mask_BHW of class indices. Overlapping classes: mask_BKHW of 0 and 1, binary cross-entropy summed
    over the classes. The mean divides by the number of pixels that count, not by the sum of the weights. A batch that
    is all void gives 0 with zero gradient.

    >>> import torch
    >>> loss = cross_entropy(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), Task.of(["a", "b"]))
    >>> round(loss.item(), 6)
    0.693147
    """
    counts = task.counts(mask_BHW)
    log_scores_BKHW = task.log_scores(logits_BKHW)
    if task.kind == "exclusive":
        loss_BHW = F.nll_loss(log_scores_BKHW, mask_BHW.where(counts, 0), reduction="none").where(counts, 0.0)
    else:
        of_truth_BKHW = log_scores_BKHW.where(mask_BHW == 1, task.log_scores(-logits_BKHW))
        loss_BHW = -of_truth_BKHW.where(counts, 0.0).sum(dim=1)
        counts = counts.any(dim=1)
    if weight_BHW is not None:
        loss_BHW = loss_BHW * weight_BHW
    mean: Tensor = loss_BHW.sum() / counts.sum().clamp(min=1)
    return mean
