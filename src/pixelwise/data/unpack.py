"""Taking the files of a data set out of archives or folders: regular files only, and all of them below one folder.

Archives are not trusted. Every name in one is looked at before a byte is written: absolute ones and those with `..`
refuse the whole archive. Links, devices and whatever else does not belong to the set stay inside; what is wanted is
copied byte for byte, without the owners, times and permissions that the archive gives it. The number of members and the
bytes to unpack have limits, which the sizes stated in the archive hold to: no more than these are ever read.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pixelwise.data.public_sets import Arrange
from pixelwise.errors import DataError, Finding, printable
from pixelwise.files import crash_point, system_refusals

Watch = Callable[[str, int, int], object]
"""Told of progress: what is done, how much of it, and how much there is (0 where nobody knows)."""

CHUNK = 2**20
JUNK = "__MACOSX"
PLAIN_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1  # the flag of a member
DAMAGE = (  # what the readers of archives raise for bytes that make no sense
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    ValueError,
    OverflowError,
    RecursionError,  # of a tar with thousands of headers that announce the next one
)
FETCH_AGAIN = "fetch it again, from its publisher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that is taken from one source: files, links and folders in it, and bytes to unpack."""

    members: int = 200_000
    unpacked: int = 2**33


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveMember:
    """One entry of an archive or a folder: `name` has / between its parts, `size` is in bytes.

    obstacle  why it cannot be unpacked, or nothing
    """

    source: Path
    name: str
    size: int
    open: Callable[[], IO[bytes]]
    obstacle: str = ""


def unpack(sources: Sequence[Path], folder: Path, *, arrange: Arrange, limits: Limits, watch: Watch) -> tuple[int, int]:
    """Copy what belongs to a set from archives (zip or plain tar) or folders to its places below `folder`.

    Returns how many files were copied and how many were left out. Raises DataError with a Finding for the first thing
    that is wrong with a source, before anything is written where the names and sizes show it; OutputError where the
    system refuses to write.
    """
    with ExitStack() as held:
        members = [member for source in sources for member in _list(source, limits, held)]
        wanted = _choose(members, arrange)
        _check_wanted(wanted, limits)
        for number, (place, member) in enumerate(wanted.items(), start=1):
            _copy(member, folder / place)
            crash_point("unpack")
            watch("unpacking", number, len(wanted))
    return len(wanted), len(members) - len(wanted)


def _choose(members: Sequence[ArchiveMember], arrange: Arrange) -> dict[str, ArchiveMember]:
    """The members that belong to the set, by their places; raises DataError where two would go to one place."""
    by_name: dict[str, list[ArchiveMember]] = defaultdict(list)
    for member in members:
        if not any(part.startswith(".") or part == JUNK for part in member.name.split("/")):
            by_name[member.name].append(member)
    claims: dict[str, list[tuple[str, ArchiveMember]]] = defaultdict(list)
    for name, place in arrange(list(by_name)).items():
        claims[place.casefold()] += [(place, member) for member in by_name[name]]
    for (place, member), *others in claims.values():
        if others:
            names = f"{printable(member.name)} and {printable(others[0][1].name)}"
            found = f"{names} would both become {printable(place)}"
            raise _refusal(member.source, found, "one file for each place", "name the folder of one set alone")
    return {place: member for ((place, member),) in claims.values()}


def _check_wanted(wanted: dict[str, ArchiveMember], limits: Limits) -> None:
    for member in wanted.values():
        if member.obstacle:
            found = f"{printable(member.name)} is {member.obstacle}"
            rule = "regular files, stored or deflated, without password"
            raise _refusal(member.source, found, rule, FETCH_AGAIN)
    total = sum(member.size for member in wanted.values())
    if total > limits.unpacked:
        source = next(iter(wanted.values())).source
        found = f"{total / 1e6:,.0f} MB to unpack"
        raise _refusal(source, found, f"at most {limits.unpacked / 1e6:,.0f} MB for this set", FETCH_AGAIN)


