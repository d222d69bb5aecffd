"""Recognising layouts: which file is an image, which is its mask, and what is refused."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pixelwise.data.layouts import Folder, Source, find_images, find_samples
from pixelwise.data.listing import list_pictures
from pixelwise.errors import DataError, UsageError


def grow(root: Path, *names: str) -> Path:
    """A folder with a small picture, or an empty text file, at each path; written in a random order."""
    for name in random.sample(names, len(names)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".txt", ".xml", ".db", ""):
            path.write_text("")
        else:
            Image.new("L", (2, 2)).save(path, format="PNG")
    return root


def stack(path: Path, pages: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.zeros((pages, 4, 4), np.uint8), photometric="minisblack")


def pairs(folder: Folder) -> dict[str, list[str]]:
    """Name to mask paths, relative to the folder."""
    return {
        sample.name: [mask.path.relative_to(folder.path).as_posix() for mask in sample.masks]
        for sample in folder.samples
    }


def refused(path: Path, *texts: str) -> None:
    with pytest.raises(DataError) as caught:
        find_samples(path)
    named = "\n".join(str(finding) for finding in caught.value.findings)
    assert all(text in named for text in texts), named


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("Image", "label"), ("imgs", "annotations")])
@pytest.mark.parametrize("pattern", ["{}", "{}_mask", "{}_label", "{}-seg", "mask_{}"])
def test_two_folders(tmp_path: Path, images: str, masks: str, pattern: str) -> None:
    names = ["1", "2", "10", "benign (1)"]
    grow(tmp_path, *(f"{images}/{n}.jpg" for n in names), *(f"{masks}/{pattern.format(n)}.png" for n in names))
    folder = find_samples(tmp_path)
    assert folder.layout == "images and masks"
    assert pairs(folder) == {n: [f"{masks}/{pattern.format(n)}.png"] for n in names}
    assert [sample.name for sample in folder.samples] == names
    assert [sample.name for sample in find_images(tmp_path).samples] == names


def test_both_names_may_carry_their_word(tmp_path: Path) -> None:
    grow(tmp_path, "images/image_1.png", "images/image_2.png", "masks/mask_1.png", "masks/mask_2.png")
    assert pairs(find_samples(tmp_path)) == {"image_1": ["masks/mask_1.png"], "image_2": ["masks/mask_2.png"]}


def test_split_folders_in_both_orders(tmp_path: Path) -> None:
    one = grow(tmp_path / "a", *(f"{s}/{k}/x.png" for s in ("train", "valid", "test") for k in ("images", "masks")))
    two = grow(tmp_path / "b", *(f"{k}/{s}/x.png" for s in ("train", "validation") for k in ("images", "masks")))
    assert [(s.name, s.split, len(s.masks)) for s in find_samples(one).samples] == [
        ("test/x", "test", 1),
        ("train/x", "train", 1),
        ("val/x", "val", 1),
    ]
    assert pairs(find_samples(two)) == {"train/x": ["masks/train/x.png"], "val/x": ["masks/validation/x.png"]}
    assert find_samples(one).layout == "splits"


def test_test_images_need_no_masks_but_training_images_do(tmp_path: Path) -> None:
    grow(tmp_path, "train/images/x.png", "train/masks/x.png", "test/images/y.png")
    assert pairs(find_samples(tmp_path)) == {"test/y": [], "train/x": ["train/masks/x.png"]}
    grow(tmp_path, "val/images/z.png")
    refused(tmp_path, "val/images/z.png: an image without mask")


def test_camvid(tmp_path: Path) -> None:
    grow(
        tmp_path, *(f"{s}{kind}/a_{i}.png" for s in ("train", "val", "test") for kind in ("", "annot") for i in (1, 2))
    )
    folder = find_samples(tmp_path)
    assert folder.layout == "camvid"
    assert pairs(folder)["val/a_2"] == ["valannot/a_2.png"]
    assert [sample.split for sample in folder.samples] == ["test"] * 2 + ["train"] * 2 + ["val"] * 2
    assert len(find_images(tmp_path).samples) == 6


def test_voc_goes_by_its_lists(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    grow(root, *(f"JPEGImages/{n}.jpg" for n in "abcd"), *(f"SegmentationClass/{n}.png" for n in "abd"))
    grow(root, "SegmentationObject/a.png", "Annotations/a.xml")
    lists = root / "ImageSets" / "Segmentation"
    grow(root, "ImageSets/Segmentation/train.txt")
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n\n")
    folder = find_samples(tmp_path)
    assert folder.layout == "voc"
    assert [(s.name, s.split, len(s.masks)) for s in folder.samples] == [
        ("a", "train", 1),
        ("b", "val", 1),
        ("c", None, 0),
        ("d", None, 0),
    ]
    assert [reason for path, reason in folder.skipped if path.name == "d.png"] == [
        "in no list of ImageSets/Segmentation"
    ]
    (lists / "val.txt").write_text("b\nc\nz\n")
    refused(tmp_path, "z without image", "c.jpg: an image without mask")


@pytest.mark.parametrize("given", [".", "stage1_train"])
def test_dsb_has_a_folder_per_image(tmp_path: Path, given: str) -> None:
    grow(tmp_path / "stage1_train", *(f"{i}/images/{i}.png" for i in ("a1", "b2")))
    grow(tmp_path / "stage1_train", "a1/masks/7f.png", "a1/masks/08.png", "b2/masks/33.png")
    folder = find_samples(tmp_path / given)
    assert folder.layout == "dsb2018"
    assert {sample.name: len(sample.masks) for sample in folder.samples} == {"a1": 2, "b2": 1}


def test_dsb_test_images(tmp_path: Path) -> None:
    grow(tmp_path, "stage1_train/a/images/a.png", "stage1_train/a/masks/1.png", "stage1_test/b/images/b.png")
    assert [(s.name, s.split, len(s.masks)) for s in find_samples(tmp_path).samples] == [
        ("test/b", "test", 0),
        ("train/a", "train", 1),
    ]
    assert pairs(find_samples(tmp_path / "stage1_test")) == {"b": []}


def test_a_folder_of_objects_per_image_and_numbered_objects(tmp_path: Path) -> None:
    grow(tmp_path / "a", "images/x.png", "images/y.png", "masks/x/1.png", "masks/x/2.png", "masks/y/1.png")
    assert [len(sample.masks) for sample in find_samples(tmp_path / "a").samples] == [2, 1]
    grow(tmp_path / "b", "images/x.png", "masks/x_mask.png", "masks/x_mask_1.png")
    assert len(find_samples(tmp_path / "b").samples[0].masks) == 2


def test_isbi_stacks(tmp_path: Path) -> None:
    for name, pages in [("train-volume", 3), ("train-labels", 3), ("test-volume", 2)]:
        stack(tmp_path / f"{name}.tif", pages)
    folder = find_samples(tmp_path)
    assert folder.layout == "isbi2012"
    assert [sample.name for sample in folder.samples] == [
        *(f"test-volume_00{i}" for i in range(2)),
        *(f"train-volume_00{i}" for i in range(3)),
    ]
    last = folder.samples[-1]
    assert (last.split, last.image, last.masks) == (
        "train",
        Source(tmp_path / "train-volume.tif", 2),
        (Source(tmp_path / "train-labels.tif", 2),),
    )
    assert len(find_images(tmp_path).samples) == 5
    assert [sample.image.page for sample in find_images(tmp_path / "test-volume.tif").samples] == [0, 1]
    stack(tmp_path / "train-labels.tif", 2)
    refused(tmp_path, "a stack of 3 pages", "train-labels.tif has 2")


def test_masks_beside_images(tmp_path: Path) -> None:
    grow(tmp_path, "x.jpg", "x_mask.png", "sub/x.jpg", "sub/x_mask.png")
    folder = find_samples(tmp_path)
    assert pairs(folder) == {"x": ["x_mask.png"], "sub/x": ["sub/x_mask.png"]}
    images = find_images(tmp_path)
    assert [sample.name for sample in images.samples] == ["sub/x", "x"]
    assert {(file.name, reason) for file, reason in images.skipped} == {("x_mask.png", "the mask of an image")}
    grow(tmp_path, "y.png", "z_mask.png")
    refused(tmp_path, "y.png: an image without mask", "z_mask.png: a mask without image")


def test_plain_images_keep_their_folders(tmp_path: Path) -> None:
    grow(tmp_path, "sub1/t.png", "sub2/t.png", "face_mask.png")
    for find in (find_samples, find_images):
        folder = find(tmp_path)
        assert folder.layout == "images"
        assert [sample.name for sample in folder.samples] == ["face_mask", "sub1/t", "sub2/t"]
    assert find_images(tmp_path / "sub1").samples[0].name == "t"


def test_a_single_file(tmp_path: Path) -> None:
    grow(tmp_path, "x.png")
    assert pairs(Folder(path=tmp_path, layout="", samples=find_samples(tmp_path / "x.png").samples)) == {"x": []}


def test_missing_and_left_over_files_are_all_named(tmp_path: Path) -> None:
    grow(tmp_path, "images/a.png", "images/b.png", "images/c.png", "masks/a.png", "masks/d.png", "masks/e.png")
    refused(tmp_path, "b.png: an image without", "c.png: an image without", "d.png: a mask", "e.png: a mask")
    assert [sample.name for sample in find_images(tmp_path).samples] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (("images/s.png", "images/s.jpg"), ("the name s stands for", "s.png", "s.jpg")),
        (("images/s.png", "masks/s.png", "masks/s.tif"), ("2 masks", "s.png", "s.tif")),
        (("images/s.png", "masks/s.png", "masks/s_mask.png"), ("2 masks", "s_mask.png")),
        (("images/s.png", "masks/s_mask.png", "masks/s_label.png"), ("2 masks", "s_label.png")),
        (("images/img_1.png", "images/1_rgb.png", "masks/1.png"), ("could belong to", "img_1.png", "1_rgb.png")),
    ],
)
def test_ambiguity_is_refused_with_both_files(tmp_path: Path, names: tuple[str, ...], texts: tuple[str, ...]) -> None:
    refused(grow(tmp_path, *names), *texts)


def test_two_images_of_one_name_cannot_be_predicted(tmp_path: Path) -> None:
    grow(tmp_path, "s.png", "s.jpg")
    with pytest.raises(DataError, match=r"images cannot be told apart by their names\n.*s\.jpg and .*s\.png"):
        find_images(tmp_path)


def test_what_is_no_picture_is_counted(tmp_path: Path) -> None:
    grow(tmp_path, "a.png", ".hidden.png", "._a.png", "Thumbs.db", "notes.txt", "README")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "folder.png").mkdir()
    grow(tmp_path, "folder.png/b.png")
    folder = find_images(tmp_path)
    assert [sample.name for sample in folder.samples] == ["a", "dangling", "folder.png/b"]
    assert {path.name: reason.split(" (")[0] for path, reason in folder.skipped} == {
        ".hidden.png": "hidden or system file",
        "._a.png": "hidden or system file",
        "Thumbs.db": "hidden or system file",
        "notes.txt": "not a picture by its name",
        "README": "not a picture by its name",
        "pipe.png": "not a regular file",
        "loop": "folder already listed",
    }


def test_strange_names_are_listed_once(tmp_path: Path) -> None:
    names = ["<img src=x>", "a b (1)", "-rf", "--help", "a\nb", "\u00e9", "e\u0301", "A", "a", "con", "%s%n", "x" * 250]
    grow(tmp_path, *(f"{name}.png" for name in names))
    os.link(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff\xfe.png")
    assert sorted(s.name for s in find_images(tmp_path).samples) == sorted([*names, os.fsdecode(b"\xff\xfe")])


def test_a_folder_beside_images_and_masks_is_skipped_and_said(tmp_path: Path) -> None:
    grow(tmp_path, "images/a.png", "masks/a.png", "previews/a.png")
    folder = find_samples(tmp_path)
    assert pairs(folder) == {"a": ["masks/a.png"]}
    assert [reason for _, reason in folder.skipped] == ["in a folder neither for images nor for masks"]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    grow(tmp_path / "far", "a.png")
    grow(tmp_path / "set", "masks/a.png")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "far")
    assert pairs(find_samples(tmp_path / "set")) == {"a": ["masks/a.png"]}


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file or folder"):
        find_samples(tmp_path / "absent")
    with pytest.raises(DataError, match="it is empty"):
        find_samples(tmp_path)
    grow(tmp_path, "masks/a.png", "notes.txt")
    refused(tmp_path, "a.png: a mask without image")
    with pytest.raises(DataError, match="no images"):
        find_images(tmp_path)


def test_listing_is_in_natural_order(tmp_path: Path) -> None:
    names = ["1.png", "2.png", "10.png", "a1b2.png", "a1b10.png", "A2.png"]
    grow(tmp_path, *names)
    listed = [path.name for path in list_pictures(tmp_path).folders[()]]
    assert listed.index("2.png") < listed.index("10.png")
    assert listed.index("a1b2.png") < listed.index("a1b10.png")


def test_real_data(real_data: Path) -> None:
    found = {name: find_samples(real_data / name) for name in ("isbi2012", "dsb2018", "camvid")}
    assert {name: len(folder.samples) for name, folder in found.items()} == {
        "isbi2012": 24,
        "dsb2018": 172,
        "camvid": 126,
    }
    dsb = real_data / "dsb2018" / "stage1_train"
    for sample in found["dsb2018"].samples:
        assert len(sample.masks) == len(list((dsb / sample.name / "masks").iterdir()))
