"""Picture files as pixelwise writes them: masks, scores, instances; and an image with its labels or objects over it.

Files are written completely or not at all. What is composed is returned as RGB, so a report can embed it too;
`contact_sheet.py` and `curves.py` draw the larger pictures.

H rows, W columns, C channels, K outputs. image_HWC: any number type and channel count. labels_HW, mask_HW: class
indices; any other value (void) has no class and stays uncoloured. rgb_HW3: uint8.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pixelwise.errors import UsageError, printable
from pixelwise.files import write_atomically
from pixelwise.task import Colour, Task, distinct_colours

Pixels = NDArray[Any]
Rgb = NDArray[np.uint8]
SCORE_STEPS = 65535
MOST_IN_PNG = 65535
SCORE_ROUNDING = 1e-5  # a weighted mean of probabilities may pass 1 by a rounding error
STRETCH = (1.0, 99.0)
MOST_SAMPLED = 1 << 20
BLEND = 0.35
OBJECT_COLOURS = 89  # a prime, so that rows of a grid do not repeat the colours
VOID_COLOUR: Colour = (96, 96, 96)


# ---------------------------------------------------------------------------------------------------- files of results


def write_mask(path: Path, labels_HW: Pixels, task: Task) -> None:
    """Write labels as an index PNG with the colours of the task: the stored values are the labels themselves.

    Raises UsageError for labels outside 0 to 255, with no pixel, or not of whole numbers, and for a name not in .png.
    """
    require_suffix(path, ".png")
    picture = Image.fromarray(np.ascontiguousarray(_whole_numbers(labels_HW, "labels", 255), np.uint8))
    picture.putpalette(task.palette())
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def write_instances(path: Path, instances_HW: Pixels) -> None:
    """Write instance numbers as a 16-bit grey PNG, or as a 32-bit TIFF where the name ends so.

    Raises UsageError for numbers below 0, or beyond what the file holds: 65535 in a PNG, 2^32 - 1 in a TIFF.
    """
    require_suffix(path, ".png", ".tif", ".tiff")
    if path.suffix.lower() == ".png":
        numbers = np.ascontiguousarray(_whole_numbers(instances_HW, "instances", MOST_IN_PNG), np.uint16)
        write_atomically(path, lambda temporary: Image.fromarray(numbers).save(temporary, format="PNG"))
    else:
        many = _whole_numbers(instances_HW, "instances", 2**32 - 1).astype(np.uint32)
        write_atomically(path, lambda temporary: _write_tiff(temporary, many))


def _write_tiff(path: Path, numbers_HW: NDArray[np.uint32]) -> None:
    tifffile.imwrite(
        path, numbers_HW, photometric="minisblack", compression="zlib", metadata=None, software="pixelwise"
    )


def write_picture(path: Path, picture_HWC: Rgb) -> None:
    """Write a grey (1 channel) or RGB (3 channels) picture of uint8 as PNG."""
    require_suffix(path, ".png")
    if picture_HWC.dtype != np.uint8 or picture_HWC.ndim != 3 or picture_HWC.shape[2] not in (1, 3):
        raise UsageError(
            f"a picture of shape {picture_HWC.shape} and type {picture_HWC.dtype}: give rows × columns × 1 or 3, uint8"
        )
    plain = np.ascontiguousarray(picture_HWC[..., 0] if picture_HWC.shape[2] == 1 else picture_HWC)
    write_atomically(path, lambda temporary: Image.fromarray(plain).save(temporary, format="PNG"))


def write_scores(path: Path, scores_KHW: Pixels, task: Task) -> None:
    """Write scores as a TIFF with one page per output, in the order of the classes, named in the first description.

    Probabilities are stored in 16 bits as score × 65535, rounded; the outputs of a task of values as float32.
    Raises UsageError where the outputs do not fit the task, or a probability is not within 0 to 1.
    """
    require_suffix(path, ".tif", ".tiff")
    if scores_KHW.ndim != 3 or len(scores_KHW) != task.outputs or not scores_KHW.size:
        raise UsageError(f"scores of shape {scores_KHW.shape}: give {task.outputs} outputs × rows × columns")
    step = None if task.kind == "values" else SCORE_STEPS
    description = json.dumps({"names": task.names, "kind": task.kind, "value of 1.0": step or 1.0})

    def write(temporary: Path) -> None:
        with tifffile.TiffWriter(temporary, bigtiff=scores_KHW.size * 4 > 2**32 - 2**25) as file:
            for k, scores_HW in enumerate(scores_KHW):
                file.write(
                    scores_HW.astype(np.float32) if step is None else _sixteen_bits(scores_HW, task.names[k]),
                    photometric="minisblack",
                    compression="zlib",
                    predictor=True,
                    metadata=None,
                    description=description if k == 0 else None,
                    software="pixelwise",
                )

    write_atomically(path, write)


def _sixteen_bits(scores_HW: Pixels, name: str) -> NDArray[np.uint16]:
    low, high = float(scores_HW.min()), float(scores_HW.max())
    if not (low >= -SCORE_ROUNDING and high <= 1 + SCORE_ROUNDING):
        raise UsageError(f"scores of {printable(name)} from {low} to {high}: give probabilities, from 0 to 1")
    return np.rint(np.clip(scores_HW.astype(np.float64), 0, 1) * SCORE_STEPS).astype(np.uint16)


def _whole_numbers(values_HW: Pixels, what: str, highest: int) -> Pixels:
    if values_HW.dtype.kind not in "bui" or values_HW.ndim != 2 or not values_HW.size:
        raise UsageError(
            f"{what} of shape {values_HW.shape} and type {values_HW.dtype}: give rows × columns of whole numbers"
        )
    low, high = int(values_HW.min()), int(values_HW.max())
    if low < 0 or high > highest:
        raise UsageError(f"{what} from {low} to {high}: this file holds 0 to {highest}")
    return values_HW


def require_suffix(path: Path, *suffixes: str) -> None:
    """Raise UsageError where the name of a picture does not say what is written into it."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{printable(path)}: this picture is written as {suffixes[0]}; give a name that ends so")


