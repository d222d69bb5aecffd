"""What a command shows: lines for people, a progress bar on a terminal, one JSON object for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pixelwise.errors import printable

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 60


class Screen:
    """Where a command speaks. With `json` set, people read stderr and stdout holds nothing but the result."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self._json = json
        self._stream: TextIO = sys.stderr if json else sys.stdout
        self._console = Console(file=self._stream, quiet=quiet, highlight=False, markup=False, soft_wrap=True)

    def say(self, *lines: str) -> None:
        """Write lines for people."""
        for line in lines:
            self._console.print(printable_line(line))

    def warn(self, line: str) -> None:
        """Write a line that a person should not miss."""
        self._console.print(f"warning: {printable_line(line)}", style="yellow")

    def result(self, value: Mapping[str, Any]) -> None:
        """Write the result for programs, where it was asked for."""
        if self._json:
            sys.stdout.write(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=True) + "\n")

    def progress(self, items: Iterable[T], *, total: int, title: str) -> Iterator[T]:
        """The items, with a bar that moves as they are taken; without a terminal, no bar."""
        with self._bar("{task.description}") as bar:
            line = bar.add_task(title, total=total)
            for item in items:
                yield item
                bar.advance(line)

    def tiles(
        self, items: Iterable[T], *, total: int, done: int, title: str, pixels: Callable[[T], int]
    ) -> Iterator[T]:
        """The items, with how many tiles are done, pixels per second and the time left: a bar, or a line a minute.

        `done` of the `total` tiles were done before; `pixels` says how many an item has.
        """
        with self._bar("{task.description} {task.fields[numbers]}") as bar:
            line = bar.add_task(title, total=total, completed=done, numbers="")
            began = said = time.monotonic()
            count, seen = 0, 0
            for item in items:
                count, seen = count + 1, seen + pixels(item)
                now = time.monotonic()
                speed = seen / max(now - began, 1e-9) / 1e6
                bar.update(line, completed=done + count, numbers=f"{speed:.1f} Mpixel/s")
                if not self._console.is_terminal and now - said >= SECONDS_BETWEEN_LINES:
                    said = now
                    left = (total - done - count) * (now - began) / count
                    self.say(
                        f"{title}: {done + count} of {total} tiles, {speed:.1f} Mpixel/s, {left / 60:.0f} min left"
                    )
                yield item

    @contextmanager
    def training(self, steps: int, done: int) -> Iterator[TrainingBar]:
        """A bar over the steps of a training, with loss, score, images per second and time left."""
        with self._bar("{task.fields[numbers]}") as bar:
            yield TrainingBar(self, bar, steps=steps, done=done)

    def _bar(self, text: str) -> Progress:
        columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn(text), TimeRemainingColumn())
        shown = self._console.is_terminal
        return Progress(*columns, console=self._console, disable=not shown, transient=True, refresh_per_second=4)


class TrainingBar:
    """Shows the rows of a training's log: every step moves the bar, every validation is a line that stays."""

    def __init__(self, screen: Screen, bar: Progress, *, steps: int, done: int) -> None:
        self._screen, self._bar, self._steps = screen, bar, steps
        self._line = bar.add_task("", total=steps, completed=done, numbers="")
        self._loss: float | None = None
        self._score = ""

    def watch(self, row: Mapping[str, Any]) -> None:
        """Show one row of the log."""
        if "loss" in row:
            self._loss = row["loss"] if self._loss is None else 0.9 * self._loss + 0.1 * row["loss"]
            speed = row["timing"]["images_per_second"]
            numbers = f"loss {self._loss:.4f}{self._score} · {speed:.1f} images/s"
            self._bar.update(self._line, completed=row["step"], numbers=numbers)
        if "scores" in row:
            shown = ", ".join(
                f"{name.replace('_', ' ')} {'–' if value is None else f'{value:.4f}'}"
                for name, value in row["scores"].items()
            )
            self._score = f" · mean iou {row['scores']['mean_iou'] or 0:.4f}"
            self._screen.say(
                f"step {row['step']:>{len(str(self._steps))}}/{self._steps}: loss {self._loss:.4f}, {shown}"
            )


def counted(number: int, noun: str) -> str:
    """A number of things in words.

    >>> counted(1, "image"), counted(3, "image")
    ('1 image', '3 images')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable_line(line: str) -> str:
    """A line without control characters, so that no file name can move the cursor; line ends stay."""
    return "\n".join(printable(part) for part in line.split("\n"))
