"""Reading every file once, and never stopping at a bad one."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import tifffile
from broken_sets import LEFT_OUT, draw_set, masks_of
from PIL import Image

from pixelwise.data.checkup import MOST_CODES_KEPT, read_record, read_records
from pixelwise.data.dataset import open_dataset
from pixelwise.data.layouts import Sample, Source, find_samples, find_tolerantly
from pixelwise.data.likeness import perceptual_hash
from pixelwise.data.mask_counts import count_mask
from pixelwise.errors import DataError, UsageError


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_set(tmp_path_factory.mktemp("clean") / "cells", images=4)


def test_a_record_says_what_the_files_hold(clean: Path) -> None:
    dataset = open_dataset(clean)
    for sample, record in zip(dataset.samples, read_records(dataset.samples), strict=True):
        image, mask = dataset.read(sample)
        assert (record.name, record.split, record.path) == (sample.name, None, sample.image.path)
        assert (record.height, record.width) == image.shape[:2] == mask.shape
        assert record.sha256 == hashlib.sha256(record.path.read_bytes()).hexdigest()
        assert record.perceptual_hash == perceptual_hash(image)
        assert (record.image.lowest, record.image.highest) == (image.min(), image.max())
        assert not record.image.grey
        assert record.image.form.kind == "PNG"
        assert record.readable
        assert record.mask is not None
        assert record.mask.as_count() == count_mask(sample.masks, "auto")
        assert (record.mask.solid <= record.mask.pixels).all()
        assert record.turns[0] > 0.2


def test_find_tolerantly_agrees_with_find_samples_where_nothing_is_wrong(clean: Path, real_data: Path) -> None:
    for path in (clean, real_data / "camvid", real_data / "isbi2012"):
        assert find_tolerantly(path) == (find_samples(path), [])


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_bad_file_never_stops_the_others(name: str, clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    LEFT_OUT[name][0](broken)
    folder, problems = find_tolerantly(broken)
    records = {record.name: record for record in read_records(folder.samples)}
    good = [record for stem, record in records.items() if stem != "cells_001"]
    assert len(good) == 3
    assert all(record.image.refused is None and record.mask is not None for record in good)
    if "cells_001" not in records:
        assert [problem.file.stem for problem in problems] == ["cells_001"]


@pytest.mark.parametrize("name", ["fifo", "socket", "folder", "absent"])
def test_what_is_no_file_is_a_finding(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = Path(f"{name}.png")
    if name == "fifo":
        os.mkfifo(path)
    elif name == "folder":
        path.mkdir()
    elif name == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    record = read_record(Sample(name="a", image=Source(path), masks=(Source(path),)))
    assert record.image.refused is not None
    assert record.mask is not None
    assert record.mask.refused is not None
    assert not record.readable
    assert (record.height, record.sha256, record.perceptual_hash) == (0, "", None)


def test_what_is_no_picture_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file of terabytes no hash is made; of a picture there is one."""
    monkeypatch.setattr("pixelwise.data.checkup.file_hash", lambda path: pytest.fail(f"{path.name} was read"))
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(2**42)
    source = Source(tmp_path / "huge.png")
    record = read_record(Sample(name="a", image=source, masks=(source,)))
    assert record.image.refused is not None
    assert record.mask is not None
    assert (record.sha256, record.mask.refused is None) == ("", False)


def test_cmyk_in_tiff_is_refused_and_yet_known(tmp_path: Path) -> None:
    Image.new("CMYK", (9, 7), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    record = read_record(Sample(name="a", image=Source(tmp_path / "a.tif")))
    assert record.image.refused is not None
    assert (record.height, record.width, record.image.form.cmyk) == (7, 9, True)


def test_a_mask_of_many_values_stays_small(tmp_path: Path) -> None:
    values = np.arange(90 * 90, dtype=np.uint16).reshape(90, 90)
    values[:20] = 7
    tifffile.imwrite(tmp_path / "m.tif", values)
    Image.new("L", (90, 90)).save(tmp_path / "a.png")
    record = read_record(Sample(name="a", image=Source(tmp_path / "a.png"), masks=(Source(tmp_path / "m.tif"),)))
    assert record.mask is not None
    assert len(record.mask.codes) == MOST_CODES_KEPT
    assert record.mask.distinct == 70 * 90 + 1
    assert record.mask.pixels.max() == 20 * 90
    assert record.mask.solid[record.mask.codes == 7] == 18 * 88


def test_the_pages_of_a_stack_share_a_hash(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (3, 20, 20)).astype(np.uint8)
    for folder, values in (("images", stack), ("masks", (stack > 99).astype(np.uint8) * 255)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "s.tif", values, photometric="minisblack")
    folder, problems = find_tolerantly(tmp_path)
    records = list(read_records(folder.samples))
    assert problems == []
    assert [record.name for record in records] == ["s_000", "s_001", "s_002"]
    assert len({record.sha256 for record in records}) == 1
    assert [record.image.highest for record in records] == [page.max() for page in stack]


def test_files_that_cannot_be_paired_are_named_and_the_others_stay(clean: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clean, tmp_path / "cells")
    shutil.copy(broken / "images" / "cells_000.png", broken / "images" / "cells_000.bmp")  # two images for one mask
    (broken / "masks" / "nobody.png").write_bytes((broken / "masks" / "cells_001.png").read_bytes())
    shutil.copy(broken / "masks" / "cells_002.png", broken / "masks" / "cells_002.bmp")  # two masks for one image
    folder, problems = find_tolerantly(broken)
    assert {sample.name for sample in folder.samples} == {"cells_001", "cells_003"}
    named = {problem.file.name for problem in problems}
    assert {"nobody.png", "cells_002.png"} <= named
    with pytest.raises(DataError) as refusal:
        find_samples(broken)
    assert {str(finding) for finding in refusal.value.findings} == {str(problem) for problem in problems}


def test_nothing_to_examine(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file or folder"):
        find_tolerantly(tmp_path / "absent")
    with pytest.raises(DataError, match="no pictures"):
        find_tolerantly(tmp_path)


def test_reading_can_be_left_in_the_middle(clean: Path) -> None:
    records = read_records(find_samples(clean).samples)
    assert next(records).name == "cells_000"
    records.close()


def test_kinds_that_are_declared_are_read_so(clean: Path) -> None:
    sample = find_samples(clean).samples[0]
    (_, mask), *_ = masks_of(clean)
    record = read_record(sample, "colours")
    assert record.mask is not None
    assert record.mask.colours
    assert record.mask.codes.tolist() == [0, 0x010101]
    assert record.mask.pixels.tolist() == [int((mask == 0).sum()), int((mask == 1).sum())]
