"""What is done of a folder of images, line by line, so that a run that was stopped goes on where it was.

    OUT/.pixelwise/JOB.json    what decides the results; JOB is a hash of it
    OUT/.pixelwise/JOB.jsonl   the journal, which one process alone appends:

        {"begun": "a"}                        before any file of an image is written
        {"kept": "a", "source": [size, time], "files": {"labels": [size, SHA-256]}, "count": ...}   after all of them
        {"kept": "b", "source": null, ...}    an image that failed, with what it left all the same
        {"tile": 512}                         all that is above was seen in other windows, and is to be done again
        {"table": "begun"}, {"table": [size, SHA-256]}   the table of objects

A file counts as ours where its image is begun, or where it is as the last line on its image says; nothing else is ever
replaced unasked. Of two lines on one image the last is right. A line that cannot be read, as a power cut may leave it,
says nothing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelwise.data.store_plan import PRIVATE
from pixelwise.files import file_hash, folder_lock, name_hash, remove_leftovers, system_refusals, write_json

BEGUN, KEPT, TILE, TABLE = "begun", "kept", "tile", "table"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The size in bytes and the SHA-256 of a file as it was written."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Those of a file that was just written; raises OutputError where it cannot be read back."""
        with system_refusals(path):
            return cls(path.stat().st_size, file_hash(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEntry:
    """What the journal says of one image.

    begun   whether it was begun and not finished: whatever files it has are ours
    source  size in bytes and time of change in nanoseconds of the file that was read; None: to be done again
    files   those that were written, by kind
    count   the objects, as it was handed in
    """

    begun: bool = False
    source: tuple[int, int] | None = None
    files: Mapping[str, FileFacts]
    count: Mapping[str, Any] | None = None


NOTHING, STARTED = ImageEntry(files={}), ImageEntry(begun=True, files={})


class FolderJournal:
    """The journal of one job in a folder of results; before `open`, one that knows of nothing.

    tile   the window that the images were seen in, where memory was lacking for what the settings say; 0: as they say
    table  the table of objects as it was written; None: there is none
    """

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        """`job`: all that decides the results, fit for JSON; with any other value it is another job."""
        self.folder = folder / PRIVATE
        self.tile = 0
        self.table: FileFacts | None = None
        self.table_begun = False
        self._job = job
        self._stem = name_hash(json.dumps(job, sort_keys=True))
        self._lines: dict[str, bytes] = {}  # as they are in the file: a quarter of the memory of what they say
        self._stale: set[str] = set()
        self._begun_now: set[str] = set()
        self._descriptor: int | None = None

    @classmethod
    @contextmanager
    def open(cls, folder: Path, job: Mapping[str, Any]) -> Iterator[FolderJournal]:
        """The journal of that job, held for this process alone; raises UsageError where another has the folder.

        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp())
        >>> with FolderJournal.open(out, {"model": "m"}) as journal:
        ...     journal.start()
        ...     journal.begin("a")
        >>> with FolderJournal.open(out, {"model": "m"}) as journal:
        ...     journal.entry("a").begun, journal.entry("b").begun
        (True, False)
        """
        with folder_lock(folder / PRIVATE):
            journal = cls(folder, job)
            journal._load()
            try:
                yield journal
            finally:
                journal._close()

    @classmethod
    def look(cls, folder: Path, job: Mapping[str, Any]) -> FolderJournal:
        """The journal of that job as it is now, not to be written; another process may be writing it."""
        journal = cls(folder, job)
        journal._load()
        return journal

    # What was done

    def entry(self, name: str) -> ImageEntry:
        """What is known of an image."""
        line = self._lines.get(name)
        row = None if line is None else _row_of(line)
        if row is None:
            return NOTHING
        if BEGUN in row:
            return STARTED
        try:
            source = None if name in self._stale else row["source"]
            return ImageEntry(
                source=source if source is None else (int(source[0]), int(source[1])),
                files={kind: FileFacts(int(size), str(sha)) for kind, (size, sha) in row["files"].items()},
                count=row["count"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return NOTHING

    @property
    def others(self) -> list[Path]:
        """The files of other jobs in the same folder."""
        return [path for path in self.folder.glob("*.json*") if path.stem != self._stem]

    # What is being done

    def start(self, *, replace: bool = False) -> None:
        """Be ready to be written; `replace`: what other jobs left may be replaced, so that their journals end."""
        if self._descriptor is not None:
            return
        remove_leftovers(self.folder)
        with system_refusals(self.folder):
            for path in self.others if replace else ():
                path.unlink(missing_ok=True)
        described = self.folder / f"{self._stem}.json"
        if not described.exists():
            write_json(described, self._job)
        with system_refusals(self._path):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            length = os.fstat(self._descriptor).st_size
            if length and os.pread(self._descriptor, 1, length - 1) != b"\n":
                self._append(b"\n")  # a kill left half a line

    def begin(self, name: str) -> None:
        """Say that an image's files may be written from now on; on the disk when this returns."""
        if name in self._begun_now:
            return
        self._begun_now.add(name)
        self._write({BEGUN: name}, name)
        self._flush()

    def keep(self, name: str, entry: ImageEntry) -> None:
        """Say what became of an image."""
        files = {kind: [facts.size, facts.sha256] for kind, facts in entry.files.items()}
        self._write({KEPT: name, "source": entry.source, "files": files, "count": entry.count}, name)
        self._stale.discard(name)
        self._begun_now.discard(name)

    def see_in(self, tile: int) -> None:
        """Take all as to be done again, unless it was seen in windows of that size already."""
        if tile != self.tile:
            self.start()
            self._write({TILE: tile})
            self._change_tile(tile)

    def begin_table(self) -> None:
        """Say that the table may be written from now on."""
        self._write({TABLE: BEGUN})
        self._flush()

    def keep_table(self, facts: FileFacts) -> None:
        """Say that the table is written."""
        self._write({TABLE: [facts.size, facts.sha256]})
        self._flush()
        self.table, self.table_begun = facts, False

    # The file

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._stem}.jsonl"

    def _load(self) -> None:
        if not self._path.exists():
            return
        with system_refusals(self._path), self._path.open("rb") as file:
            for line in file:
                self._take(line)

    def _take(self, line: bytes) -> None:
        row = _row_of(line) or {}
        name = row.get(BEGUN, row.get(KEPT))
        if isinstance(name, str):
            self._lines[name] = line
            self._stale.discard(name)
        elif isinstance(row.get(TILE), int):
            self._change_tile(row[TILE])
        elif TABLE in row:
            self._take_table(row[TABLE])

    def _take_table(self, value: Any) -> None:
        self.table_begun = value == BEGUN
        try:
            self.table = None if self.table_begun else FileFacts(int(value[0]), str(value[1]))
        except (TypeError, ValueError, IndexError, KeyError):
            self.table = None

    def _change_tile(self, tile: int) -> None:
        self.tile = tile
        self._stale = set(self._lines)

    def _write(self, row: Mapping[str, Any], name: str | None = None) -> None:
        line = json.dumps(row, allow_nan=False).encode("ascii") + b"\n"
        if name is not None:
            self._lines[name] = line
        with system_refusals(self._path):
            self._append(line)

    def _append(self, line: bytes) -> None:
        assert self._descriptor is not None, "the journal is started"
        if os.write(self._descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _flush(self) -> None:
        assert self._descriptor is not None, "the journal is started"
        with system_refusals(self._path):
            os.fsync(self._descriptor)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _row_of(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
