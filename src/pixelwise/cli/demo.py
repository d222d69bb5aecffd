"""`pixelwise demo`: the three commands, one after the other, on images of cells that are drawn and not downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixelwise.cli.evaluate import EvaluateOptions, score_model
from pixelwise.cli.predict import PredictOptions, predict_images
from pixelwise.cli.runs import RUNS
from pixelwise.cli.screen import Screen
from pixelwise.cli.train import TrainOptions, start_training
from pixelwise.errors import EXIT_DONE, UsageError

SETTINGS = ("model.width=16", "training.steps=150", "training.learning_rate=0.004")
TRAINING_IMAGES, TEST_IMAGES = 24, 6
SIZE = (192, 192)


def demo_verb(
    folder: Annotated[Path, typer.Argument(help="New folder for the images and the masks.")] = Path("pixelwise-demo"),
) -> int:
    """Draw images of cells, train on them, score and predict others: about two minutes on two cores."""
    from pixelwise.data.synthetic import write_data_set

    screen, name = Screen(), folder.resolve().name
    for taken in (folder, RUNS / name):
        if taken.exists():
            raise UsageError(f"{taken} is there already; delete it, or name another folder: pixelwise demo FOLDER")
    screen.say(f"drawing {TRAINING_IMAGES} images of cells to learn from and {TEST_IMAGES} others, in {folder}/")
    data = write_data_set(folder / "cells", images=TRAINING_IMAGES, size=SIZE, channels=1, seed=0)
    others = write_data_set(folder / "other-cells", images=TEST_IMAGES, size=SIZE, channels=1, seed=1)

    screen.say("", f"$ pixelwise train {data} {' '.join(SETTINGS)} --name {name}")
    code = start_training(TrainOptions(data=str(data), settings=list(SETTINGS), name=name))
    if code != EXIT_DONE:
        return code

    screen.say("", f"$ pixelwise evaluate {name} {others}")
    score_model(EvaluateOptions(run=name, data=others))

    screen.say("", f"$ pixelwise predict {name} {others / 'images'} --out {folder / 'masks'} --overlays")
    wanted = PredictOptions(run=name, images=others / "images", out=folder / "masks", overlays=True)
    code = predict_images(wanted)
    sheet = RUNS / name / f"evaluated-{others.name}" / "predictions" / "contact_sheet.png"
    screen.say("", f"look at {sheet}, and at the pictures in {folder / 'masks' / 'overlays'}/")
    return code
