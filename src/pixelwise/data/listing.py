"""Which files of a folder may be pictures, in an order that people expect.

A file belongs to the list by its name; whether it can be read is for `images` to say, by its content. What is left out
is counted with the reason. Links to folders are followed, each folder once, so that a loop ends.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pixelwise.data.stored import refusal

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"]
)
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "source.json"))
DEEPEST = 32


@dataclass(slots=True, kw_only=True)
class Listing:
    """The picture files under `root`, by the folder they lie in (parts relative to the root), in natural order."""

    root: Path
    folders: dict[tuple[str, ...], list[Path]] = field(default_factory=dict)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    visited: set[tuple[int, int]] = field(default_factory=set)


def list_pictures(root: Path) -> Listing:
    """List the picture files of a folder and of all folders in it; raises ImageFileError where it cannot be opened."""
    listing = Listing(root=root)
    _walk(listing, root, ())
    reasons = dict(listing.skipped)
    if root in reasons:
        raise refusal(root, found=reasons[root], rule="a folder that can be read", fix="check path and permissions")
    return listing


def natural_key(text: str) -> tuple[tuple[int, str], ...]:
    """A sort key by which numbers count as numbers.

    >>> sorted(["10.png", "2.png"], key=natural_key)
    ['2.png', '10.png']
    """
    parts = re.split(r"([0-9]+)", text)
    return (*((int(part), part) if part[:1].isdecimal() else (0, part) for part in parts), (0, text))


def _walk(listing: Listing, folder: Path, parts: tuple[str, ...]) -> None:
    try:
        facts = folder.stat()
        names = sorted(os.listdir(folder), key=natural_key)  # noqa: PTH208 (names, not paths)
    except OSError as error:
        listing.skipped.append((folder, f"folder cannot be opened ({error.strerror})"))
        return
    identity = (facts.st_dev, facts.st_ino)
    if identity in listing.visited or len(parts) > DEEPEST:
        listing.skipped.append((folder, "folder already listed (a link leads back to it), or too deep"))
        return
    listing.visited.add(identity)
    for name in names:
        _take(listing, folder / name, parts)


def _take(listing: Listing, path: Path, parts: tuple[str, ...]) -> None:
    reason = _reason_to_skip(path)
    if path.is_dir() and not path.name.startswith("."):
        _walk(listing, path, (*parts, path.name))
    elif reason:
        listing.skipped.append((path, reason))
    else:
        listing.folders.setdefault(parts, []).append(path)


def _reason_to_skip(path: Path) -> str:
    if path.name.startswith(".") or path.name.lower() in SYSTEM_FILES:
        return "hidden or system file"
    if path.suffix.lower() not in SUFFIXES:
        return f"not a picture by its name ({path.suffix or 'no suffix'})"
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""  # a dangling link is refused by name when it is read
    return "" if stat.S_ISREG(mode) else "not a regular file"
