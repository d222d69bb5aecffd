"""A data set broken in one way is understood, repaired, and opens with the masks of the set that was never broken."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from broken_sets import LEFT_OUT, MENDED, colours, colours_in_jpeg, draw_set, gap, masks_of, probabilities, two_codings
from numpy.typing import NDArray
from PIL import Image

from pixelwise.data.dataset import open_dataset
from pixelwise.data.examination import Examination, examine_folder
from pixelwise.data.images import read_image
from pixelwise.data.mask_coding import MaskOptions
from pixelwise.data.repair import write_lossless, write_repaired
from pixelwise.data.repair_plan import plan_repair
from pixelwise.errors import DataError, OutputError, UsageError
from pixelwise.files import file_hash

SEEN_IN_PIXELS_ONLY = ("animated", "NaN", "upside down")  # opening reads the headers of images and all masks


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_set(tmp_path_factory.mktemp("clean") / "cells")


@pytest.fixture(scope="module")
def clean3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_set(tmp_path_factory.mktemp("clean3") / "cells", classes=3)


def truth(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """The masks of a set by name, as a training reads them."""
    dataset = open_dataset(folder)
    return {sample.name: dataset.read(sample)[1] for sample in dataset.samples}


def same_masks(one: dict[str, NDArray], other: dict[str, NDArray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def mended(broken: Path, out: Path, options: MaskOptions | None = None) -> Examination:
    examination = examine_folder(broken, options or MaskOptions())
    write_repaired(plan_repair(examination), out)
    return examination


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): file_hash(path) for path in files}


@pytest.mark.parametrize("name", MENDED)
def test_what_can_be_mended_is(name: str, clean: Path, tmp_path: Path) -> None:
    breaks, kind = MENDED[name]
    broken = shutil.copytree(clean, tmp_path / "cells")
    breaks(broken)
    before = contents(broken)
    if name not in SEEN_IN_PIXELS_ONLY:
        with pytest.raises(DataError):
            open_dataset(broken)

    examination = mended(broken, tmp_path / "out")
    errors = examination.of_severity("error")
    assert {error.kind for error in errors} >= {kind}
    assert examination.mendable
    assert contents(broken) == before

    expected = truth(clean)
    if name == "swapped":
        expected = {
            key: mask[: read_image(broken / "images" / f"{key}.png").shape[0]] for key, mask in expected.items()
        }
    assert same_masks(truth(tmp_path / "out"), expected)
    log = json.loads((tmp_path / "out" / "changes.json").read_text())
    assert any(sample[part]["changes"] for sample in log["samples"] for part in ("image", "mask"))
    assert log["left_out"] == []


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_nobody_can_mend_is_left_out_by_name(name: str, clean: Path, tmp_path: Path) -> None:
    breaks, kind = LEFT_OUT[name]
    broken = shutil.copytree(clean, tmp_path / "cells")
    breaks(broken)
    if name not in SEEN_IN_PIXELS_ONLY:
        with pytest.raises(DataError):
            open_dataset(broken)

    examination = mended(broken, tmp_path / "out")
    assert kind in {error.kind for error in examination.of_severity("error") if not error.mends}
    assert not examination.mendable

    expected = truth(clean)
    del expected["cells_001"]
    assert same_masks(truth(tmp_path / "out"), expected)
    log = json.loads((tmp_path / "out" / "changes.json").read_text())
    assert [Path(left["file"]).stem for left in log["left_out"]] == ["cells_001"]
    assert "cells_001" in (tmp_path / "out" / "CHANGES.md").read_text().partition("Left out")[2]


@pytest.mark.parametrize("breaks", [colours, colours_in_jpeg])
def test_colours_become_numbers(breaks, clean3: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean3, tmp_path / "cells")
    breaks(broken)
    mended(broken, tmp_path / "out")
    order = {0: 0, 1: 2, 2: 1}  # colours count by their number, and red is the larger one
    for name, mask in truth(clean3).items():
        again = np.array(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
        assert np.array_equal(again, np.vectorize(order.get)(mask))
    classes = tomllib.loads((tmp_path / "out" / "classes.toml").read_text())["classes"]
    assert [entry["index"] for entry in classes] == [0, 1, 2]
    assert [round(part, -1) for part in classes[2]["colour"]] == [200, 30, 30]


@pytest.mark.parametrize(
    ("breaks", "options"),
    [
        (gap, MaskOptions(masks="colours")),
        (two_codings, MaskOptions(masks="binary")),
        (probabilities, MaskOptions(masks="binary")),
    ],
)
def test_what_can_mean_two_things_is_mended_when_declared(breaks, options, clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    breaks(broken)
    examination = examine_folder(broken, MaskOptions())
    assert examination.meaning is None
    assert options.masks in examination.declarable
    with pytest.raises(DataError, match="not clear"):
        plan_repair(examination)
    mended(broken, tmp_path / "out", options)
    classes = {name: (mask > 0).astype(np.uint8) for name, mask in truth(clean).items()}
    assert same_masks(truth(tmp_path / "out"), classes)


def test_a_clean_set_is_copied_byte_for_byte(clean: Path, tmp_path: Path) -> None:
    examination = mended(clean, tmp_path / "out")
    assert not examination.of_severity("error")
    assert contents(tmp_path / "out" / "images") == contents(clean / "images")
    assert same_masks(truth(tmp_path / "out"), truth(clean))
    with Image.open(tmp_path / "out" / "masks" / "cells_000.png") as mask:
        assert mask.mode == "P"


def test_minus_one_becomes_void(clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    for path, mask in masks_of(broken):
        values = mask.astype(np.uint16)
        values[:4] = 2**16 - 1
        Image.fromarray(values).save(path)
    examination = mended(broken, tmp_path / "out")
    assert {error.kind for error in examination.of_severity("error")} == {"-1 for void"}
    for name, mask in truth(tmp_path / "out").items():
        assert (mask[:4] == 255).all()
        assert np.array_equal(mask[4:], truth(clean)[name][4:])


def test_parts_of_a_split_are_kept(clean: Path, tmp_path: Path) -> None:
    broken = tmp_path / "cells"
    for number, (path, mask) in enumerate(masks_of(clean)):
        part = ("train", "train", "train", "val", "test")[number]
        for folder in ("images", "masks"):
            (broken / part / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(clean / "images" / path.name, broken / part / "images")
        Image.fromarray(mask * 255).save(broken / part / "masks" / path.name)
    mended(broken, tmp_path / "out")
    opened = open_dataset(tmp_path / "out")
    assert opened.survey.pairs == {"train": 3, "val": 1, "test": 1}
    assert (tmp_path / "out" / "images" / "val" / "cells_003.png").is_file()


def test_objects_stay_objects(clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    for path, mask in masks_of(broken):
        columns = np.arange(mask.shape[1]) // 30 + 1
        Image.fromarray((mask * columns * 300).astype(np.uint16)).save(path)
    mended(broken, tmp_path / "out")
    before, after = open_dataset(broken), open_dataset(tmp_path / "out")
    assert after.coding.kind == "instances"
    for one, other in zip(before.samples, after.samples, strict=True):
        assert np.array_equal(before.read_instances(one), after.read_instances(other))


def test_images_are_saved_upright_and_read_the_same(clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    MENDED["EXIF of the image only"][0](broken)
    mended(broken, tmp_path / "out")
    path = tmp_path / "out" / "images" / "cells_001.png"
    assert np.array_equal(read_image(path), read_image(clean / "images" / "cells_001.png"))
    with Image.open(path) as picture:
        assert picture.getexif().get(274, 1) == 1


def test_a_wrong_suffix_is_corrected_and_the_bytes_are_kept(clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    with Image.open(broken / "images" / "cells_001.png") as picture:
        picture.save(broken / "images" / "cells_001.png", format="JPEG")
    examination = mended(broken, tmp_path / "out")
    assert [warning.kind for warning in examination.of_severity("warning")] == ["wrong file extension"]
    copy = tmp_path / "out" / "images" / "cells_001.jpg"
    assert copy.read_bytes() == (broken / "images" / "cells_001.png").read_bytes()


def test_an_existing_folder_and_one_inside_the_set_are_refused(clean: Path, tmp_path: Path) -> None:
    plan = plan_repair(examine_folder(clean, MaskOptions()))
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="there already"):
        write_repaired(plan, tmp_path / "out")
    with pytest.raises(UsageError, match="in the data set itself"):
        write_repaired(plan, clean / "repaired")
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_left_where_the_copy_cannot_be_finished(clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    plan = plan_repair(examine_folder(broken, MaskOptions()))
    (broken / "images" / "cells_003.png").unlink()
    with pytest.raises(OutputError):
        write_repaired(plan, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"cells"}


def test_a_set_without_one_good_pair_is_not_written(clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    for path in (broken / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no pair"):
        plan_repair(examine_folder(broken, MaskOptions()))


@pytest.mark.parametrize(
    ("dtype", "channels", "suffix"),
    [(np.uint8, 1, ".png"), (np.uint8, 3, ".png"), (np.uint16, 1, ".png"), (np.uint16, 3, ".png")]
    + [(np.uint8, 5, ".tif"), (np.float32, 1, ".tif"), (np.float32, 3, ".tif"), (np.uint16, 4, ".tif")],
)
def test_images_are_written_without_a_loss(dtype, channels: int, suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((7, 9, channels)) * (1 if dtype is np.float32 else np.iinfo(dtype).max)).astype(dtype)
    write_lossless(tmp_path / f"a{suffix}", image)
    again = read_image(tmp_path / f"a{suffix}")
    assert again.dtype == dtype
    assert np.array_equal(again, image)
