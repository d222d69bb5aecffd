"""Runs of `pixelwise predict` that are watched, killed, or go on with files that were damaged.

What is wrong is an AssertionError; each function returns a row of a table: what happened, seconds, result.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from pixelwise.errors import EXIT_SOME_FAILED

LOOK_EVERY = 0.02
DAMAGED, SECONDS_TO_KILL = 20, 6
CHANCE = random.Random(1)  # noqa: S311


@dataclass(frozen=True)
class Ended:
    """How a run of `pixelwise predict` ended: its exit code, what it took, what it wrote to its two outputs."""

    code: int
    seconds: float
    peak_mb: float
    said: str
    result: dict[str, Any]


Disturb = Callable[[subprocess.Popen[str], float], None]
"""Is called again and again with the process and the seconds since it began."""


def command(model: Path, image: Path, out: Path, *options: str) -> list[str]:
    program = Path(sys.executable).with_name("pixelwise")
    return [str(program), "predict", str(model), str(image), "--out", str(out), "--device", "cpu", "--json", *options]


def run(words: Sequence[str], disturb: Disturb = lambda _process, _seconds: None) -> Ended:
    """Run a program to its end, and look at its memory meanwhile."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as result:
        began, peak = time.monotonic(), 0
        process = subprocess.Popen(words, stdout=result, stderr=said, text=True)
        while process.poll() is None:
            peak = max(peak, *map(peak_bytes, family_of(process.pid)))
            disturb(process, time.monotonic() - began)
            time.sleep(LOOK_EVERY)
        seconds = time.monotonic() - began
        texts = [file.read() for file in (said, result) if file.seek(0) == 0]
        return Ended(process.returncode, seconds, peak / 1e6, texts[0], json.loads(texts[1] or "{}"))


def family_of(pid: int) -> list[int]:
    """A process and all that it started, as far as they live."""
    try:
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return [pid]
    return [pid, *(one for child in chain.from_iterable(children) for one in family_of(int(child)))]


def peak_bytes(pid: int) -> int:
    try:
        return 1024 * int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):  # it has just ended
        return 0


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------- killed, damaged


