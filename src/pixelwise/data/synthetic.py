"""Microscope-like pictures of cells with exact truth, drawn from a seed: for tests, tutorials and first tries.

The cells are deformed ellipses of many sizes that touch in clusters, never overlap, and have a nucleus and texture.
Light is uneven, the optics blur, photons and the camera add noise, and specks of debris are background. One channel
looks like a fluorescence microscope, three like a stained tissue section.

H rows, W columns, C channels. A field (H, W) is float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.data.pictures import write_instances, write_mask, write_picture
from pixelwise.errors import UsageError, printable
from pixelwise.task import Task

CELL_TASK = Task(names=("background", "cell"), colours=((0, 0, 0), (40, 225, 130)))
"""The task of these pictures: class 0 is background, class 1 cell."""

SMALLEST_SIDE = 16
PIXELS_PER_CELL = 1700
SMALLEST_AREA = 30
RADIUS = (15.0, 0.3)  # median in pixels, spread of its logarithm
OVERREACH = 1.16  # how far a cell would grow beyond its radius, if no neighbour were there
CLUSTERED = 0.75  # share of cells that are placed beside another one
CLOSEST = 0.88  # smallest distance of two centres, in sums of the two radii
STAIN_HAEMATOXYLIN = (0.65, 0.70, 0.29)  # optical density in red, green, blue: Ruifrok and Johnston 2001, table 1
STAIN_EOSIN = (0.07, 0.99, 0.11)
PHOTONS = 500.0  # at full brightness
READ_NOISE = 0.008  # share of full brightness

Field = NDArray[np.float32]
Random = np.random.Generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """A picture of cells and its truth.

    image_HWC      uint8
    mask_HW        uint8: 0 background, 1 cell
    instances_HW   int32: 0 background, else the number of the cell, from 1 with no gaps; each is one 4-connected piece
    """

    image_HWC: NDArray[np.uint8]
    mask_HW: NDArray[np.uint8]
    instances_HW: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """One cell: centre and radius in pixels, and how its outline departs from a circle."""

    y: float
    x: float
    radius: float
    stretch: float
    turn: float
    waves: tuple[float, float, float, float]


def draw_cells(*, size: tuple[int, int] = (256, 256), channels: int = 1, seed: int) -> Cells:
    """A picture of cells, `size` is height and width; the same seed gives the same bytes on the same machine.

    Raises UsageError for sides below 16 pixels and for other than 1 or 3 channels.

    >>> cells = draw_cells(size=(64, 96), channels=3, seed=1)
    >>> cells.image_HWC.shape, bool(((cells.instances_HW > 0) == cells.mask_HW).all())
    ((64, 96, 3), True)
    """
    if min(size) < SMALLEST_SIDE:
        raise UsageError(f"a picture of {size[0]} × {size[1]} pixels: give at least {SMALLEST_SIDE} on each side")
    if channels not in (1, 3):
        raise UsageError(f"{channels} channels: give 1 (fluorescence) or 3 (stained tissue)")
    rng = np.random.default_rng(seed)

    # The truth: outlines that stop where they meet.
    shapes = _place(size, rng)
    outlines_HW, reach_HW = _grow(shapes, size)
    instances_HW = _whole_pieces(outlines_HW)

    # The picture: how much stuff is where, how it is lit, and what the camera makes of it.
    nuclei_HW = _nuclei(shapes, outlines_HW, rng) * (instances_HW > 0)
    edge_HW = _distance_to_edge(instances_HW)
    render = _fluorescence if channels == 1 else _stained_tissue
    light_HWC = render(_Scene(instances_HW, nuclei_HW, edge_HW, _debris(reach_HW, rng)), rng)
    return Cells(
        image_HWC=_photograph(light_HWC, rng),
        mask_HW=(instances_HW > 0).astype(np.uint8),
        instances_HW=instances_HW,
    )


def write_data_set(
    folder: Path, *, images: int, size: tuple[int, int] = (256, 256), channels: int = 1, seed: int = 0
) -> Path:
    """Draw a data set: `images/` (PNG), `masks/` (index PNG), `instances/` (16-bit PNG), with the same names.

    Raises UsageError where the folder already has such a part, so that two sets are never mixed. Returns the folder.
    """
    parts = [folder / part for part in ("images", "masks", "instances")]
    taken = [part for part in parts if part.exists()]
    if taken:
        raise UsageError(f"{printable(taken[0])} exists already; choose another folder, or remove this one")
    if images < 1:
        raise UsageError(f"{images} images: give at least 1")
    digits = max(3, len(str(images - 1)))
    for number in range(images):
        # Mixed, not added: the images of two seeds have nothing in common.
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        cells = draw_cells(size=size, channels=channels, seed=own_seed)
        name = f"cells_{number:0{digits}}.png"
        write_picture(parts[0] / name, cells.image_HWC)
        write_mask(parts[1] / name, cells.mask_HW, CELL_TASK)
        write_instances(parts[2] / name, cells.instances_HW)
    return folder


# ---------------------------------------------------------------------------------------------------------- the truth


def _place(size: tuple[int, int], rng: Random) -> list[_Shape]:
    """Cells side by side: most are put beside an earlier one, the others anywhere; none too near to another."""
    wanted = max(1, round(size[0] * size[1] / PIXELS_PER_CELL))
    largest = min(size) / 3
    shapes: list[_Shape] = []
    for _ in range(6 * wanted):
        if len(shapes) == wanted:
            break
        shape = _random_shape(size, largest, shapes, rng)
        near = [math.hypot(shape.y - o.y, shape.x - o.x) < CLOSEST * (shape.radius + o.radius) for o in shapes]
        inside = -2 < shape.y < size[0] + 2 and -2 < shape.x < size[1] + 2
        if inside and not any(near):
            shapes.append(shape)
    return shapes


def _random_shape(size: tuple[int, int], largest: float, others: list[_Shape], rng: Random) -> _Shape:
    radius = min(largest, RADIUS[0] * math.exp(RADIUS[1] * rng.standard_normal()))
    y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    if others and rng.random() < CLUSTERED:
        parent = others[rng.integers(len(others))]
        angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.9, 1.02) * (radius + parent.radius)
        y, x = parent.y + distance * math.sin(angle), parent.x + distance * math.cos(angle)
    two, three = rng.normal(0, (0.05, 0.035))
    waves = (two, rng.uniform(0, 6.28), three, rng.uniform(0, 6.28))
    return _Shape(y=y, x=x, radius=radius, stretch=rng.uniform(1.0, 1.35), turn=rng.uniform(0, math.pi), waves=waves)


def _box(shape: _Shape, size: tuple[int, int]) -> tuple[slice, slice]:
    reach = 1.6 * shape.radius
    top, left = max(0, int(shape.y - reach)), max(0, int(shape.x - reach))
    return slice(top, min(size[0], int(shape.y + reach) + 2)), slice(left, min(size[1], int(shape.x + reach) + 2))


def _distance(shape: _Shape, box: tuple[slice, slice]) -> Field:
    """Distance of each pixel of a box from the centre of a cell: 1 on its outline."""
    dy = np.arange(box[0].start, box[0].stop, dtype=np.float32)[:, None] - np.float32(shape.y)
    dx = np.arange(box[1].start, box[1].stop, dtype=np.float32)[None, :] - np.float32(shape.x)
    cos, sin = np.float32(math.cos(shape.turn)), np.float32(math.sin(shape.turn))
    root = np.float32(math.sqrt(shape.stretch))
    along, across = (cos * dx + sin * dy) / root, (cos * dy - sin * dx) * root
    angle = np.arctan2(across, along)
    two, phase_two, three, phase_three = (np.float32(wave) for wave in shape.waves)
    outline = 1 + two * np.cos(2 * angle + phase_two) + three * np.cos(3 * angle + phase_three)
    return np.asarray(np.sqrt(along**2 + across**2) / (np.float32(shape.radius) * outline), np.float32)


def _grow(shapes: list[_Shape], size: tuple[int, int]) -> tuple[NDArray[np.int32], Field]:
    """Each pixel's nearest cell (from 1; 0 out of reach of all), and how near it is."""
    nearest_HW = np.zeros(size, np.int32)
    reach_HW = np.full(size, np.inf, np.float32)
    for number, shape in enumerate(shapes, 1):
        box = _box(shape, size)
        distance = _distance(shape, box)
        nearer = distance < reach_HW[box]
        reach_HW[box][nearer] = distance[nearer]
        nearest_HW[box][nearer & (distance < OVERREACH)] = number
    return nearest_HW, reach_HW


