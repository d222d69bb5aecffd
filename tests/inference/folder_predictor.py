"""Predicts a folder in forked children, so that many kills need one import: `folder_predictor.py FOLDER KILLS`.

FOLDER holds `images` and `model.safetensors`; the masks go to `out` in it. KILLS is a JSON list with, for
each child, after how many further lines of the journal, and how many seconds later, it is killed; null: it ends by
itself. Writes a JSON list with how many images were done before each
child began, and how it ended (its exit code, or minus the signal).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from pixelwise.bundle import Bundle
from pixelwise.config import RuntimeConfig
from pixelwise.data.layouts import find_images
from pixelwise.inference.folder import Outputs, predict_image
from pixelwise.inference.folder_journal import FolderJournal
from pixelwise.inference.folder_plan import plan_folder
from pixelwise.inference.folder_run import job_of, predict_folder
from pixelwise.inference.predict import Predictor
from pixelwise.runtime import prepare

RUNTIME = RuntimeConfig(threads=1, precision="fp32", device="cpu")


def predict(folder: Path) -> None:
    """Do what is missing; says on file descriptor 1 how many were done already."""
    images, model = find_images(folder / "images"), folder / "model.safetensors"
    predictor = Predictor.of(Bundle.load(model), prepare(RUNTIME))
    outputs = Outputs(folder=folder / "out", scores=True, overlays=True, geojson=True)
    with FolderJournal.open(outputs.folder, job_of(images, model, predictor, outputs)) as journal:
        plan = plan_folder(images, outputs, journal, finds_objects=predictor.instances is not None)
        (folder / "before").write_text(str(len(plan.done)))
        for _ in predict_folder(plan, partial(predict_image, predictor, outputs)):
            pass


def killed_after(folder: Path, kill: tuple[int, float] | None) -> tuple[int, int]:
    """How many images were done before, and how the child ended."""
    wanted = _lines(folder) + kill[0] if kill else 0
    child = os.fork()
    if not child:
        try:
            predict(folder)
            os._exit(0)
        finally:
            os._exit(70)
    ended = (0, 0)
    if kill:
        while _lines(folder) < wanted and ended == (0, 0):
            time.sleep(0.001)
            ended = os.waitpid(child, os.WNOHANG)
        time.sleep(kill[1])
        os.kill(child, signal.SIGKILL) if ended == (0, 0) else None
    status = ended[1] if ended[0] else os.waitpid(child, 0)[1]
    before = (folder / "before").read_text() if (folder / "before").exists() else "0"
    return int(before or 0), os.waitstatus_to_exitcode(status)


def _lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / "out/.pixelwise").glob("*.jsonl"))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    print(json.dumps([killed_after(place, kill) for kill in json.loads(sys.argv[2])]))  # noqa: T201
