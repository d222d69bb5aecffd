"""Draws the picture of the README: cells that a model had not seen, its labels, and its errors.

pixelwise demo && python docs/draw_pictures.py runs/pixelwise-demo/model.safetensors docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pixelwise.bundle import Bundle
from pixelwise.config import RuntimeConfig
from pixelwise.data.contact_sheet import error_picture
from pixelwise.data.pictures import displayable, overlay, write_picture
from pixelwise.data.synthetic import draw_cells
from pixelwise.inference.predict import Predictor, predict
from pixelwise.runtime import prepare

SIZE, GAP = (320, 320), 12
SEED = 12


def main(model: Path, folder: Path) -> None:
    predictor = Predictor.of(Bundle.load(model), prepare(RuntimeConfig()))
    cells = draw_cells(size=SIZE, channels=1, seed=SEED)
    labels_HW = predict(cells.image_HWC, predictor).labels
    pictures = (
        displayable(cells.image_HWC),
        overlay(cells.image_HWC, labels_HW, predictor.task),
        error_picture(cells.image_HWC, labels_HW, cells.mask_HW, predictor.task),
    )
    white_HWC = np.full((SIZE[0], GAP, 3), 255, np.uint8)
    strip = np.concatenate([pictures[0], white_HWC, pictures[1], white_HWC, pictures[2]], axis=1)
    write_picture(folder / "cells.png", strip)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
