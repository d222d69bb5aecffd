"""Every file of a data set read once, tolerantly: what can be known of each pair, in a record of a few kilobytes.

Nothing here raises for a bad file: what training would refuse becomes a Finding in the record, and the reading goes on
with the next file. No pixels are kept. `mask_findings`, `image_findings` and `set_findings` look at the records;
`repair` reads the files again.

H rows, W columns, C channels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelwise.data.file_form import FileForm, read_alpha, read_cmyk, read_form
from pixelwise.data.folder_words import Split
from pixelwise.data.images import read_header, read_image
from pixelwise.data.layouts import Sample, Source
from pixelwise.data.likeness import perceptual_hash
from pixelwise.data.mask_codes import run_unique
from pixelwise.data.mask_counts import MaskCount
from pixelwise.data.mask_values import MaskValues, read_values, solid_pixels
from pixelwise.data.stored import ImageHeader
from pixelwise.data.turns import turn_scores
from pixelwise.errors import Finding, ImageFileError
from pixelwise.files import file_hash
from pixelwise.task import Colour

MOST_CODES_KEPT = 256
MOST_MEASURED = 16
LARGE_IMAGE = 2**24
UNKNOWN_FORM = FileForm()
_one_large_image = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageRecord:
    """What is known of one image after reading it.

    header             None where it cannot be read
    sha256             of the bytes of the file; empty where it cannot be read
    perceptual_hash    64 bits of what it looks like; None where it shows too little
    lowest, highest    of its values
    grey               all channels are equal, or there is one
    transparent        its alpha channel says that some pixels are not opaque
    refused            why training cannot read it
    """

    form: FileForm = UNKNOWN_FORM
    header: ImageHeader | None = None
    sha256: str = ""
    perceptual_hash: int | None = None
    lowest: float = 0.0
    highest: float = 0.0
    grey: bool = False
    transparent: bool = False
    refused: Finding | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskRecord:
    """What is known of the mask of one image after reading it.

    path      the mask, or the first of its files; files: how many
    codes     its distinct codes, numbers or colours 0xRRGGBB where `colours`; of very many, the most frequent
    pixels    of each code; solid: those of them whose four neighbours have the same code
    distinct  how many codes there are
    parts     what holds an overlapping class each (see `parts_of`)
    objects   the areas of the smallest and of the median piece of all codes but the most frequent; None: not measured
    quirk     how training would have to read it otherwise (see `MaskValues`)
    refused   why training cannot read it; codes are there all the same where `quirk` says how
    """

    path: Path
    files: int = 1
    form: FileForm = UNKNOWN_FORM
    height: int = 0
    width: int = 0
    dtype: str = ""
    codes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    solid: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    distinct: int = 0
    colours: bool = False
    palette: tuple[Colour, ...] = ()
    parts: tuple[str, ...] = ()
    objects: tuple[int, float] | None = None
    quirk: str = ""
    refused: Finding | None = None

    def as_count(self) -> MaskCount:
        """The same for `infer_coding`."""
        return MaskCount(
            path=self.path,
            height=self.height,
            width=self.width,
            dtype=self.dtype,
            counts=dict(zip(self.codes.tolist(), self.pixels.tolist(), strict=True)),
            colours=self.colours,
            palette=self.palette,
            objects=self.files if self.files > 1 else 0,
            parts=self.parts,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """What is known of one sample.

    turns   how well the borders of the mask fit the image, for its eight orientations (see `turns`)
    pixels  per class index, -1 for void; empty until the meaning of the masks is known
    """

    sample: Sample
    image: ImageRecord
    mask: MaskRecord | None = None
    turns: tuple[float, ...] = ()
    pixels: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the sample."""
        return self.sample.name

    @property
    def split(self) -> Split | None:
        """The part of a split that the sample belongs to."""
        return self.sample.split

    @property
    def path(self) -> Path:
        """The file of the image."""
        return self.sample.image.path

    @property
    def sha256(self) -> str:
        """Of the bytes of the image's file."""
        return self.image.sha256

    @property
    def perceptual_hash(self) -> int | None:
        """64 bits of what the image looks like."""
        return self.image.perceptual_hash

    @property
    def height(self) -> int:
        """Rows of the image, 0 where it cannot be read."""
        return self.image.header.height if self.image.header else 0

    @property
    def width(self) -> int:
        """Columns of the image, 0 where it cannot be read."""
        return self.image.header.width if self.image.header else 0

    @property
    def readable(self) -> bool:
        """Whether the image, and the mask where there is one, can be read somehow."""
        return self.image.header is not None and (self.mask is None or self.mask.height > 0)


# Reading


def read_records(samples: Sequence[Sample], kind: str = "auto") -> Iterator[Record]:
    """The record of each sample, in their order, read by as many threads as there are cores.

    `kind` is what the masks are said to be: a MaskKind, or auto. Never raises for a file.
    """
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        yield from pool.map(lambda sample: read_record(sample, kind), samples)
    finally:
        pool.shutdown(cancel_futures=True)


