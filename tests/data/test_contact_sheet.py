"""Contact sheets have the panels, colours and legend they promise, for images and names of any kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pixelwise.data.contact_sheet import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    GAP,
    GUTTER,
    LINE,
    PANEL,
    WRONG_CLASS,
    SheetRow,
    contact_sheet,
    error_picture,
)
from pixelwise.data.pictures import VOID_COLOUR
from pixelwise.task import Task

TASK = Task(names=("background", "cell"), colours=((0, 0, 0), (40, 225, 130)))
TOP = LINE + 2 * GAP


def make_row(shape=(64, 64), *, channels=1, name="a.png", mask=True):
    image = np.random.default_rng(0).random((*shape, channels)).astype(np.float32)
    labels, truth = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    labels[shape[0] // 4 :] = 1
    truth[: -shape[0] // 4] = 1
    return SheetRow(name=name, score="mean IoU 0.5", image_HWC=image, mask_HW=truth if mask else None, labels_HW=labels)


def panel(sheet, column):
    left = GAP + GUTTER + column * (PANEL + GAP)
    return sheet[TOP : TOP + PANEL, left : left + PANEL]


def has_colour(picture, colour):
    return bool((picture == colour).all(axis=2).any())


def test_panels_lie_side_by_side_in_their_colours():
    sheet = contact_sheet([make_row()], TASK)
    assert (sheet.dtype, sheet.shape[1:]) == (np.uint8, (GAP + GUTTER + 4 * (PANEL + GAP), 3))
    assert (panel(sheet, 1)[:100] == TASK.colours[1]).all()
    assert (panel(sheet, 2)[:60] == TASK.colours[0]).all()
    assert (panel(sheet, 2)[-100:] == TASK.colours[1]).all()
    assert (panel(sheet, 3)[:60] == FALSE_NEGATIVE).all()
    assert (panel(sheet, 3)[-60:] == FALSE_POSITIVE).all()


def test_the_legend_shows_every_colour_below_the_rows():
    legend = contact_sheet([make_row()], TASK)[TOP + PANEL + GAP :]
    for colour in (*TASK.colours, VOID_COLOUR, FALSE_POSITIVE, FALSE_NEGATIVE):
        assert has_colour(legend, colour)


def test_without_masks_there_are_two_columns():
    sheet = contact_sheet([make_row(mask=False)], TASK)
    assert sheet.shape[1] == GAP + GUTTER + 2 * (PANEL + GAP)
    assert not has_colour(sheet, FALSE_POSITIVE)


def make_object_row(mask=True):
    """Two objects of 32 columns that touch; the prediction has one of both."""
    truth = np.ones((64, 64), np.int32)
    truth[:, 32:] = 2
    return replace(make_row(mask=mask), truth_HW=truth, instances_HW=np.ones((64, 64), np.int32))


def test_objects_are_outlined_on_the_image():
    sheet, plain = contact_sheet([make_object_row()], TASK), contact_sheet([make_row()], TASK)
    assert sheet.shape[1] == plain.shape[1]
    for column in (0, 3):
        assert np.array_equal(panel(sheet, column), panel(plain, column))
    true, found = panel(sheet, 1).astype(int), panel(sheet, 2).astype(int)
    assert (true[:, 127] == true[0, 127]).all(), "a line where the two objects meet"
    assert (true[:, 128] == true[0, 128]).all()
    assert np.abs(true[0, 127] - true[0, 128]).sum() > 100
    assert not (found[:, 127] == found[0, 127]).all()


def test_the_legend_of_objects_has_no_classes():
    legend = contact_sheet([make_object_row()], TASK)[TOP + PANEL + GAP :]
    assert has_colour(legend, FALSE_POSITIVE)
    assert not has_colour(legend, TASK.colours[1])
    endless = Task(names=TASK.names, colours=TASK.colours, ignore_index=None)
    assert contact_sheet([make_object_row(mask=False)], endless).shape[1] == GAP + GUTTER + 2 * (PANEL + GAP)


def test_rows_are_as_tall_as_their_panels():
    one = contact_sheet([make_row((256, 256))], TASK)
    two = contact_sheet([make_row((256, 256)), make_row((100, 200))], TASK)
    assert two.shape[0] - one.shape[0] == 128 + GAP


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3000, 2000)])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_shape(shape, channels):
    sheet = contact_sheet([make_row(shape, channels=channels)], TASK)
    assert sheet.shape[1] == GAP + GUTTER + 4 * (PANEL + GAP)


@pytest.mark.parametrize("name", ["", "x" * 1000, "a\nb\t\x1b[31m", "数据/пример.png", "\udcff.png", "🙂"])
def test_names_of_any_kind_stay_in_their_margin(name):
    plain, named = (contact_sheet([make_row(name=text)], TASK) for text in ("a", name))
    changed = (plain != named).any(axis=(0, 2))
    assert not changed[GAP + GUTTER :].any()


def test_no_rows_and_many_classes():
    many = Task.of([f"class number {k} " + "w" * 60 for k in range(120)])
    sheet = contact_sheet([], many)
    assert has_colour(sheet, many.colours[39])
    assert not has_colour(sheet, many.colours[45])


def test_errors_of_several_classes():
    task = Task.of(["background", "cell", "edge"])
    labels = np.array([[0, 1, 0, 2, 1, 1]])
    mask = np.array([[0, 0, 1, 1, 1, 255]])
    shown = error_picture(np.zeros((1, 6, 1)), labels, mask, task)[0].tolist()
    assert shown[1:4] == [list(FALSE_POSITIVE), list(FALSE_NEGATIVE), list(WRONG_CLASS)]
    assert shown[0] == shown[4]
    assert shown[5] == list(VOID_COLOUR)
