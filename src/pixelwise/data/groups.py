"""Which images belong together, so that none of them chooses the model that the others trained.

Images of one patient, one slide or one film resemble each other more than those of the next. A split by images then
says how well a model knows these patients; a split by groups says how well it will do on new ones. What a group is
only the user knows: nothing is guessed from names.
"""

from __future__ import annotations

import csv
import io
import re
import tomllib
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelwise.data.layouts import Sample
from pixelwise.errors import FINDINGS_SHOWN, Finding, UsageError, printable

STACKS, FOLDERS = "stacks", "folders"
TABLES = (".csv", ".tsv", ".toml")
LARGEST_TABLE = 100_000_000
DELIMITERS = ",;\t"


@dataclass(frozen=True, slots=True)
class Grouping:
    """The group of each sample, by the sample's name (none at all: each stands alone), and what is odd about them."""

    by_name: dict[str, str]
    findings: tuple[Finding, ...] = ()


def find_groups(samples: Sequence[Sample], rule: str) -> Grouping:
    r"""The group of every sample, by a rule of the user.

    empty                         none
    stacks                        the slices of a stack belong together; every other image stands alone
    folders                       the images below one folder of the data set belong together (`train` and `val` aside)
    a path that ends in .csv, .tsv or .toml
                                  a table: see `read_group_table`
    anything else                 a regular expression: see `group_by_pattern`

    Raises UsageError where the rule leaves a sample without group, naming such samples.

    >>> from pixelwise.data.layouts import Source
    >>> samples = [Sample(name=name, image=Source(Path(f"{name}.png"))) for name in ("p7/a", "p7/b", "p9/a")]
    >>> find_groups(samples, "folders").by_name
    {'p7/a': 'p7', 'p7/b': 'p7', 'p9/a': 'p9'}
    >>> find_groups(samples, r"p(\d+)").by_name
    {'p7/a': '7', 'p7/b': '7', 'p9/a': '9'}
    """
    if not rule:
        return Grouping({})
    if rule == STACKS:
        return _grouped(samples, stack_of, rule="")
    if rule == FOLDERS:
        return _grouped(
            samples, _top_folder, rule="with data.groups=folders every image lies in the folder of its group"
        )
    if Path(rule).suffix.lower() in TABLES:
        return group_by_table(samples, Path(rule))
    return group_by_pattern(samples, rule)


def stack_of(sample: Sample) -> str:
    """What the slices of one stack have in common; the name itself for other samples."""
    return re.sub(r"_[0-9]{3,}$", "", sample.name) if sample.image.page is not None else sample.name


def own_name(sample: Sample) -> str:
    """The name of a sample without the folder of its part of the split: one patient is the same in train and in val.

    >>> from pixelwise.data.layouts import Source
    >>> own_name(Sample(name="train/p7/a", image=Source(Path("train/p7/a.png")), split="train"))
    'p7/a'
    """
    parts = sample.name.split("/")
    if sample.split in parts[:-1]:
        parts.remove(str(sample.split))
    return "/".join(parts)


