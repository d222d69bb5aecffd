"""A picture of cells of any size of which the truth is known, and a network by hand that sees it without a mistake.

Blocks of drawn cells, mirrored and turned at random, lie side by side. They are 1000 pixels wide, so that sides of
cores cut them at every place; cells touch within them and across them.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from pixelwise.bundle import Bundle, Network
from pixelwise.config import PredictConfig
from pixelwise.data.masks import Coding
from pixelwise.data.normalise import Normalisation
from pixelwise.data.synthetic import draw_cells
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.task import Task
from pixelwise.tiles import TileGrid

Array = NDArray[Any]
BLOCK, DRAWN, TILE = 1000, 12, 512
NOTHING, INSIDE, BORDER = 0, 1, 2
GREY = (12, 244, 128)
"""of nothing, inside, border"""
NOISE, STEEPNESS = 10, 200.0


@dataclass(frozen=True, eq=False)
class Block:
    """A part of the picture: its photograph, what each pixel is, and the number of its cell, from 1 (0: none)."""

    photograph_HW: NDArray[np.uint8]
    parts_HW: NDArray[np.uint8]
    cells_HW: NDArray[np.int32]

    def seen(self, turn: int, height: int, width: int) -> Block:
        """One of its eight mirror images and turns, cut to a size; what is cut is a cell of its own kind."""
        return block_of(turned(self.photograph_HW, turn)[:height, :width], turned(self.cells_HW, turn)[:height, :width])


@dataclass(frozen=True)
class Picture:
    """Blocks side by side; `photographs`: as a camera sees cells, not as the network by hand reads them."""

    side: int
    seed: int
    photographs: bool = False

    @property
    def grid(self) -> TileGrid:
        return TileGrid((self.side, self.side), BLOCK)

    def block(self, index: int) -> Block:
        rng = np.random.default_rng((self.seed, index))
        return block_seen(self.seed, int(rng.integers(DRAWN)), int(rng.integers(8)), self.grid.window(index).shape)

    def cells(self) -> int:
        return sum(int(self.block(index).cells_HW.max()) for index in range(len(self.grid)))

    def grey_values(self, index: int) -> NDArray[np.uint8]:
        block = self.block(index)
        if self.photographs:
            return block.photograph_HW
        rng = np.random.default_rng((self.seed, index, 1))
        clean_HW = np.array(GREY, np.int16)[block.parts_HW]
        noisy_HW: NDArray[np.uint8] = (clean_HW + rng.integers(-NOISE, NOISE + 1, clean_HW.shape)).astype(np.uint8)
        return noisy_HW

    def write(self, path: Path) -> None:
        """A tiled TIFF; a row of blocks is in memory at a time."""
        tifffile.imwrite(
            path, self._tiles(), shape=(self.side, self.side), dtype=np.uint8, tile=(TILE, TILE), compression="zlib"
        )

    def _tiles(self) -> Iterator[Array]:
        ready_HW = np.zeros((0, self.side), np.uint8)
        for row in range(self.grid.rows):
            blocks = [self.grey_values(row * self.grid.columns + column) for column in range(self.grid.columns)]
            ready_HW = np.concatenate([ready_HW, np.concatenate(blocks, axis=1)])
            while len(ready_HW) >= TILE or (len(ready_HW) and row == self.grid.rows - 1):
                yield from (ready_HW[:TILE, left : left + TILE] for left in range(0, self.side, TILE))
                ready_HW = ready_HW[TILE:]


@lru_cache(maxsize=DRAWN)
def drawn(seed: int, number: int) -> Block:
    cells = draw_cells(size=(BLOCK, BLOCK), seed=1000 * seed + number)
    return block_of(cells.image_HWC[..., 0], cells.instances_HW)


@lru_cache(maxsize=DRAWN * 8)
def block_seen(seed: int, number: int, turn: int, shape: tuple[int, int]) -> Block:
    return drawn(seed, number).seen(turn, *shape)


def turned(array_HW: Array, turn: int) -> Array:
    return np.ascontiguousarray(np.rot90(array_HW.T if turn >= 4 else array_HW, turn % 4))


def block_of(photograph_HW: NDArray[np.uint8], cells_HW: Array) -> Block:
    """The cells that have an inside of one piece, and what of them is connected to it; the others are background."""
    clear_HW = away_from_others(cells_HW)
    parts_HW, kept_HW, kept = np.zeros(cells_HW.shape, np.uint8), np.zeros(cells_HW.shape, np.int32), 0
    for number, box in enumerate(find_objects(cells_HW), 1):
        own_HW = np.zeros((0, 0), bool) if box is None else cells_HW[box] == number
        if not (own_HW.size and (own_HW & clear_HW[box]).any()):
            continue
        inside_HW = largest_piece(own_HW & clear_HW[box])
        whole_HW = piece_with(own_HW, inside_HW)
        kept += 1
        kept_HW[box][whole_HW] = kept
        parts_HW[box][whole_HW] = BORDER
        parts_HW[box][inside_HW] = INSIDE
    return Block(photograph_HW, parts_HW, kept_HW)


def away_from_others(cells_HW: Array) -> NDArray[np.bool_]:
    """Pixels with no other cell beside them, nor the side of the block: cells that touch there are two."""
    numbers_HW, square = cells_HW.astype(np.float32), np.ones((3, 3), np.uint8)
    least_HW = cv2.erode(np.where(numbers_HW > 0, numbers_HW, np.float32(1e9)), square)
    clear_HW = (cv2.dilate(numbers_HW, square) == numbers_HW) & (least_HW == numbers_HW)
    clear_HW[[0, -1]] = clear_HW[:, [0, -1]] = False
    return np.asarray(clear_HW)


def largest_piece(mask_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    _, pieces_HW, statistics, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=4)
    return np.asarray(pieces_HW == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax())


def piece_with(mask_HW: NDArray[np.bool_], part_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces_HW = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=4)[1]
    return np.asarray(pieces_HW == pieces_HW[part_HW][0])


def write_model(path: Path, form: str) -> None:
    """A U-Net that passes the grey value on and chooses the part with the nearest one; its objects: `cells` or pieces.

    The score of a part with grey value c at grey value x is the softmax of c x - c^2 / 2, which is that of
    -(x - c)^2 / 2.
    """
    cells = form == "cells"
    task = Task.of(["background", "cell", "border"] if cells else ["background", "cell"])
    network = Network(name="unet", in_channels=1, options={"width": 1, "depth": 1})
    weights = {name: tensor * 0 for name, tensor in network.build(task).state_dict().items()}
    for name in (name for name in weights if name.endswith("running_var")):
        norm = name.removesuffix("running_var")
        weights[name] += 1 - 1e-5
        weights[f"{norm}weight"] += 1
    for layer in ("encoder.levels.0.0", "encoder.levels.0.3", "decoder.0.convolutions.0", "decoder.0.convolutions.3"):
        weights[f"{layer}.weight"][0, 0, 1, 1] = 1
    for part in range(task.outputs):
        grey = (GREY[part] if cells or part == NOTHING else GREY[BORDER]) / 255
        weights["head.weight"][part] = STEEPNESS * grey
        weights["head.bias"][part] = -STEEPNESS * grey**2 / 2
    bundle = Bundle(
        task=task,
        network=network,
        normalisation=Normalisation(mean=(0.0,), std=(255.0,)),
        coding=Coding(kind="instances", border=1 if cells else 0),
        predict=PredictConfig(),
        weights=weights,
        provenance={"made": "by hand"},
        instances=InstanceSettings(form="softmax3") if cells else InstanceSettings(form="plain", fill_holes=False),
    )
    bundle.save(path)
