"""Contact sheets: many images with their masks, labels and errors on one page, for the eye.

H rows, W columns, C channels. image_HWC: any number type and channel count. labels_HW, mask_HW: class indices; any
other value (void) has no class. instances_HW, truth_HW: 0 background, objects from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixelwise.data.pictures import VOID_COLOUR, Pixels, Rgb, displayable, has_class, object_overlay, paint
from pixelwise.errors import printable
from pixelwise.task import Colour, Task

PANEL = 256
GUTTER, GAP, LINE = 184, 10, 22
PAGE, INK, FAINT, ACCENT = (22, 25, 31), (233, 236, 241), (150, 157, 168), (255, 207, 112)
FALSE_POSITIVE, FALSE_NEGATIVE, WRONG_CLASS = (230, 159, 0), (86, 180, 233), (204, 121, 167)  # Okabe and Ito 2008
NAME_LINES = 4
CLASSES_SHOWN = 40
OBJECT_HEADS = {"mask": "true objects", "labels": "found objects"}


@dataclass(frozen=True, kw_only=True, eq=False)
class SheetRow:
    """One image of a contact sheet: its name, a score in words, and the pictures; no mask_HW where there is none.

    truth_HW, instances_HW  the true and the predicted objects, where they are to be shown in place of the classes
    """

    name: str
    score: str
    image_HWC: Pixels
    mask_HW: Pixels | None
    labels_HW: Pixels
    truth_HW: Pixels | None = None
    instances_HW: Pixels | None = None


def contact_sheet(rows: Sequence[SheetRow], task: Task) -> Rgb:
    """One row per image: the image, the mask, the labels and the errors, beside its name and score; a legend below.

    Errors are orange where the mask is class 0 (false positive, if that is the background), blue where the labels are
    class 0 (false negative), purple where two other classes were confused. Without any mask the columns of mask and
    errors are left out. Objects are shown by their outlines, on the image. The longer side of a panel is 256 pixels.
    """
    with_mask = any(row.mask_HW is not None for row in rows)
    with_objects = any(row.instances_HW is not None for row in rows)
    heads = ("image", "mask", "labels", "errors") if with_mask else ("image", "labels")
    panels = [_panels(row, task, heads) for row in rows]
    heights = [max([LINE * 5, *(len(panel) for panel in row)]) for row in panels]
    entries = _legend_entries(task, with_mask, with_objects)
    width = GAP + GUTTER + len(heads) * (PANEL + GAP)
    legend = _legend_places(entries, width)
    height = LINE + 4 * GAP + sum(heights) + GAP * len(rows) + max([y for _, y in legend], default=0) + LINE

    sheet = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        title = OBJECT_HEADS.get(head, head) if with_objects else head
        draw.text((_left(column), GAP), title, font=_font(15), fill=FAINT)
    top = 2 * GAP + LINE
    for row, pictures, tall in zip(rows, panels, heights, strict=True):
        _write_beside(draw, row, top)
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (_left(column), top))
        top += tall + GAP
    top += GAP
    for (text, colour), (x, y) in zip(entries, legend, strict=True):
        draw.rectangle((x, top + y + 3, x + 14, top + y + 17), fill=colour, outline=FAINT)
        draw.text((x + 22, top + y), text, font=_font(14), fill=INK)
    return np.asarray(sheet)


def error_picture(image_HWC: Pixels, labels_HW: Pixels, mask_HW: Pixels, task: Task) -> Rgb:
    """The image, dark and grey, with the wrong pixels in the colours of `contact_sheet`; void is plain grey."""
    grey_HW = (displayable(image_HWC).mean(axis=2) * 0.45).astype(np.uint8)
    shown_HW3 = np.repeat(grey_HW[..., None], 3, axis=2)
    wrong_HW = labels_HW != mask_HW
    shown_HW3[wrong_HW] = WRONG_CLASS
    if task.kind == "exclusive":
        shown_HW3[wrong_HW & (mask_HW == 0)] = FALSE_POSITIVE
        shown_HW3[wrong_HW & (labels_HW == 0)] = FALSE_NEGATIVE
    shown_HW3[~has_class(mask_HW, task)] = VOID_COLOUR
    return shown_HW3


def _panels(row: SheetRow, task: Task, heads: Sequence[str]) -> list[Rgb]:
    """The pictures of one row at the size of a panel; a missing mask leaves two of them empty."""
    image_HWC = _scaled(row.image_HWC, cv2.INTER_AREA)
    labels_HW = _scaled(row.labels_HW, cv2.INTER_NEAREST)
    panels = {"image": displayable(image_HWC), "labels": paint(labels_HW, task)}
    if row.mask_HW is None:
        panels["mask"] = panels["errors"] = np.full((*labels_HW.shape, 3), PAGE, np.uint8)
    else:
        mask_HW = _scaled(row.mask_HW, cv2.INTER_NEAREST)
        panels["mask"] = paint(mask_HW, task)
        panels["errors"] = error_picture(image_HWC, labels_HW, mask_HW, task)
    for head, objects_HW in (("mask", row.truth_HW), ("labels", row.instances_HW)):
        if objects_HW is not None:
            panels[head] = object_overlay(image_HWC, _scaled(objects_HW, cv2.INTER_NEAREST))
    return [panels[head] for head in heads]


def _scaled(picture: Pixels, interpolation: int) -> Pixels:
    """The picture at the size of a panel; large ones are thinned out first, so that memory stays small."""
    thin = max(1, max(picture.shape[:2]) // (4 * PANEL))
    picture = picture[::thin, ::thin]
    height, width = picture.shape[:2]
    factor = PANEL / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if interpolation == cv2.INTER_NEAREST:
        return cv2.resize(picture.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    shown = picture[..., :4].astype(np.float32)  # one more than is shown: displayable() treats more than 3 differently
    return cv2.resize(shown, size, interpolation=interpolation).reshape(size[1], size[0], shown.shape[2])


def _left(column: int) -> int:
    return GAP + GUTTER + column * (PANEL + GAP)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write_beside(draw: ImageDraw.ImageDraw, row: SheetRow, top: int) -> None:
    """The name, broken over a few lines, and the score under it."""
    lines = _broken(printable(row.name), GUTTER - GAP, 15)
    for number, line in enumerate(lines):
        draw.text((GAP, top + number * LINE), line, font=_font(15), fill=INK)
    score = _broken(printable(row.score), GUTTER - GAP, 15)[0]
    draw.text((GAP, top + len(lines) * LINE), score, font=_font(15), fill=ACCENT)


def _broken(text: str, width: int, size: int) -> list[str]:
    """Text as at most NAME_LINES lines of at most `width` pixels, the end marked where it was cut."""
    font, lines = _font(size), [""]
    for letter in text:
        if font.getlength(lines[-1] + letter) <= width:
            lines[-1] += letter
        elif len(lines) < NAME_LINES:
            lines.append(letter)
        else:
            while font.getlength(lines[-1] + "…") > width:
                lines[-1] = lines[-1][:-1]
            lines[-1] += "…"
            break
    return lines


def _legend_entries(task: Task, with_mask: bool, with_objects: bool) -> list[tuple[str, Colour]]:
    """Names and colours of what is on the sheet; the colours of objects mean nothing but that they differ."""
    classes = [] if with_objects else list(zip(task.names, task.colours, strict=True))
    entries = [(_broken(printable(name), PANEL, 14)[0], colour) for name, colour in classes[:CLASSES_SHOWN]]
    if len(classes) > CLASSES_SHOWN:
        entries.append((f"and {task.outputs - CLASSES_SHOWN} more classes", PAGE))
    if task.ignore_index is not None:
        entries.append(("void", VOID_COLOUR))
    if with_mask and task.outputs == 2 and task.kind == "exclusive":
        entries += [("false positive", FALSE_POSITIVE), ("false negative", FALSE_NEGATIVE)]
    elif with_mask and task.kind == "exclusive":
        first = _broken(printable(task.names[0]), PANEL, 14)[0]
        entries += [(f"wrong: is {first}", FALSE_POSITIVE), (f"wrong: called {first}", FALSE_NEGATIVE)]
        entries.append(("wrong: other classes", WRONG_CLASS))
    elif with_mask:
        entries.append(("wrong in a class", WRONG_CLASS))
    return entries


def _legend_places(entries: Sequence[tuple[str, Colour]], width: int) -> list[tuple[int, int]]:
    """Where each entry of the legend begins, from left to right, line by line."""
    places, x, y = [], GAP, 0
    for text, _ in entries:
        length = 22 + round(_font(14).getlength(text)) + 2 * GAP
        if x > GAP and x + length > width:
            x, y = GAP, y + LINE
        places.append((x, y))
        x += length
    return places
