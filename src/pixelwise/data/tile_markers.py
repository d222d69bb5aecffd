"""Marks of finished tiles: one small file for a tile and a stage, written when everything else of it is on the disk.

A marker names the job, the region and the size and SHA-256 of every file that was written, so that whatever is cut
short, changed or put into the wrong place later is found. Which tiles are finished is seen from the names alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pixelwise.files import file_hash, write_text
from pixelwise.tiles import TileGrid

SUFFIX = ".json"
Fault = Literal["missing", "truncated", "changed", "unreadable"]


@dataclass(frozen=True, slots=True)
class Marker:
    """What was written for a tile: `files` holds the length and the SHA-256 of each, by its path within the store."""

    job: str
    region: tuple[int, ...]
    files: Mapping[str, tuple[int, str]]

    def to_text(self) -> str:
        """One line of JSON."""
        return json.dumps({"job": self.job, "region": self.region, "files": dict(self.files)}, sort_keys=True) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Marker:
        """What `to_text` wrote; raises ValueError on anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            files = {name: (length, digest) for name, (length, digest) in values["files"].items()}
            marker = cls(values["job"], tuple(values["region"]), files)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the marker of a tile: {error}") from error
        if marker.to_text() != text:
            raise ValueError("not the marker of a tile as it was written")
        return marker


@dataclass(frozen=True, slots=True)
class MarkerFolder:
    """The markers of one stage, in a folder per row of tiles.

    >>> import tempfile
    >>> folder = MarkerFolder(Path(tempfile.mkdtemp()), TileGrid((30, 30), 10))
    >>> folder.put(4, Marker("job", (10, 10, 20, 20), {}))
    >>> folder.indices(), folder.get(4).region
    ({4}, (10, 10, 20, 20))
    """

    folder: Path
    grid: TileGrid

    def path(self, index: int) -> Path:
        """Where the marker of a tile is."""
        row, column = divmod(index, self.grid.columns)
        return self.folder / str(row) / f"{column}{SUFFIX}"

    def put(self, index: int, marker: Marker) -> None:
        """Say that a tile is finished."""
        write_text(self.path(index), marker.to_text())

    def get(self, index: int) -> Marker:
        """The marker of a tile; raises OSError where there is none, ValueError where it is damaged."""
        return Marker.from_text(self.path(index).read_text("utf-8"))

    def has(self, index: int) -> bool:
        """Whether a tile is finished."""
        return self.path(index).exists()

    def remove(self, index: int) -> None:
        """Say that a tile is to be done again."""
        self.path(index).unlink(missing_ok=True)

    def indices(self) -> set[int]:
        """All tiles that are finished, from the names of the files."""
        return set(self._indices())

    def _indices(self) -> Iterator[int]:
        columns = self.grid.columns
        for row in range(self.grid.rows) if self.folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError), os.scandir(self.folder / str(row)) as entries:
                yield from (row * columns + column for entry in entries if 0 <= (column := _column(entry)) < columns)


def _column(entry: os.DirEntry[str]) -> int:
    """Of which column a marker is; -1 for any other file."""
    stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122
    return int(stem) if suffix == SUFFIX and stem.isdecimal() else -1


def measured(data: bytes) -> tuple[int, str]:
    """Length and SHA-256 of what is written to a file."""
    return len(data), hashlib.sha256(data).hexdigest()


def fault_of(path: Path, length: int, digest: str) -> Fault | None:
    """What is wrong with a file that had a length and a SHA-256; None where nothing is."""
    try:
        found = path.stat().st_size
        if found < length:
            return "truncated"
        return None if found == length and file_hash(path) == digest else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"
