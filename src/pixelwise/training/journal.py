"""The log of a run: one JSON object per line, each line whole, the same lines after a kill and a resume.

A row holds what is computed (step, loss, learning rate, scores); what is measured with a clock stands under `timing`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from pixelwise.errors import TrainingError, printable
from pixelwise.files import system_refusals

Row = dict[str, Any]


class Journal:
    """An open log. `watch` sees every row as it is written, for a progress bar."""

    def __init__(self, path: Path, *, keep_bytes: int = 0, watch: Callable[[Row], None] | None = None) -> None:
        """Open the log and cut off what was written after the first `keep_bytes` bytes.

        Raises TrainingError where the log is shorter than that: it was changed after the checkpoint was written.
        """
        self.path = path
        self._watch = watch
        with system_refusals(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            length = os.lseek(self._descriptor, 0, os.SEEK_END)
            if length < keep_bytes:
                raise TrainingError(
                    f"{printable(path)} has {length} bytes, the checkpoint knows of {keep_bytes}; "
                    "put the log back as it was, or start a new run with another --name"
                )
            os.ftruncate(self._descriptor, keep_bytes)
            os.lseek(self._descriptor, 0, os.SEEK_END)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, row: Row) -> None:
        """Add one row. Raises OutputError where the system refuses."""
        line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with system_refusals(self.path):
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._watch:
            self._watch(row)

    def flush(self) -> int:
        """Put everything on the disk and return the length of the log, bytes."""
        with system_refusals(self.path):
            os.fsync(self._descriptor)
            return os.lseek(self._descriptor, 0, os.SEEK_CUR)


def read_journal(path: Path) -> list[Row]:
    """All whole rows of a log up to the first that cannot be read, as a kill or a power cut may have left the last."""
    rows: list[Row] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
