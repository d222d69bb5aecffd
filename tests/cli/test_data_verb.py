"""`pixelwise data`, as a user types it."""

from __future__ import annotations

import io
import json
import shlex
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pixelwise.cli.data import ProgressLine, get_and_show
from pixelwise.cli.main import main
from pixelwise.cli.screen import Screen
from pixelwise.data.public_sets import PUBLIC_SETS, PublicSet, RemoteFile
from pixelwise.data.synthetic import draw_cells
from pixelwise.errors import DataError

SMALL = ["model.width=4", "model.depth=2", "training.batch=2", "training.crop=[32,32]", "runtime.threads=1"]


def command(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return int(leaving.value.code or 0)


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def stack(seeds: range, *, masks: bool) -> bytes:
    drawn = [draw_cells(size=(48, 48), seed=seed) for seed in seeds]
    pages = [cells.mask_HW * 255 if masks else cells.image_HWC[..., 0] for cells in drawn]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.stack(pages), photometric="minisblack")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive() -> bytes:
    """A small ISBI-2012-challenge.zip of drawn cells."""
    parts = {"train": range(4), "test": range(10, 12)}
    kinds = {"volume": False, "labels": True}
    files = {
        f"ISBI-2012-challenge/{part}-{kind}.tif": stack(seeds, masks=masks)
        for part, seeds in parts.items()
        for kind, masks in kinds.items()
    }
    return zip_of({**files, "ISBI-2012-challenge/challenge-error-metrics.bsh": b"// a script"})


