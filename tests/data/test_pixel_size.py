"""How large a pixel of a TIFF is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pixelwise.data.large_images import open_large
from pixelwise.data.ome_metadata import read_ome
from pixelwise.data.pixel_size import both, micrometres
from pixelwise.errors import ImageFileError

GREY = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("length", "unit", "expected"),
    [
        (1, "µm", 1),
        ("0.5", "um", 0.5),
        (2, "\u03bcm", 2),  # the Greek letter; the other one is the sign "micro"
        (250, "nanometer", 0.25),
        (3, "millimeter", 3000),
        (1, "inch", 25400),
        (10, "Å", 1e-3),
        (1, "pixel", None),
        (1, None, None),
        (0, "µm", None),
        (-1, "µm", None),
        ("nan", "µm", None),
        ("inf", "µm", None),
        ("wide", "µm", None),
        (None, "µm", None),
    ],
)
def test_lengths_in_micrometres(length: Any, unit: str | None, expected: float | None) -> None:
    assert micrometres(length, unit) == (None if expected is None else pytest.approx(expected))


def test_a_size_needs_both_sides() -> None:
    assert both(1.0, 2.0) == (1.0, 2.0)
    assert both(None, 1.0) is both(1.0, None) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (20_000, 10_000), "resolutionunit": "centimeter"}, (1.0, 0.5)),
        ({"resolution": (50_800, 25_400), "resolutionunit": "inch"}, (1.0, 0.5)),
        ({"resolution": (72, 72), "resolutionunit": "inch"}, None),
        ({"resolution": (300, 300), "resolutionunit": "inch"}, None),
        ({"resolution": (72, 300), "resolutionunit": "inch"}, None),
        ({"resolution": (5, 5), "resolutionunit": "none"}, None),
        ({"resolution": (2.5, 5), "imagej": True, "metadata": {"unit": "micron"}}, (0.2, 0.4)),
        ({"description": "Aperio Leica\r\n6x4 |AppMag = 40|MPP = 0.2520|X = 1", "metadata": None}, (0.252, 0.252)),
        ({"description": "MPP = 0.2520", "metadata": None}, None),
        ({}, None),
    ],
)
def test_what_the_file_says(tmp_path: Path, options: dict[str, Any], expected: tuple[float, float] | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, **options)
    with open_large(tmp_path / "a.tif") as image:
        assert image.pixel_size == (None if expected is None else pytest.approx(expected))
        assert ("µm per pixel" in image.describe()) == (expected is not None)


def test_the_words_for_a_person_name_the_width_first(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, resolution=(20_000, 10_000), resolutionunit="centimeter")
    with open_large(tmp_path / "a.tif") as image:
        assert image.describe().endswith("0.5 x 1 µm per pixel")


# ------------------------------------------------------------------------------------------------------------ OME-XML

PATH = Path("a.ome.tif")


def ome(pixels: str, blocks: str = "", *, more: str = "", name: str = "OME") -> str:
    return f'<{name}><Image Name="one"><Pixels {pixels}>{blocks}</Pixels></Image>{more}</{name}>'


def test_ome_names_channels_sections_and_times() -> None:
    found = read_ome(PATH, ome('SizeC="3" SizeZ="5" SizeT="7" PhysicalSizeX="2" PhysicalSizeY="1"'), 9)
    assert found is not None
    assert (found.channels, found.sections, found.times) == (3, 5, 7)
    assert found.pixel_size == (1, 2)
    assert (found.pages, found.elsewhere, found.others) == ((), False, 0)


@pytest.mark.parametrize(
    ("blocks", "pages"),
    [
        ("<TiffData/>", (0, 1, 2)),
        ('<TiffData IFD="4" PlaneCount="3"/>', (4, 5, 6)),
        ('<TiffData IFD="4"/><TiffData IFD="2" FirstC="1"/><TiffData IFD="0" FirstC="2"/>', (4, 2, 0)),
        ('<TiffData FirstC="1" IFD="8" PlaneCount="2"/><TiffData IFD="1"/>', (1, 8, 9)),
        ('<TiffData PlaneCount="1000000000000"/>', (0, 1, 2)),
    ],
)
def test_ome_says_which_page_is_which_channel(blocks: str, pages: tuple[int, ...]) -> None:
    found = read_ome(PATH, ome('SizeC="3"', blocks), 10)
    assert found is not None
    assert found.pages == pages


def test_texts_that_are_no_ome_of_images_say_nothing() -> None:
    for text in (None, "", "<OME/>", "<OME><BinaryOnly MetadataFile='b.ome'/></OME>", "<OME><Image/></OME>"):
        assert read_ome(PATH, text, 1) is None


def test_entities_that_grow_are_refused_before_they_do() -> None:
    levels = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
    text = f'<!DOCTYPE OME [<!ENTITY a0 "ha">{levels}]>{ome("", "&a9;")}'
    for refused in (text, text.replace("<!DOCTYPE", "<!"), '<!DOCTYPE OME SYSTEM "file:///etc/hosts"><OME/>'):
        with pytest.raises(ImageFileError, match="document type"):
            read_ome(PATH, refused, 1)
    with pytest.raises(ImageFileError, match="damaged OME metadata"):
        read_ome(PATH, "<OME><Image>", 1)
