"""Drawn cells: the same for the same seed, exact truth, touching, and a job that is neither trivial nor impossible."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from pixelwise.data.synthetic import CELL_TASK, draw_cells, write_data_set
from pixelwise.errors import UsageError


def touching_pairs(instances_HW):
    """Pairs of numbers that are neighbours left and right or above and below."""
    sides = [(instances_HW[:, :-1], instances_HW[:, 1:]), (instances_HW[:-1], instances_HW[1:])]
    both = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in sides])
    both = both[(both[:, 0] != both[:, 1]) & (both > 0).all(axis=1)]
    return {tuple(sorted(pair)) for pair in both.tolist()}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(256, 256), (97, 130), (16, 16), (16, 300)])
def test_shapes_types_and_values(size, channels):
    cells = draw_cells(size=size, channels=channels, seed=4)
    assert (cells.image_HWC.shape, cells.image_HWC.dtype) == ((*size, channels), np.uint8)
    assert (cells.mask_HW.shape, cells.mask_HW.dtype) == (size, np.uint8)
    assert (cells.instances_HW.shape, cells.instances_HW.dtype) == (size, np.int32)
    assert np.array_equal(cells.mask_HW, cells.instances_HW > 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_seed_decides_everything(channels):
    first, again = (draw_cells(size=(128, 96), channels=channels, seed=7) for _ in range(2))
    other = draw_cells(size=(128, 96), channels=channels, seed=8)
    assert first.image_HWC.tobytes() == again.image_HWC.tobytes()
    assert first.instances_HW.tobytes() == again.instances_HW.tobytes()
    assert not np.array_equal(first.instances_HW, other.instances_HW)


@pytest.mark.parametrize("seed", range(6))
def test_each_instance_is_one_piece_and_numbers_have_no_gaps(seed):
    instances = draw_cells(seed=seed).instances_HW
    assert np.unique(instances).tolist() == list(range(instances.max() + 1))
    for number in range(1, instances.max() + 1):
        pieces, _ = cv2.connectedComponents((instances == number).astype(np.uint8), connectivity=4)
        assert pieces == 2, number


@pytest.mark.parametrize("seed", range(6))
def test_cells_are_many_of_many_sizes_and_touch(seed):
    instances = draw_cells(seed=seed).instances_HW
    areas = np.bincount(instances.ravel())[1:]
    assert len(areas) >= 20
    assert areas.max() > 4 * np.median(areas) or areas.max() > 8 * areas.min()
    assert len(touching_pairs(instances)) >= 5
    assert 0.25 < (instances > 0).mean() < 0.75


@pytest.mark.parametrize("channels", [1, 3])
def test_a_threshold_finds_most_of_the_cells_but_not_all(channels):
    """Otsu's threshold is a fair first try: the task can be learnt, and leaves something to learn."""
    ious = []
    for seed in range(6):
        cells = draw_cells(channels=channels, seed=seed)
        _, found = cv2.threshold(cells.image_HWC[..., channels // 2], 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        found = found == (1 if channels == 1 else 0)
        ious.append((found & (cells.mask_HW == 1)).sum() / (found | (cells.mask_HW == 1)).sum())
    assert 0.4 < np.mean(ious) < 0.95


def test_stained_cells_are_purple_on_pink():
    cells = draw_cells(channels=3, seed=2)
    inside = cells.image_HWC[cells.mask_HW == 1].mean(axis=0)
    outside = cells.image_HWC[cells.mask_HW == 0].mean(axis=0)
    assert (outside > inside).all()
    assert outside[0] > outside[1]
    assert inside[2] > inside[0] > inside[1]


@pytest.mark.parametrize(("size", "channels", "words"), [((15, 64), 1, "15 × 64 pixels"), ((64, 64), 2, "2 channels")])
def test_what_cannot_be_drawn_is_refused(size, channels, words):
    with pytest.raises(UsageError, match=words):
        draw_cells(size=size, channels=channels, seed=0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_written_data_set_reads_back_exactly(tmp_path, channels, mode):
    folder = write_data_set(tmp_path / "cells", images=2, size=(48, 64), channels=channels, seed=3)
    names = ["cells_000.png", "cells_001.png"]
    for part in ("images", "masks", "instances"):
        assert sorted(path.name for path in (folder / part).iterdir()) == names
    for name in names:
        with Image.open(folder / "images" / name) as image:
            assert (image.mode, image.size) == (mode, (64, 48))
        with Image.open(folder / "masks" / name) as mask, Image.open(folder / "instances" / name) as instances:
            assert (mask.mode, instances.mode) == ("P", "I;16")
            assert mask.getpalette()[:6] == [part for colour in CELL_TASK.colours for part in colour]
            assert np.array_equal(np.asarray(mask), np.asarray(instances) > 0)


def test_data_sets_of_neighbouring_seeds_share_no_image(tmp_path):
    sets = [write_data_set(tmp_path / str(seed), images=3, size=(32, 32), seed=seed) for seed in range(3)]
    drawn = [path.read_bytes() for folder in sets for path in (folder / "images").iterdir()]
    assert len(set(drawn)) == 9


def test_two_data_sets_are_never_mixed(tmp_path):
    write_data_set(tmp_path, images=1, size=(16, 16))
    with pytest.raises(UsageError, match="images exists already"):
        write_data_set(tmp_path, images=1, size=(16, 16))


def test_a_data_set_has_an_image(tmp_path):
    with pytest.raises(UsageError, match="0 images"):
        write_data_set(tmp_path / "none", images=0)
    assert not (tmp_path / "none").exists()
