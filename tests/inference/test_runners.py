"""Tasks that succeed, fail, are refused, or must end the work."""

from __future__ import annotations

from collections import Counter

import pytest

from pixelwise.errors import DataError, OutputError, PixelwiseError, UsageError
from pixelwise.inference.runners import ATTEMPTS, Here, Outcome, failure_text, may_yet_succeed
from pixelwise.runtime import LackOfMemoryError


def test_outcomes_come_one_by_one_in_order() -> None:
    done = []
    outcomes = Here().run(done.append, [3, 1, 2])
    assert done == []
    assert next(outcomes) == Outcome(3)
    assert done == [3]
    assert [outcome.task for outcome in outcomes] == [1, 2]
    assert list(Here().run(done.append, [])) == []


@pytest.mark.parametrize("failures", range(5))
def test_a_task_is_tried_three_times(failures: int) -> None:
    tried: Counter[int] = Counter()

    def work(task: int) -> int:
        tried[task] += 1
        if task == 1 and tried[1] <= failures:
            raise KeyError(task)
        return 10 * task

    first, second, third = Here().run(work, [0, 1, 2])
    assert (first, third) == (Outcome(0, 0), Outcome(2, 20))
    assert second == (Outcome(1, 10) if failures < ATTEMPTS else Outcome(1, failure="KeyError: 1"))
    assert tried == {0: 1, 1: min(failures + 1, ATTEMPTS), 2: 1}


@pytest.mark.parametrize("error", [PixelwiseError("no"), UsageError("no"), DataError("no")])
def test_a_refusal_is_one_every_time(error: PixelwiseError) -> None:
    tried = []

    def work(task: int) -> None:
        tried.append(task)
        raise error

    assert list(Here().run(work, [1, 2])) == [Outcome(1, failure="no"), Outcome(2, failure="no")]
    assert tried == [1, 2]


@pytest.mark.parametrize("error", [OutputError("the disk is full"), LackOfMemoryError("too little")])
def test_what_no_next_task_mends_ends_the_work(error: PixelwiseError) -> None:
    tried = []

    def work(task: int) -> None:
        tried.append(task)
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(Here().run(work, [1, 2]))
    with pytest.raises(type(error), match=str(error)):
        may_yet_succeed(error, 1)
    assert tried == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_failure(error: type[BaseException]) -> None:
    def work(task: int) -> None:
        raise error

    with pytest.raises(error):
        list(Here().run(work, [1, 2]))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError(""), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (UsageError("so it is\nand so"), "so it is\nand so"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_why_it_failed_is_one_line_or_a_refusal(error: Exception, text: str) -> None:
    assert failure_text(error) == text
