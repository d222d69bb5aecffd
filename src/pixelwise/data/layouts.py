"""From a folder to samples: which file is an image, and which masks belong to it, in the layouts that people use.

One rule covers most of them. The path of a file says three things: whether it is an image or a mask (`images`,
`masks`, `label`, `trainannot` ...), which part of a split it belongs to (`train`, `val`, `test`), and, by all that is
left, which object it shows. An image and a mask that show the same belong together. `images/` with `masks/`,
`train/images` with `train/masks`, CamVid, DSB2018 (one folder per image, one mask per nucleus), masks beside their
images and the stacks of ISBI 2012 are cases of it; PASCAL VOC has lists of its own (`recognise`).

Whatever does not fit is reported with the names of all files concerned; no image is ever left out silently.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from pixelwise.data.folder_words import Split, class_word, image_core, mask_core, name_beginnings
from pixelwise.data.images import read_header
from pixelwise.data.recognise import STACK_SUFFIXES, FoundPicture, Recognised, recognise
from pixelwise.errors import DataError, Finding, ImageFileError, printable


@dataclass(frozen=True, slots=True)
class Source:
    """Where one picture is: a file, or one page (from 0) of a stack.

    label  of one of several masks: what its name says beyond that of its image, such as a class or a number
    """

    path: Path
    page: int | None = None
    label: str = ""

    def __str__(self) -> str:
        return printable(self.path) if self.page is None else f"{printable(self.path)}, page {self.page}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An image with its masks.

    name   unique in its folder: a relative path with / and without suffix, fit to name an output (`train/a`, `s_007`)
    masks  none: an image without truth; one: its mask; several: one file per object, or per class
    split  the part that the folder assigns it to, or None
    """

    name: str
    image: Source
    masks: tuple[Source, ...] = ()
    split: Split | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """What was found under a path: the layout, the samples in natural order, and what was left out with the reason."""

    path: Path
    layout: str
    samples: tuple[Sample, ...]
    skipped: tuple[tuple[Path, str], ...] = ()


def find_samples(path: Path) -> Folder:
    """The images of a folder with their masks; of a folder without masks, or a single file, the images.

    Raises UsageError where there is nothing at `path`, and DataError with a Finding for every image without mask, mask
    without image, name that two files share, and mask that could belong to two images.
    """
    return _faultless(*find_tolerantly(path), summary="images and masks cannot be paired")


def find_tolerantly(path: Path) -> tuple[Folder, list[Finding]]:
    """The samples of a folder whose files can be paired, and a finding for everything that `find_samples` refuses.

    Left out of the samples are an image with a wrong number of masks, and all files that share a name. Raises
    UsageError where there is nothing at `path`, and DataError where there is no image.
    """
    found = recognise(path)
    owned, problems = _pair(found)
    unclear = {problem.file for problem in problems}
    problems += [*found.problems, *_missing_masks(found, owned)]
    samples: list[Sample] = []
    for image, name in zip(found.images, _names(found), strict=True):
        if image.path not in unclear:
            masks = tuple(Source(mask.path, label=_label(mask, image)) for mask in owned.get(image.path, ()))
            samples += _pages(Sample(name=name, image=Source(image.path), masks=masks, split=image.split), problems)
    return _folder(path, found, samples, problems)


def find_images(path: Path) -> Folder:
    """The images of a folder, for prediction: recognised like `find_samples`, with the masks left aside.

    Raises UsageError where there is nothing at `path`, and DataError where two images share a name or none is there.
    """
    found = recognise(path)
    samples: list[Sample] = []
    for image, name in zip(found.images, _names(found), strict=True):
        samples += _pages(Sample(name=name, image=Source(image.path), split=image.split), [])
    image_folders = {image.path.parent for image in found.images}
    beside = [(mask.path, "the mask of an image") for mask in found.masks if mask.path.parent in image_folders]
    folder, problems = _folder(path, replace(found, skipped=[*found.skipped, *beside]), samples, [])
    return _faultless(folder, problems, summary="images cannot be told apart by their names")


# Pairing


