"""The pictures are drawn for any finding, with what it says."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pixelwise.errors import UsageError
from pixelwise.inference.receptive_field import EffectiveField
from pixelwise.inspection.checkerboard import Checkerboard
from pixelwise.inspection.figures import plot_checkerboards, plot_gradients, plot_receptive_field
from pixelwise.inspection.gradients import LayerGradient


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are written."""
    figures, savefig = [], Figure.savefig

    def spy(self, *args, **options):
        figures.append(self)
        return savefig(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


def effective(height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]) -> EffectiveField:
    weight = np.zeros((height, width))
    weight[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 1
    return EffectiveField(weight_HW=weight / weight.sum(), side=3, rows=rows, columns=columns)


def row(name: str, gradient: float, *, is_norm: bool = False) -> LayerGradient:
    return LayerGradient(name=name, gradient=gradient, weight=1, is_norm=is_norm)


def board(pattern: list[list[float]]) -> Checkerboard:
    return Checkerboard(overlaps_HW=np.tile(np.array(pattern, np.float64), (12, 12)))


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


def test_boxes_lie_where_the_output_sees(tmp_path, drawn):
    plot_receptive_field(effective(20, 30, (7, 12), (13, 20)), tmp_path / "a.png", title="title")
    boxes = {box.get_label(): box for box in drawn[0].axes[0].patches}
    seen = boxes["all that it can see: 6 × 8 pixels"]
    assert (seen.get_y(), seen.get_height()) == (7 - 10 - 0.5, 6)
    assert (seen.get_x(), seen.get_width()) == (13 - 15 - 0.5, 8)
    held = boxes["95 % of the gradient: 3 pixels"]
    assert (held.get_y(), held.get_height()) == (-1.5, 3)
    profile = drawn[0].axes[1].lines[0]
    assert profile.get_ydata().sum() == pytest.approx(1)
    assert profile.get_xdata()[profile.get_ydata() > 0].tolist() == [-3, -2, -1, 0, 1, 2]


def test_a_whole_image_is_called_so(tmp_path, drawn):
    plot_receptive_field(effective(9, 9, (0, 8), (0, 8)), tmp_path / "a.png", title="title")
    assert "this whole image" in words(drawn[0])


def test_pixels_without_gradient_are_not_those_with_little(tmp_path, drawn):
    plot_receptive_field(effective(9, 9, (3, 5), (2, 6)), tmp_path / "a.png", title="title")
    shown = drawn[0].axes[0].images[0].get_array()
    assert shown.mask.sum() == 81 - 15


def test_gradients_are_drawn_layer_by_layer(tmp_path, drawn):
    rows = [row("a", 1e-9), row("a.norm", 0.5, is_norm=True), row("b", 0.0), row("c", 2.0)]
    plot_gradients(rows, tmp_path / "a.png", title="gradients of c")
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in drawn[0].axes[0].lines}
    assert lines["weights"] == ([0, 3], [1e-9, 2.0])
    assert lines["norms"] == ([1], [0.5])
    assert lines["no gradient"][0] == [2]
    assert [tick.get_text() for tick in drawn[0].axes[0].get_xticklabels()] == ["a", "b", "c"]
    assert drawn[0].axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    "rows",
    [
        [row("only", 1.0)],
        [row("dead", 0.0)],
        [row("norm", 1.0, is_norm=True)],
        [row(f"layer{number}.with.a.long.name", 10.0**-number) for number in range(150)],
        [row("tiny", 1e-45), row("huge", 1e30)],
    ],
)
def test_any_rows_make_a_picture(tmp_path, rows):
    path = tmp_path / "new" / "gradients.png"
    plot_gradients(rows, path, title="title")
    with Image.open(path) as picture:
        assert picture.size == (1200, 600)


def test_like_checkerboards_are_drawn_once_with_their_counts(tmp_path, drawn):
    even, uneven = board([[4]]), board([[1, 2], [2, 4]])
    plot_checkerboards({"up.0": even, "up.1": uneven, "up.2": even}, tmp_path / "a.png", title="overlaps")
    assert len(drawn[0].axes) == 2
    assert "up.0 and 1 alike\neven" in words(drawn[0])
    assert "up.1\nuneven: 0.75" in words(drawn[0])
    numbers = {text.get_text() for text in drawn[0].axes[1].texts}
    assert numbers == {"1", "2", "4"}


def test_counts_that_are_no_whole_numbers_are_not_written(tmp_path, drawn):
    plot_checkerboards({"up": board([[0.5, 1.25]])}, tmp_path / "a.png", title="overlaps")
    assert not drawn[0].axes[0].texts


def test_no_more_patterns_than_can_be_seen(tmp_path, drawn):
    boards = {f"up.{number}": board([[1, number]]) for number in range(1, 20)}
    plot_checkerboards(boards, tmp_path / "a.png", title="overlaps")
    assert len(drawn[0].axes) == 6


def test_the_same_finding_makes_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plot_gradients([row("a", 1.0), row("b", 0.0)], tmp_path / name, title="title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_only_png(tmp_path):
    with pytest.raises(UsageError, match=r"a\.pdf"):
        plot_gradients([row("a", 1.0)], tmp_path / "a.pdf", title="title")
    assert not list(tmp_path.iterdir())
