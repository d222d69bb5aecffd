"""Scores: what a confusion matrix says, as JSON values and as a table a person can read.

counts_KK: K classes, rows are the truth, columns the prediction; of overlapping classes counts_K22, a matrix for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.cells import cell_len, set_cell_size

from pixelwise.errors import printable
from pixelwise.metrics.confusion import METRICS, Counts, absent, f1, iou, pixels_counted, precision, recall, truth_share

PER_CLASS = {"share": truth_share, "precision": precision, "recall": recall, "f1": f1, "iou": iou}
TITLES = {
    "share": "share",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1 (Dice)",
    "iou": "IoU",
    "mean_iou": "mean IoU",
    "mean_f1": "mean F1 (Dice)",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}
LONGEST_NAME_SHOWN = 32
UNDEFINED = "–"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """All scores of one confusion matrix.

    counts_KK   pixels of each class (row) that got each label (column), over all images; or, of classes that overlap,
                the pixels of each class that are not there and there (rows), and that are said to be so (columns)
    names       of the classes, in order
    void        pixels whose mask is void: they are in no score
    images      how many images were counted

    >>> import numpy as np
    >>> scores = Scores(counts_KK=np.array([[5, 1], [0, 2]]), names=("background", "cell"), void=0, images=1)
    >>> round(scores.means["mean_iou"], 4)
    0.75
    """

    counts_KK: Counts
    names: tuple[str, ...]
    void: int
    images: int

    @cached_property
    def means(self) -> dict[str, float]:
        """The scores that are one number, by the names of METRICS; NaN where undefined."""
        return {name: metric(self.counts_KK) for name, metric in METRICS.items()}

    @cached_property
    def per_class(self) -> dict[str, list[float]]:
        """share (of the truth's pixels), precision, recall, f1 and iou: one number per class, NaN where undefined."""
        return {name: metric(self.counts_KK).tolist() for name, metric in PER_CLASS.items()}

    @property
    def absent(self) -> list[str]:
        """Names of the classes that are neither in the truth nor in the prediction."""
        return [name for name, missing in zip(self.names, absent(self.counts_KK), strict=True) if missing]

    @property
    def aggregation(self) -> str:
        """The rule by which these numbers were made, in one sentence."""
        images = "1 image" if self.images == 1 else f"all {self.images} images"
        void = f"{self.void} void pixel{'' if self.void == 1 else 's'} excluded"
        left_out = ", ".join(map(printable, self.absent)) or "none"
        matrix = "one confusion matrix" if self.counts_KK.ndim == 2 else "one confusion matrix of each class"
        return (
            f"{matrix} over {images} ({void}); "
            f"classes absent from truth and prediction are left out of the means: {left_out}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; None where a score is undefined."""
        columns = {name: [json_number(value) for value in values] for name, values in self.per_class.items()}
        return {
            **{name: json_number(value) for name, value in self.means.items()},
            "classes": [
                {"name": name, **{column: values[k] for column, values in columns.items()}}
                for k, name in enumerate(self.names)
            ],
            "images": self.images,
            "pixels": pixels_counted(self.counts_KK),
            "void_pixels": self.void,
            "absent": self.absent,
            "aggregation": self.aggregation,
            "confusion": self.counts_KK.tolist(),
        }

    def table(self) -> list[str]:
        """The lines of a plain-text table: one per class, then the means, then the rule of aggregation."""
        head = ["class", *(TITLES[name] for name in self.per_class)]
        rows = [
            [_cut(name), *(four_decimals(values[k]) for values in self.per_class.values())]
            for k, name in enumerate(self.names)
        ]
        means = [[TITLES[name], four_decimals(value)] for name, value in self.means.items()]
        return [*aligned([head, *rows]), "", *aligned(means), "", self.aggregation]


def json_number(value: float) -> float | None:
    """A number as JSON holds it: None for NaN."""
    return None if math.isnan(value) else value


def four_decimals(value: float) -> str:
    """A score as text.

    >>> four_decimals(2 / 3), four_decimals(float("nan"))
    ('0.6667', '–')
    """
    return UNDEFINED if math.isnan(value) else f"{value:.4f}"


def _cut(name: str) -> str:
    """A class name for a table: at most LONGEST_NAME_SHOWN columns of a terminal, the end marked where it was cut."""
    name = printable(name)
    if cell_len(name) <= LONGEST_NAME_SHOWN:
        return name
    return set_cell_size(name, LONGEST_NAME_SHOWN - 1).rstrip() + "…"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [set_cell_size(row[0], widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
