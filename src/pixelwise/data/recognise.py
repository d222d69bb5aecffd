"""Telling images from masks in a folder, by the words of its folders and files; nothing is paired yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pixelwise.data.folder_words import Split, image_core, mask_core, read_place, split_of_stem
from pixelwise.data.listing import Listing, list_pictures
from pixelwise.errors import DataError, Finding, UsageError, printable

STACK_SUFFIXES = (".tif", ".tiff")
CAMVID_FOLDERS = frozenset(("trainannot", "valannot", "testannot"))
LONGEST_LIST = 10_000_000
VOC_SPLITS: dict[str, Split | None] = {"trainval": None, "test": "test", "val": "val", "train": "train"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPicture:
    """A file and what its path says: `folder` is the key of its place (see `read_place`)."""

    path: Path
    folder: tuple[str, ...]
    split: Split | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The name of what it shows, as parts; a file named after its folder adds nothing (DSB2018)."""
        stem = self.path.stem
        return self.folder if self.folder[-1:] == (stem,) else (*self.folder, stem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """The images and masks of a folder, not yet paired; the files left out; what is wrong already."""

    layout: str
    images: Sequence[FoundPicture]
    masks: Sequence[FoundPicture] = ()
    skipped: Sequence[tuple[Path, str]] = ()
    problems: Sequence[Finding] = ()


def recognise(path: Path) -> Recognised:
    """The images and masks under `path`, a folder or a file; raises UsageError or DataError where there is nothing."""
    if not path.exists():
        raise UsageError(f"there is no file or folder {printable(path)}; give the path of a data set")
    if not path.is_dir():
        return Recognised(layout="file", images=[FoundPicture(path=path, folder=())])
    listing = list_pictures(path)
    if not listing.folders:
        reasons = "; ".join(f"{printable(file.name)}: {reason}" for file, reason in listing.skipped[:5])
        raise DataError(f"{printable(path)} holds no pictures ({reasons or 'it is empty'}); give a folder with images")
    for parts in listing.folders:
        if parts[-1:] == ("JPEGImages",) and (*parts[:-1], "SegmentationClass") in listing.folders:
            return _voc(listing, parts[:-1])
    return _by_words(listing)


def _by_words(listing: Listing) -> Recognised:
    """By the words of the folders; by the words of the files where no folder is for masks."""
    places = {parts: read_place(parts) for parts in listing.folders}
    roles = {place.role for place in places.values()}
    images, masks, skipped = [], [], list(listing.skipped)
    for parts, files in listing.folders.items():
        place = places[parts]
        pictures = [FoundPicture(path=file, folder=place.key, split=place.split) for file in files]
        if place.role == "mask":
            masks += pictures
        elif place.role is None and place.split is None and roles == {None, "image", "mask"}:
            skipped += [(file, "in a folder neither for images nor for masks") for file in files]
        else:
            images += pictures
    if not masks:
        images, masks = _beside(images)
    return Recognised(layout=_layout(listing, images, masks), images=images, masks=masks, skipped=skipped)


def _beside(pictures: list[FoundPicture]) -> tuple[list[FoundPicture], list[FoundPicture]]:
    """Part images and masks of the same folder by their names; all are images where no mask finds its image."""
    masks = [picture for picture in pictures if _is_named_mask(picture)]
    images = [picture for picture in pictures if not _is_named_mask(picture)]
    names = {(image.folder, name) for image in images for name in (image.path.stem, image_core(image.path.stem))}
    if not any((mask.folder, mask_core(mask.path.stem)) in names for mask in masks):
        return pictures, []
    return [_split_by_name(image) for image in images], [_split_by_name(mask) for mask in masks]


def _split_by_name(picture: FoundPicture) -> FoundPicture:
    return replace(picture, split=picture.split or split_of_stem(picture.path.stem))


def _is_named_mask(picture: FoundPicture) -> bool:
    return mask_core(picture.path.stem) != picture.path.stem


def _layout(listing: Listing, images: list[FoundPicture], masks: list[FoundPicture]) -> str:
    if CAMVID_FOLDERS & {parts[-1].lower() for parts in listing.folders if parts}:
        return "camvid"
    if images and all(image.folder[-1:] == (image.path.stem,) for image in images):
        return "dsb2018"
    if not masks:
        return "images"
    if {mask.path.parent for mask in masks} & {image.path.parent for image in images}:
        stacks = any(split_of_stem(mask.path.stem) and mask.path.suffix in STACK_SUFFIXES for mask in masks)
        return "isbi2012" if stacks else "masks beside images"
    return "splits" if any(image.split for image in images) else "images and masks"


# PASCAL VOC


def _voc(listing: Listing, parts: tuple[str, ...]) -> Recognised:
    """Images and masks by the lists in ImageSets/Segmentation; all masks where there is no list."""
    images, masks = (listing.folders[*parts, name] for name in ("JPEGImages", "SegmentationClass"))
    lists = listing.root.joinpath(*parts, "ImageSets", "Segmentation")
    splits: dict[str, Split | None] = {}
    for name, split in VOC_SPLITS.items():
        splits |= dict.fromkeys(_read_list(lists / f"{name}.txt"), split)
    listed = splits or dict.fromkeys(mask.stem for mask in masks)
    skipped = [(mask, "in no list of ImageSets/Segmentation") for mask in masks if mask.stem not in listed]
    absent = sorted(set(listed) - {image.stem for image in images})
    rule, fix = "every listed name has an image", "add the image, or take the name from the list"
    return Recognised(
        layout="voc",
        images=[FoundPicture(path=image, folder=(), split=listed.get(image.stem)) for image in images],
        masks=[FoundPicture(path=mask, folder=(), split=listed[mask.stem]) for mask in masks if mask.stem in listed],
        skipped=[*listing.skipped, *skipped],
        problems=[Finding(file=lists, found=f"{name} without image", rule=rule, fix=fix) for name in absent],
    )


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        return []
    if path.stat().st_size > LONGEST_LIST:
        raise DataError(f"{printable(path)} is larger than any list of names ({LONGEST_LIST} bytes)")
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line.split()[0] for line in lines if line.strip()]
