"""Picture files come back exactly, are never half written, and overlays show what they should."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixelwise.data.pictures import (
    VOID_COLOUR,
    displayable,
    object_overlay,
    overlay,
    paint,
    write_instances,
    write_mask,
    write_picture,
    write_scores,
)
from pixelwise.errors import OutputError, UsageError
from pixelwise.task import Task

TASK = Task(names=("background", "cell", "edge"), colours=((0, 0, 0), (250, 0, 0), (0, 0, 250)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 7), (64, 65)])
@pytest.mark.parametrize("highest", [1, 2, 255])
def test_masks_come_back_exactly(tmp_path, shape, highest):
    labels = np.random.default_rng(0).integers(0, highest + 1, shape)
    write_mask(tmp_path / "m.png", labels, TASK)
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette() == list(TASK.palette())
        assert np.array_equal(np.asarray(picture), labels)


def test_masks_of_any_memory_layout_and_bool(tmp_path):
    labels = np.arange(12, dtype=np.int64).reshape(3, 4)
    for number, view in enumerate((labels.T, labels[::-1, ::2], labels > 5)):
        write_mask(tmp_path / f"{number}.png", view, TASK)
        with Image.open(tmp_path / f"{number}.png") as picture:
            assert np.array_equal(np.asarray(picture), view)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([[256]]), "labels from 256 to 256"),
        (np.array([[-1, 0]]), "labels from -1 to 0"),
        (np.array([[0.0]]), "whole numbers"),
        (np.zeros((0, 4), np.uint8), "shape \\(0, 4\\)"),
        (np.zeros((1, 2, 2), np.uint8), "shape \\(1, 2, 2\\)"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, labels, words):
    with pytest.raises(UsageError, match=words):
        write_mask(tmp_path / "m.png", labels, TASK)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_mask, write_scores])
def test_the_name_must_say_what_is_in_the_file(tmp_path, write):
    with pytest.raises(UsageError, match=r"m\.jpg: this picture is written as"):
        write(tmp_path / "m.jpg", np.zeros((2, 2), np.uint8), TASK)


def test_instances_come_back_exactly(tmp_path):
    numbers = np.array([[0, 1, 255], [256, 40_000, 65_535]], np.int32)
    write_instances(tmp_path / "i.png", numbers)
    with Image.open(tmp_path / "i.png") as picture:
        assert np.array_equal(np.asarray(picture), numbers)
    with pytest.raises(UsageError, match="0 to 65535"):
        write_instances(tmp_path / "j.png", numbers + 1)


def test_many_instances_come_back_exactly_from_a_tiff(tmp_path):
    numbers = np.array([[0, 1, 65_536], [2**24, 2**31 - 1, 7]], np.int32)
    write_instances(tmp_path / "i.tif", numbers)
    stored = tifffile.imread(tmp_path / "i.tif")
    assert stored.dtype == np.uint32
    assert np.array_equal(stored, numbers)
    with pytest.raises(UsageError, match="instances from -1"):
        write_instances(tmp_path / "j.tif", numbers - 1)
    with pytest.raises(UsageError, match="this picture is written as"):
        write_instances(tmp_path / "j.jpg", numbers)


def test_a_failing_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    write_mask(path, np.zeros((2, 2), np.uint8), TASK)
    before = path.read_bytes()

    def half_written(self, file, *_, **__):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(OutputError, match="no space left"):
        write_mask(path, np.ones((2, 2), np.uint8), TASK)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_exactly(tmp_path, channels):
    picture = np.random.default_rng(0).integers(0, 256, (5, 9, channels), dtype=np.uint8)
    write_picture(tmp_path / "p.png", picture)
    with Image.open(tmp_path / "p.png") as read:
        assert np.array_equal(np.asarray(read).reshape(picture.shape), picture)


@pytest.mark.parametrize("picture", [np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3))])
def test_what_is_no_picture_is_refused(tmp_path, picture):
    with pytest.raises(UsageError, match="1 or 3, uint8"):
        write_picture(tmp_path / "p.png", picture)


@pytest.mark.parametrize("shape", [(1, 1), (6, 9), (40, 3)])
def test_scores_come_back_within_half_a_step(tmp_path, shape):
    scores = np.random.default_rng(0).random((3, *shape), np.float32)
    scores[0, 0, 0], scores[1, 0, 0] = 1.0, 0.0
    write_scores(tmp_path / "s.tif", scores, TASK)
    with tifffile.TiffFile(tmp_path / "s.tif") as file:
        assert len(file.pages) == 3
        assert json.loads(file.pages[0].description)["names"] == ["background", "cell", "edge"]
        pages = np.stack([page.asarray() for page in file.pages])
    assert pages.dtype == np.uint16
    assert np.abs(pages / 65535 - scores).max() <= 0.5001 / 65535
    assert (pages[0, 0, 0], pages[1, 0, 0]) == (65535, 0)


def test_scores_of_values_stay_float_and_names_may_be_any_text(tmp_path):
    values = np.array([[[-3.5, 1e9]]], np.float32)
    write_scores(tmp_path / "v.tiff", values, Task.of(["Höhe 高さ"], kind="values"))
    with tifffile.TiffFile(tmp_path / "v.tiff") as file:
        assert np.array_equal(file.pages[0].asarray(), values[0])
        assert json.loads(file.pages[0].description)["names"] == ["Höhe 高さ"]


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1, np.inf])
def test_scores_that_are_no_probabilities_are_refused(tmp_path, wrong):
    scores = np.full((3, 2, 2), 0.5)
    scores[1, 1, 1] = wrong
    with pytest.raises(UsageError, match="scores of cell from"):
        write_scores(tmp_path / "s.tif", scores, TASK)
    assert not list(tmp_path.iterdir())


def test_scores_need_one_output_per_class(tmp_path):
    with pytest.raises(UsageError, match="give 3 outputs"):
        write_scores(tmp_path / "s.tif", np.zeros((2, 4, 4)), TASK)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["uint8", "uint16", "int16", "float32", "float64", "bool"]), st.integers(1, 6), st.integers(1, 12)
)
def test_any_image_can_be_shown(dtype, channels, side):
    image = (np.random.default_rng(side).random((side, 3, channels)) * 60000).astype(dtype)
    shown = displayable(image)
    assert (shown.shape, shown.dtype) == ((side, 3, 3), np.uint8)


def test_stretching_uses_the_whole_range_and_keeps_grey_grey():
    ramp = np.linspace(1000, 1400, 400, dtype=np.uint16).reshape(20, 20, 1)
    shown = displayable(ramp)
    assert (shown.min(), shown.max()) == (0, 255)
    assert (shown[..., 0] == shown[..., 2]).all()
    assert (np.diff(shown[..., 0].ravel().astype(int)) >= 0).all()


def test_rgb_is_stretched_together_and_other_bands_apart():
    image = np.zeros((10, 10, 3), np.float32)
    image[5:, :, 0], image[5:, :, 1] = 100, 50
    assert displayable(image)[9, 0].tolist() == [255, 128, 0]
    bands = np.concatenate([image, image[..., :1]], axis=2)
    assert displayable(bands)[9, 0].tolist() == [255, 255, 128]
    assert displayable(image[..., :2])[9, 0].tolist() == [255, 255, 255]


def test_flat_sparse_and_broken_images_can_be_seen():
    assert (displayable(np.full((4, 4, 1), 7)) == 128).all()
    sparse = np.zeros((30, 30, 1))
    sparse[3, 3] = 1
    assert displayable(sparse)[3, 3].tolist() == [255, 255, 255]
    broken = np.array([[[np.nan], [0.0], [1.0], [np.inf]]])
    assert displayable(broken)[0, :, 0].tolist() == [0, 0, 255, 255]
    assert (displayable(np.full((2, 2, 1), np.nan)) == 0).all()


def test_overlay_blends_classes_and_leaves_background_and_void_clear():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15], labels[0, :] = 1, 255
    shown, plain = overlay(image, labels, TASK), displayable(image)
    assert np.array_equal(shown[16:], plain[16:])
    assert np.array_equal(shown[0], plain[0])
    assert (shown[5, 5:15] == TASK.colours[1]).all()
    assert (shown[10, 10].astype(int) - plain[10, 10])[0] >= 0
    assert not np.array_equal(shown[10, 10], plain[10, 10])


def test_overlay_of_another_size_is_refused():
    with pytest.raises(UsageError, match="same size"):
        overlay(np.zeros((4, 4, 1)), np.zeros((4, 5), int), TASK)


def test_touching_objects_have_a_line_each_in_its_own_colour():
    image = np.full((20, 20, 3), 90, np.uint8)
    image[0, 0], image[19, 19] = 0, 255
    objects = np.zeros((20, 20), np.int32)
    objects[4:16, 2:10], objects[4:16, 10:18] = 1, 2
    shown, plain = object_overlay(image, objects), displayable(image)
    assert np.array_equal(shown[objects == 0], plain[objects == 0])
    left, right = shown[5:15, 9], shown[5:15, 10]
    assert (left == left[0]).all()
    assert (right == right[0]).all()
    assert np.abs(left[0].astype(int) - right[0]).sum() > 100
    assert (shown[4, 2:10] == left[0]).all()
    assert not (shown[8:12, 5:7] == left[0]).all(axis=2).any(), "the inside is only tinted"
    assert not np.array_equal(shown[10, 5], plain[10, 5])


def test_neighbouring_numbers_differ_in_colour_and_any_number_has_one():
    numbers = np.repeat(np.arange(1, 401, dtype=np.int32), 3)[None].repeat(3, axis=0)
    lines = object_overlay(np.zeros((*numbers.shape, 1)), numbers)[0, ::3].astype(int)
    assert np.abs(np.diff(lines, axis=0)).sum(axis=1).min() > 100
    assert object_overlay(np.zeros((1, 1, 1)), np.array([[2**24 - 1]])).shape == (1, 1, 3)
    with pytest.raises(UsageError, match="same size"):
        object_overlay(np.zeros((4, 4, 1)), np.zeros((4, 5), int))


def test_paint_knows_classes_and_void():
    painted = paint(np.array([[0, 2, 255, -1]]), TASK)
    assert painted[0].tolist() == [[0, 0, 0], [0, 0, 250], list(VOID_COLOUR), list(VOID_COLOUR)]