def group_by_pattern(samples: Sequence[Sample], pattern: str) -> Grouping:
    r"""Groups by a regular expression that is searched for in each name (without suffix and part of the split).

    The group is what the parentheses of the expression hold, or all that it matches where it has none. Raises
    UsageError where it is no regular expression, or where a name does not match.

    >>> from pixelwise.data.layouts import Source
    >>> samples = [Sample(name=name, image=Source(Path(name))) for name in ("day1_p7_03", "day2_p7_01")]
    >>> group_by_pattern(samples, r"_(p\d+)_").by_name
    {'day1_p7_03': 'p7', 'day2_p7_01': 'p7'}
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            compiled = re.compile(unicodedata.normalize("NFC", pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"data.groups = {printable(pattern)} is no regular expression ({error}); write one whose parentheses hold "
            r"the group, such as ^(patient\d+)_"
        ) from error

    def find(sample: Sample) -> str:
        match = compiled.search(unicodedata.normalize("NFC", own_name(sample)))
        parts = () if match is None else match.groups() or (match.group(),)
        return " ".join(filter(None, parts))

    return _grouped(samples, find, rule=f"every name matches data.groups = {printable(pattern)}")


def group_by_table(samples: Sequence[Sample], path: Path) -> Grouping:
    """Groups by a table of names. A name is that of a sample, or of its file with or without suffix, or of its stack.

    A first row that names no sample is the heading; other rows that name none are said in a note. Raises UsageError
    where a sample is not in the table, or where a file name stands for several files.
    """
    table = read_group_table(path)
    called = _find_rows(samples, table)
    _check_unambiguous(samples, called, path)
    found = _grouped(
        samples, lambda sample: table.get(called[sample.name], ""), rule=f"{printable(path)} names every image"
    )
    unused = sorted(set(list(table)[1:]) - set(called.values()))
    if not unused:
        return found
    note = Finding(
        file=path,
        found=f"{len(unused)} rows that name no image, such as {printable(unused[0])}",
        rule="a row is the name of an image and its group",
        fix="correct the names, unless these images are not in the data set",
        severity="note",
    )
    return Grouping(found.by_name, (*found.findings, note))


def read_group_table(path: Path) -> dict[str, str]:
    """Names and their groups, from the first two columns of a CSV file or from `"name" = "group"` lines of a TOML file.

    Columns are separated by comma, semicolon or tab, whichever comes first. Names are brought to one Unicode form (NFC)
    and one kind of slash. Raises UsageError where the file cannot be read, a row has no group, or two rows disagree.
    """
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise UsageError(f"{printable(path)} is larger than any table of groups ({LARGEST_TABLE} bytes)")
        text = path.read_text(encoding="utf-8-sig")
        rows = _toml_rows(path, text) if path.suffix.lower() == ".toml" else _csv_rows(path, text)
    except OSError as error:
        raise UsageError(f"cannot read data.groups = {printable(path)}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, csv.Error, RecursionError) as error:
        raise UsageError(f"{printable(path)} is no table of names and groups: {error}") from error
    table: dict[str, str] = {}
    for name, group in rows:
        key = _normal(name)
        if table.setdefault(key, group) != group:
            raise UsageError(
                f"{printable(path)} puts {printable(name)} into the groups {printable(table[key])} and "
                f"{printable(group)}; an image belongs to one group: remove one of the rows"
            )
    return table


def _toml_rows(path: Path, text: str) -> list[tuple[str, str]]:
    rows = tomllib.loads(text)
    if not all(type(group) in (str, int) and group != "" for group in rows.values()):
        raise UsageError(f'{printable(path)}: write one line "name" = "group" for each image, and no section')
    return [(name, str(group)) for name, group in rows.items()]


def _csv_rows(path: Path, text: str) -> list[tuple[str, str]]:
    marks = [mark for mark in text.partition("\n")[0] if mark in DELIMITERS]
    rows = [[*map(str.strip, row)] for row in csv.reader(io.StringIO(text, newline=""), delimiter=(*marks, ",")[0])]
    rows = [row for row in rows if any(row)]
    short = next((row for row in rows if len(row) < 2 or not row[0] or not row[1]), None)
    if short is not None:
        raise UsageError(
            f"{printable(path)}: the row {printable(','.join(short))!r} has no name or no group; "
            "the first two columns are the name of an image and its group"
        )
    return [(row[0], row[1]) for row in rows]


def _find_rows(samples: Sequence[Sample], table: Mapping[str, str]) -> dict[str, str]:
    """By what name each sample is in the table, empty where in none; an exact name is no short name of others."""
    names = {_normal(sample.name) for sample in samples}
    called = {}
    for sample in samples:
        stack, file = stack_of(sample), sample.image.path
        exact = [*map(_normal, (sample.name, own_name(sample), stack, str(file)))]
        short = [name for name in map(_normal, (file.name, file.stem)) if name not in names]
        called[sample.name] = next((name for name in (*exact, *short) if name in table), "")
    return called


def _check_unambiguous(samples: Sequence[Sample], called: Mapping[str, str], path: Path) -> None:
    """Refuse a name that stands for several files."""
    files: dict[str, set[Path]] = defaultdict(set)
    for sample in samples:
        files[called[sample.name]].add(sample.image.path)
    files.pop("", None)
    for name, paths in files.items():
        if len(paths) > 1:
            shown = " and ".join(map(printable, sorted(paths)[:3]))
            raise UsageError(
                f"{printable(path)}: {printable(name)} stands for {shown}; write the names with their folders"
            )


def _grouped(samples: Sequence[Sample], find: Callable[[Sample], str], *, rule: str) -> Grouping:
    by_name = {sample.name: find(sample) for sample in samples}
    lone = [name for name, group in by_name.items() if not group]
    if lone:
        shown = ", ".join(map(printable, lone[:FINDINGS_SHOWN])) + (", ..." if len(lone) > FINDINGS_SHOWN else "")
        raise UsageError(f"{len(lone)} of {len(samples)} images have no group: {shown}; rule: {rule}")
    return Grouping(by_name, _oddities(samples, by_name))


def _oddities(samples: Sequence[Sample], by_name: Mapping[str, str]) -> tuple[Finding, ...]:
    """A note where grouping changes nothing, as by an expression that takes too much of the name."""
    if len(by_name) < 2 or max(Counter(by_name.values()).values()) > 1:
        return ()
    note = Finding(
        file=samples[0].image.path,
        found=f"every one of {len(by_name)} images is a group of its own, such as {printable(min(by_name.values()))}",
        rule="data.groups says which images belong together",
        fix="let it take less of the name, or leave it out",
        severity="note",
    )
    return (note,)


def _top_folder(sample: Sample) -> str:
    return own_name(sample).rpartition("/")[0].partition("/")[0]


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")