def _pair(found: Recognised) -> tuple[dict[Path, list[FoundPicture]], list[Finding]]:
    """The masks of each image, by the image's path."""
    by_stem, by_core, by_key = defaultdict(list), defaultdict(list), defaultdict(list)
    for image in found.images:
        by_stem[image.folder, image.path.stem].append(image)
        by_core[image.folder, image_core(image.path.stem)].append(image)
        by_key[image.key].append(image)
    owned: dict[Path, list[FoundPicture]] = defaultdict(list)
    problems, left = [], []
    for mask in found.masks:
        stem, core = mask.path.stem, mask_core(mask.path.stem)
        owners = by_stem.get((mask.folder, stem)) or by_stem.get((mask.folder, core))
        owners = owners or by_core.get((mask.folder, core)) or by_key.get(mask.folder) or []
        if len(owners) == 1:
            owned[owners[0].path].append(mask)
        elif owners:
            problems.append(_unclear_owner(mask, owners))
        else:
            left.append(mask)
    of_words = {} if owned else _by_words(left, by_stem)
    problems += [_unclear_owner(mask, []) for mask in left] if not of_words else _odd_words(found.images, of_words)
    owned |= of_words
    for image in found.images:
        problems += _unclear_masks(image, owned.get(image.path, []))
    return owned, problems


def _by_words(
    masks: Sequence[FoundPicture], by_stem: Mapping[tuple[tuple[str, ...], str], list[FoundPicture]]
) -> dict[Path, list[FoundPicture]]:
    """The masks of each image where every mask has a word more than its image (`a_nucleus`, or `nucleus/a`).

    Where any of them has not, or is no word but a number, none are paired: one odd name in a folder is that of a mask
    whose image is missing.
    """
    owned: dict[Path, list[FoundPicture]] = defaultdict(list)
    for mask in masks:
        stem = mask.path.stem
        places = [(mask.folder, beginning) for beginning in name_beginnings(stem)]
        places += [(mask.folder[:-1], name) for name in (stem, mask_core(stem)) if mask.folder]
        owners: list[FoundPicture] = next((by_stem[place] for place in places if place in by_stem), [])
        if len(owners) != 1 or _label(mask, owners[0]).isdecimal():
            return {}
        owned[owners[0].path].append(mask)
    return owned


def _odd_words(images: Sequence[FoundPicture], owned: Mapping[Path, list[FoundPicture]]) -> list[Finding]:
    """A finding for each image whose masks have words that those of most images have not."""
    words = {image.path: frozenset(_label(mask, image) for mask in owned.get(image.path, ())) for image in images}
    usual = Counter(some for some in words.values() if some).most_common(1)[0][0]
    rule = f"the masks of all images have the same words, here {', '.join(map(printable, sorted(usual)))}"
    fix = "rename the mask, or remove it; should it be of another image, add that"
    return [
        Finding(file=path, found=f"a mask named {printable(word)}", rule=rule, fix=fix)
        for path, some in words.items()
        for word in sorted(some - usual)
    ]


def _label(mask: FoundPicture, image: FoundPicture) -> str:
    own_folder = mask.folder[-1] if len(mask.folder) > len(image.folder) else ""
    return class_word(mask.path.stem, image.path.stem, own_folder)


def _unclear_owner(mask: FoundPicture, owners: Sequence[FoundPicture]) -> Finding:
    images = ", ".join(printable(owner.path) for owner in owners)
    found = f"a mask that could belong to {images}" if owners else "a mask without image"
    fix = "give the image and its mask the same name, or <name>_mask for the mask"
    return Finding(file=mask.path, found=found, rule="a mask belongs to one image", fix=fix)


