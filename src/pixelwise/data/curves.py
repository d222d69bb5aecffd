"""The course of a training run as a picture: loss, validation scores and learning rate over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from pixelwise.data.pictures import require_suffix
from pixelwise.files import write_atomically


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw training loss, validation scores and learning rate over the steps, as a PNG.

    Training rows are {"step", "loss", "learning_rate"}; validation rows are {"step", "scores": {name: number or None}}.
    Either kind may be few or absent. The bold loss is a moving average over a twentieth of the rows.
    """
    require_suffix(path, ".png")
    training = [row for row in rows if "loss" in row]
    validation = [row for row in rows if "scores" in row]
    figure = Figure(figsize=(10, 5), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(4, 1))
    loss, scores, rate = (figure.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, slice(None))))
    _plot_loss(_dressed(loss, "training loss", training), training)
    _plot_scores(_dressed(scores, "validation scores", validation), validation)
    _plot_learning_rate(_dressed(rate, "learning rate", training), training)
    for axes in (loss, scores, rate):
        axes.set_xlim(0, 1.02 * max([1, *(row["step"] for row in rows)]))
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))


def _plot_loss(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps, losses = [row["step"] for row in rows], np.array([row["loss"] for row in rows], np.float64)
    axes.plot(steps, losses, color="#9db4d6", linewidth=0.8, marker=_marker(rows), label="each step")
    if len(rows) > 2:
        axes.plot(steps, _smoothed(losses), color="#1f4e9c", linewidth=2, label="moving average")
        axes.legend(frameon=False, loc="upper right")


def _plot_scores(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps = [row["step"] for row in rows]
    for name in dict.fromkeys(name for row in rows for name in row["scores"]):
        values = np.array([row["scores"].get(name) for row in rows], np.float64)
        axes.plot(steps, values, marker=".", linewidth=1.8, label=name.replace("_", " ").replace("iou", "IoU"))
    axes.set_ylim(0, 1.02)
    if axes.lines:
        axes.legend(frameon=False, loc="lower right")


def _plot_learning_rate(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    rates = [row["learning_rate"] for row in rows]
    axes.plot([row["step"] for row in rows], rates, color="#5b6270", linewidth=1.4, marker=_marker(rows))
    axes.set_ylim(bottom=0)


def _marker(rows: Sequence[object]) -> str:
    """Few points would make no visible line."""
    return "." if len(rows) < 3 else ""


def _dressed(axes: Axes, title: str, rows: Sequence[object]) -> Axes:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e8ec", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:.4g}")
    if not rows:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color="#8b919c")
        axes.yaxis.set_major_locator(NullLocator())
    return axes


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred moving average over a twentieth of the values, at least 3; narrower at the ends, blind to NaN."""
    half = max(1, len(values) // 40)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0))])
    many = np.concatenate([[0], np.cumsum(finite)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / np.maximum(many[last] - many[first], 1))
