"""Which bytes of a data set are trusted: those with the published checksum, or with the one of the first download.

Where a checksum is published, or given by the user, an archive with another one is refused. Where none is, the first
download is trusted, its sha256 is kept in `NAME.sha256` beside the data, and later ones are compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pooch

from pixelwise.data.public_sets import PublicSet, RemoteFile
from pixelwise.errors import DataError, UsageError, printable
from pixelwise.files import write_text

Proof = Literal["published", "given", "first download", "remembered", "none"]
WORDS: dict[Proof, str] = {
    "published": "the published one",
    "given": "what --sha256 gives",
    "remembered": "that of the first download",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenArchive:
    """An archive that a set was taken from.

    address  where it was fetched; nothing for a copy of the user's own
    size     bytes
    proof    what its checksum was compared with: the published one, the one the user gave, the one of an earlier
             download; or nothing, as this is the first download, or a copy of the user's own
    """

    name: str
    address: str
    size: int
    sha256: str
    proof: Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The checksums that are trusted beside the published ones: what the user gave, and those of earlier downloads."""

    given: str
    remembered: Mapping[str, str]

    def expected(self, file: RemoteFile) -> tuple[Proof, tuple[str, ...]]:
        """What a file has to have, and whose word that is; the user's counts most."""
        if self.given:
            return "given", (f"sha256:{self.given}",)
        if file.checksums:
            return "published", file.checksums
        if file.name in self.remembered:
            return "remembered", (f"sha256:{self.remembered[file.name]}",)
        return "none", ()


def prove_archive(wanted: PublicSet, path: Path, file: RemoteFile, trust: Trust) -> ProvenArchive:
    """The archive with its checksum; raises DataError where it is not the one that is trusted, or cannot be read."""
    proof, expected = trust.expected(file)
    algorithms = {"sha256", *(checksum.partition(":")[0] for checksum in expected)}
    sums = {algorithm: _checksum(path, algorithm) for algorithm in algorithms}
    for checksum in expected:
        algorithm, _, digest = checksum.partition(":")
        if sums[algorithm] != digest:
            raise DataError(
                f"{printable(path.name)} is not what it should be: it has the {algorithm} {sums[algorithm]}, but "
                f"{digest} is {WORDS[proof]}; it was damaged on the way, or its publisher replaced it: see "
                f"{wanted.home}; to take it as it is, add --sha256 {sums['sha256']}"
            )
    size = path.stat().st_size
    return ProvenArchive(name=file.name, address=file.address, size=size, sha256=sums["sha256"], proof=proof)


def _checksum(path: Path, algorithm: str) -> str:
    try:
        return str(pooch.file_hash(str(path), alg=algorithm))
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{printable(path)} cannot be read: {reason}; correct that, then run again") from error


def sums_file(wanted: PublicSet, data_dir: Path) -> Path:
    """Where the checksums of the first download are kept, in the form that sha256sum reads."""
    return data_dir / f"{wanted.name}.sha256"


def remembered_sums(wanted: PublicSet, data_dir: Path) -> dict[str, str]:
    """The sha256 of the first download, by the names of the archives; raises UsageError where the file is no list."""
    path = sums_file(wanted, data_dir)
    if not path.exists():
        return {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{printable(path)} cannot be read ({error}); correct or delete it") from error
    known = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines if line.strip()]
    if None in known:
        raise UsageError(f"{printable(path)} is no list of SHA-256 and file names; correct or delete it")
    return {match[2]: match[1] for match in known if match is not None}


def remember_sums(wanted: PublicSet, data_dir: Path, archives: Sequence[ProvenArchive]) -> None:
    """Keep the checksums of what was fetched where nobody publishes one."""
    unpublished = {file.name for file in wanted.files if not file.checksums}
    lines = [f"{archive.sha256}  {archive.name}\n" for archive in archives if archive.name in unpublished]
    if lines:
        write_text(sums_file(wanted, data_dir), "".join(lines))