def _whole_pieces(nearest_HW: NDArray[np.int32]) -> NDArray[np.int32]:
    """Keep the largest 4-connected piece of each cell, drop tiny cells, and number the rest without gaps."""
    instances_HW = np.zeros_like(nearest_HW)
    kept = 0
    for number in range(1, int(nearest_HW.max()) + 1):
        own = (nearest_HW == number).view(np.uint8)
        left, top, width, height = cv2.boundingRect(own)
        box = slice(top, top + height), slice(left, left + width)
        if not width:
            continue
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(own[box], connectivity=4)
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        if stats[largest, cv2.CC_STAT_AREA] >= SMALLEST_AREA:
            kept += 1
            instances_HW[box][pieces == largest] = kept
    return instances_HW


# -------------------------------------------------------------------------------------------------------- the picture


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is where: the cells, how much nucleus (0 to 1), pixels to the nearest edge, how much debris (0 to 1)."""

    instances_HW: NDArray[np.int32]
    nuclei_HW: Field
    edge_HW: Field
    debris_HW: Field

    @property
    def size(self) -> tuple[int, int]:
        return self.instances_HW.shape[0], self.instances_HW.shape[1]


def _distance_to_edge(instances_HW: NDArray[np.int32]) -> Field:
    """Pixels to the outside or to the next cell; 0 in the background."""
    dilated = cv2.dilate(instances_HW.astype(np.float32), np.ones((3, 3), np.uint8))
    inside = (instances_HW > 0) & (dilated == instances_HW)
    distance: Field = cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, 5)
    return distance


def _nuclei(shapes: list[_Shape], nearest_HW: NDArray[np.int32], rng: Random) -> Field:
    """How much nucleus each pixel has: a soft ellipse in each cell, off its centre."""
    nuclei_HW = np.zeros(nearest_HW.shape, np.float32)
    for number, shape in enumerate(shapes, 1):
        shift = rng.normal(0, 0.09 * shape.radius, 2)
        nucleus = _Shape(
            y=shape.y + shift[0],
            x=shape.x + shift[1],
            radius=shape.radius * rng.uniform(0.42, 0.58),
            stretch=rng.uniform(1.0, 1.3),
            turn=shape.turn,
            waves=shape.waves,
        )
        box = _box(nucleus, nearest_HW.shape)
        amount = np.clip((1.0 - _distance(nucleus, box)) * nucleus.radius * 0.6 + 0.5, 0, 1)
        nuclei_HW[box] += amount * (nearest_HW[box] == number) * np.float32(rng.uniform(0.75, 1.0))
    return nuclei_HW


def _debris(reach_HW: Field, rng: Random) -> Field:
    """How much debris each pixel has: small round specks outside the cells, some sharp, some out of focus."""
    debris_HW = np.zeros(reach_HW.shape, np.float32)
    height, width = reach_HW.shape
    for _ in range(max(2, height * width // 2500)):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        radius, strength = int(rng.integers(1, 4)), float(rng.uniform(0.4, 1.0))
        if reach_HW[y, x] > 1.3:
            cv2.circle(debris_HW, (x, y), radius, strength, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(debris_HW, (0, 0), float(rng.uniform(0.6, 1.2))), np.float32)


def _texture(size: tuple[int, int], grain: float, rng: Random) -> Field:
    """Noise of one size of grain, in pixels: mean 0, standard deviation about 1."""
    # Coarse grains are drawn on a coarse grid: the same look for less work.
    shrink = max(1.0, grain / 1.5)
    coarse = (max(2, math.ceil(size[0] / shrink)), max(2, math.ceil(size[1] / shrink)))
    noise = rng.standard_normal(coarse, dtype=np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), 0.8 * grain / shrink) - cv2.GaussianBlur(noise, (0, 0), 2.0 * grain / shrink)
    fine = fine / (fine.std() + np.float32(1e-6))
    return np.asarray(cv2.resize(fine, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _illumination(size: tuple[int, int], strength: float, rng: Random) -> Field:
    """Light that is brighter on one side: a smooth field about 1."""
    grid = 1 + strength * rng.uniform(-1, 1, (3, 3)).astype(np.float32)
    return np.asarray(cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _per_cell(instances_HW: NDArray[np.int32], spread: float, rng: Random) -> Field:
    """A factor about 1 for each cell, 0 in the background."""
    factors = np.exp(spread * rng.standard_normal(int(instances_HW.max()) + 1)).astype(np.float32)
    factors[0] = 0
    return np.asarray(factors[instances_HW])


def _fluorescence(scene: _Scene, rng: Random) -> Field:
    """Bright cells on a dark ground, (H, W, 1), full brightness 1; the nuclei of an image are brighter or darker."""
    size = scene.size
    body = _per_cell(scene.instances_HW, 0.22, rng)
    rounding = 1 - np.exp(-scene.edge_HW / 5)
    rim = np.exp(-(((scene.edge_HW - 2.0) / 1.3) ** 2))
    nucleus = 0.30 if rng.random() < 0.7 else -0.18
    grains = 1 + 0.16 * _texture(size, 1.6, rng) + 0.14 * _texture(size, 4.0, rng)
    light = body * (0.18 + 0.17 * rounding + 0.07 * rim + nucleus * scene.nuclei_HW) * grains
    haze = cv2.GaussianBlur(body, (0, 0), 9.0)
    ground = 0.07 + 0.07 * haze + 0.012 * _texture(size, 6.0, rng)
    total = np.maximum(light, 0) + ground + 0.40 * scene.debris_HW
    shown: Field = (total * _illumination(size, 0.3, rng))[..., None]
    return shown


def _stained_tissue(scene: _Scene, rng: Random) -> Field:
    """Purple cells on pink tissue, (H, W, 3), white 1: light that two stains let through (Beer and Lambert)."""
    size = scene.size
    inside = (scene.instances_HW > 0).astype(np.float32)
    body = _per_cell(scene.instances_HW, 0.18, rng)
    rim = np.exp(-(((scene.edge_HW - 1.0) / 1.3) ** 2)) * inside
    chromatin = 1 + 0.22 * _texture(size, 1.5, rng)
    fibres = 0.05 * _texture(size, 9.0, rng) + 0.03 * _texture(size, 2.5, rng)
    haematoxylin = body * (0.20 + 0.13 * rim + 0.62 * scene.nuclei_HW * chromatin) + 0.03 + 0.55 * scene.debris_HW
    eosin = 0.21 + fibres + inside * (0.10 + 0.04 * _texture(size, 3.0, rng))
    density = np.maximum(haematoxylin, 0)[..., None] * np.asarray(STAIN_HAEMATOXYLIN, np.float32) + np.maximum(
        eosin, 0.02
    )[..., None] * np.asarray(STAIN_EOSIN, np.float32)
    light: Field = 0.97 * np.exp(-1.35 * density) * _illumination(size, 0.06, rng)[..., None]
    return light


def _photograph(light_HWC: Field, rng: Random) -> NDArray[np.uint8]:
    """Light as a camera records it: blurred by the optics, counted in photons, read with noise, in 256 steps."""
    blurred = cv2.GaussianBlur(light_HWC, (0, 0), float(rng.uniform(0.7, 1.0))).reshape(light_HWC.shape)
    blurred = np.maximum(blurred, 0)
    # Many photons are as good as normal: variance equal to the mean, and much faster to draw.
    spread = np.sqrt(blurred / np.float32(PHOTONS) + np.float32(READ_NOISE**2))
    seen = blurred + spread * rng.standard_normal(blurred.shape, dtype=np.float32)
    return np.asarray(np.clip(seen, 0, 1) * 255 + 0.5, np.uint8)
