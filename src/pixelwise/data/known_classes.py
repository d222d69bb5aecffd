"""The classes of public data sets that are recognised by their layout: names, colours, and what counts nowhere.

CamVid: the 11 classes of SegNet (Badrinarayanan, Kendall, Cipolla, PAMI 2017), 11 = unlabelled.
PASCAL VOC 2012: 21 classes, 255 = void (Everingham et al., IJCV 2010); the colours interleave the bits of the index.
"""

from __future__ import annotations

from dataclasses import dataclass

from pixelwise.task import Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownClasses:
    """The classes of a public data set, in the order of their indices, and its void value and colour."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    void: int
    void_colour: Colour


def voc_colour(index: int) -> Colour:
    """The colour of a class of PASCAL VOC: bit b of red, green, blue comes from bits 3(7-b), +1, +2 of the index.

    >>> voc_colour(15)
    (192, 128, 128)
    """
    red, green, blue = (sum((index >> (3 * bit + part) & 1) << (7 - bit) for bit in range(3)) for part in range(3))
    return red, green, blue


CAMVID = KnownClasses(
    names=(
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Pavement",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ),
    colours=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    void=11,
    void_colour=(0, 0, 0),
)
VOC = KnownClasses(
    names=(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
    colours=tuple(voc_colour(index) for index in range(21)),
    void=255,
    void_colour=(224, 224, 192),
)
KNOWN_CLASSES = {"camvid": CAMVID, "voc": VOC}
