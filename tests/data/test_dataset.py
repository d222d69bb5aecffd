"""Opening a folder: everything is read once, fits, or is refused with all that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pixelwise.data.dataset import open_dataset, open_like, read_pair
from pixelwise.data.masks import Coding
from pixelwise.errors import DataError, UsageError

RNG = np.random.default_rng(0)


def fill(root: Path, masks: dict[str, NDArray[Any]], shape: tuple[int, ...] = (4, 6, 3)) -> Path:
    """A data set with the given masks and images of noise."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        Image.fromarray(RNG.integers(0, 256, shape, np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    return root


def mask_of(*values: int) -> NDArray[np.uint8]:
    """A mask (4, 6) whose columns hold the values in turn."""
    return np.tile(np.resize(np.array(values, np.uint8), 6), (4, 1))


def test_a_data_set_is_opened_and_read(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, {"a": mask_of(0, 255), "b": mask_of(255, 0, 0)}))
    image_HWC, mask_HW = data.read(data.samples[1])
    assert (image_HWC.shape, image_HWC.dtype, mask_HW.dtype) == ((4, 6, 3), np.uint8, np.uint8)
    assert np.array_equal(mask_HW, mask_of(1, 0, 0))
    assert data.coding.values == (0, 255)
    assert data.survey.pixels == (28, 20)


def test_wrong_files_are_all_named(tmp_path: Path) -> None:
    fill(tmp_path, {name: mask_of(0, 1) for name in "abc"})
    (tmp_path / "images" / "a.png").write_text("no image")
    (tmp_path / "masks" / "b.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    assert {finding.file.relative_to(tmp_path).as_posix() for finding in caught.value.findings} == {
        "images/a.png",
        "masks/b.png",
    }


def test_sizes_and_channels_are_refused_together(tmp_path: Path) -> None:
    fill(tmp_path, {"a": mask_of(0, 1), "b": mask_of(0, 1), "c": mask_of(0, 1).T.copy(), "d": mask_of(0, 1)[:3]})
    fill(tmp_path, {"e": mask_of(1, 0)}, shape=(4, 6))
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    found = {finding.file.name: finding.found for finding in caught.value.findings}
    assert set(found) == {"c.png", "d.png", "e.png"}
    assert found["c.png"].startswith("4 x 6 pixels, but its image")
    assert "transposed" in found["c.png"]
    assert "transposed" not in found["d.png"]
    assert found["e.png"] == "1 channels"


def test_warnings_do_not_refuse(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, {"a": mask_of(0, 1), "b": mask_of(0)}), classes=("x", "y", "z"))
    assert [(finding.severity, finding.found) for finding in data.findings] == [
        ("warning", "nothing but x"),
        ("warning", "no pixel of class z"),
    ]


def test_a_stored_coding_reads_another_folder(tmp_path: Path) -> None:
    model = open_dataset(fill(tmp_path / "one", {"a": mask_of(0, 1, 2)}))
    fill(tmp_path / "two", {"a": mask_of(0), "b": mask_of(2)})
    other = open_like(tmp_path / "two", task=model.task, coding=model.coding)
    assert (other.task, other.coding, other.survey.pixels) == (model.task, model.coding, (24, 0, 24))
    assert read_pair(other.samples[1], model.coding, model.task)[1].tolist() == mask_of(2).tolist()
    fill(tmp_path / "two", {"c": mask_of(0, 3), "d": mask_of(9)})
    with pytest.raises(DataError) as caught:
        open_like(tmp_path / "two", task=model.task, coding=model.coding)
    assert [finding.file.name for finding in caught.value.findings] == ["c.png", "d.png"]


def test_a_foreground_of_255_is_not_the_void_of_a_model(tmp_path: Path) -> None:
    binary = fill(tmp_path / "two", {"a": mask_of(0, 255), "b": mask_of(0)})
    numbered = open_dataset(fill(tmp_path / "one", {"a": mask_of(0, 1), "b": mask_of(1, 255)}))
    with pytest.raises(DataError, match=r"the values 0 and 255 alone; rule: 0, 1, and 255 for void"):
        open_like(binary, task=numbered.task, coding=numbered.coding)
    objects = open_dataset(fill(tmp_path / "three", {"a": mask_of(0, 1, 2)}), masks="instances")
    with pytest.raises(DataError, match="a number, a colour or a file for each object"):
        open_like(binary, task=objects.task, coding=objects.coding)
    some_void = fill(tmp_path / "four", {"a": mask_of(0, 1), "b": mask_of(0, 255)})
    assert open_like(some_void, task=numbered.task, coding=numbered.coding).survey.void_pixels > 0