# ------------------------------------------------------------------------------------------------------ for the eyes


def displayable(image_HWC: Pixels) -> Rgb:
    """Any image as RGB, stretched from its 1st to its 99th percentile; what is not finite shows black.

    One channel becomes grey; two become magenta and green; of more, the first three are red, green and blue. One or
    three channels are stretched together, which keeps colours; otherwise each on its own, as they differ in kind.
    A channel of one single value shows middle grey.
    """
    chosen = image_HWC[..., :3].astype(np.float32)
    if image_HWC.shape[2] in (1, 3):
        shown = _stretch(chosen)
    else:
        shown = np.stack([_stretch(channel) for channel in np.moveaxis(chosen, 2, 0)], axis=2)
    match shown.shape[2]:
        case 1:
            return np.repeat(shown, 3, axis=2)
        case 2:
            return shown[..., [0, 1, 0]]
        case _:
            return shown


def overlay(image_HWC: Pixels, labels_HW: Pixels, task: Task) -> Rgb:
    """The image with the class colours laid over it and a crisp line along each class border.

    Class 0 of exclusive classes is taken as background: it, pixels without any overlapping class and void stay clear.
    Raises UsageError where the sizes differ.
    """
    if image_HWC.shape[:2] != labels_HW.shape:
        raise UsageError(f"an image of {image_HWC.shape[:2]} and labels of {labels_HW.shape}: give the same size")
    shown_HW3 = displayable(image_HWC)
    clear_HW = ~has_class(labels_HW, task) | (labels_HW == 0)
    return _laid_over(shown_HW3, paint(labels_HW, task), _borders(labels_HW), clear_HW)


def object_overlay(image_HWC: Pixels, instances_HW: Pixels) -> Rgb:
    """The image with every object tinted and outlined along its inner edge; background is left clear.

    Objects of neighbouring numbers have colours far apart. So where objects touch there are two lines side by side.
    Raises UsageError where the sizes differ.
    """
    if image_HWC.shape[:2] != instances_HW.shape:
        raise UsageError(f"an image of {image_HWC.shape[:2]} and objects of {instances_HW.shape}: give the same size")
    bright = distinct_colours(2 * OBJECT_COLOURS, "overlapping")[::2]
    table = np.array([(0, 0, 0), *bright], np.uint8)
    places_HW = np.where(instances_HW > 0, 1 + (instances_HW - 1) % OBJECT_COLOURS, 0)
    return _laid_over(displayable(image_HWC), table[places_HW], _borders(instances_HW), instances_HW == 0)


def _laid_over(shown_HW3: Rgb, colours_HW3: Rgb, borders_HW: NDArray[np.bool_], clear_HW: NDArray[np.bool_]) -> Rgb:
    """The picture tinted with colours, opaque on borders, and untouched where it is to stay clear."""
    blended_HW3 = cv2.addWeighted(shown_HW3, 1 - BLEND, colours_HW3, BLEND, 0)
    blended_HW3[borders_HW] = colours_HW3[borders_HW]
    return np.where(clear_HW[..., None], shown_HW3, blended_HW3)


def paint(labels_HW: Pixels, task: Task, *, void: Colour = VOID_COLOUR) -> Rgb:
    """Labels as the colours of their classes, and the colour `void` for every other value."""
    table = np.array([*task.code_colours(), void], np.uint8)
    return table[np.where(has_class(labels_HW, task), labels_HW, task.codes).astype(np.intp)]


def has_class(labels_HW: Pixels, task: Task) -> NDArray[np.bool_]:
    """Where the value is the index of a class, or a set of overlapping ones, not void."""
    return np.asarray((labels_HW >= 0) & (labels_HW < task.codes))


def _borders(labels_HW: Pixels) -> NDArray[np.bool_]:
    """Pixels with another label among their neighbours; the line grows with the image, so that it stays visible."""
    values = labels_HW.astype(np.float32)
    times = max(1, round(min(labels_HW.shape) / 600))
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    highest = cv2.dilate(values, cross, iterations=times)
    lowest = cv2.erode(values, cross, iterations=times)
    return np.asarray(highest != lowest)


def _stretch(values: NDArray[np.float32]) -> Rgb:
    sample = values.ravel()[:: max(1, values.size // MOST_SAMPLED)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(sample, STRETCH)
    if high <= low:
        low, high = sample.min(), sample.max()
    if high <= low:
        return np.where(np.isfinite(values), 128, 0).astype(np.uint8)
    share = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low)
    return np.asarray(np.clip(share, 0, 1) * 255 + 0.5, np.uint8)
