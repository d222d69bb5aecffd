"""Getting public data sets from a server on this machine: checked, resumed, alone, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from published_copies import COPIES, packed, tree, written, zipped

from pixelwise.data.checksums import Trust, prove_archive, remembered_sums, sums_file
from pixelwise.data.dataset import open_dataset
from pixelwise.data.download import REASONS, Receipt, get_set, present
from pixelwise.data.public_sets import PUBLIC_SETS, RECEIPT, PublicSet, RemoteFile
from pixelwise.errors import DataError, PixelwiseError, UsageError
from pixelwise.files import CRASH_VARIABLE

ARCHIVE = packed("isbi2012")
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
OTHER_SHA256 = hashlib.sha256(b"something else").hexdigest()


@dataclass
class Publisher:
    """A server on this machine: what it gives for each path, and what it was asked for.

    stop_after  bytes after which it hangs until it is released, or breaks off
    """

    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    stop_after: int | None = None
    breaks_off: bool = False
    sized: bool = True
    asked: list[str] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def publishes(self, known: PublicSet, data: bytes, *checksums: str) -> PublicSet:
        """The set with this server as its publisher."""
        name = known.files[0].name if known.files else f"{known.name}.zip"
        self.files[f"/{name}"] = data
        return replace(known, files=(RemoteFile(name=name, address=f"{self.address}/{name}", checksums=checksums),))


class Answer(BaseHTTPRequestHandler):
    publisher: Publisher

    def do_GET(self) -> None:
        publisher, data = self.publisher, self.publisher.files.get(self.path, b"")
        publisher.asked.append(self.path)
        self.send_response(publisher.status if data else 404)
        if publisher.sized:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if publisher.stop_after is None:
            self.wfile.write(data)
            return
        self.wfile.write(data[: publisher.stop_after])
        self.wfile.flush()
        publisher.reached.set()
        if not publisher.breaks_off:
            publisher.released.wait(60)
            self.wfile.write(data[publisher.stop_after :])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    publisher = Publisher()
    handler = type("Handler", (Answer,), {"publisher": publisher})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    publisher.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield publisher
    publisher.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def isbi(publisher: Publisher) -> PublicSet:
    return publisher.publishes(PUBLIC_SETS["isbi2012"], ARCHIVE)


def visible(folder: Path) -> list[str]:
    """What a person sees in a folder."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# What comes


@pytest.mark.parametrize("name", COPIES)
def test_each_set_is_fetched_and_laid_out_as_from_an_unpacked_copy(name: str, publisher: Publisher, tmp_path: Path):
    known = PUBLIC_SETS[name]
    sha256 = f"sha256:{hashlib.sha256(packed(name)).hexdigest()}"
    fetched = get_set(publisher.publishes(known, packed(name), sha256), tmp_path / "data")
    copied = get_set(known, tmp_path / "other", source=written(COPIES[name](), tmp_path / "copy"))
    trees = [tree(tmp_path / place / name) for place in ("data", "other")]
    for files in trees:
        assert json.loads(files.pop(RECEIPT))["cite"] == known.cite
    assert trees[0] == trees[1]
    assert fetched.files == copied.files == len(trees[0])
    assert fetched.left_out >= copied.left_out  # hidden files of a folder are not even counted
    assert visible(tmp_path / "data") == everything_at_top(tmp_path / "data") == [name]


