"""Which mask goes where, from sizes and agreements alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pixelwise.data.checkup import ImageRecord, MaskRecord, Record
from pixelwise.data.file_form import FileForm
from pixelwise.data.layouts import Sample, Source
from pixelwise.data.mask_places import MaskPlace, find_places, is_swap
from pixelwise.data.stored import ImageHeader

NAN = math.nan
FITS = (0.4, 0.0, 0.01, 0.02, 0.0, 0.01, -0.01, 0.0)


def record(
    name: str, image: tuple[int, int], mask: tuple[int, int], *, turns: tuple[float, ...] = (), orientation: int = 1
) -> Record:
    """Sizes are height and width."""
    return Record(
        sample=Sample(name=name, image=Source(Path(f"{name}.png")), masks=(Source(Path(f"m/{name}.png")),)),
        image=ImageRecord(
            form=FileForm(kind="JPEG", orientation=orientation),
            header=ImageHeader(height=image[0], width=image[1], channels=3, dtype="uint8"),
        ),
        mask=MaskRecord(path=Path(f"m/{name}.png"), height=mask[0], width=mask[1], codes=np.array([0, 1])),
        turns=turns,
    )


def test_masks_that_fit_stay() -> None:
    assert find_places([record("a", (4, 6), (4, 6)), record("b", (5, 5), (5, 5), turns=FITS)]) == {
        "a": MaskPlace(mask_of="a"),
        "b": MaskPlace(mask_of="b"),
    }


def test_a_square_mask_is_turned_where_that_is_clear() -> None:
    turned = (0.0, 0.01, 0.0, 0.02, 0.0, 0.41, -0.01, 0.0)
    assert find_places([record("a", (5, 5), (5, 5), turns=turned)])["a"] == MaskPlace(mask_of="a", turn=6)
    known = find_places([record("a", (5, 5), (5, 5), turns=turned, orientation=6)])["a"]
    assert known == MaskPlace(mask_of="a", turn=6, exif=True)


@pytest.mark.parametrize(
    ("turns", "orientation", "expected"),
    [
        ((), 1, MaskPlace(mask_of="")),
        ((), 6, MaskPlace(mask_of="a", turn=6, exif=True)),
        ((NAN, NAN, NAN, NAN, 0.4, 0.0, 0.01, 0.0), 1, MaskPlace(mask_of="a", turn=5)),
        ((NAN, NAN, NAN, NAN, 0.4, 0.0, 0.01, 0.0), 6, MaskPlace(mask_of="a", turn=5)),
        ((NAN, NAN, NAN, NAN, 0.2, 0.2, 0.2, 0.2), 8, MaskPlace(mask_of="a", turn=8, exif=True)),
        ((NAN, NAN, NAN, NAN, 0.2, 0.2, 0.2, 0.2), 3, MaskPlace(mask_of="")),
    ],
)
def test_a_transposed_mask(turns: tuple[float, ...], orientation: int, expected: MaskPlace) -> None:
    assert find_places([record("a", (4, 6), (6, 4), turns=turns, orientation=orientation)])["a"] == expected


def test_two_masks_that_fit_each_others_image_are_swapped() -> None:
    places = find_places([record("a", (4, 6), (7, 7)), record("b", (7, 7), (4, 6)), record("c", (4, 6), (4, 6))])
    assert [places[name].mask_of for name in "abc"] == ["b", "a", "c"]
    assert [is_swap(places, name) for name in "abc"] == [True, True, False]


def test_three_masks_in_a_ring() -> None:
    places = find_places([record("a", (4, 6), (7, 7)), record("b", (7, 7), (9, 9)), record("c", (9, 9), (4, 6))])
    assert [places[name].mask_of for name in "abc"] == ["c", "a", "b"]
    assert not is_swap(places, "a")


def test_sizes_that_two_share_decide_nothing() -> None:
    sizes = [("a", (4, 6), (7, 7)), ("b", (7, 7), (4, 6)), ("c", (7, 7), (4, 6))]
    places = find_places([record(*size) for size in sizes])
    assert {place.mask_of for place in places.values()} == {""}
    assert not is_swap(places, "a")


def test_a_mask_that_fits_no_image() -> None:
    assert find_places([record("a", (4, 6), (5, 5))]) == {"a": MaskPlace(mask_of="")}


def test_pairs_that_cannot_be_read_have_no_place() -> None:
    unreadable = Record(sample=Sample(name="a", image=Source(Path("a.png"))), image=ImageRecord())
    assert find_places([unreadable]) == {}
