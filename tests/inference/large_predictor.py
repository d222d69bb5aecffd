"""Predicts one image in forked children, so that many kills need one import: `large_predictor.py FOLDER ORDERS`.

FOLDER holds `cells.tif` and `model.safetensors`; the result is `out.zarr` in it. ORDERS is a JSON list; each order is
one child that goes on with what is missing, with any of these: {"workers": processes to do it on, "kill_workers": how
many of them are killed, one a second, "signal": what the child gets, "at": when so many more tiles are marked as done,
"then": seconds later, "to_all": whether its workers get it too}. Writes a JSON list with, for each order, how the child
ended (its exit code, or minus the signal), what it said, whether all processes that it started ended with it, and how
many seconds after the signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pixelwise.config import RuntimeConfig
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import PixelwiseError
from pixelwise.inference import large_plan
from pixelwise.inference.cluster import OnDask, local_cluster
from pixelwise.inference.large import run_step, steps_left
from pixelwise.inference.large_plan import Wish, plan_large
from pixelwise.inference.runners import Here, Runner

RUNTIME = RuntimeConfig(threads=1, precision="fp32", device="cpu")
FAILED, BROKEN = 3, 70


def predict(folder: Path, order: dict[str, Any]) -> list[str]:
    """Do what is missing; what failed."""
    large_plan.CORES, large_plan.CHUNK = (128,), 32
    job, plan = plan_large(wish_of(folder))
    count = 0
    with runner_of(order) as runner, TileStore.open(job.store, plan):
        for step in steps_left(job):
            failures = []
            for done in run_step(job, step, runner):
                failures += [done.failure] if done.failure else []
                count += 1
                if count == order.get("at") and "then" not in order:
                    time.sleep(60)  # the signal comes: a busy machine may be late to see that it is time
            if failures:
                return failures
    return []


def wish_of(folder: Path) -> Wish:
    """What is asked for; the same gives the same bytes on any machine."""
    return Wish(
        source=folder / "cells.tif", model=folder / "model.safetensors", store=folder / "out.zarr", runtime=RUNTIME
    )


@contextlib.contextmanager
def runner_of(order: dict[str, Any]) -> Iterator[Runner]:
    if "workers" not in order:
        yield Here()
        return
    with local_cluster(order["workers"]) as cluster:
        killer = threading.Thread(target=kill_workers, args=(cluster, order.get("kill_workers", 0)), daemon=True)
        killer.start()
        yield cluster


def kill_workers(cluster: OnDask, count: int) -> None:
    """One a second, any of those that live."""
    for _ in range(count):
        time.sleep(1)
        alive = [nanny.pid for nanny in cluster.client.cluster.workers.values() if nanny.pid]
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(random.choice(alive), signal.SIGKILL)


def obey(folder: Path, order: dict[str, Any]) -> dict[str, Any]:
    said = folder / "said.txt"
    said.write_text("")
    done = marked(folder)
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os._exit(code_of(folder, order, said))
    if "signal" in order and wait_for(lambda: marked(folder) >= done + order["at"] or ended(child)):
        time.sleep(order.get("then", 0))
        (os.killpg if order.get("to_all") else os.kill)(child, order["signal"])
    sent = time.monotonic()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    all_ended = wait_for(lambda: not any_of_group(child))
    return {"code": code, "said": said.read_text(), "all_ended": all_ended, "seconds": time.monotonic() - sent}


def marked(folder: Path) -> int:
    return sum(1 for _ in (folder / "out.zarr/.pixelwise/tiles").rglob("*.json"))


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def any_of_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(true: Callable[[], bool]) -> bool:
    for _ in range(60_000):  # two minutes: a worker of a busy machine starts slowly
        if true():
            return True
        time.sleep(0.002)
    return False


def code_of(folder: Path, order: dict[str, Any], said: Path) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    try:
        failures = predict(folder, order)
        said.write_text("\n".join(failures))
        return FAILED if failures else 0
    except PixelwiseError as error:
        said.write_text(str(error))
        return error.exit_code
    except BaseException as error:  # KeyboardInterrupt too
        said.write_text(repr(error))
        return BROKEN


if __name__ == "__main__":
    results = [obey(Path(sys.argv[1]), order) for order in json.loads(sys.argv[2])]
    sys.stdout.write(json.dumps(results))
