"""What masks are meant to be, from the counts of their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelwise.data.checkup import MaskRecord
from pixelwise.data.mask_coding import MaskOptions, infer_coding
from pixelwise.data.mask_meaning import Meaning, declarations, distances, find_peaks, understand
from pixelwise.data.masks import Coding
from pixelwise.errors import DataError
from pixelwise.task import Colour, Task

RED, BLUE = 0xC81E1E, 0x1E1EC8


def mask(
    pixels: dict[int, int],
    *,
    solid: dict[int, int] | None = None,
    colours: bool = False,
    dtype: str = "uint8",
    palette: tuple[Colour, ...] = (),
) -> MaskRecord:
    """A record of a mask with so many pixels of each code; 90 % of each are solid, or those of `solid` alone."""
    codes = sorted(pixels)
    inside = {code: count * 9 // 10 for code, count in pixels.items()} if solid is None else solid
    mask.number += 1  # type: ignore[attr-defined]
    return MaskRecord(
        path=Path(f"masks/{mask.number}.png"),  # type: ignore[attr-defined]
        height=1,
        width=sum(pixels.values()),
        dtype=dtype,
        codes=np.array(codes, np.int64),
        pixels=np.array([pixels[code] for code in codes], np.int64),
        solid=np.array([inside.get(code, 0) for code in codes], np.int64),
        distinct=len(codes),
        colours=colours,
        palette=palette,
    )


mask.number = 0  # type: ignore[attr-defined]
AUTO = MaskOptions()


def classes(meaning: Meaning, record: MaskRecord) -> list[int]:
    return meaning.nearest(meaning.normal(record.codes, colours=record.colours, palette=record.palette)).tolist()


def noisy(low: int, high: int) -> MaskRecord:
    """Areas of two values, and thin strays between and around them."""
    strays = {low + 5: 40, low + 30: 9, (low + high) // 2 - 9: 6, high - 40: 9, high - 4: 60}
    return mask({low: 3000, high: 2000} | strays, solid={low: 2800, high: 1800})


@pytest.mark.parametrize(
    "records",
    [
        [mask({0: 9, 1: 9}), mask({0: 9, 1: 5, 2: 4})],
        [mask({0: 9, 255: 9})],
        [mask({0: 9, RED: 9}, colours=True)],
        [mask({0: 9, 300: 9, 600: 9}, dtype="uint16")],
    ],
)
def test_what_training_takes_is_meant_so(records: list[MaskRecord]) -> None:
    meaning = understand(records, AUTO)
    coding, task = infer_coding([record.as_count() for record in records], AUTO)
    assert meaning == Meaning(coding=coding, task=task)


def test_noise_around_two_values() -> None:
    record = noisy(0, 255)
    meaning = understand([record, noisy(0, 255)], AUTO)
    assert meaning.coding == Coding(kind="binary", values=(0, 255))
    assert classes(meaning, record) == [0, 0, 0, 0, 1, 1, 1]
    assert meaning.refused
    assert not meaning.is_foreign(record.codes, record.solid)


def test_values_that_jpeg_moved_a_little_are_meant_as_0_and_255() -> None:
    meaning = understand([noisy(2, 251)], AUTO)
    assert meaning.coding == Coding(kind="binary", values=(0, 255))
    assert meaning.peaks == ((2, 0), (251, 255))


def test_one_noisy_mask_among_clean_ones() -> None:
    clean = [mask({0: 3000, 255: 2000}) for _ in range(9)]
    meaning = understand([*clean, noisy(0, 255)], AUTO)
    assert meaning.coding == Coding(kind="binary", values=(0, 255))
    assert classes(meaning, clean[0]) == [0, 1]


def test_noise_around_colours() -> None:
    strays = {RED + 0x020101: 9, 0x701010: 5, BLUE - 0x000102: 9, 0x101070: 5, 0x010000: 9, 0x000100: 9}
    record = mask({0: 900, RED: 500, BLUE: 400} | strays, solid={0: 800, RED: 450, BLUE: 350}, colours=True)
    meaning = understand([record], AUTO)
    assert meaning.coding.values == ("#000000", "#1e1ec8", "#c81e1e")
    by_code = dict(zip(record.codes.tolist(), classes(meaning, record), strict=True))
    assert by_code[RED + 0x020101] == by_code[0x701010] == 2
    assert by_code[BLUE - 0x000102] == by_code[0x101070] == 1


def test_a_class_of_thin_lines_is_no_noise() -> None:
    lines = {0x00FF00: 40, 0xFFFF00: 30}
    record = mask({0: 900, RED: 500} | lines, solid={0: 800, RED: 450}, colours=True)
    assert len(understand([record], AUTO).coding.values) == 4


def test_an_area_far_from_all_that_is_meant_is_foreign() -> None:
    record = mask({0: 900, 120: 90, 255: 900}, solid={0: 800, 120: 80, 255: 800})
    meaning = understand([noisy(0, 255), noisy(0, 255), record], AUTO)
    assert meaning.is_foreign(record.codes, record.solid)
    assert not meaning.is_foreign(record.codes, np.array([800, 3, 800]))


def test_numbers_side_by_side_are_no_noise() -> None:
    """Classes with one number missing look like nothing else than classes."""
    record = mask({code: 400 for code in range(21) if code != 7})
    assert find_peaks([record], colours=False) == []
    with pytest.raises(DataError):
        understand([record], AUTO)


def test_numbers_from_1() -> None:
    record = mask({1: 9, 2: 9, 3: 9, 255: 4})
    meaning = understand([record], AUTO)
    assert classes(meaning, record) == [0, 1, 2, -1]
    assert meaning.undone == "numbered from 1"
    assert meaning.task.names == ("class 0", "class 1", "class 2")
    assert understand([mask({1: 9, 2: 9})], AUTO).task.names == ("background", "foreground")


@pytest.mark.parametrize(("minus_one", "dtype"), [(-1, "int16"), (2**16 - 1, "uint16"), (2**32 - 1, "uint32")])
def test_minus_one(minus_one: int, dtype: str) -> None:
    record = mask({0: 9, 1: 9, 2: 9, minus_one: 3, 255: 2}, dtype=dtype)
    meaning = understand([record], AUTO if dtype == "int16" else MaskOptions(masks="index"))
    by_code = dict(zip(record.codes.tolist(), classes(meaning, record), strict=True))
    assert by_code == {0: 0, 1: 1, 2: 2, minus_one: -1, 255: -1}
    assert meaning.void == (minus_one,)


def test_minus_one_beside_0_and_255_leaves_255_the_foreground() -> None:
    record = mask({-1: 3, 0: 9, 255: 9}, dtype="int16")
    assert classes(understand([record], AUTO), record) == [-1, 0, 1]


def test_the_largest_number_is_not_void_beside_large_numbers_or_as_foreground() -> None:
    objects = mask({0: 9, 300: 9, 2**16 - 1: 3}, dtype="uint16")
    assert understand([objects], AUTO).coding.kind == "instances"
    binary = mask({0: 9, 2**16 - 1: 3}, dtype="uint16")
    assert understand([binary], AUTO).coding.values == (0, 2**16 - 1)


def test_palettes_that_differ_are_read_by_colour() -> None:
    one = mask({0: 9, 1: 5}, palette=((0, 0, 0), (255, 0, 0)))
    other = mask({0: 5, 1: 9}, palette=((255, 0, 0), (0, 0, 0)))
    meaning = understand([one, other], AUTO)
    assert (classes(meaning, one), classes(meaning, other)) == ([0, 1], [1, 0])
    assert meaning.undone == "palettes"


def test_the_few_that_differ_do_not_decide() -> None:
    agree = [mask({0: 9, 1: 9}) for _ in range(3)]
    odd = mask({0: 9, 9: 3})
    meaning = understand([*agree, odd], AUTO)
    assert classes(meaning, odd) == [0, -2]
    with pytest.raises(DataError):
        understand([*agree[:1], odd], AUTO)


@pytest.mark.parametrize(
    ("records", "kinds"),
    [
        ([mask({0: 9, 1: 5}), mask({0: 9, 255: 9})], ["binary", "colours", "instances"]),
        ([mask({0: 9, 3: 5, 6: 5})], ["colours", "instances"]),
        ([mask({0: 9})], []),
    ],
)
def test_what_can_be_declared_is_offered(records: list[MaskRecord], kinds: list[str]) -> None:
    with pytest.raises(DataError):
        understand(records, AUTO)
    assert declarations(records, AUTO) == kinds
    assert declarations(records, MaskOptions(masks="index")) == []


def test_what_is_declared_binary_is_parted_in_the_middle() -> None:
    record = mask({0: 9, 100: 3, 127: 3, 128: 3, 200: 3, 255: 9})
    meaning = understand([record], MaskOptions(masks="binary"))
    assert classes(meaning, record) == [0, 0, 0, 1, 1, 1]
    assert not meaning.is_foreign(record.codes, record.solid)


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=9), st.lists(st.integers(0, 2**24 - 1), min_size=1))
def test_distances_of_colours(codes: list[int], targets: list[int]) -> None:
    found = distances(np.array(codes), np.array(targets), colours=True)
    for i, one in enumerate(codes):
        for j, other in enumerate(targets):
            parts = zip(one.to_bytes(3, "big"), other.to_bytes(3, "big"), strict=True)
            assert found[i, j] == sum((a - b) ** 2 for a, b in parts)


@given(st.lists(st.integers(0, 255), min_size=1))
def test_the_nearest_of_two_values(codes: list[int]) -> None:
    coding = Coding(kind="binary", values=(0, 255))
    meaning = Meaning(coding=coding, task=Task.of(["a", "b"]), peaks=((0, 0), (255, 255)))
    assert meaning.nearest(np.array(codes)).tolist() == [int(code > 127) for code in codes]
