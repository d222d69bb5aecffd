"""Unpacking: what belongs to a set is copied exactly, and nothing hostile gets out of its archive."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_copies import tarred, tree, written, zipped

from pixelwise.data.public_sets import Arrange
from pixelwise.data.unpack import Limits, unpack
from pixelwise.errors import DataError, OutputError

FILES = {"set/images/1.png": b"one" * 1000, "set/images/2.png": b"", "set/deep/er/3.png": b"three", "set/read.me": b"?"}
Pack = Callable[[Mapping[str, bytes]], bytes]


def keep_pictures(names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in names if name.endswith(".png")}


def taken(
    archive: bytes | Path, folder: Path, *, arrange: Arrange = keep_pictures, limits: Limits | None = None
) -> tuple[int, int]:
    """Files copied and files left out, of an archive or a folder, into `folder`/out."""
    source = archive if isinstance(archive, Path) else folder / "archive"
    if not isinstance(archive, Path):
        source.write_bytes(archive)
    return unpack([source], folder / "out", arrange=arrange, limits=limits or Limits(), watch=lambda *_: None)


def refusal_of(archive: bytes | Path, folder: Path, **options: Limits | Arrange) -> str:
    """What is said about an archive, of which nothing must have been written."""
    with pytest.raises(DataError) as refused:
        taken(archive, folder, **options)
    assert len(refused.value.findings) == 1
    assert not (folder / "out").exists()
    return str(refused.value)


def zip_with(info: zipfile.ZipInfo, data: bytes = b"data") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images/good.png", b"good")
        archive.writestr(info, data)
    return buffer.getvalue()


def tar_with(info: tarfile.TarInfo, data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    info.size = len(data)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# What is copied


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_what_belongs_to_the_set_is_copied_exactly(pack: Pack, tmp_path: Path):
    assert taken(pack(FILES), tmp_path) == (3, 1)
    assert tree(tmp_path / "out") == {name: data for name, data in FILES.items() if name.endswith(".png")}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_it_is_what_the_archivers_of_python_unpack(pack: Pack, tmp_path: Path):
    taken(pack(FILES), tmp_path, arrange=lambda names: {name: name for name in names})
    (tmp_path / "theirs").mkdir()
    if pack is zipped:
        with zipfile.ZipFile(tmp_path / "archive") as archive:
            archive.extractall(tmp_path / "theirs")  # noqa: S202 (made above)
    else:
        with tarfile.open(tmp_path / "archive") as archive:
            archive.extractall(tmp_path / "theirs", filter="data")
    assert tree(tmp_path / "out") == tree(tmp_path / "theirs") == FILES


def test_a_folder_is_copied_and_stays_as_it_is(tmp_path: Path):
    folder = written({**FILES, ".cache/4.png": b"hidden"}, tmp_path / "mine")
    (folder / "linked.png").symlink_to(folder / "set" / "deep" / "er" / "3.png")
    assert taken(folder, tmp_path) == (4, 1)
    assert (tmp_path / "out" / "linked.png").read_bytes() == b"three"
    assert not (tmp_path / "out" / "linked.png").is_symlink()
    assert (folder / "set" / "images" / "1.png").read_bytes() == FILES["set/images/1.png"]


def test_several_sources_are_taken_together(tmp_path: Path):
    sources = [written({"a.png": b"a"}, tmp_path / "a"), written({"b.png": b"b"}, tmp_path / "b")]
    counts = unpack(sources, tmp_path / "out", arrange=keep_pictures, limits=Limits(), watch=lambda *_: None)
    assert counts == (2, 0)
    assert tree(tmp_path / "out") == {"a.png": b"a", "b.png": b"b"}


def test_junk_of_other_systems_is_left_out(tmp_path: Path):
    assert taken(zipped({"a.png": b"a", "__MACOSX/a.png": b"-", "._a.png": b"-", ".git/b.png": b"-"}), tmp_path) == (
        1,
        3,
    )
    assert tree(tmp_path / "out") == {"a.png": b"a"}


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path):
    assert taken(tarred({"a.png": b"a", "inner.zip": zipped({"b.png": b"b"})}), tmp_path) == (1, 1)
    assert zipfile.is_zipfile(tmp_path / "archive")
    assert tree(tmp_path / "out") == {"a.png": b"a"}


def test_files_can_be_renamed_on_the_way(tmp_path: Path):
    taken(tarred({"./x/1.png": b"1"}), tmp_path, arrange=lambda names: {names[0]: "y/2.png"})
    assert tree(tmp_path / "out") == {"y/2.png": b"1"}


def test_progress_is_told_file_by_file(tmp_path: Path):
    (tmp_path / "archive").write_bytes(zipped(FILES))
    told: list[tuple[str, int, int]] = []
    watch = lambda *step: told.append(step)  # noqa: E731
    unpack([tmp_path / "archive"], tmp_path / "out", arrange=keep_pictures, limits=Limits(), watch=watch)
    assert told == [("unpacking", number, 3) for number in (1, 2, 3)]


def test_owners_times_and_permissions_of_an_archive_are_not_taken_over(tmp_path: Path):
    info = tar_info("a.png")
    info.mode, info.uid, info.mtime = 0o6777, 12345, 1
    taken(tar_with(info, b"a"), tmp_path)
    facts = (tmp_path / "out" / "a.png").stat()
    assert not facts.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR | stat.S_IWOTH)
    assert facts.st_uid != 12345
    assert facts.st_mtime > 1e9


# What is refused


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/evil.png", "..\\evil.png", "C:\\evil.png", "..", "a/.."]
)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_names_that_lead_out_refuse_the_whole_archive(name: str, form: str, tmp_path: Path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    archive = zip_with(zipfile.ZipInfo(name)) if form == "zip" else tar_with(tar_info(name), b"evil")
    said = refusal_of(archive, inner, arrange=lambda names: {name: name for name in names})
    assert "rule: names are relative and have no .. in them" in said
    assert "a member named" in said
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "b", "archive"}


def linked(mode: int, name: str = "images/link.png") -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    return info


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused_where_they_are_wanted(mode: int, tmp_path: Path):
    assert "images/link.png is a link or a device; rule: regular files" in refusal_of(zip_with(linked(mode)), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused_where_they_are_wanted(kind: bytes, tmp_path: Path):
    said = refusal_of(tar_with(tar_info("a.png", kind, "/etc/passwd")), tmp_path)
    assert "a.png is a link, a device or sparse; rule: regular files" in said


def test_links_that_do_not_belong_to_the_set_stay_inside(tmp_path: Path):
    assert taken(zip_with(linked(stat.S_IFLNK, "latest")), tmp_path) == (1, 1)
    assert list(tree(tmp_path / "out")) == ["images/good.png"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_the_number_of_members_has_a_limit(tmp_path: Path):
    files = {f"{number}.png": b"" for number in range(6)}
    for archive in (zipped(files), tarred(files), written(files, tmp_path / "mine")):
        assert "more than 5 files and folders" in refusal_of(archive, tmp_path, limits=Limits(members=5))
    assert taken(zipped(files), tmp_path, limits=Limits(members=6)) == (6, 0)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path):
    bomb = zipped({"zeros.png": bytes(20_000_000)})
    assert len(bomb) < 30_000
    said = refusal_of(bomb, tmp_path, limits=Limits(unpacked=1_000_000))
    assert "20 MB to unpack; rule: at most 1 MB for this set" in said


@pytest.mark.parametrize("stated", [5, 60_000])
def test_a_member_that_lies_about_its_size_is_refused_and_never_read_further(stated: int, tmp_path: Path):
    honest = zipped({"zeros.png": bytes(50_000)})
    lying = honest.replace((50_000).to_bytes(4, "little"), stated.to_bytes(4, "little"))
    assert lying != honest
    with pytest.raises(DataError, match=r"zeros.png has not the|damaged"):
        taken(lying, tmp_path)
    assert sum(len(data) for data in tree(tmp_path / "out").values()) <= stated


def test_what_a_zip_may_do_but_no_data_set_needs(tmp_path: Path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", b"a" * 100)
    assert "a.png is compressed in an unusual way" in refusal_of(buffer.getvalue(), tmp_path)

    encrypted = bytearray(zipped({"a.png": b"a"}))
    for start in (encrypted.index(b"PK\x03\x04") + 6, encrypted.index(b"PK\x01\x02") + 8):
        encrypted[start] |= 1
    assert "a.png is encrypted; rule: regular files, stored or deflated, without password" in refusal_of(
        bytes(encrypted), tmp_path
    )


def test_two_files_for_one_place_are_refused(tmp_path: Path):
    same = lambda names: dict.fromkeys(names, "one.png")  # noqa: E731
    assert "a.png and b.png would both become one.png" in refusal_of(
        zipped({"a.png": b"", "b.png": b""}), tmp_path, arrange=same
    )
    letters = {"A.png": b"", "a.png": b""}
    assert "A.png and a.png would both become A.png" in refusal_of(tarred(letters), tmp_path)
    twice = tarred({"a.png": b"1"})[:1024] + tarred({"a.png": b"2"})
    assert "a.png and a.png would both become a.png" in refusal_of(twice, tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither a zip nor a tar"),
        (b"<html>Not found</html>", "neither a zip nor a tar"),
        (b"\x1f\x8b" + bytes(600), "rule: a zip, a tar without compression, or a folder"),
        (b"PK\x05\x06" + b"\xff" * 18, "damaged"),
    ],
)
def test_what_is_no_archive_is_named(data: bytes, said: str, tmp_path: Path):
    assert said in refusal_of(data, tmp_path)


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_archive_is_refused(pack: Pack, share: float, tmp_path: Path):
    whole = pack({"a.png": bytes(range(256)) * 20, "b.png": b"b" * 5000})
    with pytest.raises(DataError, match="archive"):
        taken(
            whole[: int(min(len(whole), 512 + 5120 + 512 + 5120) * share)], tmp_path
        )  # without the empty end of a tar


def test_a_tar_that_lost_its_last_files_is_refused(tmp_path: Path):
    one, two = tarred({"a.png": b"a"}), tarred({"a.png": b"a", "b.png": b"b"})
    assert two[:1024] == one[:1024]
    assert "it breaks off" in refusal_of(two[:1024], tmp_path)  # where the second file would begin
    damaged = bytearray(two)
    damaged[1024:1030] = b"?????\0"  # its header
    assert "damaged in the middle" in refusal_of(bytes(damaged), tmp_path)
    assert taken(two, tmp_path) == (2, 0)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_damage_is_refused_or_does_not_matter(
    pack: Pack, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    folder = tmp_path_factory.mktemp("damaged")
    contents = {"set/1.png": b"one" * 50, "set/2.png": bytes(100)}
    archive = bytearray(pack(contents))
    for _ in range(data.draw(st.integers(1, 3))):
        archive[data.draw(st.integers(0, min(len(archive), 1800) - 1))] = data.draw(st.integers(0, 255))
    whole = False
    with suppress(DataError, OutputError):  # a name may have become one that the system refuses
        taken(bytes(archive), folder, limits=Limits(members=50, unpacked=10_000))
        whole = True
    if whole and pack is zipped:  # a tar has no checksums of what is in its files
        assert set(tree(folder / "out").values()) <= set(contents.values())
    assert {path.name for path in folder.iterdir()} <= {"archive", "out"}
    assert sum(len(content) for content in tree(folder / "out").values()) <= 10_000


def test_what_cannot_be_read_in_a_folder_is_named(tmp_path: Path):
    folder = written({"a.png": b"a"}, tmp_path / "mine")
    entries: list[str] = []

    def arrange(names: Sequence[str]) -> dict[str, str]:
        entries.extend(names)
        (folder / "a.png").unlink()  # gone between the listing and the reading
        return keep_pictures(names)

    with pytest.raises(DataError, match="No such file"):
        taken(folder, tmp_path, arrange=arrange)
    assert entries == ["a.png"]


def test_a_file_that_grew_meanwhile_is_not_taken(tmp_path: Path):
    folder = written({"a.png": b"a"}, tmp_path / "mine")

    def arrange(names: Sequence[str]) -> dict[str, str]:
        (folder / "a.png").write_bytes(b"longer")
        return keep_pictures(names)

    with pytest.raises(DataError, match="has not the 1 bytes"):
        taken(folder, tmp_path, arrange=arrange)


def test_where_the_system_refuses_to_write_that_is_said(tmp_path: Path):
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        taken(zipped({"a.png": b"a"}), tmp_path)
