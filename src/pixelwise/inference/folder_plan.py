"""What is still to be done of a folder of images, and that no file which is not ours will be replaced unasked.

Every image and every file that may be written is looked at once, before anything is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pixelwise.data.layouts import Folder, Sample
from pixelwise.errors import UsageError, printable
from pixelwise.files import file_hash
from pixelwise.inference.folder import Done, ObjectCount, Outputs
from pixelwise.inference.folder_journal import FileFacts, FolderJournal, ImageEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPlan:
    """The images that are done, those that are left, and what `predict_folder` needs to do them.

    sources     size and time of change of each picture file; None where it cannot be reached
    foreign     files that are there and not ours, though they may be replaced
    leftovers   folders in which a kill may have left temporary files
    """

    images: Folder
    outputs: Outputs
    journal: FolderJournal
    finds_objects: bool
    done: tuple[Done, ...]
    left: tuple[Sample, ...]
    sources: Mapping[Path, tuple[int, int] | None]
    foreign: frozenset[Path]
    leftovers: frozenset[Path]


class _Stat(NamedTuple):
    place: tuple[int, int]
    size: int
    changed: int


def plan_folder(
    images: Folder, outputs: Outputs, journal: FolderJournal, *, finds_objects: bool, check: bool = False
) -> FolderPlan:
    """Look at all files; `check`: also whether what was written has the bytes that it had.

    An image is done where the journal has all its files, they are there and unchanged, and so is the image. Raises
    UsageError where an output would replace an input, or without `outputs.replace` any file that is not ours: one that
    the journal does not know, or that was changed since.
    """
    paths = dict.fromkeys(sample.image.path for sample in images.samples)
    found = {path: _stat(path) for path in paths}
    look = _Look(outputs, journal, {one.place for one in found.values() if one}, check)
    sources = {path: one and (one.size, one.changed) for path, one in found.items()}
    done, left, leftovers = [], [], set[Path]()
    for sample in images.samples:
        entry, written = journal.entry(sample.name), outputs.paths(sample.name, objects=finds_objects)
        whole = look.keeps(entry, written)
        if whole and entry.source is not None and entry.source == sources[sample.image.path]:
            done.append(_done(sample.name, entry, written))
        else:
            left.append(sample)
        if entry.begun:
            leftovers |= {path.parent for path in written.values()}
    if finds_objects:
        look.protect_table()
    return FolderPlan(
        images=images,
        outputs=outputs,
        journal=journal,
        finds_objects=finds_objects,
        done=tuple(done),
        left=tuple(left),
        sources=sources,
        foreign=frozenset(look.foreign),
        leftovers=frozenset(leftovers | ({outputs.folder} if journal.table_begun else set())),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """Looks at files that are there."""

    outputs: Outputs
    journal: FolderJournal
    inputs: set[tuple[int, int]]
    check: bool
    foreign: set[Path] = field(default_factory=set)

    def keeps(self, entry: ImageEntry, written: Mapping[str, Path]) -> bool:
        """Whether all files of an image are as they were written."""
        missing = set(entry.files)
        for kind, path in written.items():
            there = _stat(path)
            if there is None:
                continue
            facts = entry.files.get(kind)
            if self._is_as_written(path, there, facts):
                missing.discard(kind)
            self._protect(path, there, ours=entry.begun or (facts is not None and kind not in missing))
        return bool(entry.files) and not missing

    def protect_table(self) -> None:
        """Refuse to replace a table that is not ours; it is small, and made to be edited, so its bytes are compared."""
        path, facts = self.outputs.counts, self.journal.table
        there = _stat(path)
        if there is not None:
            same = facts is not None and there.size == facts.size and file_hash(path) == facts.sha256
            self._protect(path, there, ours=same or self.journal.table_begun)

    def _is_as_written(self, path: Path, there: _Stat, facts: FileFacts | None) -> bool:
        if facts is None or there.size != facts.size:
            return False
        return not self.check or file_hash(path) == facts.sha256

    def _protect(self, path: Path, there: _Stat, *, ours: bool) -> None:
        if there.place in self.inputs:
            raise UsageError(f"{printable(path)} is an input and would be replaced; choose another --out")
        if ours:
            return
        self.foreign.add(path)
        if not self.outputs.replace:
            why = " and not as the same command wrote it (another model, other settings, or changed since)"
            raise UsageError(
                f"{printable(path)} is there already{why if self._was_used() else ''}; choose another --out, or "
                "replace such files with --replace"
            )

    def _was_used(self) -> bool:
        return any(self.journal.folder.glob("*.jsonl"))


def _done(name: str, entry: ImageEntry, written: Mapping[str, Path]) -> Done:
    count = None if entry.count is None else ObjectCount(**entry.count)
    return Done(name=name, labels=written["labels"], count=count, files=entry.files)


def _stat(path: Path) -> _Stat | None:
    """None where nothing is there, or the system does not tell; then it will tell when the file is written."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _Stat((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)
