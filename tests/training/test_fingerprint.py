"""The facts of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pixelwise.data.dataset import Dataset, open_dataset
from pixelwise.errors import UsageError
from pixelwise.training.fingerprint import (
    FEWEST_UPRIGHT,
    PERCENTILES,
    Fingerprint,
    bits_of,
    disc,
    evenly,
    take_fingerprint,
)
from pixelwise.training.spacing import pixel_spacing

INSTANCES = np.zeros((12, 20), np.uint8)
INSTANCES[1:5, 1:5] = 1  # 16 pixels, touches 2
INSTANCES[1:5, 5:9] = 2  # 16 pixels
INSTANCES[8:10, 15:18] = 3  # 6 pixels, alone
INSTANCES[8:10, 1:3] = 4  # 4 pixels, a pixel away from 5
INSTANCES[8:10, 4:6] = 5  # 4 pixels


def write(folder: Path, masks: list[np.ndarray], images: list[np.ndarray] | None = None) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, mask in enumerate(masks):
        image = mask * 10 if images is None else images[number]
        Image.fromarray(image).save(folder / "images" / f"{number:02}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:02}.png")
    return folder


def facts_of(dataset: Dataset, **more: int) -> Fingerprint:
    return take_fingerprint(dataset, dataset.samples, **more)


def test_objects_are_measured_one_by_one(tmp_path: Path) -> None:
    facts = facts_of(open_dataset(write(tmp_path, [INSTANCES]), masks="instances"))
    background, cells = facts.classes
    assert background.objects is None
    assert cells.objects is not None
    assert cells.objects.count == 5
    assert cells.objects.area == (6.0, 4.0)
    assert cells.objects.diameter == (disc(6), disc(4)) == (2.8, 2.3)
    assert facts.diameter == 2.8
    assert facts.instances
    assert facts.touching == 2 / 5, "1 and 2 side by side; of 4 and 5 no pixel has the other beside it"
    assert cells.share == round(46 / 240, 6)
    assert (background.presence, cells.presence) == (1, 1)


def test_pieces_of_classes_are_their_objects_and_touch_by_no_means(tmp_path: Path) -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[0:2, 0:2] = mask[5:8, 5:8] = 1
    mask[0:2, 2:4] = 2
    empty = np.zeros((14, 6), np.uint8)
    empty[0, 0] = 1
    facts = facts_of(open_dataset(write(tmp_path, [mask, empty, mask]), masks="index", classes=("a", "b", "c")))
    assert facts.touching is None
    assert [one.objects and one.objects.count for one in facts.classes] == [None, 5, 2]
    assert [one.presence for one in facts.classes] == [1, 1, round(2 / 3, 4)]
    assert facts.classes[1].objects is not None
    assert facts.classes[1].objects.area == (4.0, 1.0)
    assert (facts.smallest, facts.median, facts.usual, facts.largest) == ((10, 6), (10, 10), (10, 10), (14, 10))
    assert facts.rarest.name == "c"


def test_borders_that_are_learned_do_not_change_the_objects(tmp_path: Path) -> None:
    data = write(tmp_path, [INSTANCES])
    plain = facts_of(open_dataset(data, masks="instances"))
    bordered = facts_of(open_dataset(data, masks="instances", border=1))
    assert bordered.touching == plain.touching
    assert bordered.classes[1].objects == plain.classes[1].objects
    assert len(bordered.classes) == 3
    overlapping = facts_of(open_dataset(data, masks="instances", border=1, form="sigmoid2_full"))
    assert [one.name for one in overlapping.classes] == ["object", "border"]
    assert overlapping.classes[0].objects == plain.classes[1].objects
    assert overlapping.classes[1].objects is None


def test_percentiles_are_those_of_the_pixels_per_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 200, (12, 20, 3)).astype(np.uint8) for _ in range(3)]
    dataset = open_dataset(write(tmp_path, [INSTANCES] * 3, images), masks="instances")
    facts = facts_of(dataset)
    wanted = np.percentile(np.stack(images).reshape(-1, 3), PERCENTILES, axis=0).T
    np.testing.assert_allclose(facts.intensities, wanted, rtol=1e-5)
    assert (facts.channels, facts.bits) == (3, 8)


def test_only_so_many_images_are_read_evenly_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(write(tmp_path, [INSTANCES] * 9), masks="instances")
    read: list[str] = []
    original = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda self, sample: read.append(sample.name) or original(self, sample))
    facts = facts_of(dataset, most=3)
    assert read == ["00", "03", "06"]
    assert (facts.read, facts.images) == (3, 9)
    assert "3 of 9 training images were read, evenly chosen" in facts.describe()[0]
    none = facts_of(dataset, most=0)
    assert len(read) == 3
    assert (none.read, none.touching, none.intensities, none.diameter) == (0, None, (), None)
    assert [one.share for one in none.classes] == [one.share for one in facts.classes]
    assert "none was read" in none.describe()[0]


@pytest.mark.parametrize(("count", "most"), [(0, 3), (1, 3), (7, 3), (3, 3), (100, 32)])
def test_chosen_evenly_means_without_repeats_and_over_the_whole_length(count: int, most: int) -> None:
    chosen = evenly(range(count), most)  # type: ignore[arg-type]
    assert len(set(chosen)) == len(chosen) == min(count, most)
    gaps = np.diff([*chosen, count])  # type: ignore[list-item]
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(("upright", "number"), [(True, FEWEST_UPRIGHT), (False, FEWEST_UPRIGHT), (True, 3)])
def test_images_with_an_up_and_a_down_are_known_by_their_masks(tmp_path: Path, upright: bool, number: int) -> None:
    masks = []
    for turned in range(number):
        mask = np.zeros((16, 16), np.uint8)
        mask[9:, :] = 1  # the ground
        masks.append(mask if upright else np.ascontiguousarray(np.rot90(mask, turned)))
    facts = facts_of(open_dataset(write(tmp_path, masks), masks="index"))
    assert facts.photograph is (upright and number == FEWEST_UPRIGHT)
    if upright:
        assert facts.up_down == pytest.approx(7 / 8)
        assert facts.left_right == 0


def test_void_is_counted_apart(tmp_path: Path) -> None:
    mask = np.full((10, 10), 255, np.uint8)
    mask[:5] = 0
    mask[5, :5] = 1
    facts = facts_of(open_dataset(write(tmp_path, [mask]), masks="index"))
    assert facts.void == round(45 / 100, 6)
    assert [one.share for one in facts.classes] == [round(50 / 55, 6), round(5 / 55, 6)]
    assert any("void: 45 % of the pixels" in line for line in facts.describe())


def test_facts_survive_the_way_through_json(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, [INSTANCES] * 2), masks="instances")
    for facts in (facts_of(dataset), facts_of(dataset, most=0)):
        assert Fingerprint.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


@pytest.mark.parametrize(
    "change", [{"bits": None, "more": 1}, {"classes": 3}, {"median": [1]}, {"intensities": [["x"]]}]
)
def test_what_is_no_fingerprint_is_refused(tmp_path: Path, change: dict) -> None:
    good = facts_of(open_dataset(write(tmp_path, [INSTANCES]), masks="instances")).to_dict()
    with pytest.raises(UsageError, match="not the fingerprint"):
        Fingerprint.from_dict({**good, **change})


def test_bits_of_every_type_of_file() -> None:
    assert [bits_of(dtype) for dtype in ("bool", "uint8", "uint16", "float32")] == [1, 8, 16, 32]


# The size of a pixel


@pytest.mark.parametrize(
    ("options", "spacing"),
    [
        ({"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}, (1.0, 0.5)),
        ({"resolution": (25_400, 25_400), "resolutionunit": "INCH"}, (1.0, 1.0)),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "um"}}, (0.25, 0.25)),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (5, 5), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)
def test_the_size_of_a_pixel_is_what_the_file_says(tmp_path: Path, options: dict, spacing: object) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.uint8), **options)
    found = pixel_spacing(tmp_path / "a.tif")
    assert found == (spacing if spacing is None else pytest.approx(spacing))


def test_other_and_damaged_files_say_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.tif").write_bytes(b"II*\0 not a picture")
    assert [pixel_spacing(tmp_path / name) for name in ("a.png", "b.tif", "none.tif")] == [None] * 3


def test_the_size_of_a_pixel_is_a_fact_where_all_files_agree(tmp_path: Path) -> None:
    data = write(tmp_path, [INSTANCES] * 2)
    for number, resolution in enumerate((10_000, 10_000)):
        (data / "images" / f"{number:02}.png").unlink()
        tifffile.imwrite(
            data / "images" / f"{number:02}.tif", INSTANCES, resolution=(resolution,) * 2, resolutionunit="CENTIMETER"
        )
    assert facts_of(open_dataset(data, masks="instances")).spacing == (1.0, 1.0)
    tifffile.imwrite(data / "images" / "01.tif", INSTANCES, resolution=(20_000,) * 2, resolutionunit="CENTIMETER")
    assert facts_of(open_dataset(data, masks="instances")).spacing is None


# The real data


@pytest.mark.parametrize(("name", "photograph"), [("isbi2012", False), ("camvid", True)])
def test_the_up_and_the_down_of_real_images(real_data: Path, name: str, photograph: bool) -> None:
    dataset = open_dataset(real_data / name)
    facts = take_fingerprint(dataset, dataset.samples, most=10)
    assert facts.photograph is photograph
    assert facts.up_down is not None
    assert facts.left_right is not None
    assert (facts.up_down > 0.5) is photograph
    assert facts.left_right < 0.25
