"""What looks wrong in the first pass over the images, said while there is time to stop: with the likely cause.

Pure functions of the log's rows and of the counts of a validation; `FirstEpoch` asks each of them once.

K classes. counts_KK: rows are the truth (mask), columns the prediction (labels); of overlapping classes counts_K22,
such a matrix of absence and presence for each class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelwise.config import TrainingConfig
from pixelwise.errors import printable
from pixelwise.metrics.confusion import pixels_counted
from pixelwise.training.fingerprint import percent
from pixelwise.training.rules import RARE, USUAL_RATE

FEWEST_ROWS = 24
"""steps after which the loss is judged at the earliest: a third of them is enough for a mean"""
STILL = 0.03
"""A loss that falls by less than this share of itself stands still. In 20 trainings of many networks on ISBI 2012,
DSB2018 and CamVid it fell by 15 % to 83 % in these steps."""
DOMINANT = 0.9
"""share of the pixels of one class from which on a network does well by predicting nothing else"""
FAR = 10.0
"""times the usual learning rate, up or down, from which on it is named as the cause"""
Pixels = NDArray[np.int64]


def watched_steps(settings: TrainingConfig, images: int) -> int:
    """How many steps the first pass takes; at least those in which the learning rate rises, and FEWEST_ROWS.

    >>> watched_steps(TrainingConfig(steps=1000, batch=8, warmup=0.1), images=20)
    100
    """
    rising = math.ceil(settings.warmup * (settings.steps or 0))
    return max(FEWEST_ROWS, math.ceil(images / settings.batch), rising)


def one_class_only(predicted_K: Pixels, true_K: Pixels, names: Sequence[str]) -> str:
    """What to say where one class is predicted for every pixel although the truth has others; empty where not.

    >>> one_class_only(np.array([100, 0]), np.array([90, 10]), ["background", "cell"])[:57]
    'the network predicts background everywhere, and no cell; '
    """
    if np.count_nonzero(predicted_K) != 1 or np.count_nonzero(true_K) < 2:
        return ""
    label = int(np.asarray(predicted_K).nonzero()[0][0])
    share = float(true_K[label] / true_K.sum())
    missed = _listed([name for name, pixels in zip(names, true_K, strict=True) if pixels and name != names[label]])
    said = f"the network predicts {printable(names[label])} everywhere, and no {missed}; likely cause: "
    if share >= DOMINANT:
        return said + f"it is {percent(share)} of the pixels; try training.class_weights=median or augment.balance=1"
    return said + "masks that do not belong to their images, or a learning rate that is too high or too low"


def never_predicted(predicted_K: Pixels, true_K: Pixels, names: Sequence[str], *, pixels: int) -> str:
    """What to say where some classes of the truth are predicted nowhere, of so many pixels; empty where none.

    >>> never_predicted(np.array([90, 10, 0]), np.array([80, 10, 10]), ["a", "b", "c"], pixels=100)[:42]
    'never predicted so far: c (10 % of the pix'
    """
    total = max(1, pixels)
    missed = [
        (name, int(true) / total)
        for name, predicted, true in zip(names, predicted_K, true_K, strict=True)
        if true and not predicted
    ]
    if not missed:
        return ""
    shown = _listed([f"{name} ({percent(share)} of the pixels)" for name, share in missed])
    said = f"never predicted so far: {shown}; likely cause: "
    if max(share for _, share in missed) < RARE:
        return said + "too rare to be learned yet; give it more steps, or try training.class_weights=median"
    return said + "too few steps yet, or masks in which it looks like another class"


def loss_stands_still(losses: Sequence[float], settings: TrainingConfig) -> str:
    """What to say where the loss is at the end of these steps what it was at their beginning; empty where it falls."""
    third = len(losses) // 3
    if len(losses) < FEWEST_ROWS:
        return ""
    first, last = float(np.mean(losses[:third])), float(np.mean(losses[-third:]))
    if last < (1 - STILL) * first:
        return ""
    return f"the loss does not fall: {first:.4f}, then {last:.4f}; likely cause: {_cause(settings)}"


class FirstEpoch:
    """Sees the rows of the log and the counts of the validations, and says at most once each what looks wrong.

    It is silent in a run that is resumed later than in its first pass over the images.
    """

    def __init__(
        self, names: Sequence[str], settings: TrainingConfig, *, images: int, warn: Callable[[str], None]
    ) -> None:
        self._names, self._settings, self._warn = names, settings, warn
        self._until = watched_steps(settings, images)
        self._losses: list[float] = []
        self._step, self._validated = 0, False

    def see(self, row: Mapping[str, Any]) -> None:
        """Look at a row of the log."""
        self._step = row["step"]
        if "loss" not in row or self._step != len(self._losses) + 1 or self._step > self._until:
            return
        self._losses.append(row["loss"])
        if self._step == self._until:
            self._say(loss_stands_still(self._losses, self._settings))

    def validated(self, counts: Pixels) -> None:
        """Look at the counts of a validation, counts_KK or counts_K22: the first after the first pass, or the last."""
        late = self._step >= min(self._until, self._settings.steps or self._until)
        if self._validated or not late or not self._losses:
            return
        self._validated = True
        overlapping = counts.ndim == 3
        predicted_K, true_K = _pixels(counts[:, :, 1], counts[:, 1]) if overlapping else _pixels(counts.T, counts)
        alone = "" if overlapping else one_class_only(predicted_K, true_K, self._names)
        self._say(alone or never_predicted(predicted_K, true_K, self._names, pixels=pixels_counted(counts)))

    def _say(self, line: str) -> None:
        if line:
            self._warn(f"after {self._step} steps {line}")


def _pixels(predicted: Pixels, true: Pixels) -> tuple[Pixels, Pixels]:
    """The pixels of each class that are predicted, and those of the truth: the sums of these rows."""
    return predicted.sum(axis=1), true.sum(axis=1)


def _cause(settings: TrainingConfig) -> str:
    rate = settings.learning_rate
    if settings.freeze and settings.freeze >= settings.warmup:
        return f"the encoder does not learn in the first {percent(settings.freeze)} of the steps (training.freeze)"
    if rate >= FAR * USUAL_RATE:
        return f"training.learning_rate = {rate:g} is high; try {USUAL_RATE:g}"
    if rate <= USUAL_RATE / FAR:
        return f"training.learning_rate = {rate:g} is low; try {USUAL_RATE:g}"
    return "masks that do not belong to their images, or too little to learn from; look at pairs of them"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(printable(word) for word in words)
