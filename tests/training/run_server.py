"""Runs `pixelwise` commands in forked children, so that a hundred kills need one import of torch.

Protocol: a line of JSON on stdin, {"arguments": [...], "environment": {...}, "folder": "...", "kill_after": seconds or
null, "file_limit": bytes or null}, gives a line of JSON on stdout, {"code": exit code or minus the signal, "seconds":
how long it took}.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import cv2
import torch

from pixelwise.cli import training  # noqa: F401  (imported before the fork, so that children start at once)
from pixelwise.cli.main import main

torch.set_num_threads(1)
cv2.setNumThreads(0)


def run_in_child(order: dict) -> dict:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        become_command(order)
    code = None
    while code is None:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
        elif order.get("kill_after") is not None and time.monotonic() - began > order["kill_after"]:
            os.kill(child, signal.SIGKILL)
            order["kill_after"] = None
        else:
            time.sleep(0.002)
    return {"code": code, "seconds": time.monotonic() - began}


def become_command(order: dict) -> None:
    """Never returns."""
    os.setsid()
    os.environ.update(order.get("environment", {}))
    os.chdir(order["folder"])
    if order.get("file_limit") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], order["file_limit"]))
    output = Path("output.txt").open("a")  # noqa: SIM115
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    try:
        main(order["arguments"])
    except SystemExit as leaving:
        os._exit(leaving.code if isinstance(leaving.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    os._exit(0)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(run_in_child(json.loads(line))) + "\n")
        answers.flush()
