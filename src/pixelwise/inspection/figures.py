"""Pictures of what an inspection found: the receptive field, the gradients of layers, the overlaps of up-sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pixelwise.data.pictures import require_suffix
from pixelwise.files import write_atomically
from pixelwise.inference.receptive_field import EffectiveField
from pixelwise.inspection.checkerboard import Checkerboard
from pixelwise.inspection.gradients import LayerGradient

BLUE, LIGHT_BLUE, BRIGHT_BLUE, ORANGE = "#1f4e9c", "#9db4d6", "#3fa9f5", "#e8822a"
DARK, PALE, NEVER = "#3c4250", "#e6e8ec", "#c9ced8"
DECADES_SHOWN = 5
MOST_NAMES = 60
MOST_PATTERNS = 6
PATTERN_SIDE = 12


def plot_receptive_field(effective: EffectiveField, path: Path, *, title: str) -> None:
    """Draw how much each pixel counts for the output in the middle, with the box of all pixels that it can see.

    Left the map, in powers of ten below its largest value; right its sums over the columns.
    """
    figure = _figure(10, 5.2)
    map_axes, profile = figure.subplots(1, 2, width_ratios=(1.2, 1))
    _plot_map(map_axes, effective)
    _plot_profile(profile, effective)
    for (top, bottom), (left, right), colour, style, label in _boxes(effective):
        corner, width, height = (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1
        box = Rectangle(
            corner, width, height, fill=False, edgecolor=colour, linestyle=style, linewidth=1.5, label=label
        )
        map_axes.add_patch(box)
        profile.vlines((top, bottom), 0, 1, colour, style, transform=profile.get_xaxis_transform())
    figure.legend(
        *map_axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=10
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    _write(figure, path)


def plot_gradients(rows: Sequence[LayerGradient], path: Path, *, title: str) -> None:
    """Draw the norm of the gradient of every layer, from the first to the last, as powers of ten."""
    figure = _figure(10, 5)
    axes = figure.subplots()
    places, norms = np.arange(len(rows)), np.array([row.gradient for row in rows])
    is_norm = np.array([row.is_norm for row in rows], bool)
    drawn = norms > 0
    axes.plot(places[drawn & ~is_norm], norms[drawn & ~is_norm], "o-", color=BLUE, markersize=5, label="weights")
    if is_norm.any():
        axes.plot(places[drawn & is_norm], norms[drawn & is_norm], "o", color=LIGHT_BLUE, markersize=4, label="norms")
    axes.set_yscale("log")
    if not drawn.all():
        (zeros,) = axes.plot(places[~drawn], np.full(int((~drawn).sum()), 0.03), "", color=ORANGE, label="no gradient")
        zeros.set(marker="$0$", markersize=6, linestyle="", transform=axes.get_xaxis_transform())
    if drawn.any():
        axes.set_ylim(norms[drawn].min() / 4, norms[drawn].max() * 2)
    axes.legend(frameon=False, loc="best")
    _dress(axes, title, "", "norm of the gradient")
    named = places[~is_norm][:: max(1, -(-int((~is_norm).sum()) // MOST_NAMES))]
    axes.set_xticks(named, [rows[place].name for place in named], rotation=90, fontsize=7)
    axes.set_xlim(-0.7, len(rows) - 0.3)
    _write(figure, path)


def plot_checkerboards(boards: Mapping[str, Checkerboard], path: Path, *, title: str) -> None:
    """Draw how often each place in the middle of a map is contributed to, by several up-samplings; like ones once."""
    shown = _unlike(boards)[:MOST_PATTERNS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(3.4 * columns + 0.6, 3.5 * rows + 0.6)
    for place, (name, board) in enumerate(shown):
        _plot_pattern(figure.add_subplot(rows, columns, place + 1), name, board)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    _write(figure, path)


Span = tuple[int, int]


def _boxes(effective: EffectiveField) -> list[tuple[Span, Span, str, str, str]]:
    """Rows and columns from the output, colour, line and label of what most of the gradient, and all of it, covers."""
    height, width = effective.weight_HW.shape
    half = effective.side // 2
    (top, bottom), (left, right) = effective.rows, effective.columns
    size = f"{bottom - top + 1}" if bottom - top == right - left else f"{bottom - top + 1} × {right - left + 1}"
    whole = "this whole image" if (top, bottom, left, right) == (0, height - 1, 0, width - 1) else f"{size} pixels"
    rows, columns = (top - height // 2, bottom - height // 2), (left - width // 2, right - width // 2)
    return [
        ((-half, half), (-half, half), BRIGHT_BLUE, "-", f"95 % of the gradient: {effective.side} pixels"),
        (rows, columns, ORANGE, "--", f"all that it can see: {whole}"),
    ]


def _plot_map(axes: Axes, effective: EffectiveField) -> None:
    """Pixels without any gradient are grey, those far below the largest black."""
    height, width = effective.weight_HW.shape
    left, top = -(width // 2) - 0.5, -(height // 2) - 0.5
    share_HW = np.maximum(effective.weight_HW / effective.weight_HW.max(), 10.0**-DECADES_SHOWN)
    drawn = axes.imshow(
        np.ma.masked_where(effective.weight_HW == 0, share_HW),
        norm=LogNorm(10.0**-DECADES_SHOWN, 1),
        cmap="magma",
        extent=(left, left + width, top + height, top),
        interpolation="nearest",
    )
    axes.set_facecolor(NEVER)
    axes.figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.02, label="share of the largest gradient")
    axes.set(xlabel="columns from the output", ylabel="rows from the output")
    axes.set_xlim(left, left + width)
    axes.set_ylim(top + height, top)


def _plot_profile(axes: Axes, effective: EffectiveField) -> None:
    rows = effective.weight_HW.sum(1)
    offsets = np.arange(len(rows)) - len(rows) // 2
    axes.fill_between(offsets, rows, color=LIGHT_BLUE, alpha=0.5, linewidth=0)
    axes.plot(offsets, rows, color=BLUE, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlim(offsets[0], offsets[-1])
    _dress(axes, "", "rows from the output", "share of the gradient, summed over the columns")


def _unlike(boards: Mapping[str, Checkerboard]) -> list[tuple[str, Checkerboard]]:
    """The boards that differ, each named by the first of its like."""
    alike: dict[bytes, list[str]] = {}
    for name, board in boards.items():
        alike.setdefault(_middle(board.inside, PATTERN_SIDE).tobytes(), []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} alike", boards[names[0]])
        for names in alike.values()
    ]


def _plot_pattern(axes: Axes, name: str, board: Checkerboard) -> None:
    pattern_HW = _middle(board.inside, PATTERN_SIDE)
    axes.imshow(pattern_HW, cmap="Blues", vmin=0, vmax=max(board.counts) * 1.7)
    if len(board.counts) <= 9 and all(count == int(count) for count in board.counts):
        for (row, column), count in np.ndenumerate(pattern_HW):
            colour = "white" if count > 0.85 * max(board.counts) else DARK
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=8, color=colour)
    verdict = "even" if board.score == 0 else f"uneven: {board.score:.2f}"
    axes.set_title(f"{name}\n{verdict}", loc="left", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _middle(values_HW: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    height, width = values_HW.shape
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return values_HW[top : top + side, left : left + side]


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _dress(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, loc="left", fontsize=12)
    axes.set(xlabel=across, ylabel=up)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_xscale() == "linear" and across:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _write(figure: Figure, path: Path) -> None:
    require_suffix(path, ".png")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))
