"""Masks of classes that overlap: as sums, as channels, as a file for each class; read, counted, refused, examined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pixelwise.data.dataset import open_dataset, open_like
from pixelwise.data.examination import class_shares, examine_folder
from pixelwise.data.mask_coding import MaskOptions
from pixelwise.data.masks import Coding
from pixelwise.data.repair import write_repaired
from pixelwise.data.repair_plan import plan_repair
from pixelwise.errors import DataError, UsageError
from pixelwise.task import Task

Presence = NDArray[np.bool_]
Writer = Callable[[Path, str, Presence, Presence], None]
SHAPE = (6, 8)
NAMES = ("a", "b", "c")


def presence(name: str) -> tuple[Presence, Presence]:
    """Where cells and nuclei of an image are: nuclei in cells, and one beside; image b has no nucleus."""
    cell_HW, nucleus_HW = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    cell_HW[1:5, 1:6] = True
    nucleus_HW[2:4, 2:4] = nucleus_HW[0, 7] = name != "b"
    return cell_HW, nucleus_HW


def save(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def as_sums(root: Path, name: str, cell_HW: Presence, nucleus_HW: Presence) -> None:
    save(root / "masks" / f"{name}.png", (cell_HW + 2 * nucleus_HW).astype(np.uint8))


def as_channels(root: Path, name: str, cell_HW: Presence, nucleus_HW: Presence) -> None:
    nothing_HW = np.zeros(SHAPE, bool)
    save(root / "masks" / f"{name}.png", np.dstack([cell_HW, nucleus_HW, nothing_HW]).astype(np.uint8) * 255)


def as_named_files(root: Path, name: str, cell_HW: Presence, nucleus_HW: Presence) -> None:
    for word, there_HW in (("nucleus", nucleus_HW), ("cell", cell_HW)):
        save(root / "masks" / f"{name}_{word}.png", there_HW.astype(np.uint8) * 255)


def as_folders(root: Path, name: str, cell_HW: Presence, nucleus_HW: Presence) -> None:
    for word, there_HW in (("nucleus", nucleus_HW), ("cell", cell_HW)):
        save(root / "masks" / word / f"{name}.png", there_HW.astype(np.uint8))


def write_set(root: Path, write: Writer) -> Path:
    """Three images with their masks."""
    for seed, name in enumerate(NAMES):
        noise_HWC = np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), np.uint8)
        save(root / "images" / f"{name}.png", noise_HWC)
        write(root, name, *presence(name))
    return root


@pytest.mark.parametrize("write", [as_sums, as_named_files, as_folders])
def test_every_form_gives_the_same_bits(write: Writer, tmp_path: Path) -> None:
    dataset = open_dataset(write_set(tmp_path, write), classes=("cell", "nucleus"), masks="overlapping")
    assert dataset.task == Task.of(["cell", "nucleus"], kind="overlapping")
    for sample in dataset.samples:
        cell_HW, nucleus_HW = presence(sample.name)
        assert np.array_equal(dataset.read(sample)[1], cell_HW + 2 * nucleus_HW)
        assert np.array_equal(dataset.read_instances(sample), cell_HW)
    # 20 pixels of a cell in each of three images; 4 and 1 of nuclei in two of them.
    assert dataset.survey.pixels == (60, 10)
    assert dataset.pixels["b"] == {0: 20}
    assert dataset.findings == ()


def test_the_words_of_files_are_the_names_of_classes_in_any_order(tmp_path: Path) -> None:
    write_set(tmp_path, as_named_files)
    assert open_dataset(tmp_path, masks="overlapping").task.names == ("cell", "nucleus")
    turned = open_dataset(tmp_path, classes=("nucleus", "cell"), masks="overlapping")
    cell_HW, nucleus_HW = presence("a")
    assert np.array_equal(turned.read(turned.samples[0])[1], 2 * cell_HW + nucleus_HW)
    with pytest.raises(DataError, match="named as the files are"):
        open_dataset(tmp_path, classes=("kern", "zelle"), masks="overlapping")


def test_channels_are_classes(tmp_path: Path) -> None:
    dataset = open_dataset(write_set(tmp_path, as_channels), classes=("cell", "nucleus", "other"), masks="overlapping")
    cell_HW, nucleus_HW = presence("a")
    assert np.array_equal(dataset.read(dataset.samples[0])[1], cell_HW + 2 * nucleus_HW)
    assert dataset.survey.pixels == (60, 10, 0)
    assert [finding.found for finding in dataset.findings] == ["no pixel of class other"]
    with pytest.raises(UsageError, match="4 classes are named, but each image has 3 masks"):
        open_dataset(tmp_path, classes=("a", "b", "c", "d"), masks="overlapping")
    two = open_dataset(tmp_path, classes=("cell", "nucleus"), masks="overlapping")
    assert two.survey.pixels == (60, 10)
    with pytest.raises(DataError, match="values 2, 3 in 5 pixels"):
        open_dataset(tmp_path, classes=("cell",), masks="overlapping")


def test_another_set_is_opened_like_the_first(tmp_path: Path) -> None:
    first = open_dataset(write_set(tmp_path / "1", as_named_files), classes=("nucleus", "cell"), masks="overlapping")
    same = open_like(write_set(tmp_path / "2", as_folders), task=first.task, coding=first.coding)
    for one, other in zip(first.samples, same.samples, strict=True):
        assert np.array_equal(first.read(one)[1], same.read(other)[1])
    four = Task.of(["a", "b", "c", "d"], kind="overlapping")
    coding = Coding(kind="overlapping", values=(1, 2, 4, 8), void=(255,))
    with pytest.raises(DataError, match="3 masks: channel 0, channel 1, channel 2; rule: one for each class: a, b, c"):
        open_like(write_set(tmp_path / "3", as_channels), task=four, coding=coding)


def test_a_missing_file_is_named_and_not_taken_for_an_absent_class(tmp_path: Path) -> None:
    write_set(tmp_path, as_named_files)
    (tmp_path / "masks" / "b_nucleus.png").unlink()
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, masks="overlapping")
    (finding,) = caught.value.findings
    assert (finding.file.name, finding.found) == ("b.png", "masks of cell")
    examined = examine_folder(tmp_path, MaskOptions(masks="overlapping"))
    assert [error.finding for error in examined.of_severity("error")] == [finding]


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "b.png", "c_old.png"),  # beside masks that are paired by their names
        ("a_1.png", "b_1.png", "c_1.png"),  # a number is no word: these may be masks of other images
        ("a_cell.png", "b_cell.png", "d_cell.png"),
    ],
)
def test_a_mask_with_an_odd_word_is_not_taken_for_that_of_another_image(names: tuple[str, ...], tmp_path: Path) -> None:
    write_set(tmp_path, as_sums)
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    for name in names:
        save(tmp_path / "masks" / name, np.eye(*SHAPE, dtype=np.uint8))
    with pytest.raises(DataError, match="a mask without image"):
        open_dataset(tmp_path)


def test_an_odd_word_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, as_named_files)
    (tmp_path / "masks" / "b_nucleus.png").rename(tmp_path / "masks" / "b_nuclei.png")
    for kind in ("auto", "overlapping"):
        with pytest.raises(DataError) as caught:
            open_dataset(tmp_path, masks=kind)
        (finding,) = caught.value.findings
        assert (finding.file.name, finding.found) == ("b.png", "a mask named nuclei")
        assert finding.rule.endswith("here cell, nucleus")


def test_one_file_of_several_classes_is_not_taken_for_the_first(tmp_path: Path) -> None:
    write_set(tmp_path, as_named_files)
    for path in (tmp_path / "masks").glob("*_cell.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"0 and 255 alone; .* set data\.masks=binary"):
        open_dataset(tmp_path, masks="overlapping")
    task = Task.of(["cell", "nucleus"], kind="overlapping")
    coding = Coding(kind="overlapping", values=(1, 2), void=(255,))
    with pytest.raises(DataError, match="files of nucleus for the classes cell, nucleus"):
        open_dataset(tmp_path, masks="overlapping", classes=task.names)
    with pytest.raises(DataError, match="files of nucleus for the classes cell, nucleus"):
        open_like(tmp_path, task=task, coding=coding)


def test_a_class_that_is_everywhere_is_doubted(tmp_path: Path) -> None:
    write_set(tmp_path, as_sums)
    for path in (tmp_path / "masks").iterdir():
        save(path, np.array(Image.open(path)) | 4)
    assert [finding.found for finding in open_dataset(tmp_path, masks="overlapping").findings] == [
        "class class 2 in every pixel"
    ]
    examined = examine_folder(tmp_path, MaskOptions(masks="overlapping"))
    assert "classes that are everywhere" in {diagnosis.kind for diagnosis in examined.diagnoses}


def test_void_is_a_number_that_no_classes_have(tmp_path: Path) -> None:
    write_set(tmp_path / "sums", as_sums)
    with pytest.raises(UsageError, match=r"ignore_index=3 is also the number of classes .* 0, or one from 4 on"):
        open_dataset(tmp_path / "sums", masks="overlapping", ignore_index=3)
    assert open_dataset(tmp_path / "sums", masks="overlapping", ignore_index=0).survey.void_pixels == 144 - 62
    write_set(tmp_path / "files", as_named_files)
    with pytest.raises(UsageError, match="masks with a file or a channel for each class have no void"):
        open_dataset(tmp_path / "files", masks="overlapping", ignore_index=3)


def test_masks_that_all_have_the_same_word_are_paired(tmp_path: Path) -> None:
    write_set(tmp_path, as_named_files)
    for path in (tmp_path / "masks").glob("*_nucleus.png"):
        path.unlink()
    dataset = open_dataset(tmp_path)
    assert [sample.masks[0].path.name for sample in dataset.samples] == ["a_cell.png", "b_cell.png", "c_cell.png"]
    assert dataset.coding.kind == "binary"


@pytest.mark.parametrize("write", [as_named_files, as_folders])
def test_undeclared_files_of_words_are_refused(write: Writer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.masks=overlapping for a class per file"):
        open_dataset(write_set(tmp_path, write))
    examined = examine_folder(tmp_path, MaskOptions())
    assert len(examined.of_severity("error")) == len(NAMES)


def test_numbers_too_large_and_equal_channels_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, as_sums)
    path = tmp_path / "masks" / "a.png"
    with pytest.raises(DataError, match=r"a\.png: values 2, 3 in 5 pixels .* only 0, 1 and sums of them"):
        open_dataset(tmp_path, classes=("cell",), masks="overlapping")
    save(path, np.full(SHAPE, 128, np.uint8))
    with pytest.raises(DataError, match=r"value 128; rule: a number is the sum .* at most 7"):
        open_dataset(tmp_path, masks="overlapping")
    save(path, np.full((*SHAPE, 3), 1, np.uint8))
    with pytest.raises(DataError, match="3 channels that are all the same"):
        open_dataset(tmp_path, masks="overlapping")
    save(path, np.dstack([np.full(SHAPE, 9, np.uint8), np.full(SHAPE, 9, np.uint8), np.eye(*SHAPE, dtype=np.uint8)]))
    with pytest.raises(DataError, match="classes in channel 0, channel 1, channel 2 where others have them in numbers"):
        open_dataset(tmp_path, masks="overlapping")


def test_void_and_empty_masks(tmp_path: Path) -> None:
    write_set(tmp_path, as_sums)
    save(tmp_path / "masks" / "a.png", np.zeros(SHAPE, np.uint8))
    void_HW = np.full(SHAPE, 255, np.uint8)
    save(tmp_path / "masks" / "b.png", void_HW)
    dataset = open_dataset(tmp_path, masks="overlapping")
    assert np.array_equal(dataset.read(dataset.samples[1])[1], void_HW)
    assert not dataset.read_instances(dataset.samples[1]).any()
    assert [finding.found for finding in dataset.findings] == ["no class at all", "nothing but void"]


@pytest.mark.parametrize("write", [as_sums, as_named_files])
def test_the_doctor_copies_them_as_sums(write: Writer, tmp_path: Path) -> None:
    write_set(tmp_path / "set", write)
    options = MaskOptions(masks="overlapping", classes=("cell", "nucleus"))
    save(tmp_path / "set" / "test" / "images" / "d.png", np.ones((*SHAPE, 3), np.uint8))  # without a mask: in no share
    examined = examine_folder(tmp_path / "set", options)
    assert examined.of_severity("error") == []
    assert [record.pixels for record in examined.records if record.mask] == [{0: 20, 1: 5}, {0: 20}, {0: 20, 1: 5}]
    assert class_shares(examined.records, Task.of(options.classes, kind="overlapping")) == [60 / 144, 10 / 144, 0]
    repaired = write_repaired(plan_repair(examined), tmp_path / "copy")
    assert repaired.options == {"classes": ("cell", "nucleus"), "masks": "overlapping"}
    copy = open_dataset(tmp_path / "copy", **repaired.options)
    cell_HW, nucleus_HW = presence("c")
    assert np.array_equal(copy.read(copy.samples[2])[1], cell_HW + 2 * nucleus_HW)
    assert 'masks = "overlapping"' in (tmp_path / "copy" / "classes.toml").read_text()
