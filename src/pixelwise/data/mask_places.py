"""Which mask belongs to which image, and how it has to be turned, where the sizes or the borders say that it is wrong.

Three accidents, in the order in which they are looked for: a mask turned or mirrored against its image (an EXIF
orientation that only one of them knew), masks that fit each other's images (swapped names), and a mask of any other
size, which nobody can mend.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pixelwise.data.checkup import Record
from pixelwise.data.turns import TRANSPOSED, UPRIGHT, clear_turn

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPlace:
    """Where a mask goes.

    mask_of   the name of the sample whose mask fits this image: its own, mostly; empty where none is known to fit
    turn      the orientation, 1 (as it is) to 8, that the mask has to be given
    exif      the turn is the one that the image's file states
    """

    mask_of: str
    turn: int = UPRIGHT
    exif: bool = False


def find_places(records: Sequence[Record]) -> dict[str, MaskPlace]:
    """The place of the mask of each sample that has an image and a mask that can be read, by its name."""
    both = [record for record in records if record.mask is not None and record.readable]
    places = {record.name: _own_place(record) for record in both}
    lost = [record for record in both if not places[record.name].mask_of]
    return places | _exchanged(lost)


def _own_place(record: Record) -> MaskPlace:
    assert record.mask is not None
    image, mask = (record.height, record.width), (record.mask.height, record.mask.width)
    by_file = record.image.form.orientation
    if image == mask:
        turn = clear_turn(record.turns)
        return MaskPlace(mask_of=record.name, turn=turn or UPRIGHT, exif=turn == by_file != UPRIGHT)
    if image != mask[::-1]:
        return MaskPlace(mask_of="")
    # Stored sideways, displayed upright: a mask of the stored size was drawn by a program that knows no EXIF.
    turn = clear_turn(record.turns)
    if by_file in TRANSPOSED and turn in (None, by_file):
        return MaskPlace(mask_of=record.name, turn=by_file, exif=True)
    return MaskPlace(mask_of=record.name if turn else "", turn=turn or UPRIGHT)


def _exchanged(lost: Sequence[Record]) -> dict[str, MaskPlace]:
    """Masks that fit no image of theirs, given to the only other such image that has their size.

    Only where no two of these images, and no two of these masks, share the size.
    """
    images: dict[Size, list[str]] = defaultdict(list)
    masks: dict[Size, list[str]] = defaultdict(list)
    for record in lost:
        assert record.mask is not None
        images[record.height, record.width].append(record.name)
        masks[record.mask.height, record.mask.width].append(record.name)
    return {
        names[0]: MaskPlace(mask_of=masks[size][0])
        for size, names in images.items()
        if len(names) == len(masks[size]) == 1
    }


def is_swap(places: dict[str, MaskPlace], name: str) -> bool:
    """Whether two samples have each other's masks."""
    other = places[name].mask_of
    return other not in ("", name) and places[other].mask_of == name