def test_no_masks_and_no_such_kind(tmp_path: Path) -> None:
    fill(tmp_path, {"a": mask_of(0, 1)})
    with pytest.raises(DataError, match="1 images but no masks"):
        open_dataset(tmp_path / "images")
    with pytest.raises(UsageError, match="unknown kind of masks 'colors'"):
        open_dataset(tmp_path, masks="colors")


def test_an_image_changed_after_opening_is_noticed(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, {"a": mask_of(0, 1)}))
    Image.new("RGB", (3, 3)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match="changed after opening"):
        data.read(data.samples[0])


def test_camvid_pixels_are_counted_as_by_hand(real_data: Path) -> None:
    data = open_dataset(real_data / "camvid")
    expected = np.zeros(256, np.int64)
    for folder in ("trainannot", "valannot"):
        for path in (real_data / "camvid" / folder).iterdir():
            with Image.open(path) as mask:
                expected += np.array(mask.convert("L").histogram())
    assert data.survey.pixels == tuple(expected[:11])
    assert data.survey.void_pixels == expected[11]
    assert data.survey.pairs == {"train": 92, "val": 34}
    assert data.task.names[0] == "Sky"


def test_isbi_and_part_of_dsb(real_data: Path, tmp_path: Path) -> None:
    isbi = open_dataset(real_data / "isbi2012")
    assert isbi.coding.values == (0, 255)
    assert sum(isbi.survey.pixels) == 24 * 512 * 512
    folder = sorted((real_data / "dsb2018" / "stage1_train").iterdir())[0]
    (tmp_path / folder.name).symlink_to(folder)
    dsb = open_dataset(tmp_path)
    image_HWC, mask_HW = dsb.read(dsb.samples[0])
    union = np.zeros(mask_HW.shape, bool)
    for path in (folder / "masks").iterdir():
        with Image.open(path) as mask:
            union |= np.array(mask) > 0
    assert image_HWC.shape == (*mask_HW.shape, 3)
    assert np.array_equal(mask_HW, union)


def test_one_file_per_object_also_where_an_image_has_a_single_object(tmp_path: Path) -> None:
    for image, objects in (("a", 2), ("b", 1), ("c", 3)):
        for part in ("images", "masks"):
            (tmp_path / image / part).mkdir(parents=True)
        Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(tmp_path / image / "images" / f"{image}.png")
        for number in range(objects):
            mask_HW = np.zeros((6, 9), np.uint8)
            mask_HW[1:4, 3 * number : 3 * number + 2] = 255
            Image.fromarray(mask_HW).save(tmp_path / image / "masks" / f"{number}.png")
    for masks in ("auto", "instances"):
        dataset = open_dataset(tmp_path, masks=masks)
        assert dataset.coding.kind == "instances"
        assert [int(dataset.read(sample)[1].sum()) for sample in dataset.samples] == [12, 6, 18]


def test_a_colour_can_be_declared_void(tmp_path: Path) -> None:
    colours = np.array([[[0, 0, 0], [255, 0, 0], [0, 0, 255]]] * 2, np.uint8)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        Image.fromarray(colours).save(tmp_path / part / "a.png")
    dataset = open_dataset(tmp_path, ignore_index=0)
    assert dataset.task.names == ("#0000ff", "#ff0000")
    assert dataset.read(dataset.samples[0])[1].tolist() == [[255, 1, 0]] * 2
    assert open_dataset(tmp_path).task.names == ("#000000", "#0000ff", "#ff0000")


def test_borders_between_objects_are_a_class_that_a_model_remembers(tmp_path: Path) -> None:
    numbers = np.array([[1, 1, 0, 2, 2, 0]] * 4, np.uint16)
    data = open_dataset(fill(tmp_path / "one", {"a": numbers, "b": 0 * numbers}), border=1, classes=("no", "cell"))
    assert data.task.names == ("no", "cell", "border")
    assert data.survey.pixels == (24 + 4, 16, 4)
    assert data.read(data.samples[0])[1].tolist() == [[1, 1, 2, 1, 1, 0]] * 4
    assert data.read_instances(data.samples[0]).tolist() == numbers.tolist()
    coding = Coding.from_dict(data.coding.to_dict())
    other = open_like(fill(tmp_path / "two", {"c": numbers[:, ::-1].copy()}), task=data.task, coding=coding)
    assert other.survey.pixels == (4, 16, 4)
    assert other.read(other.samples[0])[1].tolist() == [[0, 1, 1, 2, 1, 1]] * 4


def test_instances_of_a_mask_of_classes_are_its_pieces(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, {"a": mask_of(0, 255, 255, 0, 255)}))
    instances_HW = data.read_instances(data.samples[0])
    assert (instances_HW.max(), instances_HW.dtype) == (2, np.int32)
    assert np.array_equal(instances_HW > 0, data.read(data.samples[0])[1] > 0)
