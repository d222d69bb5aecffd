"""OME-XML in a TIFF: which pages are the channels of one image, and how large a pixel is.

Goldberg et al.: The Open Microscopy Environment (OME) Data Model and XML file. Genome Biology 2005; OME-TIFF
specification 6.3. Nothing but this file is read: an image spread over several is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, fromstring

from pixelwise.data.pixel_size import PixelSize, both, micrometres
from pixelwise.data.stored import refusal

LONGEST_XML = 2**26
EXTRA_IMAGES = ("label", "macro", "overview", "thumbnail", "preview")
"""Words in the names of pictures that slide scanners add to the slide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OmeImage:
    """What OME-XML says of the first image of a file.

    channels, sections, times  how many there are
    pages       indices of the pages of its channels, in order; none where it does not say
    elsewhere   whether channels lie in other files
    others      further images in the file, without those that slide scanners add
    """

    channels: int
    sections: int
    times: int
    pixel_size: PixelSize | None
    pages: tuple[int, ...]
    elsewhere: bool
    others: int


def read_ome(path: Path, text: str | None, pages: int) -> OmeImage | None:
    """The first image of an OME-TIFF of `pages` pages; None where the text is no OME-XML of images.

    Raises ImageFileError where it is damaged, has a document type (which could make it grow without end) or is long.
    """
    if not text:
        return None
    if len(text) > LONGEST_XML or "<!DOCTYPE" in text or "<!ENTITY" in text:
        rule = f"plain OME-XML of at most {LONGEST_XML} characters"
        raise refusal(path, found="OME metadata with a document type or too long", rule=rule, fix="save it again")
    try:
        root = fromstring(text)  # noqa: S314 (no document type, so no entities)
        images = [image for image in _children(root, "Image") if _child(image, "Pixels") is not None]
        return _image(root, images, pages) if images else None
    except (ParseError, ValueError) as error:
        rule = "OME-XML that can be read"
        raise refusal(path, found=f"damaged OME metadata ({error})", rule=rule, fix="save it again") from error


def _image(root: Element, images: list[Element], pages: int) -> OmeImage:
    pixels = _child(images[0], "Pixels")
    assert pixels is not None
    channels, sections, times = (int(pixels.get(name, "1")) for name in ("SizeC", "SizeZ", "SizeT"))
    sides = (
        micrometres(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "YX"
    )
    blocks = _children(pixels, "TiffData")
    most = min(channels, pages)
    return OmeImage(
        channels=channels,
        sections=sections,
        times=times,
        pixel_size=both(*sides),
        pages=tuple(page for _, page in sorted(_page_of_channel(blocks, most).items())),
        elsewhere=any(_is_elsewhere(block, root.get("UUID")) for block in blocks),
        others=sum(not _is_extra(image) for image in images[1:]),
    )


def _page_of_channel(blocks: list[Element], most: int) -> dict[int, int]:
    """The page of each channel: a TiffData block gives the first of both, and how many follow, or all."""
    found: dict[int, int] = {}
    for block in blocks:
        first, channel = int(block.get("IFD", "0")), int(block.get("FirstC", "0"))
        count = int(block.get("PlaneCount", "1" if block.get("IFD") else str(most)))
        found.update((channel + i, first + i) for i in range(min(count, most)))
    return found


def _is_elsewhere(block: Element, own: str | None) -> bool:
    named = _child(block, "UUID")
    return named is not None and (named.text or "").strip() != own


def _is_extra(image: Element) -> bool:
    return any(word in image.get("Name", "").lower() for word in EXTRA_IMAGES)


def _children(element: Element, name: str) -> list[Element]:
    return list(_named(element, name))


def _child(element: Element, name: str) -> Element | None:
    return next(_named(element, name), None)


def _named(element: Element, name: str) -> Iterator[Element]:
    """The children of a name, whatever the version of the schema that they are written in."""
    return (child for child in element if child.tag.rpartition("}")[2] == name)
