"""Writing files so that a reader never sees half of one.

Every output is written to a temporary file in its own folder, flushed to the disk and renamed: a kill at any instant
leaves the old file or the new one. What the operating system refuses becomes an OutputError that names the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pixelwise.errors import OutputError, UsageError, printable

CRASH_VARIABLE = "PIXELWISE_TEST_CRASH"
TEMPORARY_PREFIX = ".pixelwise-"
MODEL_FILE, LAST_FILE = "model.safetensors", "last.safetensors"  # in the folder of a run
MEANINGS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reported an error",
    errno.ENAMETOOLONG: "the name is longer than the file system allows",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "there is a folder of that name",
}
_crash_counts: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Die here, as a power cut would, if `PIXELWISE_TEST_CRASH=<name>:<n>` is set and this is the n-th time.

    The tests of crash safety use it; without the variable it does nothing.
    """
    wanted, _, count = os.environ.get(CRASH_VARIABLE, "").partition(":")
    if wanted != name:
        return
    _crash_counts[name] = _crash_counts.get(name, 0) + 1
    if _crash_counts[name] == int(count or 1):
        os._exit(137)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replace `path` by what `write(temporary)` puts into a temporary file beside it, completely or not at all.

    Raises OutputError naming the file and the reason; an older file at `path` is then still there, unchanged.
    """
    # Machines that share a folder may have processes of one number.
    process = f"{name_hash(socket.gethostname())[:8]}-{os.getpid()}"
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{process}-{name_hash(path.name)}{path.suffix}")
    try:
        with system_refusals(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            crash_point("before-open")
            write(temporary)
            crash_point("after-write")
            _flush_to_disk(temporary)
            crash_point("after-fsync")
            temporary.replace(path)
            crash_point("after-rename")
            _flush_to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, completely or not at all."""
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, completely or not at all."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON; NaN and infinity are a mistake of ours and raise ValueError."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def make_folder(path: Path) -> Path:
    """Make a folder for results, with its parents; raises OutputError where the system refuses."""
    with system_refusals(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def system_refusals(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses while `path` is written into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(_cannot_write(path, error)) from error


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; raises UsageError, naming the holder, when another process has it.

    The lock belongs to this process and not to its children, so a killed one leaves none behind.
    """
    path = make_folder(folder) / ".lock"
    with system_refusals(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with system_refusals(path):
            _lock(descriptor, folder)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left in a folder or below it."""
    for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_hash(name: str) -> str:
    """A short name that any file system takes, different for different names.

    >>> len(name_hash("a" * 300))
    16
    """
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
        raise UsageError(
            f"{printable(folder)} is in use by {printable(holder)}; "
            "wait for it to end, or choose another name (--name, --out)"
        ) from error


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> str:
    meaning = MEANINGS.get(error.errno or 0, error.strerror or str(error))
    kept = ""
    with contextlib.suppress(OSError):
        kept = "; the file that is there is whole" if path.is_file() else ""
    return (
        f"could not write {printable(path)}: {meaning}{kept}; free some space or choose another folder, then run again"
    )
