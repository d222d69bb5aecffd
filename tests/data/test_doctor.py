"""The checks of a data set, one by one."""

from __future__ import annotations

from pathlib import Path

from pixelwise.data.doctor import (
    CHECKS,
    Evidence,
    check_absent_classes,
    check_channels,
    check_dtypes,
    check_single_class,
    check_sizes,
    examine,
    gather,
)
from pixelwise.data.layouts import Sample, Source
from pixelwise.data.mask_counts import MaskCount
from pixelwise.data.masks import Coding
from pixelwise.data.stored import ImageHeader
from pixelwise.task import Task

TASK = Task.of(["ground", "cell"])
CODING = Coding(kind="binary", values=(0, 255), void=(7,))


def evidence(
    name: str = "a",
    *,
    image: tuple[int, int, int] = (4, 6, 3),
    dtype: str = "uint8",
    mask: tuple[int, int] = (4, 6),
    counts: dict[int, int] | None = None,
) -> Evidence:
    path = Path(f"masks/{name}.png")
    sample = Sample(name=name, image=Source(Path(f"images/{name}.png")), masks=(Source(path),))
    header = ImageHeader(height=image[0], width=image[1], channels=image[2], dtype=dtype)
    count = MaskCount(path=path, height=mask[0], width=mask[1], dtype="uint8", counts=counts or {0: 20, 255: 4})
    return gather(sample, header, count, CODING)


def test_pixels_are_gathered_by_class() -> None:
    assert evidence(counts={0: 3, 255: 2, 7: 1}).classes == {0: 3, 1: 2, -1: 1}


def test_sizes() -> None:
    findings = check_sizes([evidence(), evidence("b", mask=(6, 4)), evidence("c", mask=(4, 5))], TASK)
    assert [finding.file.name for finding in findings] == ["b.png", "c.png"]
    assert "4 x 6 pixels, but its image images/b.png has 6 x 4; it looks transposed" in findings[0].found
    assert "transposed" not in findings[1].found
    assert {finding.severity for finding in findings} == {"error"}
    assert check_sizes([evidence("square", image=(4, 4, 1), mask=(4, 4))], TASK) == []


def test_channels() -> None:
    pairs = [evidence("a"), evidence("b", image=(4, 6, 1)), evidence("c")]
    (finding,) = check_channels(pairs, TASK)
    assert (finding.file, finding.found) == (Path("images/b.png"), "1 channels")
    assert "3, in 2 images" in finding.rule
    assert check_channels([], TASK) == []


def test_types() -> None:
    (finding,) = check_dtypes([evidence("a"), evidence("b", dtype="uint16"), evidence("c")], TASK)
    assert (finding.file, finding.severity) == (Path("images/b.png"), "warning")
    assert finding.found.endswith("2 of uint8, 1 of uint16")
    assert check_dtypes([evidence("a"), evidence("b")], TASK) == []


def test_masks_of_one_class() -> None:
    pairs = [evidence("a", counts={0: 24}), evidence("b", counts={7: 24}), evidence("c")]
    assert [finding.found for finding in check_single_class(pairs, TASK)] == ["nothing but ground", "nothing but void"]


def test_absent_classes() -> None:
    assert [f.found for f in check_absent_classes([evidence(counts={0: 1, 7: 1})], TASK)] == ["no pixel of class cell"]
    assert check_absent_classes([evidence(counts={0: 1}), evidence(counts={255: 1})], TASK) == []


def test_examine_runs_every_check_and_puts_errors_first() -> None:
    pairs = [evidence("a", counts={0: 24}, dtype="uint16"), evidence("b", image=(4, 6, 1), mask=(1, 1), counts={0: 24})]
    findings = examine(pairs, TASK)
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities)
    assert len(findings) == sum(len(check(pairs, TASK)) for check in CHECKS.values())
    assert all(check(pairs, TASK) for name, check in CHECKS.items() if name != "full classes")  # of overlapping ones