def _unclear_masks(image: FoundPicture, masks: list[FoundPicture]) -> list[Finding]:
    """Several masks are fine as one file per object: numbered, or alone in the folder of their image.

    They are fine as one file per class as well, each with a word of its own.
    """
    name, stems = image.path.stem, {mask.path.stem for mask in masks}
    named_after_image = [stem for stem in stems if name in (stem, mask_core(stem))]
    unnumbered = [stem for stem in named_after_image if stem == name or not stem[-1].isdecimal()]
    all_or_none = len(named_after_image) in (0, len(masks))
    distinct = len(stems) == len(masks) and name not in stems
    words = {_label(mask, image) for mask in masks}
    of_classes = len(words) == len(masks) and not any(word == "" or word.isdecimal() for word in words)
    if len(masks) < 2 or of_classes or (distinct and all_or_none and len(unnumbered) <= 1):
        return []
    found = f"{len(masks)} masks: " + ", ".join(printable(mask.path) for mask in masks)
    rule = (
        "one mask, one numbered file per object (<name>_mask_1, <name>_mask_2), "
        "or one file per class (<name>_nucleus, <name>_cell)"
    )
    return [Finding(file=image.path, found=found, rule=rule, fix="remove or rename all but the right one")]


def _missing_masks(found: Recognised, owned: dict[Path, list[FoundPicture]]) -> list[Finding]:
    """Images without mask, unless nothing beside them has one: test images, or a folder of images only."""
    with_masks = {image.split for image in found.images if image.path in owned}
    may_lack = {None} if found.layout == "voc" else {"test", None} - with_masks
    rule = "every image has a mask, except where a whole test part has none"
    fix = "add the mask, or move the image out of the folder"
    return [
        Finding(file=image.path, found="an image without mask", rule=rule, fix=fix)
        for image in found.images
        if found.masks and image.path not in owned and image.split not in may_lack
    ]


# Naming


def _names(found: Recognised) -> list[str]:
    """Names relative to the folder; in a recognised layout without the folders that all images share."""
    keys = [image.key for image in found.images]
    if found.layout == "images":
        return ["/".join(key) for key in keys]
    folders = zip(*(key[:-1] for key in keys), strict=False)
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, folders))
    return ["/".join(key[shared:]) for key in keys]


def _pages(sample: Sample, problems: list[Finding]) -> list[Sample]:
    """The sample itself, or one sample per page where its image is a stack."""
    pages = _page_count(sample.image.path)
    if pages == 1:
        return [sample]
    if any(_page_count(mask.path) != pages for mask in sample.masks) or len(sample.masks) > 1:
        counts = ", ".join(f"{mask} has {_page_count(mask.path)}" for mask in sample.masks)
        found = f"a stack of {pages} pages whose mask {counts}"
        rule = "a stack and its mask have the same number of pages"
        problems.append(Finding(file=sample.image.path, found=found, rule=rule, fix="correct the stack"))
        return []
    return [
        replace(
            sample,
            name=f"{sample.name}_{page:03d}",
            image=Source(sample.image.path, page),
            masks=tuple(replace(mask, page=page) for mask in sample.masks),
        )
        for page in range(pages)
    ]


def _page_count(path: Path) -> int:
    """Pages of a TIFF; 1 for all other files, and for one that cannot be read (reading it will say why)."""
    if path.suffix.lower() not in STACK_SUFFIXES:
        return 1
    try:
        return read_header(path).pages
    except ImageFileError:
        return 1


def _folder(
    path: Path, found: Recognised, samples: list[Sample], problems: list[Finding]
) -> tuple[Folder, list[Finding]]:
    """The folder of those samples whose names stand for one file, and the problems with those of the others."""
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)
    problems = [*problems, *(_shared_name(name, same) for name, same in by_name.items() if len(same) > 1)]
    if not samples and not problems:
        raise DataError(f"{printable(path)} holds no images, only {len(found.masks)} masks; add the images")
    named = tuple(sample for sample in samples if len(by_name[sample.name]) == 1)
    return Folder(path=path, layout=found.layout, samples=named, skipped=tuple(found.skipped)), problems


def _shared_name(name: str, same: Sequence[Sample]) -> Finding:
    files = " and ".join(str(sample.image) for sample in same)
    rule = "one file per name, since results are named after it"
    text = f"the name {printable(name)} stands for {files}"
    return Finding(file=same[0].image.path, found=text, rule=rule, fix="rename or remove one of them")


def _faultless(folder: Folder, problems: Sequence[Finding], *, summary: str) -> Folder:
    if problems:
        raise DataError(f"{printable(folder.path)}: {summary}", problems)
    return folder
