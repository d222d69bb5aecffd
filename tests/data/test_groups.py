"""Which images belong together, as the user says it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.data.folder_words import Split
from pixelwise.data.groups import find_groups, own_name, read_group_table, stack_of
from pixelwise.data.layouts import Sample, Source, find_samples
from pixelwise.errors import UsageError


def sample(name: str, split: Split | None = None, suffix: str = ".png") -> Sample:
    return Sample(name=name, image=Source(Path(f"/data/{name}{suffix}")), split=split)


def pages(name: str, count: int) -> list[Sample]:
    return [Sample(name=f"{name}_{n:03d}", image=Source(Path(f"/data/{name}.tif"), n)) for n in range(count)]


def table(folder: Path, text: str, name: str = "groups.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_no_rule_no_groups() -> None:
    assert find_groups([sample("a")], "").by_name == {}


def test_slices_of_a_stack_belong_together() -> None:
    found = find_groups([*pages("s", 2), *pages("t_001", 2), sample("u_001")], "stacks")
    assert found.by_name == {"s_000": "s", "s_001": "s", "t_001_000": "t_001", "t_001_001": "t_001", "u_001": "u_001"}
    assert stack_of(pages("s", 1200)[1100]) == "s"
    assert found.findings == ()


def test_the_top_folder_is_the_group_and_parts_of_a_split_are_no_folders() -> None:
    samples = [sample("train/p1/day 1/a", "train"), sample("val/p1/b", "val"), sample("p2/train/c", "train")]
    found = find_groups(samples, "folders")
    assert found.by_name == {"train/p1/day 1/a": "p1", "val/p1/b": "p1", "p2/train/c": "p2"}
    with pytest.raises(UsageError, match=r"1 of 2 images have no group: train/a; rule: with data.groups=folders"):
        find_groups([sample("train/a", "train"), sample("p/a")], "folders")


def test_only_the_folder_of_the_own_part_is_taken_away() -> None:
    assert own_name(sample("val/a", "train")) == "val/a"
    assert own_name(sample("train", "train")) == "train"
    assert own_name(sample("a/train/train", "train")) == "a/train"


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"^(p\d+)_", ("p1", "p1", "p2")),
        (r"p\d+", ("p1", "p1", "p2")),
        (r"(\d)_(d.)", ("1 d1", "1 d2", "2 d1")),
        (r"(p1)|(p2)", ("p1", "p1", "p2")),
        (r"(?P<patient>p\d)_(?:d\d)", ("p1", "p1", "p2")),
    ],
)
def test_patterns(pattern: str, groups: tuple[str, ...]) -> None:
    samples = [sample("train/p1_d1", "train"), sample("val/p1_d2", "val"), sample("train/p2_d1", "train")]
    assert tuple(find_groups(samples, pattern).by_name.values()) == groups


def test_a_name_without_match_is_named_and_a_wrong_expression_is_explained() -> None:
    samples = [sample(f"x{n}") for n in range(12)] + [sample("p1")]
    with pytest.raises(UsageError, match=r"12 of 13 images have no group: x0, x1, .*, x9, \.\.\.; rule: every name"):
        find_groups(samples, r"(p\d)")
    with pytest.raises(UsageError, match="1 of 1 images have no group"):
        find_groups([sample("abc")], "(x?)")
    for wrong in ("(", "[a", "*", "(?P<1>a)"):
        with pytest.raises(UsageError, match="is no regular expression"):
            find_groups(samples, wrong)


@given(st.text(max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_groups_or_a_usage_error(text: str) -> None:
    samples = [sample("a_1"), sample("a_2")]
    try:
        found = find_groups(samples, text)
    except UsageError:
        return
    assert set(found.by_name) in (set(), {"a_1", "a_2"})
    assert all(found.by_name.values())


def test_letters_may_be_composed_or_not() -> None:
    assert find_groups([sample("Mu\u0308ller_1"), sample("M\u00fcller_2")], "^(M\u00fcller)_").by_name == {
        "Mu\u0308ller_1": "M\u00fcller",
        "M\u00fcller_2": "M\u00fcller",
    }


def test_an_expression_that_takes_too_much_is_said() -> None:
    (note,) = find_groups([sample("p1_a"), sample("p1_b")], "(.*)").findings
    assert note.severity == "note"
    assert note.found == "every one of 2 images is a group of its own, such as p1_a"
    assert find_groups([sample("p1_a")], "(.*)").findings == ()


# Tables


@pytest.mark.parametrize(
    "text",
    [
        "name,group\na,1\nb,1\nd/c,2\n",
        "a,1\nb,1\nd/c,2",
        "\ufeffBild;Patient\r\na.png;1\r\nb.png;1\r\nc.png;2\r\n",
        "file\tpatient\tnote\na.png\t1\tx, y\n\nb\t1\t\nc\t2\tz\n",
        'name,group\n"a",1\n"./b"," 1 "\n"d\\c",2\n',
        "image,group\n/data/a.png,1\n/data/b.png,1\n/data/d/c.png,2\n",
    ],
)
def test_tables_in_many_spellings(tmp_path: Path, text: str) -> None:
    samples = [sample("a"), sample("b"), sample("d/c")]
    found = find_groups(samples, table(tmp_path, text))
    assert found.by_name == {"a": "1", "b": "1", "d/c": "2"}
    assert found.findings == ()


def test_toml(tmp_path: Path) -> None:
    path = table(tmp_path, 'a = "p 1"\n"d/c" = 7\n"b.png" = "p 1"\n', "groups.toml")
    found = find_groups([sample("a"), sample("b"), sample("d/c")], path)
    assert found.by_name == {"a": "p 1", "b": "p 1", "d/c": "7"}
    for text in ('[a]\nb = "1"', "a = 1.5", 'a = ["b"]', "a = true", 'a = ""'):
        with pytest.raises(UsageError, match='"name" = "group"'):
            read_group_table(Path(table(tmp_path, text, "wrong.toml")))


def test_one_row_names_a_whole_stack(tmp_path: Path) -> None:
    path = table(tmp_path, "s,1\nt.tif,2\n")
    found = find_groups([*pages("s", 2), *pages("t", 2)], path)
    assert list(found.by_name.values()) == ["1", "1", "2", "2"]


def test_rows_that_name_no_image_are_said(tmp_path: Path) -> None:
    path = table(tmp_path, "name,group\na,1\nb,1\ngone,2\nlost,2\n")
    (note,) = find_groups([sample("a"), sample("b")], path).findings
    assert (note.severity, note.found) == ("note", "2 rows that name no image, such as gone")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1\n", "1 of 2 images have no group: d/a"),
        ("a\n", "no name or no group"),
        ("a,1\nd/a,\n", "the row 'd/a,' has no name or no group"),
        ("a,1\na,2\nd/a,2", "puts a into the groups 1 and 2"),
        ("", "2 of 2 images have no group"),
        ('a,"1\n', "no table of names|no group"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_groups([sample("a"), sample("d/a")], table(tmp_path, text))


def test_a_file_name_for_two_files_is_refused_and_a_longer_name_resolves_it(tmp_path: Path) -> None:
    samples = [sample("x/a"), sample("y/a")]
    with pytest.raises(UsageError, match=re.escape("a.png stands for /data/x/a.png and /data/y/a.png")):
        find_groups(samples, table(tmp_path, "a.png,1\n"))
    assert find_groups([sample("a"), sample("y/a")], table(tmp_path, "a,1\ny/a.png,1\n/data/y/a.png,2\n")).by_name == {
        "a": "1",
        "y/a": "2",
    }
    assert find_groups(samples, table(tmp_path, "a.png,1\ny/a,2\n")).by_name == {"x/a": "1", "y/a": "2"}


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        find_groups([sample("a")], str(tmp_path / "missing.csv"))
    with pytest.raises(UsageError, match="cannot read"):
        find_groups([sample("a")], str(tmp_path / "missing.TOML"))
    for content, name in ((b"\xff\xfe\x00a", "x.csv"), (b"a = ", "x.toml"), (b"[" * 5000, "y.toml")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="no table of names and groups"):
            find_groups([sample("a")], str(tmp_path / name))


def test_a_huge_table_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(UsageError, match="larger than any table"):
        find_groups([sample("a")], str(tmp_path / "huge.csv"))


def test_real_frames_have_a_film(real_data: Path) -> None:
    samples = find_samples(real_data / "camvid").samples
    found = find_groups(samples, r"^([^_]+)_")
    assert set(found.by_name.values()) == {"0001TP", "0006R0", "0016E5"}
    assert len(found.by_name) == 126
