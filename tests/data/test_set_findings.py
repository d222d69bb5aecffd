"""Findings about a set as a whole, from a few numbers per image."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.data.folder_words import Split
from pixelwise.data.images import read_image
from pixelwise.data.layouts import find_samples
from pixelwise.data.likeness import perceptual_hash
from pixelwise.data.set_findings import SET_CHECKS, Member, SetFacts, find_in_set
from pixelwise.errors import Finding
from pixelwise.files import file_hash
from pixelwise.task import Task

TASK = Task.of(["sky", "road", "bird"])
FAR = 0x0F0F_0F0F_0F0F_0F0F


def member(name: str, split: Split | None = None, **changes: object) -> Member:
    return replace(Member(name=name, path=Path(f"/data/{name}.png"), split=split), **changes)  # type: ignore[arg-type]


def crowd(count: int = 12, split: Split | None = None, prefix: str = "m") -> list[Member]:
    """Members with which nothing is wrong."""
    return [
        member(f"{prefix}{n}", split, sha256=f"{prefix}{n}", height=10, width=10, pixels={0: 40, 1: 30, 2: 30})
        for n in range(count)
    ]


def only(check: str, members: list[Member], task: Task = TASK, stride: int = 0) -> list[Finding]:
    """The findings of one check, after all have run without error."""
    found = find_in_set(members, task, stride=stride)
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=("error", "warning", "note").index)
    own = SET_CHECKS[check](SetFacts(members, task, stride))
    assert all(finding in found for finding in own)
    return own


def test_a_good_set_has_no_findings() -> None:
    assert find_in_set(crowd(), TASK, stride=32) == []
    assert find_in_set([*crowd(10, "train", "t"), *crowd(3, "val", "v"), *crowd(3, "test", "x")], TASK) == []
    assert find_in_set([], TASK, stride=16) == []


# Copies and leaks


def test_copies_within_a_set() -> None:
    copies = [member(name, sha256="f0") for name in "abc"]
    (finding,) = only("copies", [*crowd(), *copies])
    assert (finding.severity, finding.found) == ("warning", "the same image, 3 times: a, b, c")
    assert finding.file == Path("/data/b.png")
    assert "data.groups" in finding.fix


def test_copies_across_parts_are_a_leak() -> None:
    copies = [member("x/a", "test", sha256="f0"), member("t/a", None, sha256="f0"), member("t/b", "train", sha256="f0")]
    (finding,) = only("copies", [*crowd(), *copies])
    assert (finding.severity, finding.found) == ("error", "the same image in train (t/a, t/b) and test (x/a)")
    assert finding.file == Path("/data/x/a.png")
    many = [member(f"v{n}", "val", sha256="f0") for n in range(7)]
    (finding,) = only("copies", [*copies[1:2], *many])
    assert finding.found == "the same image in train (t/a) and val (v0, v1, v2, v3 and 3 more)"


def test_slices_of_a_stack_are_no_copies_but_two_stacks_are() -> None:
    def slices(file: str) -> list[Member]:
        path = Path(f"/data/{file}.tif")
        return [
            Member(name=f"{file}_{n:03d}", path=path, sha256="f0", perceptual_hash=FAR >> n) for n in range(0, 30, 9)
        ]

    assert only("copies", slices("s")) == []
    assert only("alike", slices("s")) == []
    (finding,) = only("copies", [*slices("s"), *slices("t")])
    assert finding.found == "the same image, 2 times: s_000, t_000"
    assert only("alike", [*slices("s"), *slices("t")]) == []
    still = [replace(own, perceptual_hash=FAR) for own in slices("s")[:2]]
    (finding,) = only("alike", still)
    assert finding.found == "images that look alike, 2 times: s_000, s_009"


def test_a_copy_with_another_mask_contradicts() -> None:
    first = member("a", sha256="f0", pixels={0: 5, 1: 5})
    for pixels, count in (({1: 5, 0: 5}, 1), ({}, 1), ({0: 6, 1: 4}, 2)):
        found = only("copies", [first, member("b", sha256="f0", pixels=pixels)])
        assert len(found) == count
        assert all(finding.severity == "warning" for finding in found)
    assert found[1].found == "the same image has different masks as a, b"


def test_images_that_look_alike() -> None:
    a, b = (
        member("a", "train", sha256="1", perceptual_hash=FAR),
        member("b", "train", sha256="2", perceptual_hash=FAR ^ 15),
    )
    (finding,) = only("alike", [a, b])
    assert (finding.severity, finding.found) == ("warning", "images that look alike, 2 times: a, b")
    (finding,) = only("alike", [a, replace(b, split="val")])
    assert (finding.severity, finding.found) == ("error", "images that look alike in train (a) and val (b)")
    assert only("alike", [a, replace(b, perceptual_hash=FAR ^ 31)]) == []
    assert only("alike", [a, replace(b, sha256="1")]) == []
    assert only("alike", [a, replace(b, sha256="1", split="val")]) == []
    unknown = [replace(a, sha256=""), replace(b, sha256="", perceptual_hash=FAR)]
    assert len(only("alike", unknown)) == 1
    assert only("copies", unknown) == []


def test_blank_images_are_never_alike() -> None:
    assert only("alike", [member(f"m{n}", sha256=str(n)) for n in range(20)]) == []


def test_groups_in_two_parts() -> None:
    members = [member("a", "train", group="p1"), member("b", "val", group="p1"), member("c", "val", group="p2")]
    (finding,) = only("groups", members)
    assert (finding.severity, finding.found) == ("error", "images of group p1 in train (a) and val (b)")
    assert only("groups", [members[0], replace(members[1], split=None), members[2]]) == []
    assert only("groups", [member("a", "train"), member("b", "val")]) == []


# Names


def test_file_names_in_several_folders() -> None:
    (finding,) = only("stems", [member("x/1"), member("y/1"), member("y/2"), member("x/2"), member("x/3")])
    assert (finding.severity, finding.found) == ("note", "2 file names in several folders, such as x/1, y/1")
    assert only("stems", [member("x/1"), member("x/2"), member("1/x")]) == []


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ("Cell", "cell", "case"),
        ("x/STRASSE", "x/stra\u00dfe", "case"),
        ("caf\u00e9", "cafe\u0301", "Unicode form"),
        ("CAF\u00c9", "cafe\u0301", "case"),
    ],
)
def test_names_that_collide(first: str, second: str, word: str) -> None:
    (finding,) = only("colliding names", [member(first), member(second), member("other")])
    assert finding.severity == "warning"
    assert word in finding.found
    assert finding.file == Path(f"/data/{second}.png")


@given(st.text(min_size=1, max_size=6), st.sampled_from(["NFC", "NFD"]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_spelling_of_a_name_collides(name: str, form: str, upper: bool) -> None:
    other = unicodedata.normalize(form, name)  # type: ignore[arg-type]
    other = other.upper() if upper and other.upper().lower() == other.lower() else other
    found = only("colliding names", [member(name), member(other)])
    assert len(found) == (name != other)


# Amounts


def test_rare_classes() -> None:
    members = [replace(m, pixels={0: 9950, 1: 45, 2: 5}, height=100, width=100) for m in crowd()]
    (finding,) = only("imbalance", members)
    assert finding.severity == "warning"
    assert finding.found == "rare classes, by their share of the pixels to train on: bird 0.05 %, road 0.45 %"
    assert "training.class_weights=median" in finding.fix
    (finding,) = only("imbalance", [replace(m, pixels={0: 9850, 1: 90, 2: 60}, height=100, width=100) for m in members])
    assert finding.severity == "note"
    assert only("imbalance", [replace(m, pixels={0: 9900, 1: 100}, height=100, width=100) for m in members]) == []


def test_void_and_test_images_do_not_count_as_area() -> None:
    members = [replace(m, pixels={-1: 9990, 0: 5, 1: 5}, height=100, width=100) for m in crowd()]
    assert only("imbalance", members) == []
    held_out = [replace(m, pixels={0: 10_000}, split="test") for m in crowd(50)]
    assert only("imbalance", [*members, *held_out]) == []


def test_overlapping_classes_are_shares_of_the_area() -> None:
    task = Task.of(["cell", "border"], kind="overlapping")
    members = [replace(m, pixels={0: 10_000, 1: 150}, height=100, width=100) for m in crowd()]
    assert only("imbalance", members, task) == []
    (finding,) = only("imbalance", [replace(m, pixels={0: 10_000, 1: 90}) for m in members], task)
    assert "border 0.9 %" in finding.found


def test_tiny_objects() -> None:
    members = [replace(m, smallest_object=3, median_object=float(50 + n)) for n, m in enumerate(crowd(11))]
    (finding,) = only("tiny objects", members, stride=8)
    assert finding.severity == "warning"
    assert finding.found == "the median object has 55 pixels, and a cell of the deepest map 64 (8 x 8)"
    (finding,) = only("tiny objects", members, stride=4)
    assert (finding.severity, finding.found[:34]) == ("note", "the smallest object has 3 pixels, ")
    assert only("tiny objects", members, stride=1) == only("tiny objects", members, stride=0) == []
    assert only("tiny objects", crowd(), stride=32) == []


@pytest.mark.parametrize(("count", "severity"), [(1, "warning"), (2, "note"), (9, "note"), (10, "")])
def test_few_images(count: int, severity: str) -> None:
    found = only("few images", [*crowd(count), *crowd(30, "test", "x")])
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert all(f"{count} image" in finding.found for finding in found)


def test_a_part_that_lacks_a_class() -> None:
    trained = [replace(m, pixels={0: 50, 1: 50, 2: 0, -1: 3}) for m in crowd(10, "train", "t")]
    validated = [replace(m, pixels={0: 50, 2: 50}) for m in crowd(3, "val", "v")]
    first, second = only("classes of parts", [*trained, *validated])
    assert first.found == "class road is in masks for training, and in none for validation"
    assert second.found == "class bird is in masks for validation, and in none for training"
    assert {first.severity, second.severity} == {"warning"}
    assert only("classes of parts", trained) == []
    assert only("classes of parts", [*trained, *crowd(2, "test", "x")]) == []


@given(
    st.lists(
        st.builds(
            member,
            st.sampled_from(["a", "A", "x/a", "b", "\u00e9", "e\u0301"]),
            st.sampled_from([None, "train", "val", "test"]),
            sha256=st.sampled_from(["", "1", "2"]),
            perceptual_hash=st.sampled_from([None, 0, 1, 2**64 - 1]),
            pixels=st.dictionaries(st.integers(-1, 2), st.integers(0, 9)),
            smallest_object=st.sampled_from([None, 0, 5]),
            median_object=st.sampled_from([None, 0.5, 80.0]),
            group=st.sampled_from([None, "g", "h"]),
        ),
        max_size=8,
    ),
    st.sampled_from([0, 1, 8, 32]),
)
@settings(max_examples=120, deadline=None)
def test_nothing_makes_a_check_fail_and_errors_are_leaks(members: list[Member], stride: int) -> None:
    found = find_in_set(members, TASK, stride=stride)
    assert all(str(finding).isprintable() for finding in found)
    if len({own.split or "train" for own in members}) < 2:
        assert all(finding.severity != "error" for finding in found)


def test_real_sets_have_neither_copies_nor_leaks(real_data: Path) -> None:
    """The Bowl's images and the slices of ISBI differ; of CamVid some frames of the slow film are alike."""
    expected = {"isbi2012": [], "dsb2018": [], "camvid": ["warning", "warning"]}
    for folder, severities in expected.items():
        members = [
            Member(
                name=sample.name,
                path=sample.image.path,
                split=sample.split,
                sha256=file_hash(sample.image.path),
                perceptual_hash=perceptual_hash(read_image(sample.image.path)),
            )
            for sample in find_samples(real_data / folder).samples
        ]
        assert only("copies", members) == []
        assert [finding.severity for finding in only("alike", members)] == severities
