"""Every command of docs/large-images.md runs, and says what the page shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile

from pages import run, says, sections
from pixelwise.bundle import Bundle
from pixelwise.data.masks import Coding
from pixelwise.data.synthetic import draw_cells
from pixelwise.postprocess.instances import InstanceSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "large-images.md"
SECTIONS = sections(PAGE)


@pytest.fixture
def at_slide(tmp_path: Path, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the image and the run of the page."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/cells").mkdir(parents=True)
    objects = InstanceSettings(form="plain", foreground=0.4)
    bundle = replace(make_bundle(), instances=objects, coding=Coding(kind="instances"))
    bundle.save(tmp_path / "runs/cells/model.safetensors")
    tifffile.imwrite("slide.tif", draw_cells(size=(200, 260), seed=4).image_HWC[..., 0], tile=(64, 64))
    return tmp_path


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_commands_of_the_page_run(heading: str, at_slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ""
    for block in SECTIONS[heading]:
        for arguments, code in block.commands():
            assert run(arguments) == code, capsys.readouterr().err
            shown += capsys.readouterr().out
        if block.language == "text":
            for line in block.text.split("…\n"):
                assert says(shown, line), shown
    if "-o slide-cells.zarr" in "".join(block.text for block in SECTIONS[heading]) and "Before" not in heading:
        assert (at_slide / "slide-cells.zarr/labels/classes/0").is_dir()
        assert (at_slide / "slide-cells-objects.csv").is_file()