def _copy(member: ArchiveMember, target: Path) -> None:
    with system_refusals(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for chunk in _chunks(member):
                file.write(chunk)


def _chunks(member: ArchiveMember) -> Iterator[bytes]:
    """The bytes of a member, as many as were promised; raises DataError where it holds more or fewer."""
    left = member.size
    with _damage_of(member.source), member.open() as stream:
        while chunk := stream.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
    if left:
        found = f"{printable(member.name)} has not the {member.size} bytes that it should have"
        raise _refusal(member.source, found, "each file is whole", FETCH_AGAIN)


# What a source holds


def _list(source: Path, limits: Limits, held: ExitStack) -> list[ArchiveMember]:
    """All members of a source but the folders; its archive stays open as long as `held`."""
    with _damage_of(source):
        if source.is_dir():
            entries = _folder_members(source)
        elif _starts_as_zip(source):
            entries = _zip_members(source, held.enter_context(zipfile.ZipFile(source)))
        else:
            entries = _tar_members(source, held.enter_context(_open_tar(source)))
        members = []
        for number, member in enumerate(entries, start=1):
            if number > limits.members:
                found = f"more than {limits.members:,} files and folders"
                raise _refusal(source, found, "as many as a data set has", "name the set's own archive or folder")
            if member is not None:
                members.append(member)
    return members


def _starts_as_zip(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(2) == b"PK"


def _folder_members(folder: Path) -> Iterator[ArchiveMember | None]:
    """The files of a folder of the user's own: links to files count as files, hidden folders are left aside."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent) / name for name in sorted(names)):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                yield ArchiveMember(source=folder, name=name, size=path.stat().st_size, open=_opener(path))


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _zip_members(source: Path, archive: zipfile.ZipFile) -> Iterator[ArchiveMember | None]:
    for info in archive.infolist():
        name = _checked_name(source, info.filename)
        if info.is_dir():
            yield None
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)
        obstacle = "" if kind in (0, stat.S_IFREG) else "a link or a device"
        if info.flag_bits & ENCRYPTED:
            obstacle = "encrypted"
        elif info.compress_type not in PLAIN_COMPRESSIONS:
            obstacle = "compressed in an unusual way"
        yield ArchiveMember(
            source=source, name=name, size=info.file_size, open=_zip_opener(archive, info), obstacle=obstacle
        )


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _open_tar(source: Path) -> tarfile.TarFile:
    """A tar without compression, whose headers can take no more memory than the file has bytes."""
    try:
        return tarfile.open(source, "r:")
    except tarfile.ReadError as error:
        rule = "a zip, a tar without compression, or a folder"
        fix = "if it is another kind of archive, unpack it and name its folder; if it is none, fetch it again"
        raise _refusal(source, "neither a zip nor a tar", rule, fix) from error


def _tar_members(source: Path, archive: tarfile.TarFile) -> Iterator[ArchiveMember | None]:
    for info in archive:
        name = _checked_name(source, info.name)
        obstacle = "" if info.isreg() and not info.issparse() else "a link, a device or sparse"
        if info.isdir():
            yield None
        else:
            yield ArchiveMember(
                source=source, name=name, size=info.size, open=_tar_opener(archive, info), obstacle=obstacle
            )

    # Python's reader stops without a word where a header is damaged or missing; a whole tar ends with empty blocks.
    with source.open("rb") as file:
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise _refusal(source, "it breaks off, or is damaged in the middle", "a whole archive", FETCH_AGAIN)


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def open_member() -> IO[bytes]:
        stream = archive.extractfile(info)
        assert stream is not None  # as the member is a regular file
        return stream

    return open_member


def _checked_name(source: Path, name: str) -> str:
    """The name without empty parts; raises DataError for one that would lead out of the folder."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or ".." in parts or re.match("[A-Za-z]:", name) or "\0" in name:
        rule = "names are relative and have no .. in them"
        fix = f"do not unpack it, it may do harm; {FETCH_AGAIN}"
        raise _refusal(source, f"a member named {printable(name)}", rule, fix)
    return "/".join(part for part in name.split("/") if part not in ("", "."))


@contextmanager
def _damage_of(source: Path) -> Iterator[None]:
    """Turn what the reader of an archive raises into a DataError that names the archive."""
    try:
        yield
    except DataError:
        raise
    except DAMAGE as error:
        said = printable(str(error) or type(error).__name__)
        raise _refusal(source, f"damaged, or not to be read ({said})", "a whole archive", FETCH_AGAIN) from error


def _refusal(source: Path, found: str, rule: str, fix: str) -> DataError:
    finding = Finding(file=source, found=found, rule=rule, fix=fix)
    return DataError(f"{printable(source.name)} was not unpacked", [finding])
