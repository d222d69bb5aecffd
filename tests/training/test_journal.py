"""The log of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelwise.training.journal import Journal, read_journal


def test_rows_come_back_and_are_watched(tmp_path: Path) -> None:
    seen: list[dict] = []
    with Journal(tmp_path / "log.jsonl", watch=seen.append) as journal:
        journal.write({"step": 1, "loss": 0.5})
        journal.write({"step": 2, "name": "a\nb é"})
        assert journal.flush() == (tmp_path / "log.jsonl").stat().st_size
    assert read_journal(tmp_path / "log.jsonl") == seen == [{"step": 1, "loss": 0.5}, {"step": 2, "name": "a\nb é"}]


def test_reopening_cuts_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Journal(path) as journal:
        journal.write({"step": 1})
        kept = journal.flush()
        journal.write({"step": 2})
    with path.open("ab") as torn:
        torn.write(b'{"step": 3, "lo')
    with Journal(path, keep_bytes=kept) as journal:
        journal.write({"step": 2, "again": True})
    assert read_journal(path) == [{"step": 1}, {"step": 2, "again": True}]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    assert read_journal(path) == [{"step": 1}]
    assert read_journal(tmp_path / "none.jsonl") == []


def test_nan_never_reaches_the_log(tmp_path: Path) -> None:
    with Journal(tmp_path / "log.jsonl") as journal, pytest.raises(ValueError, match="JSON"):
        journal.write({"loss": float("nan")})
    assert (tmp_path / "log.jsonl").read_bytes() == b""
