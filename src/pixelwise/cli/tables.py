"""Tables for people: plain lines, as wide as the terminal, in which long cells go on below."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pixelwise.cli.screen import printable_line

NARROWEST = 40
NARROWEST_NAME = 14
GAP = 2


def fitted_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> list[str]:
    """The lines of a table; columns whose heads are among the words of `right` hold numbers, and keep to one line.

    >>> print(*fitted_table(["layer", "weights"], [["first", "9"], ["second", "1,024"]], right="weights"), sep="\\n")
    layer   weights
    ───────────────
    first         9
    second    1,024
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    numbers = right.split()
    for head in heads:
        number = head in numbers
        table.add_column(Text(head), justify="right" if number else "left", no_wrap=number, overflow="fold")
    for first, *others in _first_folded(heads, rows):
        table.add_row(*(Text(printable_line(cell)) for cell in (first, *others)))
    return _lines(table)


def fitted_facts(facts: Mapping[str, str]) -> list[str]:
    """The lines of a list of facts, each behind its name.

    >>> print(*fitted_facts({"stride": "16", "parameters": "9"}), sep="\\n")
    stride      16
    parameters  9
    """
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, fact in facts.items():
        grid.add_row(Text(name), Text(printable_line(fact)))
    return _lines(grid)


def large_number(number: int) -> str:
    """A large number in three digits, with K, M, G or T for thousands, millions, thousand millions or their thousands.

    >>> [large_number(number) for number in (0, 999, 1000, 31_037_698, 999_960, 48_171_581_440)]
    ['0', '999', '1 K', '31 M', '1 M', '48.2 G']
    """
    value, unit = float(number), ""
    for following in ("K", "M", "G", "T"):
        if float(f"{value:.3g}") < 1000:
            break
        value, unit = value / 1000, following
    return f"{value:.3g} {unit}".rstrip()


def fold_at_dots(name: str, width: int) -> str:
    """A dotted name on several lines where it is longer than `width`, broken behind dots.

    >>> fold_at_dots("decoder.0.convolutions.3", 15)
    'decoder.0.\\nconvolutions.3'
    """
    lines = [""]
    for part in re.findall(r"[^.]+\.?|\.", name):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _first_folded(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows; the names in the first column folded to the width that the other columns leave."""
    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n")) for column in zip(heads, *rows, strict=True)
    ]
    left = _terminal_width() - sum(widths[1:]) - GAP * (len(widths) - 1)
    return [(fold_at_dots(row[0], max(NARROWEST_NAME, left)), *row[1:]) for row in rows]


def _terminal_width() -> int:
    return max(NARROWEST, shutil.get_terminal_size().columns)


def _lines(table: Table) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=_terminal_width(), color_system=None, markup=False, highlight=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]
