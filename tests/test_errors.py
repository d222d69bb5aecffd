from __future__ import annotations

import os
from pathlib import Path

import pytest

from pixelwise.errors import (
    FINDINGS_SHOWN,
    BundleError,
    DataError,
    Finding,
    ImageFileError,
    MissingExtraError,
    OutputError,
    PixelwiseError,
    TrainingError,
    UsageError,
    printable,
    require,
)


def finding(number: int) -> Finding:
    return Finding(file=Path(f"{number}.png"), found="half a file", rule="whole files", fix="copy it again")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(UsageError, 1), (MissingExtraError, 1), (BundleError, 2), (TrainingError, 2), (OutputError, 2), (DataError, 2)],
)
def test_each_error_has_its_exit_code(error, exit_code):
    assert issubclass(error, PixelwiseError)
    assert issubclass(error, ValueError)
    assert error("something").exit_code == exit_code


@pytest.mark.parametrize("count", [0, 1, FINDINGS_SHOWN, FINDINGS_SHOWN + 5])
def test_a_data_error_keeps_every_finding_and_shows_the_first(count):
    error = DataError("cannot use this", [finding(n) for n in range(count)])
    assert len(error.findings) == count
    assert str(error).count("half a file") == min(count, FINDINGS_SHOWN)
    assert ("… and 5 more like these" in str(error)) == (count > FINDINGS_SHOWN)


def test_an_image_file_error_is_its_finding():
    error = ImageFileError(finding(7))
    assert str(error) == "7.png: half a file; rule: whole files; fix: copy it again"
    assert error.findings == (finding(7),)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain é.png", "plain é.png"),
        ("a\nb\t\x1b[31m", "a\\nb\\t\\x1b[31m"),
        ("\u202egnp", "\\u202egnp"),
        (os.fsdecode(b"\xff"), "\\udcff"),
        (Path("a/b"), "a/b"),
    ],
)
def test_a_printable_name_is_one_harmless_line(name, shown):
    assert printable(name) == shown


def test_a_missing_package_names_what_to_install():
    with pytest.raises(MissingExtraError, match=r"pip install 'pixelwise\[large\]'"):
        require("no_such_package_at_all", extra="large")
