"""Doing many tasks that do not depend on one another: here, one after another, or on other processes (`cluster.py`).

A task that fails is tried again, three times in all; then it is named, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pixelwise.errors import OutputError, PixelwiseError
from pixelwise.runtime import LackOfMemoryError

T = TypeVar("T")
R = TypeVar("R")
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """What became of a task: its result, or why it failed."""

    task: T
    result: R | None = None
    failure: str = ""


class Runner(Protocol):
    """Does the same work for many tasks; work and tasks can be sent to another process."""

    def run(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[Outcome[T, R]]:
        """The outcomes, in the order in which they come."""
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """Does all tasks in this process, in their order."""

    def run(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[Outcome[T, R]]:
        """The outcomes, in the order of the tasks; raises OutputError and LackOfMemoryError, which no next task mends.

        >>> [(outcome.result, outcome.failure) for outcome in Here().run(lambda task: 6 / task, [3, 0])]
        [(2.0, ''), (None, 'ZeroDivisionError: division by zero')]
        """
        for task in tasks:
            yield _attempt(work, task)


def _attempt(work: Callable[[T], R], task: T) -> Outcome[T, R]:
    attempts = 0
    while True:
        attempts += 1
        try:
            return Outcome(task, work(task))
        except Exception as error:  # whatever a bad tile does must not end the others
            if not may_yet_succeed(error, attempts):
                return Outcome(task, failure=failure_text(error))


def may_yet_succeed(error: Exception, attempts: int) -> bool:
    """Whether to try a task again that ended in this error, after so many attempts in all.

    A refusal is one every time. Raises the error itself where no other task would fare better: the disk is full, or
    there is too little memory.

    >>> may_yet_succeed(KeyError("a"), 2), may_yet_succeed(KeyError("a"), 3), may_yet_succeed(PixelwiseError("no"), 1)
    (True, False, False)
    """
    if isinstance(error, OutputError | LackOfMemoryError):
        raise error
    return attempts < ATTEMPTS and not isinstance(error, PixelwiseError)


def failure_text(error: BaseException) -> str:
    """What went wrong, in one line; a refusal says it in its own words.

    >>> failure_text(KeyError("a"))
    "KeyError: 'a'"
    """
    if isinstance(error, PixelwiseError):
        return str(error)
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
