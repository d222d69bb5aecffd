"""Runs commands of pixelwise in one process and measures how far the memory of each rises: `peak_memory.py COMMANDS`.

COMMANDS is a JSON list of lists of words. Writes a JSON list with the exit code, the rise in MiB and the messages of
each to stdout. Linux only: the kernel forgets the highest memory of a process when it is told to.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

from pixelwise.cli.main import main

FORGET = Path("/proc/self/clear_refs")


def kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measured(words: list[str]) -> tuple[int, float, str]:
    """Exit code, rise of the memory in MiB, and all that was said."""
    said = io.StringIO()
    FORGET.write_text("5")
    before = kilobytes("VmRSS")
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main(words)
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    return code, (kilobytes("VmHWM") - before) / 1024, said.getvalue()


if __name__ == "__main__":
    sys.stdout.write(json.dumps([measured(words) for words in json.loads(sys.argv[1])]))
