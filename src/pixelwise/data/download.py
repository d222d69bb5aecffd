"""Bringing a public data set to this machine: fetched or copied, checked and laid out, whole or not at all.

Everything happens in a hidden folder beside the place where the set will be, so the last step is one rename; a kill at
any instant leaves nothing visible, and the next try starts from the archives that were complete.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from pixelwise import __version__
from pixelwise.data.checksums import ProvenArchive, Trust, prove_archive, remember_sums, remembered_sums
from pixelwise.data.public_sets import RECEIPT, PublicSet, RemoteFile
from pixelwise.data.unpack import Limits, Watch, unpack
from pixelwise.errors import DataError, UsageError, printable
from pixelwise.files import TEMPORARY_PREFIX, crash_point, folder_lock, system_refusals, write_json

LOCK = ".lock"
UNPACKED = "unpacked"
CHUNK = 2**18
ANSWER_WITHIN = 30.0  # seconds without a byte after which a server is given up
LARGEST_DOWNLOAD = 2**34
REASONS: dict[type[Exception], str] = {  # the first that fits
    requests.exceptions.SSLError: "the certificate of {host} was not accepted",
    requests.exceptions.ProxyError: "the proxy does not answer",
    requests.exceptions.Timeout: "{host} does not answer",
    requests.exceptions.ChunkedEncodingError: "the connection to {host} broke off",
    requests.exceptions.ConnectionError: "the connection to {host} failed",
    requests.exceptions.RequestException: "{host} gave no usable answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What is known of a set that is there: its archives (none: it came from a folder), the files, those left out."""

    archives: tuple[ProvenArchive, ...]
    files: int
    left_out: int


def get_set(
    wanted: PublicSet, data_dir: Path, *, source: Path | None = None, sha256: str = "", watch: Watch | None = None
) -> Receipt:
    """Put a data set into `data_dir`/NAME; where it is there already, nothing is done.

    `source` is a local copy, an archive or a folder of archives or of the unpacked files: then nothing is fetched.
    `sha256` is what the archive must have, whatever is published. `watch` is told of progress. Raises DataError where
    it cannot be fetched, checked or unpacked, OutputError where the system refuses, UsageError where the place is
    taken by something else or another process is at work on it.
    """
    _check_asked(wanted, source, sha256)
    there = present(wanted, data_dir)
    if there is not None:
        return there
    if source is None and not wanted.files:
        raise DataError(f"{wanted.name} is to be fetched by hand: {wanted.by_hand}; then run: {_by_hand(wanted)}")
    with _work_folder(wanted, data_dir) as work:
        return present(wanted, data_dir) or _bring(wanted, work, source, sha256, watch or _unwatched)


def present(wanted: PublicSet, data_dir: Path) -> Receipt | None:
    """What is known of the set in `data_dir`/NAME; None where it is not there.

    Raises UsageError where the folder was made by something else, DataError where files of the set have gone since.
    """
    folder = data_dir / wanted.name
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return None
        value = json.loads((folder / RECEIPT).read_text("utf-8"))
        archives = tuple(ProvenArchive(**archive) for archive in value["archives"])
        receipt = Receipt(archives=archives, files=int(value["files"]), left_out=int(value["left_out"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{printable(folder)} is there already, but not from pixelwise data get (it has no {RECEIPT} of it): use "
            "it as it is, move it away, or choose another place with --data-dir"
        ) from error
    held = sum(path.is_file() for path in folder.rglob("*")) - 1
    if held < receipt.files:
        raise DataError(
            f"{printable(folder)} holds {held} of the {receipt.files} files that were put there; delete it, then run "
            f"pixelwise data get {wanted.name} again"
        )
    return receipt


def _check_asked(wanted: PublicSet, source: Path | None, sha256: str) -> None:
    """Refuse a checksum that is none, or that is of no single archive; raises UsageError."""
    if not sha256:
        return
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"--sha256 {printable(sha256)}: a SHA-256 is 64 digits of 0 to 9 and a to f")
    copies = [] if source is None else _local_copies(wanted, source)
    if len(wanted.files) > 1 or any(path.is_dir() for path in copies):
        raise UsageError(f"--sha256 is of one archive, and {wanted.name} is taken from something else; leave it out")


# Bringing


def _bring(wanted: PublicSet, work: Path, source: Path | None, sha256: str, watch: Watch) -> Receipt:
    """All of it, in the folder `work`, up to the rename that makes it visible."""
    # The archives, or the user's own folder.
    data_dir, unpacked = work.parent, work / UNPACKED
    trust = Trust(given=sha256.lower(), remembered=remembered_sums(wanted, data_dir))
    if source is None:
        paths, archives = _fetch_all(wanted, work, trust, watch)
    else:
        paths, archives = _take_copies(wanted, source, trust)

    # The files, each in its place.
    limits = Limits(unpacked=wanted.most_bytes)
    files, left_out = unpack(paths, unpacked, arrange=wanted.arrange, limits=limits, watch=watch)
    if not files:
        holder = printable(paths[0])
        raise DataError(
            f"none of the {left_out} files of {holder} belongs to {wanted.name}, which has {wanted.layout}; if "
            f"{holder} is a data set of your own, train on it as it is"
        )
    receipt = Receipt(archives=archives, files=files, left_out=left_out)
    write_json(unpacked / RECEIPT, _describe(wanted, receipt))

    # Nothing is seen before all of it is on the disk.
    os.sync()
    crash_point("before-set")
    if source is None:
        remember_sums(wanted, data_dir, archives)
    with system_refusals(data_dir / wanted.name):
        unpacked.rename(data_dir / wanted.name)
    return receipt


@contextmanager
def _work_folder(wanted: PublicSet, data_dir: Path) -> Iterator[Path]:
    """The hidden folder where a set is prepared, for this process alone; it goes when it is of no more use.

    Archives that are complete stay in it after a kill or where the disk was full, so that they need not be fetched
    again; those that turned out to be wrong go.
    """
    work = data_dir / f"{TEMPORARY_PREFIX}{wanted.name}"
    complete = {file.name for file in wanted.files}
    with _held_alone(work, wanted):
        _clear(work, keep=complete)
        try:
            yield work
            complete = set()
        except DataError:
            complete = set()
            raise
        finally:
            _clear(work, keep=complete)
            _drop_where_idle(work)


@contextmanager
def _held_alone(work: Path, wanted: PublicSet) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(folder_lock(work))
        except UsageError as error:
            holder = str(error).partition(";")[0]
            raise UsageError(f"{wanted.name} is being fetched already: {holder}; wait for it to end") from error
        yield


def _clear(work: Path, *, keep: set[str]) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in {LOCK, *keep}:
            path.unlink(missing_ok=True)


def _drop_where_idle(work: Path) -> None:
    if {path.name for path in work.iterdir()} <= {LOCK}:
        shutil.rmtree(work, ignore_errors=True)


def _describe(wanted: PublicSet, receipt: Receipt) -> dict[str, object]:
    return {
        "name": wanted.name,
        "title": wanted.title,
        "licence": wanted.licence,
        "conditions": wanted.conditions,
        "cite": wanted.cite,
        "home": wanted.home,
        **asdict(receipt),
        "made_by": f"pixelwise {__version__}",
    }


# Local copies


def _take_copies(wanted: PublicSet, source: Path, trust: Trust) -> tuple[list[Path], tuple[ProvenArchive, ...]]:
    """The user's own archives, checked where there is something to check them by; or the user's own folder."""
    paths = _local_copies(wanted, source)
    if paths[0].is_dir():
        return paths, ()
    files = wanted.files or (RemoteFile(name=source.name, address=""),)
    archives = [prove_archive(wanted, path, file, trust) for path, file in zip(paths, files, strict=True)]
    return paths, tuple(replace(archive, address="") for archive in archives)


def _local_copies(wanted: PublicSet, source: Path) -> list[Path]:
    """The archives that a file or a folder stands for, or the folder itself, with the files of the set."""
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise UsageError(f"--from {printable(source)}: {error.strerror or error}; give a file or a folder") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"--from {printable(source)} is neither a file nor a folder; give one of them")
    archives = [source / file.name for file in wanted.files]
    if archives and all(path.is_file() for path in archives):
        return archives
    if source.is_file() and len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise UsageError(f"--from {printable(source)}: {wanted.name} has several archives; name a folder with {names}")
    return [source]


