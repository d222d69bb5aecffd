"""The table of public data sets, and that a copy of each, arranged by it, is understood by the reader."""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from published_copies import CLASSES, COPIES, written

from pixelwise.config import RunConfig, read_config
from pixelwise.data.dataset import Dataset, open_dataset
from pixelwise.data.download import get_set
from pixelwise.data.known_classes import CAMVID, VOC
from pixelwise.data.layouts import find_samples
from pixelwise.data.public_sets import (
    PUBLIC_SETS,
    RECEIPT,
    PublicSet,
    arrange_cell_tracking,
    by_patterns,
    find_public_set,
)
from pixelwise.errors import UsageError
from pixelwise.evaluation.challenges import CHALLENGES

NAMES = tuple(PUBLIC_SETS)
PAIRS = {  # images with masks of the small copies
    "isbi2012": {"train": 3, "test": 3},
    "dsb2018": {"train": 4},
    "camvid": {"train": 3, "val": 2, "test": 2},
    "voc2012": {"train": 3, "val": 2},
    "phc-u373": {"all": 3},
    "dic-hela": {"all": 3},
    "massachusetts-roads": {"train": 3, "val": 1, "test": 2},
}
VOIDS = {"camvid": CAMVID.void, "voc2012": VOC.void}


@pytest.fixture(scope="module")
def arranged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all seven sets, taken from unpacked copies."""
    folder = tmp_path_factory.mktemp("sets")
    for name in NAMES:
        get_set(PUBLIC_SETS[name], folder / "data", source=written(COPIES[name](), folder / "copies" / name))
    return folder / "data"


def opened(name: str, arranged: Path) -> Dataset:
    """The set, read as `pixelwise train` would with the settings of the table."""
    data = read_config(None, list(PUBLIC_SETS[name].settings)).data
    return open_dataset(arranged / name, classes=data.classes, masks=data.masks, border=data.border_width)


# The table


def test_the_seven_sets_are_there_each_with_what_a_person_has_to_know():
    assert set(NAMES) == set(COPIES)
    for known in PUBLIC_SETS.values():
        facts = (known.title, known.purpose, known.images, known.licence, known.cite, known.layout)
        assert all(facts), known.name
        assert known.home.startswith(("https://", "http://host.robots.ox.ac.uk/"))
        assert 0 < known.megabytes < 20_000
        assert bool(known.files) != bool(known.by_hand)


def test_addresses_are_encrypted_and_checksums_have_their_length():
    files = [file for known in PUBLIC_SETS.values() for file in known.files]
    assert len(files) == 6
    for file in files:
        assert file.address.startswith("https://")
        assert Path(file.name).name == file.name
        for checksum in file.checksums:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", checksum)
    with_checksum = {known.name for known in PUBLIC_SETS.values() for file in known.files if file.checksums}
    assert with_checksum == {"voc2012", "phc-u373", "dic-hela"}


def test_the_published_checksums_are_those_of_torchvision_and_torch_em():
    (voc,), (u373,) = PUBLIC_SETS["voc2012"].files, PUBLIC_SETS["phc-u373"].files
    assert "md5:6cd6e144f989b92b3379bac3b3de84fd" in voc.checksums
    assert u373.checksums == ("sha256:b18185c18fce54e8eeb93e4bbb9b201d757add9409bbf2283b8114185a11bc9e",)


@pytest.mark.parametrize("known", PUBLIC_SETS.values(), ids=NAMES)
def test_settings_are_settings_and_challenges_are_challenges(known: PublicSet):
    assert isinstance(read_config(None, list(known.settings)), RunConfig)
    assert known.challenge in {"", *CHALLENGES}


def test_a_name_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean 'isbi2012'.*massachusetts-roads"):
        find_public_set("ISBI-2012")
    with pytest.raises(UsageError, match="there is no data set 'x'; choose one of isbi2012, dsb2018"):
        find_public_set("x")


# Arranging


@given(st.lists(st.text(st.sampled_from("ab01t/._GTSEmansg.tifpnglbs-"), max_size=40), max_size=5))
def test_places_are_always_below_the_folder_and_keep_the_kind_of_file(names: list[str]):
    for known in PUBLIC_SETS.values():
        places = known.arrange(names)
        assert places.keys() <= set(names)
        for name, place in places.items():
            assert not place.startswith("/")
            assert PurePosixPath(place).suffix == PurePosixPath(name).suffix


def test_the_first_pattern_decides_and_only_whole_parts_fit():
    arrange = by_patterns((r"(images/\w\.png)", r"first/\1"), (r"(\w\.png)", r"second/\1"))
    places = arrange(["images/a.png", "more-images/b.png", "c.png", "c.png.txt"])
    assert places == {
        "images/a.png": "first/images/a.png",
        "more-images/b.png": "second/b.png",
        "c.png": "second/c.png",
    }


def test_sequences_of_the_cell_tracking_challenge_stay_apart():
    names = ["X/01/t000.tif", "X/02/t000.tif", "X/02_GT/SEG/man_seg000.tif", "X/02_GT/TRA/man_track000.tif"]
    places = {"X/01/t000.tif": "unannotated/01/t000.tif", "X/02/t000.tif": "images/02/t000.tif"}
    assert arrange_cell_tracking(names) == {**places, "X/02_GT/SEG/man_seg000.tif": "masks/02/t000.tif"}
    assert arrange_cell_tracking(["X/01_ST/SEG/man_seg000.tif", "X/1/t000.tif", "t000.tif"]) == {}


def test_nuclei_with_and_without_the_folder_of_their_stage():
    arrange = PUBLIC_SETS["dsb2018"].arrange
    assert arrange(["i/images/i.png"]) == {"i/images/i.png": "stage1_train/i/images/i.png"}
    assert arrange(["d/stage1_train/i/masks/m.png"])["d/stage1_train/i/masks/m.png"] == "stage1_train/i/masks/m.png"
    assert arrange(["stage1_test/i/images/i.png"])["stage1_test/i/images/i.png"] == "stage1_test/i/images/i.png"


# Reading what was arranged


@pytest.mark.parametrize("name", NAMES)
def test_the_reader_finds_pairs_classes_and_void(name: str, arranged: Path):
    dataset = opened(name, arranged)
    assert dataset.survey.pairs == PAIRS[name]
    assert dataset.task.names == CLASSES[name]
    assert dataset.survey.void_pixels == (0 if name not in VOIDS else sum(PAIRS[name].values()) * void_share(name))
    if name in VOIDS:
        assert dataset.task.ignore_index == VOIDS[name]
    assert RECEIPT in {path.name for path, _ in dataset.folder.skipped}


def void_share(name: str) -> int:
    """Pixels per mask that are drawn as void: every twelfth of 1024 in CamVid, every twenty-second in VOC."""
    return {"camvid": len(range(11, 1024, 12)), "voc2012": len(range(21, 1024, 22))}[name]


@pytest.mark.parametrize("name", ["phc-u373", "dic-hela"])
def test_objects_of_the_cell_tracking_challenge_keep_their_numbers(name: str, arranged: Path):
    dataset = open_dataset(arranged / name, masks="instances")
    assert [sample.name for sample in dataset.samples] == ["01/t001", "02/t001", "02/t003"]
    instances_HW = dataset.read_instances(dataset.samples[0])
    assert np.unique(instances_HW, return_counts=True)[1].tolist() == [32 * 32 - 380, 100, 80, 200]
    assert instances_HW[5, 5] == 1
    assert instances_HW[5, 15] == 2
    assert instances_HW[25, 10] == 3


def test_the_frames_without_truth_are_kept_beside(arranged: Path):
    frames = sorted(path.relative_to(arranged).as_posix() for path in arranged.glob("phc-u373/unannotated/*/*.tif"))
    assert len(frames) == 5
    assert frames[0] == "phc-u373/unannotated/01/t000.tif"
    assert not list(arranged.glob("phc-u373/**/man_track*"))


def test_photographs_without_segmentation_are_images_without_mask(arranged: Path):
    samples = find_samples(arranged / "voc2012").samples
    assert sum(not sample.masks for sample in samples) == 2
    assert not list(arranged.glob("voc2012/**/Annotations"))


def test_pixels_are_those_that_were_published(arranged: Path):
    stack = tifffile.imread(arranged / "isbi2012" / "train-labels.tif")
    assert stack.shape == (3, 32, 32)
    assert set(np.unique(stack)) == {0, 255}
    mask = Image.open(arranged / "voc2012/VOCdevkit/VOC2012/SegmentationClass/2007_000000.png")
    assert mask.mode == "P"
    assert np.asarray(mask)[0, :22].tolist() == [*range(21), 255]


def test_a_real_copy_of_camvid_is_understood(real_data: Path, tmp_path: Path):
    receipt = get_set(PUBLIC_SETS["camvid"], tmp_path, source=real_data / "camvid")
    assert (receipt.files, receipt.left_out) == (252, 0)
    dataset = opened("camvid", tmp_path)
    assert dataset.survey.pairs == {"train": 92, "val": 34}
    assert dataset.survey.void_pixels > 0
    assert dataset.task.names == CAMVID.names


def test_real_nuclei_are_understood(real_data: Path, tmp_path: Path):
    for folder in sorted((real_data / "dsb2018" / "stage1_train").iterdir())[:5]:
        shutil.copytree(folder, tmp_path / "copy" / folder.name)
    get_set(PUBLIC_SETS["dsb2018"], tmp_path, source=tmp_path / "copy")
    assert opened("dsb2018", tmp_path).survey.pairs == {"train": 5}
