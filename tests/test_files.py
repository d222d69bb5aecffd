from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pixelwise.errors import OutputError, UsageError
from pixelwise.files import (
    TEMPORARY_PREFIX,
    file_hash,
    folder_lock,
    make_folder,
    name_hash,
    remove_leftovers,
    write_atomically,
    write_bytes,
    write_json,
    write_text,
)

OLD, NEW = b"old", b"new" * 100_000
AWKWARD_NAMES = [
    "a b.png",
    "line\nbreak.png",
    "-rf",
    "{{7*7}}%s$(id)",
    "\u202egnp.exe",
    "x" * 255,
    os.fsdecode(b"\xff.png"),
]


def run_python(code: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


# Complete or not at all


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_any_name_can_be_written(tmp_path, name):
    write_bytes(tmp_path / name, NEW)
    assert (tmp_path / name).read_bytes() == NEW
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_on_the_way_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "é")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "é".encode()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_writer_that_fails_half_way_changes_nothing(tmp_path, failure):
    path = tmp_path / "result.bin"
    write_bytes(path, OLD)

    def write_half(temporary: Path) -> None:
        temporary.write_bytes(NEW[:100])
        raise failure

    with pytest.raises(OutputError if failure is OSError else failure):
        write_atomically(path, write_half)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_name_and_the_old_file_stays(tmp_path):
    path = tmp_path / "result.bin"
    write_bytes(path, OLD)
    code = """
import resource, sys
from pathlib import Path
from pixelwise.errors import OutputError
from pixelwise.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), bytes(100_000))
except OutputError as error:
    print(error)
"""
    said = run_python(code, path).stdout
    assert "result.bin: the file would be larger than the system allows; the file that is there is whole" in said
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("blocked", "meaning"),
    [
        ("file/result.bin", "a file, not a folder"),
        ("x" * 256, "longer than the file system"),
        ("folder", "a folder of that name"),
    ],
)
def test_a_refusal_of_the_system_is_a_sentence(tmp_path, blocked, meaning):
    write_bytes(tmp_path / "file", OLD)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=meaning):
        write_bytes(tmp_path / blocked, NEW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("point", "left"), [("before-open", OLD), ("after-write", OLD), ("after-fsync", OLD), ("after-rename", NEW)]
)
def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path, point, left):
    path = tmp_path / "result.bin"
    write_bytes(path, OLD)
    code = "import sys; from pathlib import Path; from pixelwise.files import write_bytes\n"
    code += "write_bytes(Path(sys.argv[1]), b'new' * 100_000)"
    assert run_python(code, path, PIXELWISE_TEST_CRASH=point).returncode == 137
    assert path.read_bytes() == left

    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_can_wait_for_the_nth_time(tmp_path):
    code = "import sys; from pathlib import Path; from pixelwise.files import write_bytes\n"
    code += "for n in range(5): write_bytes(Path(sys.argv[1]) / str(n), b'')"
    assert run_python(code, tmp_path, PIXELWISE_TEST_CRASH="after-rename:3").returncode == 137
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not name open files in /proc")
def test_the_bytes_reach_the_disk_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    flushed = []

    def record(descriptor: int) -> None:
        flushed.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), (tmp_path / "result.bin").exists()))

    monkeypatch.setattr(os, "fsync", record)
    write_bytes(tmp_path / "result.bin", NEW)
    (first, named_before), (second, named_after) = flushed
    assert Path(first).name.startswith(TEMPORARY_PREFIX)
    assert (second, named_before, named_after) == (str(tmp_path), False, True)


def test_only_our_own_leftovers_are_removed(tmp_path):
    for name in (f"{TEMPORARY_PREFIX}1-a.png", "b.png", ".hidden"):
        (tmp_path / name).write_bytes(OLD)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "b.png"]


# One process at a time


HOLDER = """
import sys, time
from pathlib import Path
from pixelwise.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_and_freed_when_it_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"in use by process {holder.pid} on "), folder_lock(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with folder_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_folder_can_be_held_again(tmp_path):
    for _ in range(2):
        with folder_lock(tmp_path / "new"):
            pass


def test_a_lock_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(OutputError, match="could not write"), folder_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file, not a folder"):
        make_folder(tmp_path / "file" / "sub")


# Texts and names


def test_json_holds_any_name_and_no_nan(tmp_path):
    value = {"name": os.fsdecode(b"\xff\n"), "é": [1, None, 0.1]}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_hashes_are_those_of_the_standard(tmp_path):
    (tmp_path / "empty").touch()
    assert file_hash(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert len({name_hash(name) for name in AWKWARD_NAMES}) == len(AWKWARD_NAMES)
