"""Structural similarity: what a pixel is among its neighbours must be the same in the scores and in the mask.

Zhao, Wu, Chu, Hu and Cai, "Correlation maximized structural similarity loss for semantic segmentation", 2019, arXiv
1910.08711.

B batch, K outputs, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.losses.contracts import check_range, mean_over_entries, target_of, weighted_sum
from pixelwise.losses.cross_entropy import one_against_rest
from pixelwise.task import Task

SIGMA = 1.5
STABILITY = 0.01  # C4 of the paper
LEAST_VARIANCE = 1e-8


def structural(
    logits_BKHW: Tensor,
    mask_BHW: Tensor,
    task: Task,
    weight_BHW: Tensor | None = None,
    *,
    entropy_share: float = 0.5,
    threshold: float = 0.1,
    radius: int = 1,
) -> Tensor:
    """entropy_share × binary cross-entropy + (1 - entropy_share) × structural similarity loss.

    The second part is the mean of e × binary cross-entropy over the (class, pixel) pairs whose e is above `threshold`
    of the largest e in the batch, where e = |standardised truth - standardised score|. To standardise is to subtract
    the mean around the pixel and divide by the standard deviation around it, both within `radius` pixels, with Gaussian
    weights of sigma 1.5 (the paper: 3 × 3 pixels, threshold 0.1, C4 = 0.01). Neighbours that are void, of weight 0 or
    outside the image are left out. Each class is taken against the rest, exclusive ones too. The cross-entropy is
    needed for what has no structure: a class that is absent and everywhere predicted alike has e = 0.
    """
    check_range("entropy_share", entropy_share, lowest=0, highest=1)
    check_range("threshold", threshold, lowest=0, highest=1)
    check_range("radius", radius, lowest=1, highest=50)
    target = target_of(mask_BHW, task, weight_BHW)
    entropy_BKHW = one_against_rest(logits_BKHW, target, task)
    scores_BKHW = task.activate(logits_BKHW)
    known_BKHW = (target.weights_BKHW > 0).to(scores_BKHW.dtype)
    truth_BKHW = target.present_BKHW.to(scores_BKHW.dtype)
    standard_truth, standard_score = (_standardised(v, known_BKHW, radius) for v in (truth_BKHW, scores_BKHW))
    differs_BKHW = (standard_truth - standard_score).abs() * known_BKHW

    hard_BKHW = differs_BKHW.detach() > threshold * differs_BKHW.detach().amax()
    hard_part = weighted_sum(differs_BKHW * entropy_BKHW * hard_BKHW, target) / hard_BKHW.sum().clamp(min=1)
    return entropy_share * mean_over_entries(entropy_BKHW, target) + (1 - entropy_share) * hard_part


def _standardised(values_BKHW: Tensor, known_BKHW: Tensor, radius: int) -> Tensor:
    """(value - local mean + C4) / (local standard deviation + C4), over the neighbours that are known."""
    mass_BKHW = _blur(known_BKHW, radius)
    mass_BKHW = mass_BKHW.where(mass_BKHW > 0, 1.0)
    mean_BKHW = _blur(values_BKHW * known_BKHW, radius) / mass_BKHW
    square_BKHW = _blur(values_BKHW.square() * known_BKHW, radius) / mass_BKHW
    deviation_BKHW = (square_BKHW - mean_BKHW.square()).clamp(min=LEAST_VARIANCE).sqrt()
    return (values_BKHW - mean_BKHW + STABILITY) / (deviation_BKHW + STABILITY)


def _blur(values_BKHW: Tensor, radius: int) -> Tensor:
    """Gaussian sum over a square of neighbours, zeros outside. By shifts: autocast would round a convolution."""
    taps = torch.exp(-torch.arange(-radius, radius + 1).double().square() / (2 * SIGMA**2)).tolist()
    for axis, margins in ((-1, (radius, radius)), (-2, (0, 0, radius, radius))):
        size, padded = values_BKHW.shape[axis], F.pad(values_BKHW, margins)
        shifts = [tap * padded.narrow(axis, start, size) for start, tap in enumerate(taps)]
        values_BKHW = torch.stack(shifts).sum(dim=0)
    return values_BKHW
