"""The journal of a folder: what it was told it says, whatever end a kill put to it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelwise.errors import UsageError
from pixelwise.files import file_hash
from pixelwise.inference.folder_journal import NOTHING, STARTED, FileFacts, FolderJournal, ImageEntry

KEPT = ImageEntry(source=(7, 8), files={"labels": FileFacts(3, "ab" * 32)}, count={"objects": 2, "mean_area": ""})
JOB = {"model": "m", "settings": {"tile": 0}}


def written(folder: Path) -> Path:
    """A journal with one image that is done and one that is begun."""
    with FolderJournal.open(folder, JOB) as journal:
        journal.start()
        for name in ("a", "b"):
            journal.begin(name)
        journal.keep("a", KEPT)
    (path,) = (folder / ".pixelwise").glob("*.jsonl")
    return path


def test_what_was_written_is_known_again(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert json.loads(path.with_suffix(".json").read_text()) == JOB
    with FolderJournal.open(tmp_path, JOB) as journal:
        assert (journal.entry("a"), journal.entry("b"), journal.entry("c")) == (KEPT, STARTED, NOTHING)
        assert (journal.tile, journal.table, journal.table_begun, journal.others) == (0, None, False, [])
        journal.start()
        journal.begin("a")
    with FolderJournal.open(tmp_path, JOB) as journal:
        assert journal.entry("a") == STARTED, "it was begun again"


def test_a_journal_is_read_however_little_of_it_is_left(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with FolderJournal.open(tmp_path, JOB) as journal:
            lines = sum(end - 1 <= length for end in ends)  # a line without its end is whole
            assert journal.entry("a") == [NOTHING, STARTED, STARTED, KEPT][lines]
            assert journal.entry("b") == [NOTHING, NOTHING, STARTED, STARTED][lines]
            journal.start()
            journal.keep("c", KEPT)
        with FolderJournal.open(tmp_path, JOB) as journal:
            assert journal.entry("c") == KEPT, "half a line does not swallow the next one"


@given(st.binary(max_size=60))
def test_a_line_of_nonsense_says_nothing(tmp_path_factory: pytest.TempPathFactory, nonsense: bytes) -> None:
    folder = tmp_path_factory.mktemp("journal")
    path = written(folder)
    path.write_bytes(path.read_bytes() + nonsense + b"\n")
    with FolderJournal.open(folder, JOB) as journal:
        assert journal.entry("a") == KEPT


@pytest.mark.parametrize(
    "line",
    [
        '{"kept": "a"}',
        '{"kept": "a", "source": 5, "files": {}, "count": null}',
        '{"kept": "a", "source": [1], "files": {}, "count": null}',
        '{"kept": "a", "source": null, "files": {"labels": 7}, "count": null}',
        '{"kept": "a", "source": null, "files": [], "count": null}',
    ],
    ids=["bare", "number", "short", "facts", "list"],
)
def test_a_line_of_another_shape_says_nothing(tmp_path: Path, line: str) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    with FolderJournal.open(tmp_path, JOB) as journal:
        assert journal.entry("a") == NOTHING


def test_other_windows_make_all_undone_but_leave_it_ours(tmp_path: Path) -> None:
    written(tmp_path)
    with FolderJournal.open(tmp_path, JOB) as journal:
        journal.see_in(512)
        assert journal.entry("a") == ImageEntry(source=None, files=KEPT.files, count=KEPT.count)
        assert journal.entry("b") == STARTED
        journal.keep("b", KEPT)
        journal.see_in(512)
        assert journal.entry("b") == KEPT, "the same windows change nothing"
    with FolderJournal.open(tmp_path, JOB) as journal:
        assert journal.tile == 512
        assert journal.entry("a").source is None
        assert journal.entry("b") == KEPT


def test_a_table_is_ours_while_it_is_begun_and_then_as_it_is_written(tmp_path: Path) -> None:
    table = tmp_path / "counts.csv"
    table.write_text("a,1\n")
    with FolderJournal.open(tmp_path, JOB) as journal:
        journal.start()
        journal.begin_table()
    with FolderJournal.open(tmp_path, JOB) as journal:
        assert (journal.table, journal.table_begun) == (None, True)
        journal.start()
        journal.keep_table(FileFacts.of(table))
    with FolderJournal.open(tmp_path, JOB) as journal:
        assert (journal.table, journal.table_begun) == (FileFacts(4, file_hash(table)), False)


def test_each_job_has_a_journal_of_its_own_until_its_files_may_be_replaced(tmp_path: Path) -> None:
    mine = written(tmp_path)
    with FolderJournal.open(tmp_path, {**JOB, "model": "n"}) as journal:
        assert journal.entry("a") == NOTHING
        assert sorted(journal.others) == sorted([mine, mine.with_suffix(".json")])
        journal.start()
        assert mine.exists()
    with FolderJournal.open(tmp_path, {**JOB, "model": "o"}) as journal:
        journal.start(replace=True)
        assert not mine.exists()
        assert journal.others == []


def test_two_at_once_are_refused_and_names_may_be_anything(tmp_path: Path) -> None:
    import subprocess
    import sys

    holding = (
        "import sys; from pathlib import Path; from pixelwise.inference.folder_journal import FolderJournal\n"
        f"with FolderJournal.open(Path({str(tmp_path)!r}), {JOB!r}):\n print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="in use by process"), FolderJournal.open(tmp_path, JOB):
            pass
        other.communicate()
    odd = 'a\n"\udcff é'
    with FolderJournal.open(tmp_path, JOB) as journal:
        journal.start()
        journal.keep(odd, KEPT)
    with FolderJournal.open(tmp_path, JOB) as journal:
        assert journal.entry(odd) == KEPT


def test_twenty_thousand_images_take_a_moment(tmp_path: Path) -> None:
    path = written(tmp_path)
    line = path.read_text().splitlines()[-1]
    with path.open("a") as file:
        file.writelines(line.replace('"a"', f'"image {number}"') + "\n" for number in range(20_000))
    began = time.process_time()
    with FolderJournal.open(tmp_path, JOB) as journal:
        assert all(journal.entry(f"image {number}") == KEPT for number in range(20_000))
    assert time.process_time() - began < 4
