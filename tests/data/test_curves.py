"""Curves are drawn for any number of rows, with what the rows say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from pixelwise.data.curves import plot_curves
from pixelwise.errors import UsageError


def train(step, loss=1.0):
    return {"step": step, "loss": loss, "learning_rate": 1e-3}


def valid(step, **scores):
    return {"step": step, "scores": scores}


@pytest.fixture
def drawn(monkeypatch):
    """What is given to Axes.plot, as {label: (steps, values)}."""
    lines = {}
    plot = Axes.plot

    def spy(self, x, y, **options):
        lines[options.get("label", "learning rate")] = (list(x), list(y))
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    return lines


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [train(1)],
        [valid(5, mean_iou=0.5)],
        [valid(5, mean_iou=None)],
        [valid(5)],
        [train(0), train(0), train(0)],
        [train(1, math.nan), train(2, math.inf), train(3), valid(3, mean_iou=0.5, pixel_accuracy=None)],
        [train(step, math.exp(-step / 99)) for step in range(300)],
    ],
)
def test_any_rows_make_a_picture(tmp_path, rows):
    plot_curves(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1200, 600)


def test_the_lines_are_the_rows(tmp_path, drawn):
    rows = [train(1, 4.0), train(2, 2.0), valid(2, mean_iou=0.25), train(3, 0.0), valid(4, mean_iou=None)]
    plot_curves(rows, tmp_path / "curves.png")
    assert drawn["each step"] == ([1, 2, 3], [4.0, 2.0, 0.0])
    assert drawn["moving average"] == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert drawn["learning rate"] == ([1, 2, 3], [1e-3] * 3)
    assert drawn["mean IoU"][0] == [2, 4]
    assert np.array_equal(drawn["mean IoU"][1], [0.25, math.nan], equal_nan=True)


def test_the_average_ignores_what_is_not_finite(tmp_path, drawn):
    plot_curves([train(1, 1.0), train(2, math.nan), train(3, 3.0)], tmp_path / "curves.png")
    assert drawn["moving average"][1] == [1.0, 2.0, 3.0]


def test_the_same_rows_make_the_same_bytes(tmp_path):
    rows = [train(step) for step in range(5)]
    for name in ("a.png", "b.png"):
        plot_curves(rows, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_only_png(tmp_path):
    with pytest.raises(UsageError, match=r"curves\.svg"):
        plot_curves([], tmp_path / "curves.svg")
