"""Weight maps and metrics side by side: ours against torchmetrics, MONAI and the loop that the definition suggests.

    pip install 'pixelwise[bench]' && OMP_NUM_THREADS=1 python benchmarks/losses_metrics.py

In each row both sides get the same data, must agree on the result, and take the median of several runs on one thread.
`speed` is theirs divided by ours. Times on one core of a 2-core AMD EPYC (torch 2.15, torchmetrics 1.9.0, MONAI 1.6.1),
while other work was going on, which moved the ratios by up to a factor of two from run to run:

                                    against                                ours, ms  theirs, ms     speed
    confusion matrix, 19 classes    torchmetrics confusion matrix              21.5       257.1     12.0x
    mean IoU, 19 classes            torchmetrics Jaccard index                 15.3       206.1     13.4x
    instance matching, 60 objects   IoU of every pair of masks                  1.2      1169.3   1016.7x
    border weights, 150 cells       one distance map per cell, sorted          46.5      2132.6     45.8x
    95 % Hausdorff distance         MONAI's                                     5.7        21.6      3.8x
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from measuring import seconds_of

from pixelwise.errors import MissingExtraError, require
from pixelwise.losses.border import border_weights
from pixelwise.metrics.boundary import hausdorff_distance, surface_distances
from pixelwise.metrics.confusion import count, mean_iou
from pixelwise.metrics.instances import IOU_THRESHOLDS, count_instances

CLASSES, VOID = 19, 255
STREET, CELLS = (1024, 2048), (512, 512)
Step = Callable[[], object]


@dataclass(frozen=True)
class Contest:
    """Two ways to the same result, and how far the results may lie apart."""

    title: str
    other: str
    ours: Step
    theirs: Step
    tolerance: float = 0.0


def street() -> tuple[np.ndarray, np.ndarray]:
    """Labels and a mask of street-like regions, one pixel in twenty of the mask void."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, CLASSES, (STREET[0] // 64, STREET[1] // 64), np.uint8)
    mask_HW = cv2.resize(small, STREET[::-1], interpolation=cv2.INTER_NEAREST)
    labels_HW = np.roll(mask_HW, 3, axis=1)
    mask_HW[rng.random(STREET) < 0.05] = VOID
    return labels_HW, mask_HW


def cells(number: int, shift: int = 0) -> np.ndarray:
    """A label image of round cells that may touch; some may be hidden by others."""
    rng = np.random.default_rng(0)
    instances_HW = np.zeros(CELLS, np.int32)
    for i in range(1, number + 1):
        x, y = (int(v) for v in rng.integers(0, CELLS))
        cv2.circle(instances_HW, (x + shift, y), int(rng.integers(6, 14)), i, thickness=-1)
    return instances_HW


def confusion_matrix() -> Contest:
    classification = require("torchmetrics", extra="bench").functional.classification
    labels_HW, mask_HW = street()
    labels, mask = torch.from_numpy(labels_HW).long(), torch.from_numpy(mask_HW).long()
    return Contest(
        f"confusion matrix, {CLASSES} classes",
        "torchmetrics confusion matrix",
        lambda: count(labels_HW, mask_HW, classes=CLASSES, ignore_index=VOID),
        lambda: classification.multiclass_confusion_matrix(labels, mask, num_classes=CLASSES, ignore_index=VOID),
    )


def mean_iou_of_an_image() -> Contest:
    classification = require("torchmetrics", extra="bench").functional.classification
    labels_HW, mask_HW = street()
    labels, mask = torch.from_numpy(labels_HW).long(), torch.from_numpy(mask_HW).long()
    return Contest(
        f"mean IoU, {CLASSES} classes",
        "torchmetrics Jaccard index",
        lambda: mean_iou(count(labels_HW, mask_HW, classes=CLASSES, ignore_index=VOID)),
        lambda: classification.multiclass_jaccard_index(labels, mask, num_classes=CLASSES, ignore_index=VOID),
        tolerance=1e-5,
    )


def instance_matching() -> Contest:
    instances_HW, truth_HW = cells(60, shift=2), cells(60)
    return Contest(
        "instance matching, 60 objects",
        "IoU of every pair of masks",
        lambda: count_instances(instances_HW, truth_HW).hits_IT[0],
        lambda: hits_by_pairs(instances_HW, truth_HW),
    )


def hits_by_pairs(instances_HW: np.ndarray, truth_HW: np.ndarray) -> list[int]:
    """Objects found at each threshold, by the IoU of every predicted with every true object."""
    said = [instances_HW == i for i in np.unique(instances_HW[instances_HW > 0])]
    true = [truth_HW == i for i in np.unique(truth_HW[truth_HW > 0])]
    found = [max((one & other).sum() / (one | other).sum() for one in said) for other in true]
    return [sum(iou > threshold for iou in found) for threshold in IOU_THRESHOLDS]


def border_map() -> Contest:
    instances_HW = cells(150)
    return Contest(
        "border weights, 150 cells",
        "one distance map per cell, sorted",
        lambda: border_weights(instances_HW),
        lambda: border_by_stack(instances_HW),
        tolerance=1e-4,
    )


def border_by_stack(instances_HW: np.ndarray) -> np.ndarray:
    """Equation 2 of the U-Net paper as it is usually coded: all distance maps at once, sorted in every pixel."""
    objects = np.unique(instances_HW[instances_HW > 0])
    apart = [cv2.distanceTransform((instances_HW != i).astype(np.uint8), cv2.DIST_L2, 0) for i in objects]
    first, second = np.sort(np.stack(apart), axis=0)[:2]
    return np.where(instances_HW > 0, 0, 10 * np.exp(-((first + second) ** 2) / 50))


def hausdorff() -> Contest:
    metrics = require("monai.metrics", extra="bench")
    said_HW, true_HW = cells(40, shift=5) > 0, cells(40) > 0
    tensors = [torch.from_numpy(np.stack([~area, area]))[None] for area in (said_HW, true_HW)]
    return Contest(
        "95 % Hausdorff distance",
        "MONAI's",
        lambda: hausdorff_distance(surface_distances(said_HW, true_HW), percentile=95),
        lambda: metrics.compute_hausdorff_distance(*tensors, percentile=95),
        tolerance=1e-4,
    )


CONTESTS = (confusion_matrix, mean_iou_of_an_image, instance_matching, border_map, hausdorff)


def row(contest: Contest) -> str:
    """One line of the table; the two results must agree."""
    ours, theirs = (np.asarray(step(), np.float64) for step in (contest.ours, contest.theirs))
    apart = float(np.abs(ours - theirs).max())
    assert apart <= contest.tolerance, f"{contest.title}: the results differ by {apart}"
    seconds = [seconds_of(step, warm_up=1, times=5) for step in (contest.ours, contest.theirs)]
    times = f"{seconds[0] * 1e3:>10.1f}{seconds[1] * 1e3:>12.1f}"
    return f"{contest.title:<34}{contest.other:<36}{times}{seconds[1] / seconds[0]:>9.1f}x"


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print(f"{'what':<34}{'against':<36}{'ours, ms':>10}{'theirs, ms':>12}{'speed':>10}")
    for build in CONTESTS:
        try:
            print(row(build()))
        except MissingExtraError as error:
            print(f"{build.__name__} is left out: {error}")


if __name__ == "__main__":
    main()
