from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelwise.data.tile_markers import Marker, MarkerFolder, fault_of, measured
from pixelwise.tiles import TileGrid

MARKER = Marker("a" * 64, (0, 8, 8, 16), {"labels/classes/0/c/0/1": (12, "b" * 64)})


def test_a_marker_is_one_line_and_comes_back():
    text = MARKER.to_text()
    assert text.count("\n") == 1
    assert Marker.from_text(text) == MARKER


@given(st.data())
def test_no_changed_marker_is_taken_for_good(data):
    text = MARKER.to_text()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda one: one != text[place]))
    changed = text[:place] + other + text[place + 1 :]
    try:
        assert Marker.from_text(changed) != MARKER
    except ValueError:
        assert changed != text


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"job": 1}', MARKER.to_text()[:-5], MARKER.to_text() * 2])
def test_what_is_no_marker_is_refused(text):
    with pytest.raises(ValueError, match=r"marker|Expecting|Extra|Unterminated"):
        Marker.from_text(text)


def test_spaces_are_no_marker_of_ours():
    with pytest.raises(ValueError, match="as it was written"):
        Marker.from_text(json.dumps(json.loads(MARKER.to_text()), indent=1))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_every_tile_has_a_path_of_its_own(height, width, core):
    grid = TileGrid((height, width), core)
    folder = MarkerFolder(Path("m"), grid)
    assert len({folder.path(index) for index in range(len(grid))}) == len(grid)


def test_finished_tiles_are_seen_from_the_names(tmp_path):
    folder = MarkerFolder(tmp_path / "network", TileGrid((50, 70), 10))
    assert folder.indices() == set()
    for index in (0, 6, 7, 34):
        folder.put(index, MARKER)
    assert folder.indices() == {0, 6, 7, 34}
    assert (folder.has(7), folder.has(8)) == (True, False)
    assert folder.get(34) == MARKER
    folder.remove(7)
    folder.remove(7)
    assert folder.indices() == {0, 6, 34}


def test_only_whole_markers_count(tmp_path):
    folder = MarkerFolder(tmp_path, TileGrid((50, 70), 10))
    folder.put(8, MARKER)
    for name in (".pixelwise-12-0011223344556677.json", "3.json~", "x.json", "3", ".json", "-1.json"):
        (tmp_path / "1" / name).write_text("{}")
    (tmp_path / "99").mkdir()
    (tmp_path / "99" / "0.json").write_text("{}")
    assert folder.indices() == {8}


def test_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"0123456789")
    facts = measured(b"0123456789")
    assert fault_of(path, *facts) is None
    path.write_bytes(b"012345678")
    assert fault_of(path, *facts) == "truncated"
    path.write_bytes(b"0123456780")
    assert fault_of(path, *facts) == "changed"
    path.write_bytes(b"0123456789+")
    assert fault_of(path, *facts) == "changed"
    path.unlink()
    assert fault_of(path, *facts) == "missing"
    path.mkdir()
    assert fault_of(path, *facts) in ("changed", "unreadable")
    assert fault_of(path / "x" / ("y" * 300), *facts) in ("missing", "unreadable")


def test_nothing_is_measured_too():
    assert measured(b"") == (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
