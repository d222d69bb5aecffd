"""What names say: which folders hold images, masks, or a part of a split, and which file is the mask of which image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["image", "mask"]
Split = Literal["train", "val", "test"]

SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
ROLES: dict[str, Role] = {
    **dict.fromkeys(("image", "images", "img", "imgs", "photos", "pictures", "raw", "sat", "input", "inputs"), "image"),
    **dict.fromkeys(("mask", "masks", "label", "labels", "annotation", "annotations", "annot", "ann", "anns"), "mask"),
    **dict.fromkeys(("gt", "truth", "groundtruth", "seg", "segmentation", "segmentations", "map", "target"), "mask"),
    **dict.fromkeys(("targets", "output", "outputs"), "mask"),
}
NOISE = frozenset(("dir", "stage1", "stage2", "final", "ground", "set", "data"))
MASK_WORD = "masks?|labels?|labelled|segmentation|seg|annotations?|annot|ann|gt|ground_?truth|truth|matte"
IMAGE_WORD = "images?|img|im|raw|rgb|sat|volume|photo"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderMeaning:
    """What the path of a folder says about the pictures in it.

    role   images or masks, or None where no part of the path tells
    split  the part of a split, or None
    key    the other parts, with the split in one spelling: the same for the images and for their masks
    """

    role: Role | None
    split: Split | None
    key: tuple[str, ...]


def read_place(parts: tuple[str, ...]) -> FolderMeaning:
    """What the parts of a folder's path say; the last word counts where two disagree.

    >>> read_place(("valid", "images", "day 1"))
    FolderMeaning(role='image', split='val', key=('val', 'day 1'))
    >>> read_place(("trainannot",)) == read_place(("train", "masks"))
    True
    """
    role: Role | None = None
    split: Split | None = None
    key: list[str] = []
    for part in parts:
        words = _known_words(part)
        split = next((SPLITS[word] for word in words if word in SPLITS), split)
        role = next((ROLES[word] for word in words if word in ROLES), role)
        if not words:
            key.append(part)
        elif any(word in SPLITS for word in words):
            key.append(str(split))
    return FolderMeaning(role=role, split=split, key=tuple(key))


def mask_core(stem: str) -> str:
    """The name of a mask without the word that makes it one, and without the number of an object.

    >>> mask_core("cell 7_mask"), mask_core("cell 7_mask_2"), mask_core("mask-7"), mask_core("seven")
    ('cell 7', 'cell 7', '7', 'seven')
    """
    return _strip_word(stem, MASK_WORD, number=r"(?:[-_ ]?\d+)?")


def class_word(stem: str, image_stem: str, folder: str = "") -> str:
    """The word by which a mask says what of its image it shows: in its name, or the name of a folder of its own.

    Empty where its name says no more than that it is the mask of the image.

    >>> class_word("img1_nucleus", "img1"), class_word("img1", "img1", "nucleus"), class_word("img1_mask_2", "img1")
    ('nucleus', 'nucleus', '2')
    >>> class_word("nucleus", "img1"), class_word("img1_mask", "img1"), class_word("train-labels", "train-volume")
    ('nucleus', '', '')
    >>> class_word("nucleus", "n")
    'nucleus'
    """
    ends = (stem.removeprefix(name) for name in (image_stem, image_core(image_stem)) if stem.startswith(name))
    rest = next((end for end in ends if not end or end[0] in "-_. "), stem).strip("-_. ")
    return folder if not rest or re.fullmatch(rf"(?i){MASK_WORD}", rest) else mask_core(rest)


def name_beginnings(stem: str) -> list[str]:
    """The name without its last words, one word less each time: the longest first.

    >>> name_beginnings("img-1_cell wall")
    ['img-1_cell', 'img-1', 'img']
    """
    return [stem[: found.start()] for found in reversed(list(re.finditer("[-_. ]+", stem))) if found.start()]


def image_core(stem: str) -> str:
    """The name of an image without the word that makes it one.

    >>> image_core("train-volume"), image_core("img_7")
    ('train', '7')
    """
    return _strip_word(stem, IMAGE_WORD, number="")


def split_of_stem(stem: str) -> Split | None:
    """The part of a split that a stack is named after: `train-volume`, `test-labels`."""
    return SPLITS.get(mask_core(image_core(stem)).lower())


def _strip_word(stem: str, word: str, number: str) -> str:
    core = re.sub(rf"(?i)(?<=.)[-_. ](?:{word}){number}$", "", stem)
    return core if core != stem else re.sub(rf"(?i)^(?:{word})[-_. ](?=.)", "", stem)


def _known_words(part: str) -> list[str]:
    """The words of a folder name where all of them are known and one says something, else nothing."""
    spaced = re.sub(r"(?i)^(train|val|test)(?=annot$)", r"\1_", part)
    words = [word for word in re.split(r"[-_ .]+", spaced.lower()) if word]
    known = all(word in SPLITS or word in ROLES or word in NOISE for word in words)
    return words if known and any(word in SPLITS or word in ROLES for word in words) else []
