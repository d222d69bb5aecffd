"""Works on one store in forked children, so that a hundred kills need one import: `store_writer.py FOLDER ORDERS`.

ORDERS is a JSON list; each order is one child that opens the store and does what is missing, with any of these:
{"kill_at": steps of writing, "then": seconds, "crash": "after-write:3", "file_limit": bytes}. Or it is {"workers": n,
"split": true or false}: this process holds the store and n children join it, each with its share of the tiles or all.
Writes a JSON list with, for each order, how the children ended (an exit code, or minus the signal), what was said, and
what a check found afterwards.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from small_stores import STAGES, finish, make_plan, write_tile

from pixelwise import files
from pixelwise.data.tile_store import TileStore
from pixelwise.errors import PixelwiseError
from pixelwise.files import CRASH_VARIABLE


def in_child(work: Callable[[], object], said: Path) -> int:
    """The number of a child that does the work."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        work()
        code = 0
    except PixelwiseError as error:
        said.write_text(str(error))
        code = error.exit_code
    except BaseException as error:
        said.write_text(repr(error))
    finally:
        os._exit(code)


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_in_between(work: Callable[[], object], order: dict, said: Path) -> int:
    """The child is killed when it has gone some steps of writing (four for a file), and a random time later."""
    reading, writing = os.pipe()
    child = in_child(lambda: work_with_steps(work, writing), said)
    os.close(writing)
    for _ in range(order["kill_at"]):
        os.read(reading, 1)
    time.sleep(order["then"])
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    return code_of(child)


def work_with_steps(work: Callable[[], object], pipe: int) -> None:
    files.crash_point = lambda name: os.write(pipe, b".")
    work()


def do_all(folder: Path, order: dict) -> None:
    os.environ[CRASH_VARIABLE] = order.get("crash", "")
    if "file_limit" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], order["file_limit"]))
    with TileStore.open(folder, make_plan()) as store:
        finish(store)


def do_share(folder: Path, first: int, step: int) -> None:
    store = TileStore.join(folder)
    for stage in (STAGES[0], STAGES[2]):
        for index in range(first, len(store.plan.grid), step):
            write_tile(store, stage, index)


def obey(folder: Path, order: dict) -> dict:
    said = folder.with_suffix(".said")
    said.write_text("")
    if "workers" in order:
        count = order["workers"]
        shares = [(n, count) if order["split"] else (0, 1) for n in range(count)]
        with TileStore.open(folder, make_plan()):
            children = [in_child(lambda share=share: do_share(folder, *share), said) for share in shares]
            codes = [code_of(child) for child in children]
    elif "kill_at" in order:
        codes = [killed_in_between(lambda: do_all(folder, order), order, said)]
    else:
        codes = [code_of(in_child(lambda: do_all(folder, order), said))]
    damages = done = None
    if (folder / ".pixelwise/job.json").exists():
        store = TileStore.join(folder)
        damages = [str(damage) for damage in store.check() if damage.index is not None]
        done = len(store.finished("network")) + len(store.finished("write"))
    return {"codes": codes, "said": said.read_text(), "damages": damages, "done": done}


if __name__ == "__main__":
    results = [obey(Path(sys.argv[1]), order) for order in json.loads(sys.argv[2])]
    sys.stdout.write(json.dumps(results))