def read_record(sample: Sample, kind: str = "auto") -> Record:
    """The record of one sample; never raises for a bad file."""
    image, image_HWC = _read_image(sample.image)
    if not sample.masks:
        return Record(sample=sample, image=image)
    try:
        values = read_values(sample.masks, kind)
    except ImageFileError as error:
        path = sample.masks[0].path
        mask = MaskRecord(path=path, files=len(sample.masks), form=read_form(path), refused=error.findings[0])
        return Record(sample=sample, image=image, mask=mask)
    turns = () if image_HWC is None else turn_scores(image_HWC, values.codes_HW)
    return Record(sample=sample, image=image, mask=_mask_record(sample.masks, values), turns=turns)


def _read_image(source: Source) -> tuple[ImageRecord, NDArray[Any] | None]:
    form = read_form(source.path, source.page)
    try:
        header = read_header(source.path, page=source.page)
        with _one_large_image if header.height * header.width > LARGE_IMAGE else nullcontext():
            image_HWC = read_image(source.path, page=source.page)
            record = _image_record(source, form, header, image_HWC)
    except ImageFileError as error:
        return _refused_image(source, form, error.findings[0])
    return record, image_HWC


def _refused_image(source: Source, form: FileForm, refused: Finding) -> tuple[ImageRecord, NDArray[Any] | None]:
    """An image that training cannot read; known all the same where only its colours are those of a printer."""
    image_HWC = read_cmyk(source.path) if form.cmyk and source.page is None else None
    if image_HWC is None:
        return ImageRecord(form=form, refused=refused), None  # without a hash: it may be a file without an end
    height, width, channels = image_HWC.shape
    header = ImageHeader(height=height, width=width, channels=channels, dtype="uint8")
    return replace(_image_record(source, form, header, image_HWC), refused=refused), image_HWC


def _image_record(source: Source, form: FileForm, header: ImageHeader, image_HWC: NDArray[Any]) -> ImageRecord:
    return ImageRecord(
        form=form,
        header=header,
        sha256=_hash(source.path),
        perceptual_hash=perceptual_hash(image_HWC),
        lowest=float(image_HWC.min()),
        highest=float(image_HWC.max()),
        grey=_is_grey(image_HWC),
        transparent=form.alpha and _is_transparent(source),
    )


def _is_grey(image_HWC: NDArray[Any]) -> bool:
    # A look at the first row decides for nearly all images in colours.
    return bool((image_HWC[:1] == image_HWC[:1, :, :1]).all()) and bool((image_HWC == image_HWC[..., :1]).all())


def _is_transparent(source: Source) -> bool:
    alpha_HW = read_alpha(source.path)
    return alpha_HW is not None and bool((alpha_HW < 255).any())


@lru_cache(maxsize=64)
def _hash_of(path: Path, _modified: float) -> str:
    return file_hash(path)


def _hash(path: Path) -> str:
    """The hash of a file; that of a stack is not made again for each page."""
    try:
        return _hash_of(path, path.stat().st_mtime) if path.is_file() else ""
    except OSError:
        return ""


def _mask_record(sources: Sequence[Source], values: MaskValues) -> MaskRecord:
    codes, (inverse, lengths), pixels = run_unique(values.codes_HW)
    index_HW = np.repeat(inverse, lengths).reshape(values.codes_HW.shape)
    solid = np.bincount(index_HW[solid_pixels(index_HW)], minlength=len(codes))
    kept = np.sort(np.argsort(-pixels, kind="stable")[:MOST_CODES_KEPT])
    return MaskRecord(
        path=sources[0].path,
        files=len(sources),
        form=values.form,
        height=values.codes_HW.shape[0],
        width=values.codes_HW.shape[1],
        dtype=values.dtype,
        codes=codes[kept],
        pixels=pixels[kept],
        solid=solid[kept],
        distinct=len(codes),
        colours=values.colours,
        palette=values.palette,
        parts=values.parts,
        objects=_object_areas(index_HW, pixels),
        quirk=values.quirk,
        refused=values.refused,
    )


def _object_areas(index_HW: NDArray[np.intp], pixels: NDArray[np.int64]) -> tuple[int, float] | None:
    """The smallest and the median area of the pieces (8-connected) of all codes but the most frequent."""
    others = [code for code in range(len(pixels)) if code != pixels.argmax()]
    if not 1 <= len(others) <= MOST_MEASURED:
        return None
    areas = []
    for code in others:
        _, _, stats, _ = cv2.connectedComponentsWithStats((index_HW == code).astype(np.uint8), connectivity=8)
        areas.append(stats[1:, cv2.CC_STAT_AREA])
    found = np.concatenate(areas)
    return int(found.min()), float(np.median(found))