def everything_at_top(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_fetched_can_be_opened(isbi: PublicSet, tmp_path: Path):
    get_set(isbi, tmp_path)
    dataset = open_dataset(tmp_path / "isbi2012")
    assert dataset.folder.layout == "isbi2012"
    assert dataset.survey.pairs == {"train": 3, "test": 3}


def test_a_second_time_nothing_is_done(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    first = get_set(isbi, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert get_set(isbi, tmp_path) == present(isbi, tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert publisher.asked == ["/ISBI-2012-challenge.zip"]


def test_progress_is_told_in_bytes_then_in_files(isbi: PublicSet, tmp_path: Path):
    told: list[tuple[str, int, int]] = []
    get_set(isbi, tmp_path, watch=lambda *step: told.append(step))
    assert told[0] == told[-5] == ("ISBI-2012-challenge.zip", len(ARCHIVE), len(ARCHIVE))
    assert told[-4:] == [("unpacking", number, 4) for number in (1, 2, 3, 4)]


def test_a_server_that_does_not_know_the_size(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    publisher.sized = False
    told: list[tuple[str, int, int]] = []
    assert get_set(isbi, tmp_path, watch=lambda *step: told.append(step)).archives[0].sha256 == SHA256
    assert {total for what, _, total in told if what != "unpacking"} == {0}


# Checksums


def test_without_a_published_checksum_the_first_download_is_remembered(isbi: PublicSet, tmp_path: Path):
    (archive,) = get_set(isbi, tmp_path).archives
    assert (archive.sha256, archive.proof, archive.size) == (SHA256, "first download", len(ARCHIVE))
    assert sums_file(isbi, tmp_path).read_text() == f"{SHA256}  ISBI-2012-challenge.zip\n"
    assert json.loads((tmp_path / "isbi2012" / RECEIPT).read_text())["archives"][0]["sha256"] == SHA256

    forget(tmp_path / "isbi2012")
    assert get_set(isbi, tmp_path).archives[0].proof == "remembered"


def forget(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink()
    folder.rmdir()


def test_another_file_than_the_first_time_is_refused(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    get_set(isbi, tmp_path)
    forget(tmp_path / "isbi2012")
    files = COPIES["isbi2012"]()
    publisher.files["/ISBI-2012-challenge.zip"] = other = zipped({**files, "new.txt": b"new"})
    found = hashlib.sha256(other).hexdigest()
    with pytest.raises(
        DataError, match=rf"sha256 {found}, but {SHA256} is that of the first download.*--sha256 {found}"
    ):
        get_set(isbi, tmp_path)
    assert everything(tmp_path) == ["isbi2012.sha256"]

    # As the message says, the new one can be taken; from then on it is the one that is remembered.
    assert get_set(isbi, tmp_path, sha256=found.upper()).archives[0].proof == "given"
    assert remembered_sums(isbi, tmp_path) == {"ISBI-2012-challenge.zip": found}


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_published_checksums_are_checked(algorithm: str, publisher: Publisher, tmp_path: Path):
    right = hashlib.new(algorithm, ARCHIVE).hexdigest()
    good = publisher.publishes(PUBLIC_SETS["isbi2012"], ARCHIVE, f"{algorithm}:{right}")
    assert get_set(good, tmp_path / "good").archives[0].proof == "published"
    assert everything_at_top(tmp_path / "good") == ["isbi2012"]

    wrong = hashlib.new(algorithm, b"").hexdigest()
    bad = publisher.publishes(PUBLIC_SETS["isbi2012"], ARCHIVE, f"{algorithm}:{right}", f"{algorithm}:{wrong}")
    with pytest.raises(DataError, match=rf"it has the {algorithm} {right}, but {wrong} is the published one"):
        get_set(bad, tmp_path / "bad")
    assert everything(tmp_path / "bad") == []


def test_a_checksum_of_the_user_counts_most(publisher: Publisher, tmp_path: Path):
    wrong = publisher.publishes(PUBLIC_SETS["isbi2012"], ARCHIVE, f"sha256:{OTHER_SHA256}")
    assert get_set(wrong, tmp_path, sha256=SHA256).archives[0].proof == "given"
    with pytest.raises(DataError, match=f"{OTHER_SHA256} is what --sha256 gives"):
        get_set(wrong, tmp_path / "other", sha256=OTHER_SHA256)


@pytest.mark.parametrize("sha256", ["abc", "g" * 64, "0" * 65, "sha256:" + "0" * 64])
def test_what_is_no_checksum_is_a_wrong_command(sha256: str, isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    with pytest.raises(UsageError, match="64 digits"):
        get_set(isbi, tmp_path, sha256=sha256)
    assert publisher.asked == []


@pytest.mark.parametrize("text", ["not a checksum\n", "\udcff", "0" * 64 + "\n"])
def test_a_list_of_checksums_that_is_none_is_named(text: str, isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    sums_file(isbi, tmp_path).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"isbi2012.sha256 .*correct or delete it"):
        get_set(isbi, tmp_path)
    assert publisher.asked == []


def test_sums_are_those_of_hashlib(isbi: PublicSet, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(ARCHIVE)
    md5 = hashlib.md5(ARCHIVE, usedforsecurity=False).hexdigest()
    file = RemoteFile(name="file", address="", checksums=(f"sha256:{SHA256}", f"md5:{md5}"))
    assert prove_archive(isbi, path, file, Trust(given="", remembered={"file": OTHER_SHA256})).proof == "published"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        prove_archive(isbi, tmp_path / "nothing", file, Trust(given="", remembered={}))


# What goes wrong on the way


def test_without_a_connection_the_next_step_is_said(isbi: PublicSet, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    closed = replace(isbi, files=(replace(isbi.files[0], address=f"http://127.0.0.1:{port}/x.zip"),))
    with pytest.raises(DataError) as refused:
        get_set(closed, tmp_path)
    assert str(refused.value) == (
        f"isbi2012 was not fetched: the connection to 127.0.0.1:{port} failed; run again later, or fetch "
        f"http://127.0.0.1:{port}/x.zip by other means, then run: pixelwise data get isbi2012 --from "
        "ISBI-2012-challenge.zip"
    )
    assert everything(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_error_of_the_server_is_named(status: int, isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    publisher.status = status
    with pytest.raises(
        DataError, match=rf"127.0.0.1:\d+ answers {status} \(\w+.*run: pixelwise data get isbi2012 --from"
    ):
        get_set(isbi, tmp_path)
    assert everything(tmp_path) == []


def test_a_connection_that_breaks_off_leaves_nothing(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    publisher.stop_after, publisher.breaks_off = len(ARCHIVE) // 2, True
    with pytest.raises(DataError, match="broke off"):
        get_set(isbi, tmp_path)
    assert everything(tmp_path) == []

    publisher.stop_after = None
    assert get_set(isbi, tmp_path).archives[0].sha256 == SHA256


def test_a_file_cut_short_without_a_word_is_refused_and_fetched_again(
    isbi: PublicSet, publisher: Publisher, tmp_path: Path
):
    publisher.sized, publisher.stop_after, publisher.breaks_off = False, len(ARCHIVE) // 2, True
    with pytest.raises(DataError, match=r"ISBI-2012-challenge.zip was not unpacked"):
        get_set(isbi, tmp_path)
    assert everything(tmp_path) == []  # not even the checksum of half a file

    publisher.stop_after = None
    assert get_set(isbi, tmp_path).archives[0].sha256 == SHA256


def test_a_page_instead_of_an_archive(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    publisher.files["/ISBI-2012-challenge.zip"] = b"<html>Please sign in</html>"
    with pytest.raises(DataError, match="neither a zip nor a tar"):
        get_set(isbi, tmp_path)
    assert everything(tmp_path) == []


def test_an_archive_of_something_else(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    publisher.files["/ISBI-2012-challenge.zip"] = zipped({"holiday.jpg": b"", "beach.jpg": b""})
    with pytest.raises(DataError, match=r"none of the 2 files .*belongs to isbi2012, which has train-volume.tif"):
        get_set(isbi, tmp_path)
    assert everything(tmp_path) == []


def test_an_archive_that_leads_out_of_its_folder(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    publisher.files["/ISBI-2012-challenge.zip"] = zipped({**COPIES["isbi2012"](), "../../evil/train-volume.tif": b"!"})
    with pytest.raises(DataError, match=r"a member named ../../evil/train-volume.tif; rule"):
        get_set(isbi, tmp_path / "data")
    assert everything(tmp_path) == ["data"]


def test_a_set_larger_than_it_can_be(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    publisher.files["/ISBI-2012-challenge.zip"] = zipped({"train-volume.tif": bytes(5_000_000)})
    with pytest.raises(DataError, match="5 MB to unpack; rule: at most 4 MB"):
        get_set(replace(isbi, megabytes=1), tmp_path)
    assert everything(tmp_path) == []


def test_reasons_end_with_the_one_that_fits_all():
    kinds = list(REASONS)
    for index, kind in enumerate(kinds):
        assert not any(issubclass(kind, earlier) for earlier in kinds[:index]), kind


# Kills, full disks, and two at once

RUNNER = """
import json, resource, sys
from dataclasses import replace
from pathlib import Path
from pixelwise.data.download import get_set
from pixelwise.data.public_sets import PUBLIC_SETS
from pixelwise.errors import PixelwiseError
order = json.loads(sys.argv[1])
known = PUBLIC_SETS["isbi2012"]
known = replace(known, files=(replace(known.files[0], address=order["address"]),))
if order["limit"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], order["limit"]))
try:
    get_set(known, Path(order["data"]))
except PixelwiseError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def started(known: PublicSet, data: Path, *, limit: int = 0, crash: str = "") -> subprocess.Popen[str]:
    """Another process that gets the set."""
    order = json.dumps({"address": known.files[0].address, "data": str(data), "limit": limit})
    environment = {**os.environ, CRASH_VARIABLE: crash}
    return subprocess.Popen([sys.executable, "-c", RUNNER, order], env=environment, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_killed_half_way_through_the_download(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    noise = np.random.default_rng(0).bytes(2_000_000)  # several chunks, of which some have come
    files = {"a/train-volume.tif": noise, "a/train-labels.tif": b"small"}
    publisher.files["/ISBI-2012-challenge.zip"] = zipped(files)
    publisher.stop_after = 1_000_000
    with started(isbi, tmp_path) as process:
        assert publisher.reached.wait(60)
        wait_for(lambda: half_written(tmp_path) > 0)
        process.send_signal(signal.SIGKILL)
        assert finished(process)[0] == -signal.SIGKILL
    assert visible(tmp_path) == []
    assert 0 < half_written(tmp_path) <= 1_000_000  # hidden

    publisher.released.set()
    publisher.stop_after = None
    assert get_set(isbi, tmp_path).files == 2
    assert everything_at_top(tmp_path) == ["isbi2012", "isbi2012.sha256"]
    assert (tmp_path / "isbi2012" / "train-volume.tif").read_bytes() == noise


def half_written(data: Path) -> int:
    return sum(path.stat().st_size for path in data.glob(".pixelwise-isbi2012/tmp*"))


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("crash", ["fetched:1", "unpack:3", "before-set:1", "after-rename:2"])
def test_killed_later_the_archive_is_not_fetched_again(
    crash: str, isbi: PublicSet, publisher: Publisher, tmp_path: Path
):
    assert finished(started(isbi, tmp_path, crash=crash))[0] == 137
    assert "isbi2012" not in visible(tmp_path)
    receipt = get_set(isbi, tmp_path)
    assert receipt.files == 4
    assert len(publisher.asked) == 1
    assert everything_at_top(tmp_path) == ["isbi2012", "isbi2012.sha256"]
    assert open_dataset(tmp_path / "isbi2012").survey.pairs == {"train": 3, "test": 3}


def test_a_full_disk_during_the_download(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    code, said = finished(started(isbi, tmp_path, limit=len(ARCHIVE) // 2))
    assert code == 1
    assert said.startswith("OutputError: could not write")
    assert "ISBI-2012-challenge.zip: the file would be larger than the system allows" in said
    assert "Traceback" not in said
    assert everything(tmp_path) == []


def test_a_full_disk_during_unpacking_keeps_the_archive(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    files = {"a/train-volume.tif": bytes(3_000_000), "a/train-labels.tif": b"small"}
    publisher.files["/ISBI-2012-challenge.zip"] = zipped(files)
    code, said = finished(started(isbi, tmp_path, limit=1_000_000))
    assert code == 1
    assert "train-volume.tif: the file would be larger" in said
    assert everything(tmp_path / ".pixelwise-isbi2012") == [".lock", "ISBI-2012-challenge.zip"]
    assert visible(tmp_path) == []
    assert get_set(isbi, tmp_path).files == 2
    assert len(publisher.asked) == 1


def test_two_at_once_are_told_apart(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    publisher.stop_after = len(ARCHIVE) // 2
    process = started(isbi, tmp_path)
    assert publisher.reached.wait(60)
    with pytest.raises(
        UsageError, match=rf"isbi2012 is being fetched already: .*process {process.pid} on .*wait for it"
    ):
        get_set(isbi, tmp_path)
    get_set(PUBLIC_SETS["camvid"], tmp_path, source=written(COPIES["camvid"](), tmp_path / "copy"))  # others go on
    publisher.released.set()
    assert finished(process) == (0, "")
    assert present(isbi, tmp_path) is not None


def test_a_folder_where_nothing_may_be_written(isbi: PublicSet, tmp_path: Path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(PixelwiseError, match="a part of the path is a file"):
        get_set(isbi, tmp_path / "data")


# The place, and local copies


def test_a_folder_of_somebody_else_is_left_alone(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    mine = written({"isbi2012/notes.txt": b"mine"}, tmp_path) / "isbi2012"
    for receipt in (None, b"{", b"[]", b'{"archives": [], "files": "many"}', b'{"archives": [{"x": 1}], "files": 1}'):
        if receipt is not None:
            (mine / RECEIPT).write_bytes(receipt)
        with pytest.raises(UsageError, match=r"isbi2012 is there already, but not from pixelwise data get"):
            get_set(isbi, tmp_path)
    assert (mine / "notes.txt").read_bytes() == b"mine"
    assert publisher.asked == []


def test_an_empty_folder_is_filled(isbi: PublicSet, tmp_path: Path):
    (tmp_path / "isbi2012").mkdir()
    assert present(isbi, tmp_path) is None
    assert get_set(isbi, tmp_path).files == 4


def test_files_that_have_gone_are_noticed_and_new_ones_are_no_matter(isbi: PublicSet, tmp_path: Path):
    get_set(isbi, tmp_path)
    (tmp_path / "isbi2012" / "my notes.txt").write_text("mine")
    assert get_set(isbi, tmp_path).files == 4
    for name in ("test-volume.tif", "test-labels.tif"):
        (tmp_path / "isbi2012" / name).unlink()
    with pytest.raises(DataError, match=r"holds 3 of the 4 files that were put there; delete it, then run"):
        get_set(isbi, tmp_path)


def test_archives_of_the_users_own(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    folder = written({"ISBI-2012-challenge.zip": ARCHIVE, "renamed.zip": ARCHIVE}, tmp_path / "mine")
    for number, source in enumerate((folder, folder / "ISBI-2012-challenge.zip", folder / "renamed.zip")):
        receipt = get_set(isbi, tmp_path / str(number), source=source)
        (archive,) = receipt.archives
        assert (archive.proof, archive.address, archive.sha256) == ("none", "", SHA256)
        assert everything_at_top(tmp_path / str(number)) == ["isbi2012"]  # a copy is not the first download
    assert publisher.asked == []
    assert tree(folder) == {"ISBI-2012-challenge.zip": ARCHIVE, "renamed.zip": ARCHIVE}


def test_archives_of_the_users_own_are_checked_too_and_stay(publisher: Publisher, tmp_path: Path):
    known = publisher.publishes(PUBLIC_SETS["isbi2012"], ARCHIVE, f"sha256:{OTHER_SHA256}")
    mine = written({"mine.zip": ARCHIVE}, tmp_path) / "mine.zip"
    with pytest.raises(DataError, match=r"mine\.zip is not what it should be"):
        get_set(known, tmp_path / "data", source=mine)
    assert mine.read_bytes() == ARCHIVE
    assert get_set(known, tmp_path / "data", source=mine, sha256=SHA256).archives[0].proof == "given"


def test_a_set_that_has_to_be_fetched_by_hand_says_how(tmp_path: Path):
    roads = PUBLIC_SETS["massachusetts-roads"]
    with pytest.raises(DataError) as refused:
        get_set(roads, tmp_path)
    assert "https://www.cs.toronto.edu/~vmnih/data/mass_roads/train/sat/index.html" in str(refused.value)
    assert "pixelwise data get massachusetts-roads --from FOLDER" in str(refused.value)
    assert everything(tmp_path) == []

    # In one archive of the user's own making, too.
    mine = written({"roads.zip": zipped(COPIES["massachusetts-roads"]())}, tmp_path) / "roads.zip"
    sha256 = hashlib.sha256(mine.read_bytes()).hexdigest()
    assert get_set(roads, tmp_path / "data", source=mine, sha256=sha256).archives[0].name == "roads.zip"


def test_copies_that_are_none(isbi: PublicSet, publisher: Publisher, tmp_path: Path):
    with pytest.raises(UsageError, match=r"--from .*nothing: No such file or directory; give a file or a folder"):
        get_set(isbi, tmp_path / "data", source=tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        get_set(isbi, tmp_path / "data", source=tmp_path / "pipe")
    with pytest.raises(UsageError, match="File name too long"):
        get_set(isbi, tmp_path / "data", source=tmp_path / ("x" * 300))
    mine = written({"photo.png": b""}, tmp_path / "mine")
    with pytest.raises(DataError, match=r"mine is a data set of your own"):
        get_set(isbi, tmp_path / "data", source=mine)
    with pytest.raises(UsageError, match="--sha256 is of one archive"):
        get_set(isbi, tmp_path / "data", source=mine, sha256=SHA256)
    assert publisher.asked == []
    assert visible(tmp_path / "data") == []


def test_a_set_of_several_archives(publisher: Publisher, tmp_path: Path):
    files = COPIES["isbi2012"]()
    parts = [zipped({name: files[name] for name in files if word in name}) for word in ("train", "test")]
    known = PUBLIC_SETS["isbi2012"]
    remote = tuple(RemoteFile(name=f"{n}.zip", address=f"{publisher.address}/{n}.zip") for n in range(2))
    publisher.files |= {f"/{number}.zip": part for number, part in enumerate(parts)}
    both = replace(known, files=remote)
    assert get_set(both, tmp_path).files == 4
    assert list(remembered_sums(both, tmp_path)) == ["0.zip", "1.zip"]
    mine = written({"0.zip": parts[0], "1.zip": parts[1]}, tmp_path / "mine")
    assert get_set(both, tmp_path / "other", source=mine).files == 4
    with pytest.raises(UsageError, match=r"has several archives; name a folder with 0.zip, 1.zip"):
        get_set(both, tmp_path / "third", source=mine / "0.zip")
    with pytest.raises(UsageError, match="--sha256 is of one archive"):
        get_set(both, tmp_path / "fourth", sha256=SHA256)


def test_a_receipt_is_read_as_it_was_written(isbi: PublicSet, tmp_path: Path):
    written_down = get_set(isbi, tmp_path)
    assert isinstance(written_down, Receipt)
    assert present(isbi, tmp_path) == written_down
    facts = json.loads((tmp_path / "isbi2012" / RECEIPT).read_text())
    assert facts["licence"] == isbi.licence
    assert facts["made_by"].startswith("pixelwise ")
