"""A whole data set examined: what is counted, what is put together, and in which order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from broken_sets import draw_set, jpeg, masks_of, pipe_and_loop, truncated
from PIL import Image

from pixelwise.data.checkup import Record
from pixelwise.data.dataset import open_dataset
from pixelwise.data.examination import examine_folder
from pixelwise.data.mask_coding import MaskOptions
from pixelwise.data.repair_plan import plan_repair
from pixelwise.errors import DataError, UsageError


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_set(tmp_path_factory.mktemp("clean") / "cells", images=12)


@pytest.mark.parametrize("name", ["camvid", "dsb2018", "isbi2012"])
def test_public_data_has_no_errors_and_the_classes_of_training(name: str, real_data: Path, tmp_path: Path) -> None:
    folders = {"camvid": ("val", "valannot"), "isbi2012": ("images", "masks"), "dsb2018": ()}[name]
    for folder in folders:
        (tmp_path / folder).symlink_to(real_data / name / folder)
    if name == "dsb2018":
        for path in sorted((real_data / name / "stage1_train").iterdir())[:6]:
            (tmp_path / path.name).symlink_to(path)
    examination, dataset = examine_folder(tmp_path, MaskOptions()), open_dataset(tmp_path)
    assert examination.of_severity("error") == []
    assert examination.meaning is not None
    assert (examination.meaning.coding, examination.meaning.task) == (dataset.coding, dataset.task)
    counted = [
        sum(record.pixels.get(index, 0) for record in examination.records) for index in range(dataset.task.outputs)
    ]
    assert tuple(counted) == dataset.survey.pixels


def test_errors_come_first_and_every_record_is_watched(clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    truncated(broken)
    pipe_and_loop(broken)
    shutil.copy(broken / "images" / "cells_002.png", broken / "images" / "cells_003.png")
    (broken / "notes.txt").write_text("hello")
    watched: list[tuple[str, int]] = []

    def watch(records: Iterable[Record], total: int) -> Iterable[Record]:
        for record in records:
            watched.append((record.name, total))
            yield record

    examination = examine_folder(broken, MaskOptions(), watch)
    assert watched == [(f"cells_{number:03d}", 12) for number in range(12)]
    severities = [diagnosis.finding.severity for diagnosis in examination.diagnoses]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    kinds = {diagnosis.kind: diagnosis.finding.severity for diagnosis in examination.diagnoses}
    assert kinds["damaged pictures"] == "error"
    assert kinds["left out: not a regular file"] == "warning"
    assert kinds["left out: folder already listed (a link leads back to it), or too deep"] == "warning"
    assert kinds["left out: not a picture by its name (.txt)"] == "note"
    assert kinds["data set, copies"] == "warning"


def test_images_across_a_split_are_an_error_that_is_not_mended(clean: Path, tmp_path: Path) -> None:
    for number, (path, _) in enumerate(masks_of(clean)):
        part = "val" if number > 8 else "train"
        for folder in ("images", "masks"):
            (tmp_path / part / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(clean / folder / path.name, tmp_path / part / folder)
    for folder in ("images", "masks"):
        shutil.copy(clean / folder / "cells_000.png", tmp_path / "val" / folder / "again.png")
    examination = examine_folder(tmp_path, MaskOptions())
    (leak,) = examination.of_severity("error")
    assert "the same image" in leak.finding.found
    assert (leak.mends, leak.whole) == ("", True)
    assert not examination.mendable
    plan = plan_repair(examination)
    assert (len(plan.entries), plan.left_out) == (13, ())  # which of the two is too much is for a person to say


def test_images_without_masks_and_nothing_at_all(clean: Path, tmp_path: Path) -> None:
    shutil.copytree(clean / "images", tmp_path / "images")
    (error,) = examine_folder(tmp_path, MaskOptions()).of_severity("error")
    assert error.kind == "no masks"
    with pytest.raises(UsageError):
        examine_folder(tmp_path / "absent", MaskOptions())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        examine_folder(tmp_path / "empty", MaskOptions())


def test_test_images_without_masks_are_fine(clean: Path, tmp_path: Path) -> None:
    shutil.copytree(clean, tmp_path / "train")
    shutil.copytree(clean / "images", tmp_path / "test" / "images")
    for path in (tmp_path / "test" / "images").iterdir():
        with Image.open(path) as picture:
            picture.transpose(Image.Transpose.ROTATE_90).save(path)
    examination = examine_folder(tmp_path, MaskOptions())
    assert examination.of_severity("error") == []
    assert len(examination.records) == 24


def test_what_is_declared_counts(clean: Path) -> None:
    options = MaskOptions(classes=("ground", "cell", "wall"), ignore_index=0)
    meaning = examine_folder(clean, options).meaning
    assert meaning is not None
    assert meaning.task.names == ("ground", "cell", "wall")
    assert meaning.coding.value_codes() == [1, 2, 3]


def test_a_mixture_of_accidents(clean: Path, tmp_path: Path) -> None:
    """Each is found beside the others: JPEG noise in all masks, and one image that cannot be opened."""
    broken = shutil.copytree(clean, tmp_path / "cells")
    jpeg(broken)
    truncated(broken)
    examination = examine_folder(broken, MaskOptions())
    kinds = [error.kind for error in examination.of_severity("error")]
    assert kinds.count("noise of JPEG in masks") == 12
    assert kinds.count("damaged pictures") == 1
    assert not examination.mendable


def test_the_set_is_found_by_a_relative_path(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clean.parent)
    examination = examine_folder(Path(os.curdir) / clean.name, MaskOptions())
    assert len(examination.records) == 12
