"""Work on other processes by Dask: on this machine, or on any cluster that has a Dask scheduler.

Each worker has one task and the next one waiting, so that it never stands still and little is lost when it dies. The
tasks of a worker that dies go to others. All of them are under suspicion, though one alone may be the cause: what is
suspected twice waits until the others are done, and runs alone. A task with which workers die three times, the last
time alone, is given up and named.

Nothing listens beyond this machine unless a scheduler elsewhere is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

from pixelwise import __version__
from pixelwise.errors import PixelwiseError, UsageError, require
from pixelwise.inference.runners import ATTEMPTS, Here, Outcome, Runner, failure_text, may_yet_succeed
from pixelwise.runtime import threads_per_process

T = TypeVar("T")
R = TypeVar("R")
LOCALHOST = "127.0.0.1"
AHEAD = 2
"""tasks per worker: the one that it does, and the next"""
SECONDS_TO_CONNECT = 10
SECONDS_TO_START = 300
SECONDS_TO_LOOK = 1.0
"""how often to see whether workers have come or gone"""
SILENT = logging.CRITICAL + 10
"""above all levels of messages: Dask tells of each worker that dies, which is no news here"""
LOCAL_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # `_Work` counts
    "distributed.worker.daemon": True,
    "distributed.nanny.pre-spawn-environ": {},  # it would be set in this process
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.diagnostics.nvml": False,
}


class LostClusterError(PixelwiseError):
    """The Dask scheduler does not answer any more, or workers do not start."""


@dataclass(frozen=True, slots=True)
class OnDask:
    """Does tasks on the workers of a Dask client."""

    client: Any

    def run(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[Outcome[T, R]]:
        """The outcomes, in the order in which they come; raises OutputError and LackOfMemoryError as `Here` does.

        Raises LostClusterError when the scheduler ends. Without a worker it waits for the first.
        """
        flight = _Flight(self.client, partial(_do, __version__, work))
        try:
            yield from _Work(flight, tasks).outcomes()
        except OSError as error:
            raise LostClusterError(
                f"the Dask scheduler at {self.client.scheduler.address} is gone; start it again and run the same "
                "command: what is done stays done"
            ) from error
        finally:
            flight.cancel()

    @property
    def workers(self) -> int:
        """How many workers there are now."""
        return len(self.client.nthreads())


@contextmanager
def local_cluster(workers: int) -> Iterator[OnDask]:
    """So many worker processes on this machine, which listen to nothing else.

    Their threads are those of RuntimeConfig.threads; see `threads_of_worker`. Raises UsageError for no worker.
    """
    distributed, dask = require("distributed", extra="dask"), require("dask", extra="dask")
    if workers < 1:
        raise UsageError(f"{workers} workers: give at least 1")
    scratch_folder = TemporaryDirectory(prefix="pixelwise-workers-", ignore_cleanup_errors=True)
    with _same_environment(), scratch_folder as scratch, _silence():
        with dask.config.set(LOCAL_SETTINGS), _deaf_to_interrupts():
            cluster = distributed.LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                host=LOCALHOST,
                dashboard_address=f"{LOCALHOST}:0",  # any port: the usual one may be taken
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,  # what a worker takes is planned; one that is paused would never go on
                local_directory=scratch,
                silence_logs=SILENT,
            )
        with cluster, dask.config.set(LOCAL_SETTINGS), distributed.Client(cluster) as client:
            try:
                _start(cluster, client, workers)
                yield OnDask(client)
            finally:
                _end_at_once(cluster)


@contextmanager
def _same_environment() -> Iterator[None]:
    """Dask sets variables for the workers in this process; a worker that is killed may keep it from undoing that."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _start(cluster: Any, client: Any, workers: int) -> None:
    cluster.scale(workers)
    try:
        client.wait_for_workers(workers, timeout=SECONDS_TO_START)
        latest = time.monotonic() + SECONDS_TO_START
        while len(cluster.workers) < workers and time.monotonic() < latest:  # the scheduler knows them before
            time.sleep(0.01)
    except TimeoutError as error:
        raise LostClusterError(
            f"{workers} workers did not start within {SECONDS_TO_START} seconds; give fewer, or work without --workers"
        ) from error


def _end_at_once(cluster: Any) -> None:
    """Kill the workers: what they do is not wanted any more, and may take minutes. A kill leaves nothing half done."""
    for nanny in list(cluster.workers.values()):
        if nanny.pid:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Threads that begin within, and all processes that they start, do not hear Ctrl-C: this process ends them."""
    resource_tracker.ensure_running()  # when it starts, it makes its thread hear again
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


@contextmanager
def remote_cluster(address: str) -> Iterator[OnDask]:
    """The workers of a Dask scheduler, such as tcp://10.0.0.1:8786; raises UsageError where it does not answer."""
    distributed = require("distributed", extra="dask")
    try:
        asyncio.run(_greet(address))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address} ({failure_text(error)}); start one with `dask scheduler`, and "
            "give the address that it prints"
        ) from error
    with _silence(), distributed.Client(address, timeout=SECONDS_TO_CONNECT) as client:
        yield OnDask(client)


