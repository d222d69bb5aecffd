"""The checks of images, one by one, on records made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelwise.data.checkup import ImageRecord, Record
from pixelwise.data.file_form import FileForm
from pixelwise.data.image_findings import (
    IMAGE_CHECKS,
    can_convert,
    check_alpha,
    check_bands,
    check_cmyk,
    check_constant,
    check_extreme_sizes,
    check_names,
    check_orientation,
    check_sixteen_bits,
    check_unreadable,
    kind_of_refusal,
    usual_channels,
)
from pixelwise.data.layouts import Sample, Source
from pixelwise.data.stored import ImageHeader
from pixelwise.errors import Finding


def record(
    name: str = "a.png",
    *,
    size: tuple[int, int] = (40, 60),
    channels: int = 3,
    dtype: str = "uint8",
    form: FileForm = FileForm(kind="PNG"),  # noqa: B008 (it never changes)
    **more: object,
) -> Record:
    header = ImageHeader(height=size[0], width=size[1], channels=channels, dtype=dtype)
    image = ImageRecord(form=form, header=header, **{"highest": 9.0} | more)  # type: ignore[arg-type]
    return Record(sample=Sample(name=Path(name).stem, image=Source(Path(name))), image=image)


def unreadable(found: str) -> Record:
    finding = Finding(file=Path("b.png"), found=found, rule="a rule", fix="a fix")
    return Record(sample=Sample(name="b", image=Source(Path("b.png"))), image=ImageRecord(refused=finding))


def test_a_good_image_has_no_findings() -> None:
    assert [diagnosis for check in IMAGE_CHECKS.values() for diagnosis in check([record(), record("b.png")])] == []


def test_images_that_cannot_be_read_keep_the_words_of_training() -> None:
    (diagnosis,) = check_unreadable([record(), unreadable("the file is empty")])
    assert str(diagnosis.finding) == "b.png: the file is empty; rule: a rule; fix: a fix"
    assert (diagnosis.kind, diagnosis.mends) == ("empty files", "")
    others = [check for name, check in IMAGE_CHECKS.items() if name != "unreadable"]
    assert [found for check in others for found in check([unreadable("the file is empty")])] == []


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ("3 frames or pages", "several pictures in one file"),
        ("damaged or unsupported PNG (broken)", "damaged pictures"),
        ("2 NaN, 0 infinite and 0 values beyond float32", "NaN or infinity"),
        ("90000 x 90000 pixels in 3 channels", "pictures of an impossible size"),
        ("cannot be opened (Permission denied)", "files that cannot be opened"),
        ("something new", "files that cannot be used"),
    ],
)
def test_kinds_of_refusals(found: str, kind: str) -> None:
    assert kind_of_refusal(unreadable(found).image.refused) == kind  # type: ignore[arg-type]


def test_suffixes() -> None:
    jpeg = FileForm(kind="JPEG")
    (diagnosis,) = check_names([record("a.png", form=jpeg), record("b.JPG", form=jpeg), record("c.jpeg", form=jpeg)])
    assert diagnosis.finding.file == Path("a.png")
    assert diagnosis.finding.fix == "rename it to a.jpg"
    assert diagnosis.finding.severity == "warning"


def test_forms_that_are_understood_are_notes_or_warnings() -> None:
    images = [
        record("cmyk.jpg", form=FileForm(kind="JPEG", cmyk=True)),
        record("turned.jpg", form=FileForm(kind="JPEG", orientation=6)),
        record("clear.png", form=FileForm(kind="PNG", alpha=True), transparent=True),
        record("opaque.png", form=FileForm(kind="PNG", alpha=True)),
        record("deep.png", dtype="uint16"),
        record("flat.png", lowest=7.0, highest=7.0),
    ]
    found = {
        check.__name__: [(str(d.finding.file), d.finding.severity) for d in check(images)]
        for check in (check_cmyk, check_orientation, check_alpha, check_sixteen_bits, check_constant)
    }
    assert found == {
        "check_cmyk": [("cmyk.jpg", "warning")],
        "check_orientation": [("turned.jpg", "note")],
        "check_alpha": [("clear.png", "note")],
        "check_sixteen_bits": [("deep.png", "note")],
        "check_constant": [("flat.png", "warning")],
    }


@pytest.mark.parametrize(
    ("size", "extreme"),
    [
        ((16, 16), False),
        ((15, 40), True),
        ((40, 799), False),
        ((40, 800), True),
        ((10_000, 10_001), True),
        ((1, 1), True),
    ],
)
def test_extreme_sizes(size: tuple[int, int], extreme: bool) -> None:
    assert bool(check_extreme_sizes([record(size=size)])) == extreme


def test_other_channels_than_most_are_errors_mended_where_nothing_is_lost() -> None:
    images = [record(), record("b.png"), record("grey.png", channels=1, grey=True), record("five.tif", channels=5)]
    assert usual_channels(images) == 3
    grey, five = check_bands(images)
    assert (grey.finding.found, grey.mends) == ("1 channels", "saved with 3 channels")
    assert five.mends == ""
    assert "here 3, in 2 images" in five.finding.rule
    assert check_bands([]) == []


def test_what_can_get_other_channels() -> None:
    assert can_convert(record(channels=1, grey=True), 3)
    assert can_convert(record(channels=3, grey=True), 1)
    assert not can_convert(record(channels=3), 1)
    assert not can_convert(record(channels=1, grey=True), 4)
    assert not can_convert(unreadable("x"), 3)