# Fetching


def _fetch_all(
    wanted: PublicSet, work: Path, trust: Trust, watch: Watch
) -> tuple[list[Path], tuple[ProvenArchive, ...]]:
    """The archives of a set in the folder `work`, checked."""
    paths, archives = [], []
    for file in wanted.files:
        path = _fetch(wanted, file, work, watch)
        archive = prove_archive(wanted, path, file, trust)
        paths.append(path)
        archives.append(replace(archive, proof="first download") if archive.proof == "none" else archive)
    return paths, tuple(archives)


def _fetch(wanted: PublicSet, file: RemoteFile, work: Path, watch: Watch) -> Path:
    """An archive in the folder `work`: from there where it is complete, else from its address."""
    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(
        progressbar=_Meter(file, watch),
        chunk_size=CHUNK,
        timeout=ANSWER_WITHIN,
        headers={"Accept-Encoding": "identity"},
    )
    try:
        path = pooch.retrieve(file.address, None, fname=file.name, path=work, downloader=downloader)
    except requests.RequestException as error:  # an OSError too, so it comes first
        raise DataError(
            f"{wanted.name} was not fetched: {_reason(error, file.address)}; run again later, or fetch {file.address} "
            f"by other means, then run: {_by_hand(wanted)}"
        ) from error
    except OSError as error:
        with system_refusals(work / file.name):
            raise error
    crash_point("fetched")
    return Path(path)


class _Meter:
    """What pooch tells of a download: it sets `total` and calls the rest; an endless one is refused."""

    def __init__(self, file: RemoteFile, watch: Watch) -> None:
        self.total = 0
        self._file, self._watch, self._done = file, watch, 0

    def update(self, size: int) -> None:
        """So many more bytes have come."""
        self._done += size
        if max(self.total, self._done) > LARGEST_DOWNLOAD:
            most = f"{LARGEST_DOWNLOAD / 1e9:.0f} GB"
            raise DataError(f"{self._file.address} was not fetched: it is larger than any set known here ({most})")
        self._watch(self._file.name, min(self._done, self.total or self._done), self.total)

    def reset(self) -> None:
        """The total follows, in one number."""
        self._done = 0

    def close(self) -> None:
        """Nothing more will come."""


def _reason(error: requests.RequestException, address: str) -> str:
    """Why a file could not be fetched, in a few words."""
    host = urlsplit(address).netloc
    if error.response is not None:
        return f"{host} answers {error.response.status_code} ({error.response.reason})"
    return next(text for kind, text in REASONS.items() if isinstance(error, kind)).format(host=host)


def _by_hand(wanted: PublicSet) -> str:
    return f"pixelwise data get {wanted.name} --from {wanted.files[0].name if wanted.files else 'FOLDER'}"


def _unwatched(_what: str, _done: int, _total: int) -> None:
    """For those who do not watch."""
