"""The checks of masks on data sets drawn by code and broken in one way."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from broken_sets import LEFT_OUT, MENDED, binary_255, colours, draw_set, from_one, jpeg, masks_of, probabilities
from PIL import Image

from pixelwise.data.dataset import open_dataset
from pixelwise.data.doctor import Diagnosis
from pixelwise.data.examination import Examination, class_shares, examine_folder
from pixelwise.data.mask_coding import MaskOptions
from pixelwise.data.mask_findings import MASK_CHECKS, near_text
from pixelwise.errors import DataError


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_set(tmp_path_factory.mktemp("clean") / "cells", images=5, classes=3)


def examined(clean: Path, folder: Path, breaks) -> Examination:
    broken = shutil.copytree(clean, folder / "cells")
    breaks(broken)
    return examine_folder(broken, MaskOptions())


def of_kind(examination: Examination, kind: str) -> list[Diagnosis]:
    return [diagnosis for diagnosis in examination.diagnoses if diagnosis.kind == kind]


def test_a_clean_set_has_no_findings_but_that_it_is_small(clean: Path) -> None:
    examination = examine_folder(clean, MaskOptions())
    assert {diagnosis.kind for diagnosis in examination.diagnoses} == {"data set, few images"}
    assert examination.mendable


def test_classes_and_shares_are_those_of_training(clean: Path) -> None:
    examination, dataset = examine_folder(clean, MaskOptions()), open_dataset(clean)
    assert examination.meaning is not None
    assert (examination.meaning.coding, examination.meaning.task) == (dataset.coding, dataset.task)
    total = sum(dataset.survey.pixels)
    assert class_shares(examination.records, dataset.task) == [*(count / total for count in dataset.survey.pixels), 0.0]


SAME_WORDS = {
    name: breaks
    for name, (breaks, _) in (MENDED | LEFT_OUT).items()
    if name not in ("upside down", "animated", "NaN", "palettes", "alpha")
}


@pytest.mark.parametrize("name", SAME_WORDS)
def test_errors_are_in_the_words_of_training(name: str, tmp_path: Path) -> None:
    """What training refuses is found, at the same file, with what was found said in the same words."""
    broken = draw_set(tmp_path / "cells", images=4)
    SAME_WORDS[name](broken)
    with pytest.raises(DataError) as refusal:
        open_dataset(broken)
    examination = examine_folder(broken, MaskOptions())
    errors = [error.finding for error in examination.of_severity("error")]
    for finding in refusal.value.findings:
        assert any(error.file == finding.file and finding.found in error.found for error in errors), finding


def test_stray_values_are_counted_with_the_classes_they_lie_near(tmp_path: Path) -> None:
    broken = draw_set(tmp_path / "cells", images=2)
    for path, mask in masks_of(broken):
        values = mask * 255
        values[0, :5] = (values[0, :5] < 99) * 20 + (values[0, :5] >= 99) * 235
        values[1, 0] = 7
        Image.fromarray(values).save(path)
    dark = [int((mask[0, :5] < 99).sum()) for _, mask in masks_of(broken)]
    found = of_kind(examine_folder(broken, MaskOptions()), "smooth edges or noise in masks")
    assert len(found) == 2
    for diagnosis, count in zip(found, dark, strict=True):
        assert "in 6 pixels" in diagnosis.finding.found
        assert f"{count + 1} near 0 (background)" in diagnosis.finding.found
        assert diagnosis.mends == "each taken for the nearest class"


def test_a_mask_of_large_numbers_among_colours_is_the_one_that_is_wrong(tmp_path: Path) -> None:
    draw_set(tmp_path, classes=3)
    colours(tmp_path)
    path = tmp_path / "masks" / "cells_001.png"
    with Image.open(path) as picture:
        red = np.array(picture)[..., 0]
    Image.fromarray((red > 0).astype(np.uint16) * 300).save(path)
    (error,) = examine_folder(tmp_path, MaskOptions()).of_severity("error")
    assert (error.kind, error.finding.file, error.mends) == ("values that are no class", path, "")
    assert error.finding.found.startswith("value 300 in ")


def test_near_text_names_the_most_frequent_classes(clean: Path) -> None:
    meaning = examine_folder(clean, MaskOptions()).meaning
    assert meaning is not None
    text = near_text(meaning, np.array([2, 0, 2, -1]), np.array([5, 3, 4, 1]))
    assert text == "9 near 2 (class 2), 3 near 0 (class 0), 1 near void"


def test_how_masks_were_understood_is_a_note(clean: Path, tmp_path: Path) -> None:
    (binary,) = of_kind(examined(clean, tmp_path, binary_255), "understood as binary")
    assert "0 is background, 255 is foreground" in binary.finding.rule
    (coloured,) = of_kind(examined(clean, tmp_path / "c", colours), "understood as colours")
    assert coloured.finding.severity == binary.finding.severity == "note"


def test_numbers_from_one_are_one_finding(clean: Path, tmp_path: Path) -> None:
    (found,) = of_kind(examined(clean, tmp_path, from_one), "numbered from 1")
    assert (found.finding.severity, found.mends) == ("error", "1 taken from every value")


def test_fractions_of_unknown_meaning_are_not_mended(tmp_path: Path) -> None:
    probabilities(folder := draw_set(tmp_path / "cells", images=3))
    examination = examine_folder(folder, MaskOptions())
    assert {diagnosis.mends for diagnosis in of_kind(examination, "fractions")} == {""}
    assert not examination.mendable


def test_clean_masks_in_jpeg_are_a_warning(tmp_path: Path) -> None:
    folder = draw_set(tmp_path / "cells", images=2)
    for path, mask in masks_of(folder):
        blocks = np.kron(mask[::8, ::8], np.ones((8, 8), np.uint8))  # in whole blocks JPEG changes nothing
        Image.fromarray(blocks * 255).save(path.with_suffix(".jpg"), quality=100)
        path.unlink()
    found = of_kind(examine_folder(folder, MaskOptions()), "masks in a lossy format")
    assert [diagnosis.finding.severity for diagnosis in found] == ["warning"] * 2
    jpeg_folder = draw_set(tmp_path / "noisy", images=2)
    jpeg(jpeg_folder)
    assert of_kind(examine_folder(jpeg_folder, MaskOptions()), "masks in a lossy format") == []


def test_classes_that_are_smooth_edges_in_truth(tmp_path: Path) -> None:
    """Numbers 0 and 4 made smaller by linear interpolation leave 1, 2 and 3 between them, and nobody complains."""
    folder = draw_set(tmp_path / "cells", images=3)
    for path, mask in masks_of(folder):
        small = Image.fromarray(mask * np.uint8(4)).resize((100, 72), Image.Resampling.BILINEAR)
        small.save(path)
        image = folder / "images" / path.name
        with Image.open(image) as picture:
            picture.resize((100, 72)).save(image)
    assert open_dataset(folder).task.outputs == 5
    (found,) = of_kind(examine_folder(folder, MaskOptions()), "classes that may be smooth edges")
    assert found.finding.found.startswith("class 1, class 2, class 3 only in thin lines")


def test_a_class_that_one_mask_alone_shows(clean: Path, tmp_path: Path) -> None:
    def add(folder: Path) -> None:
        path, mask = list(masks_of(folder))[2]
        mask[5:30, 5:30] = 3
        Image.fromarray(mask).save(path)

    (found,) = of_kind(examined(clean, tmp_path, add), "classes in one mask only")
    assert found.finding.found == "the only mask with class class 3"
    assert found.finding.file.name == "cells_002.png"


def test_empty_and_void_masks(clean: Path, tmp_path: Path) -> None:
    def empty(folder: Path) -> None:
        for number, (path, mask) in enumerate(list(masks_of(folder))[:2]):
            mask[:] = 255 * number
            Image.fromarray(mask).save(path)

    found = of_kind(examined(clean, tmp_path, empty), "masks of one class")
    assert [diagnosis.finding.found for diagnosis in found] == ["nothing but class 0", "nothing but void"]


def test_masks_with_alpha_and_with_an_orientation_are_understood(clean: Path, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        (one, mask), (two, other), *_ = masks_of(folder)
        Image.fromarray(np.dstack([mask, mask, mask, mask * 0 + 255])).save(one)
        exif = Image.Exif()
        exif[274] = 3
        Image.fromarray(other[::-1, ::-1]).save(two, exif=exif)

    examination = examined(clean, tmp_path, change)
    (alpha,) = of_kind(examination, "transparent masks")
    (turned,) = of_kind(examination, "masks with an EXIF orientation")
    assert (alpha.finding.file.name, turned.finding.file.name) == ("cells_000.png", "cells_001.png")
    assert not examination.of_severity("error")


def test_every_check_has_a_name_of_its_own() -> None:
    assert len(set(MASK_CHECKS.values())) == len(MASK_CHECKS) == 11