async def _greet(address: str) -> None:
    """Connect and leave; a client that cannot connect would go on trying."""
    distributed = require("distributed", extra="dask")
    certificates = distributed.Security().get_connection_args("client")
    await (await distributed.comm.connect(address, timeout=SECONDS_TO_CONNECT, **certificates)).close()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what Dask says of lost connections and of versions from users; what matters of both, `OnDask` says."""
    handlers = logging.getLogger("distributed").handlers
    levels = [handler.level for handler in handlers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="distributed")
        try:
            for handler in handlers:
                handler.setLevel(SILENT)
            yield
        finally:
            for handler, level in zip(handlers, levels, strict=True):
                handler.setLevel(level)


def runner_of(*, workers: int, scheduler: str) -> AbstractContextManager[Runner]:
    """The workers of a scheduler where one is named, else so many on this machine, else this process alone."""
    if scheduler:
        return remote_cluster(scheduler)
    return local_cluster(workers) if workers else nullcontext(Here())


def threads_of_worker(workers: int) -> int:
    """How many threads each of so many workers on this machine should have."""
    return max(1, threads_per_process() // max(1, workers))


@dataclass
class _Flight(Generic[T, R]):
    """The tasks that are on their way; each has a place in the list of all."""

    client: Any
    work: Callable[[T], R]
    landed: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    places: dict[Any, int] = field(default_factory=dict)
    looked: float = -1e9
    workers: int = 0

    def send(self, place: int, task: T) -> None:
        """Give a task to the workers."""
        future = self.client.submit(self.work, task, pure=False)
        self.places[future] = place
        future.add_done_callback(self.landed.put)

    def next(self) -> tuple[int, Any] | None:
        """A task that came back; None where none did for a while."""
        try:
            future = self.landed.get(timeout=SECONDS_TO_LOOK)
        except Empty:
            return None
        return self.places.pop(future), future

    def slots(self) -> int:
        """How many tasks should be on their way."""
        if time.monotonic() - self.looked > SECONDS_TO_LOOK:
            self.workers, self.looked = len(self.client.nthreads()), time.monotonic()
        return AHEAD * max(1, self.workers)

    def cancel(self) -> None:
        """Take back what has not begun."""
        left, self.places = list(self.places), {}
        with suppress(Exception):  # the scheduler may be gone
            self.client.cancel(left)


class _Work(Generic[T, R]):
    """What is still to be sent, and how often each task failed."""

    def __init__(self, flight: _Flight[T, R], tasks: Sequence[T]) -> None:
        self._flight, self._tasks = flight, tasks
        self._waiting, self._suspects = deque(range(len(tasks))), deque[int]()
        self._attempts, self._deaths = Counter[int](), Counter[int]()
        self._alone = False

    def outcomes(self) -> Iterator[Outcome[T, R]]:
        """Send and receive until all is done."""
        while self._waiting or self._suspects or self._flight.places:
            self._send()
            if landed := self._flight.next():
                yield from self._outcome(*landed)

    def _send(self) -> None:
        while self._waiting and len(self._flight.places) < self._flight.slots():
            self._send_next(self._waiting)
        if self._suspects and not self._flight.places:
            self._send_next(self._suspects)

    def _send_next(self, queue: deque[int]) -> None:
        place = queue.popleft()
        self._alone = queue is self._suspects
        self._attempts[place] += 1
        self._flight.send(place, self._tasks[place])

    def _outcome(self, place: int, future: Any) -> Iterator[Outcome[T, R]]:
        """What became of a task, unless it is to be done again."""
        task = self._tasks[place]
        if future.status == "cancelled":
            raise ConnectionError("the scheduler is gone")
        if future.status == "finished":
            yield Outcome(task, future.result())
            return
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            yield from self._after_death(place, error.allowed_failures + 1)
        elif may_yet_succeed(error, self._attempts[place]):
            (self._suspects if self._alone else self._waiting).append(place)
        else:
            yield Outcome(task, failure=failure_text(error))

    def _after_death(self, place: int, deaths: int) -> Iterator[Outcome[T, R]]:
        self._attempts[place] -= 1
        self._deaths[place] += deaths
        if self._deaths[place] < ATTEMPTS - 1:
            self._waiting.append(place)
        elif not self._alone:
            self._suspects.append(place)
        else:
            yield Outcome(self._tasks[place], failure=f"{self._deaths[place]} workers died with it")


def _do(version: str, work: Callable[[T], R], task: T) -> R:
    """What runs on a worker; another version might give other pixels."""
    if version != __version__:
        raise UsageError(f"a worker has pixelwise {__version__}, not {version}; install the same version everywhere")
    return work(task)