@pytest.fixture
def here(tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a user's own archive beside it."""
    (tmp_path / "mine.zip").write_bytes(archive)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "work"


@pytest.fixture
def published(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublicSet]:
    """ISBI 2012, published by a server on this machine."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    file = RemoteFile(name="isbi.zip", address=f"http://127.0.0.1:{server.server_port}/isbi.zip")
    yield replace(PUBLIC_SETS["isbi2012"], files=(file,))
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_list_shows_every_set_and_which_are_here(here: Path, capsys: pytest.CaptureFixture[str]):
    assert command("data", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in PUBLIC_SETS)
    assert max(map(len, lines)) <= 100
    assert "data/isbi2012" not in "".join(lines)

    assert command("data", "get", "isbi2012", "--from", "../mine.zip") == 0
    capsys.readouterr()
    assert command("data", "list") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("isbi2012 ")]
    assert line.endswith("data/isbi2012")
    assert "32 MB" in line


def test_the_list_as_json(here: Path, capsys: pytest.CaptureFixture[str]):
    assert command("data", "list", "--json", "--data-dir", "elsewhere") == 0
    sets = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["sets"]}
    assert list(sets) == list(PUBLIC_SETS)
    assert sets["dsb2018"]["settings"] == ["data.target=borders"]
    assert sets["dsb2018"]["licence"] == "CC0 1.0"
    ((address, checksums),) = sets["phc-u373"]["addresses"].items()
    assert address == "https://data.celltrackingchallenge.net/training-datasets/PhC-C2DH-U373.zip"
    assert checksums[0].startswith("sha256:b18185c1")
    assert sets["massachusetts-roads"]["by_hand"]
    assert {entry["here"] for entry in sets.values()} == {""}
    assert not list(here.iterdir())


def test_what_it_is_is_said_before_it_is_fetched(published: PublicSet, here: Path, capsys: pytest.CaptureFixture[str]):
    get_and_show(published, Path("data"), source=None, sha256="", screen=Screen())
    shown = capsys.readouterr().out
    order = [
        "ISBI 2012: segmentation of neuronal structures",
        "licence   none stated",
        "cite      Cardona et al.",
        f"fetching {published.files[0].address}",
        "isbi.zip: 0.0 MB, sha256 ",
        "nobody publishes a checksum of it, so this one is kept in data/isbi2012.sha256 and later downloads",
        "4 files put into data/isbi2012; 1 other file left out",
        "6 images with masks (4 train, 2 test)",
        "pixelwise train data/isbi2012",
        "pixelwise evaluate RUN data/isbi2012 --split test --metrics isbi2012",
    ]
    places = [shown.find(text) for text in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)


def test_a_second_time_it_says_so(published: PublicSet, here: Path, capsys: pytest.CaptureFixture[str]):
    get_and_show(published, Path("data"), source=None, sha256="", screen=Screen())
    unreachable = replace(published, files=(replace(published.files[0], address="http://127.0.0.1:9/x"),))
    capsys.readouterr()
    get_and_show(unreachable, Path("data"), source=None, sha256="", screen=Screen())
    shown = capsys.readouterr().out
    assert "data/isbi2012 is there already, 4 files; nothing was fetched" in shown
    assert "6 images with masks" in shown
    assert "fetching" not in shown


def test_the_result_as_json(published: PublicSet, here: Path, capsys: pytest.CaptureFixture[str]):
    get_and_show(published, Path("data"), source=None, sha256="", screen=Screen(json=True))
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["folder"], result["files"], result["left_out"]) == ("data/isbi2012", 4, 1)
    assert result["archives"][0]["proof"] == "first download"
    assert result["cite"] == PUBLIC_SETS["isbi2012"].cite
    assert "6 images with masks" in shown.err


def test_a_failure_is_one_message_and_leaves_nothing(published: PublicSet, here: Path):
    with pytest.raises(DataError, match="is what --sha256 gives"):
        get_and_show(published, Path("data"), source=None, sha256="0" * 64, screen=Screen())
    assert not list(Path("data").iterdir())


def test_from_the_archive_to_a_trained_model(here: Path, capsys: pytest.CaptureFixture[str]):
    assert command("data", "get", "isbi2012", "--from", "../mine.zip", "--data-dir", "sets") == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("train on it:")]
    words = shlex.split(line.partition(":")[2])
    assert words[:3] == ["pixelwise", "train", "sets/isbi2012"]
    assert command(*words[1:], *SMALL, "--steps", "2", "--name", "run") == 0
    capsys.readouterr()
    (line,) = [line for line in shown.splitlines() if line.startswith("then score:")]
    words = ["run" if word == "RUN" else word for word in shlex.split(line.partition(":")[2])]
    assert command(*words[1:], "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert len(scores["per_image"]) == 2
    assert "V_Rand after thinning" in scores["isbi2012"]["scores"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["get"], 1, "which data set? pixelwise data get NAME"),
        (["get", "isbi2021"], 1, "there is no data set 'isbi2021'; did you mean 'isbi2012'?"),
        (["list", "isbi2012"], 1, "pixelwise data list takes no name"),
        (["list", "--sha256", "0"], 1, "pixelwise data list takes no name"),
        (["fetch", "isbi2012"], 1, "'fetch'"),
        ([], 1, "action"),
        (["get", "isbi2012", "--sha256", "0"], 1, "64 digits"),
        (["get", "isbi2012", "--from", "nowhere"], 1, "--from nowhere: No such file or directory"),
        (["get", "isbi2012", "--from", "."], 2, "none of the 0 files of . belongs to isbi2012"),
        (["get", "massachusetts-roads"], 2, "by hand: it is published as single files"),
        (["get", "voc2012", "--from", "../mine.zip"], 2, "is not what it should be"),
        (["get", "dsb2018", "--from", "../mine.zip"], 2, "none of the 5 files of ../mine.zip belongs to dsb2018"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    arguments: list[str], code: int, said: str, here: Path, capsys: pytest.CaptureFixture[str]
):
    assert command("data", *arguments) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert not [path for path in here.rglob("*") if path.name != "data"]


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    steps = [("a.zip", 1_500_000, 3_000_000), ("b.zip", 2_000_000, 0), ("unpacking", 7, 1200)]
    with ProgressLine() as line:
        for step in steps:
            line.show(*step)
    assert capsys.readouterr().err == ""

    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressLine() as line:
        for step in steps:
            line.show(*step)
    shown = capsys.readouterr().err
    assert "unpacking" in shown
    assert "7 of 1,200" in shown
