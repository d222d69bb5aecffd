"""How far a score would move with other images: intervals by the bootstrap, for any score of summed counts.

Efron: Bootstrap methods: another look at the jackknife. Annals of Statistics 1979. The interval is that between two
percentiles of the score over resampled test sets (Efron, Tibshirani: An introduction to the bootstrap. 1993, ch. 13).

Images are drawn, not pixels: the pixels of an image resemble one another, so an interval over pixels would be far too
narrow. A draw is never made picture by picture: it is how often each image was drawn, times the counts of the images.

N images, D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.errors import UsageError
from pixelwise.metrics.confusion import Array

Floats = NDArray[np.float64]
FEWEST_IMAGES = 2
NUMBERS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interval:
    """A score and where it would lie with other images of the same kind.

    value       the score of all images
    low, high   the interval's two ends; NaN where the score was undefined in every draw
    undefined   share of the draws in which the score was undefined; the ends are of the others

    All have the shape of the score: () for one number, (K,) for one per class.
    """

    value: Floats
    low: Floats
    high: Floats
    undefined: Floats


def bootstrap(
    score: Callable[[Array], Any], counts_N: Array, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The score of the summed counts, with its percentile interval at `level` (0.95: 95 of 100 draws lie in it).

    `counts_N` are the counts of each image, images on the first axis: confusion matrices (N, K, K) or any counts that
    add up. `score` takes the sum of them, in their own type. Raises UsageError for fewer than two images.

    A score that is a mean over images is a score of summed counts too: of (value, 1). To compare two predictors of
    the same images, put both counts of an image side by side and score the difference.

    >>> hits_and_pixels = np.array([[9, 10], [7, 10], [8, 10], [8, 10]])
    >>> interval = bootstrap(lambda counts: counts[0] / counts[1], hits_and_pixels)
    >>> float(interval.value), float(interval.low), float(interval.high)
    (0.8, 0.725, 0.875)
    """
    if len(counts_N) < FEWEST_IMAGES:
        raise UsageError(f"{len(counts_N)} images: an interval over images needs at least {FEWEST_IMAGES}")
    if draws < 1 or not 0 < level < 1:
        raise UsageError(f"{draws} draws at level {level}: give 1 or more draws and a level between 0 and 1")
    drawn = np.stack([np.asarray(score(total), np.float64) for total in resampled_sums(counts_N, draws, seed)])
    outside = (1 - level) / 2
    low, high = _percentiles(drawn, (100 * outside, 100 * (1 - outside)))
    return Interval(
        value=np.asarray(score(counts_N.sum(axis=0)), np.float64),
        low=low,
        high=high,
        undefined=np.isnan(drawn).mean(axis=0),
    )


def resampled_sums(counts_N: Array, draws: int, seed: int) -> Iterator[Array]:
    """The summed counts of as many images, drawn with replacement, once for each draw.

    >>> sums = [int(total) for total in resampled_sums(np.array([1, 10]), 200, seed=0)]
    >>> sorted(set(sums))
    [2, 11, 20]
    """
    images = len(counts_N)
    flat = counts_N.reshape(images, -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    at_once = max(1, NUMBERS_AT_ONCE // max(images, flat.shape[1]))
    for first in range(0, draws, at_once):
        times_DN = rng.multinomial(images, np.full(images, 1 / images), size=min(at_once, draws - first))
        # Sums of whole numbers are exact in float64 up to 9e15, and its matrix product is the fast one.
        sums = (times_DN.astype(np.float64) @ flat).astype(counts_N.dtype)
        yield from sums.reshape(-1, *counts_N.shape[1:])


def _percentiles(drawn: Floats, percents: tuple[float, float]) -> Floats:
    """Percentiles over the draws in which a score was defined; NaN where it never was."""
    columns = drawn.reshape(len(drawn), -1).T
    kept = [column[~np.isnan(column)] for column in columns]
    ends = [np.percentile(column, percents) if column.size else np.full(2, np.nan) for column in kept]
    return np.stack(ends, axis=1).reshape(2, *drawn.shape[1:])