def hashes(out: Path) -> dict[str, str]:
    """The SHA-256 of each file of a finished result, its table with it; the lock is of a process, not of the result."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    files.append(out.with_name(f"{out.stem}-objects.csv"))
    return {str(path.relative_to(out.parent)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_hashes(out: Path, wanted: dict[str, str]) -> None:
    found = hashes(out)
    other = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    assert not other, f"files that are not as of the undisturbed run: {other[:10]}"


def remove(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.with_name(f"{out.stem}-objects.csv").unlink(missing_ok=True)


def kill_after(longest: float, process: subprocess.Popen[str], seconds: float) -> None:
    if seconds > longest:
        process.kill()


def kill_when_marked(out: Path, tiles: float, process: subprocess.Popen[str], _seconds: float) -> None:
    if marked(out) >= tiles:
        process.kill()


@dataclass
class WorkerKiller:
    """Kills one of the workers of a process every few seconds, once tiles are being done; `kills` counts."""

    out: Path
    seconds: float
    kills: int = 0
    at: float = 0

    def __call__(self, process: subprocess.Popen[str], seconds: float) -> None:
        workers = [pid for pid in family_of(process.pid) if is_worker(pid)] if seconds > self.at else []
        if not workers or not marked(self.out):
            return
        with suppress(ProcessLookupError):
            os.kill(CHANCE.choice(workers), signal.SIGKILL)
            self.kills += 1
        self.at = seconds + self.seconds * CHANCE.uniform(0.5, 1.5)


def killed(words: Sequence[str], out: Path, wanted: dict[str, str], kills: int) -> list[str]:
    """Kill at so many random moments and go on; a result that ended is compared, and the next is begun."""
    start, done, results, began = run([*words, "--dry-run"]).seconds, 0, 0, time.monotonic()
    while done < kills or out.exists():
        longest = CHANCE.uniform(0.9, 1.9) * start if done < kills else math.inf
        ended = run(words, partial(kill_after, longest))
        if ended.code == 0:
            check_hashes(out, wanted)
            remove(out)
        else:
            assert ended.code == -signal.SIGKILL, ended.said
        done, results = done + (ended.code != 0), results + (ended.code == 0)
    return [f"killed {done} times", f"{time.monotonic() - began:.0f}", f"{results} results, all files the same"]


def killed_workers(words: Sequence[str], out: Path, wanted: dict[str, str], workers: int) -> list[str]:
    """So many workers, of which one is killed every few seconds; the run is begun again if tiles were given up."""
    killer, runs, seconds, code = WorkerKiller(out, SECONDS_TO_KILL), 0, 0.0, 1
    while code:
        killer.at = 0
        ended = run([*words, "--workers", str(workers)], killer)
        assert ended.code in (0, EXIT_SOME_FAILED), ended.said
        code, runs, seconds = ended.code, runs + 1, seconds + ended.seconds
    check_hashes(out, wanted)
    remove(out)
    return [f"{workers} workers, {killer.kills} killed", f"{seconds:.0f}", f"after {runs} runs all files the same"]


def damaged(words: Sequence[str], out: Path, wanted: dict[str, str], *, at: float) -> list[str]:
    """Damage 20 files of a result that was killed when so many tiles were marked; find and mend them, and go on."""
    run(words, partial(kill_when_marked, out, at))
    owners = owners_of(out)
    files = damage_some(out, owners)
    ended = run([*words, "--check"])
    assert ended.code == 0, ended.said
    found = {owners[file] for file in files if f"damaged: {file} " in ended.said}
    missed = [file for file in files if owners[file] not in found]
    assert not missed, f"damage that was not found: {missed}\n{ended.said}"
    check_hashes(out, wanted)
    remove(out)
    done, left = tiles_done(set(owners.values())), tiles_done(set(owners.values()) - {owners[file] for file in files})
    kept = {stage: int(number) for stage, number in re.findall(r"(\S+): (\d+) of \d+ tiles are done", ended.said)}
    again = [stage for stage in done if left[stage] != done[stage] and kept.get(stage, 0) != left[stage]]
    assert at == math.inf or not again, f"more was done again than was damaged: {again}, {kept}, {left}"
    what = f"{len(files)} files damaged of {sum(done.values())} finished tiles" + " of a result" * (at == math.inf)
    result = f"all found; {sum((done - left).values())} tiles have damage, done again for all tiles: "
    return [what, f"{ended.seconds:.0f}", result + (", ".join(again) or "nothing") + "; all files the same"]


def tiles_done(markers: Iterable[str]) -> Counter[str]:
    """How many tiles of each stage have a marker."""
    return Counter(marker.removeprefix(".pixelwise/tiles/").rsplit("/", 2)[0] for marker in markers)


def marked(out: Path) -> int:
    return sum(1 for _ in (out / ".pixelwise/tiles").rglob("[0-9]*.json"))


def owners_of(out: Path) -> dict[str, str]:
    """The marker of each file of a finished tile, and of each marker itself; paths within the result."""
    markers = {str(path.relative_to(out)): path for path in (out / ".pixelwise/tiles").rglob("[0-9]*.json")}
    owned = {file: name for name, path in markers.items() for file in json.loads(path.read_text())["files"]}
    present = {file: name for file, name in owned.items() if (out / file).exists()}
    parts = {
        f".pixelwise/work/files/parts/{stage}/{int(index) // 1000}/{index}": name
        for file, name in present.items()
        if file.endswith(".parts")
        for stage, index in (part.split("/") for part in json.loads((out / file).read_text()))
    }
    return {**present, **parts, **{name: name for name in markers}}


def damage_some(out: Path, owners: dict[str, str]) -> set[str]:
    """Remove files, cut them short, or change a byte. Markers are cut: without one a tile is just not finished."""
    chosen = CHANCE.sample(sorted(owners), DAMAGED)
    for number, file in enumerate(chosen):
        path, data = out / file, (out / file).read_bytes()
        at = CHANCE.randrange(len(data))
        if owners[file] == file or number % 3 == 1:
            path.write_bytes(data[:at])
        elif number % 3 == 0:
            path.unlink()
        else:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return set(chosen)
