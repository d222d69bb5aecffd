"""What is in a data set, in numbers and in a few lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pixelwise.data.layouts import Folder
from pixelwise.data.masks import Coding, code_text
from pixelwise.data.stored import ImageHeader
from pixelwise.errors import printable
from pixelwise.task import Task

LAYOUTS = {
    "camvid": "CamVid folders",
    "voc": "PASCAL VOC",
    "dsb2018": "one folder per image, one mask per object (DSB2018)",
    "isbi2012": "stacks (ISBI 2012)",
    "splits": "train, val and test folders",
    "images and masks": "folders for images and masks",
    "masks beside images": "masks beside their images",
    "images": "images without masks",
    "file": "a single file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The facts of a data set: what was found, and how its masks are read.

    pairs         images with mask, per part of the split (`train`, `val`, `test`, or `all` without split)
    sizes         (smallest height, smallest width), (largest ...), (most common ...), pixels
    channels      numbers of channels that occur; dtypes: types of value that occur, in the image files
    names         classes, with their `pixels` in all masks; void_pixels count nowhere; all_pixels of all images
    mapping       how the values of the masks became classes, in words
    skipped       files left out, by reason
    """

    layout: str
    pairs: dict[str, int]
    without_mask: int
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    channels: tuple[int, ...]
    dtypes: tuple[str, ...]
    names: tuple[str, ...]
    pixels: tuple[int, ...]
    void_pixels: int
    all_pixels: int
    kind: str
    mapping: str
    skipped: dict[str, int]

    def describe(self) -> list[str]:
        """Lines for a person: pairs, images, masks, classes with their share of the pixels, skipped files."""
        pairs = ", ".join(f"{count} {part}" for part, count in self.pairs.items())
        lone = f"; {self.without_mask} images without mask" if self.without_mask else ""
        classes = ", ".join(
            f"{printable(name)} {self._share(count)}" for name, count in zip(self.names, self.pixels, strict=True)
        )
        lines = [
            f"{sum(self.pairs.values())} pairs of image and mask ({pairs}){lone}; layout: {LAYOUTS[self.layout]}",
            f"images: {self._size_text()}, {_join(self.channels)} channel(s), {_join(self.dtypes)}",
            f"masks: {self.mapping}",
            f"classes: {classes}" + (f"; void {self._share(self.void_pixels)}" if self.void_pixels else ""),
        ]
        if self.skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            lines.append(f"skipped: {reasons}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The survey as plain JSON values."""
        return asdict(self)

    def _share(self, pixels: int) -> str:
        return f"{100 * pixels / max(1, self.all_pixels):.3g} %"

    def _size_text(self) -> str:
        smallest, largest, common = (f"{width} x {height}" for height, width in self.sizes)
        return f"{common} pixels" if smallest == largest else f"{smallest} to {largest} pixels, most often {common}"


def make_survey(
    folder: Folder, headers: Sequence[ImageHeader], *, counts: dict[int, int], coding: Coding, task: Task
) -> Survey:
    """Put the facts together; `counts` are the pixels per class index of all masks, -1 for void.

    `headers` belong to the samples of `folder` that have masks.
    """
    paired = [sample for sample in folder.samples if sample.masks]
    return Survey(
        layout=folder.layout,
        pairs=dict(Counter(sample.split or "all" for sample in paired)),
        without_mask=len(folder.samples) - len(paired),
        sizes=_sizes(headers),
        channels=tuple(sorted({header.channels for header in headers})),
        dtypes=tuple(sorted({header.dtype for header in headers})),
        names=task.names,
        pixels=tuple(counts.get(index, 0) for index in range(task.outputs)),
        void_pixels=counts.get(-1, 0),
        all_pixels=sum(header.height * header.width for header in headers),
        kind=coding.kind,
        mapping=mapping_text(coding, task),
        skipped=dict(Counter(reason for _, reason in folder.skipped)),
    )


def mapping_text(coding: Coding, task: Task) -> str:
    """How the values of the masks become classes, in words.

    >>> mapping_text(Coding(kind="binary", values=(0, 255)), Task.of(["background", "foreground"]))
    'binary: 0 is background, 255 is foreground'
    """
    if coding.border:
        classes = " and ".join(printable(name) for name in task.names[-2:])
        where = f"{coding.border} pixels wide, {coding.place} objects"
        text = f"instances: 0 is background, every object is learned as {classes}, {where}"
    elif coding.kind == "instances":
        text = f"instances: 0 is {task.names[0]}, every object is {task.names[1]}"
    else:
        codes = [code_text(code, coding.kind) for code in coding.value_codes()]
        pairs = (f"{code} is {printable(name)}" for code, name in zip(codes, task.names, strict=True))
        text = f"{coding.kind}: " + ", ".join(pairs)
        text += ", sums of them are several" if coding.kind == "overlapping" else ""
    void = ", ".join(code_text(code, coding.kind) for code in coding.void_codes())
    return text + (f"; {void} is void" if void else "")


def _sizes(headers: Sequence[ImageHeader]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    heights, widths = [header.height for header in headers], [header.width for header in headers]
    common = Counter(zip(heights, widths, strict=True)).most_common(1)[0][0]
    return (min(heights), min(widths)), (max(heights), max(widths)), common


def _join(values: Sequence[object]) -> str:
    return " and ".join(str(value) for value in values)
