"""Awkward inputs, what must become of each, and readers of them that share no code with pixelwise.

`make_bad_inputs.py`, beside the project, writes them with a manifest. The tables here say the same for each item, by
its path, so that a test has the same name wherever it runs.

H rows, W columns, C channels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

TOOL = Path(__file__).resolve().parents[2] / "shared" / "tools" / "make_bad_inputs.py"
HEIGHT, WIDTH = 48, 64
Pixels = NDArray[Any]
Reader = Callable[[Path], Pixels]


# Readers


def as_rgb(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def as_displayed(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def colours_under_alpha(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(picture)[..., :3]


def as_grey(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(picture.convert("L"))[..., None]


def grey_under_alpha(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(picture.getchannel("L"))[..., None]


def sixteen_bits(path: Path) -> Pixels:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., None]


def tiff_strips(path: Path, dtype: str, *, channels: int = 1, planar: bool = False) -> Pixels:
    """The pixels of an uncompressed TIFF of 64 x 64 in one run, from where its tag 273 (StripOffsets) says."""
    data = path.read_bytes()
    count = struct.unpack_from("<H", data, 8)[0]
    tags = {tag: (number, value) for tag, _, number, value in struct.iter_unpack("<HHII", data[10 : 10 + 12 * count])}
    number, place = tags[273]
    start = place if number == 1 else struct.unpack_from("<I", data, place)[0]
    values = np.frombuffer(data, dtype, count=64 * 64 * channels, offset=start)
    return np.moveaxis(values.reshape(channels, 64, 64), 0, 2) if planar else values.reshape(64, 64, channels)


def one_bit_strips(path: Path) -> Pixels:
    packed = path.read_bytes()[-64 * 8 :]
    return np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(64, 64, 1) * np.uint8(255)


def strips(dtype: str, **options: Any) -> Reader:
    return lambda path: tiff_strips(path, dtype, **options).astype(np.float32)


# Images

READ: dict[str, Reader] = {
    "truncated_last_byte.png": as_rgb,
    "jpeg_named.png": as_rgb,
    "png_then_zip_polyglot.png": as_rgb,
    **{f"exif_orientation_{orientation}.jpg": as_displayed for orientation in range(1, 9)},
    "cmyk.jpg": as_rgb,
    "gray16_full.png": sixteen_bits,
    "gray16_12bit.png": sixteen_bits,
    "palette.png": as_rgb,
    "palette_trns.png": as_rgb,
    "rgba_transparent.png": colours_under_alpha,
    "la.png": grey_under_alpha,
    "mode1.png": as_grey,
    **{f"size_{size}.png": as_rgb for size in ("1x1", "1x5000", "5000x1", "3x3", "31x33")},
    "all_black.png": as_rgb,
    "all_white.png": as_rgb,
    "float32.tif": strips("<f4"),
    "int16_negative.tif": strips("<i2"),
    "uint32.tif": strips("<u4"),
    "bool.tif": one_bit_strips,
    "bands13_uint16_planar.tif": strips("<u2", channels=13, planar=True),
    "bands4_chunky.tif": strips("u1", channels=4),
    "bigtiff_tiled.tif": as_rgb,
    "float16.tif": strips("<f2"),
}
"""Images that must be read, and how a program that is not ours reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What is said of a file; `size` (height, width) and `channels` keep all but this from being wrong with it."""

    words: str
    size: tuple[int, int] = (HEIGHT, WIDTH)
    channels: int = 3


DAMAGED = Refused(words="damaged or unsupported")
NO_PICTURE = Refused(words="the content is no known picture")
TOO_LARGE = Refused(words="at most 268435456 pixels")
FRAMES = Refused(words="3 frames or pages")
REFUSED: dict[str, Refused] = {
    "zero_byte.png": Refused(words="the file is empty"),
    "truncated_half.png": Refused(words="the file ends within a chunk"),
    "truncated_half.jpg": DAMAGED,
    "text.png": NO_PICTURE,
    "html.jpg": NO_PICTURE,
    "idat_bitflip.png": DAMAGED,
    "bomb_header_30000x30000.png": TOO_LARGE,
    "bomb_real_30000x30000_1bit.png": TOO_LARGE,
    "bomb_header_2e31.png": TOO_LARGE,
    "zero_size_header.png": Refused(words="at least one pixel"),
    "ztxt_bomb.png": DAMAGED,
    "animated.gif": FRAMES,
    "animated.apng.png": FRAMES,
    "float32_nan_inf.tif": Refused(words="1 NaN, 1 infinite", size=(64, 64), channels=1),
    "float64_1e300.tif": Refused(words="4096 values beyond float32", size=(64, 64), channels=1),
    "tiled_truncated.tif": Refused(words="6 of 16 strips or tiles are missing", size=(512, 512)),
    "tiff_ifd_loop_huge.tif": DAMAGED,
}
STACK = "multipage.tif"


# Masks

TRUTH = np.zeros((HEIGHT, WIDTH), np.uint8)
TRUTH[10:30, 10:40], TRUTH[30:44, 40:60] = 1, 2
NOTHING, POINT = np.zeros_like(TRUTH), np.zeros_like(TRUTH)
POINT[5, 5] = 1
VOID = np.where(TRUTH == 2, 255, TRUTH).astype(np.uint8)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
Code = Callable[[Pixels], Pixels]
CODES: dict[str, Code] = {
    "classes": lambda mask: mask,
    "classes from 1": lambda mask: mask + 1,
    "0 and 1": lambda mask: (mask > 0).astype(np.uint8),
    "0 and 255": lambda mask: (mask > 0).astype(np.uint8) * 255,
    "one bit": lambda mask: mask > 0,
    "colours": lambda mask: COLOURS[mask],
}
"""How the masks beside an item are coded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRead:
    """A mask that must be read: the coding of those beside it, its classes (H, W; 255 void), and what is said of it."""

    beside: str
    truth: Pixels
    words: str = ""


TWO = (TRUTH > 0).astype(np.uint8)
BY_COLOUR = np.array([0, 2, 1], np.uint8)[TRUTH]  # colours are classes in the order of their numbers: green, then red
MASKS_READ: dict[str, MaskRead] = {
    "index.png": MaskRead(beside="classes", truth=TRUTH),
    "binary_0_255.png": MaskRead(beside="0 and 255", truth=TWO, words="binary: 0 is background, 255 is foreground"),
    "binary_0_1.png": MaskRead(beside="0 and 1", truth=TWO),
    "void_255.png": MaskRead(beside="classes", truth=VOID, words="void 3.04 %"),
    "palette_index.png": MaskRead(beside="classes", truth=TRUTH),
    "rgb_colours.png": MaskRead(beside="colours", truth=BY_COLOUR, words="colours: #000000"),
    "rgb_gray_equal.png": MaskRead(beside="classes", truth=TRUTH),
    "rgba.png": MaskRead(beside="colours", truth=BY_COLOUR, words="alpha is left out"),
    "uint16_ids_300.png": MaskRead(beside="classes", truth=TWO, words="every object is foreground"),
    "mode1.png": MaskRead(beside="one bit", truth=TWO),
    "empty.png": MaskRead(beside="classes", truth=NOTHING, words="nothing but class 0"),
    "all_void.png": MaskRead(beside="classes", truth=np.full_like(TRUTH, 255), words="nothing but void"),
    "single_pixel.png": MaskRead(beside="classes", truth=POINT),
    "float_0_1.tif": MaskRead(beside="0 and 1", truth=TWO),
    # Its name and the manifest promise -1. What the tool writes is 255 in int64: -1 has become 255 in 8 bits before.
    # A real -1 is tested in test_minus_one_is_void_only_if_that_is_declared.
    "int64_minus1.tif": MaskRead(beside="classes", truth=VOID, words="void 3.04 %"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRefused:
    """A mask that must be refused, with these words; `mended`: what `doctor --fix` makes of it, None: it is left out.

    accepted  settings by which a training takes it as it is, as the manifest allows
    """

    beside: str
    words: tuple[str, ...]
    mended: Pixels | None = None
    accepted: tuple[str, ...] = ()


MASKS_REFUSED: dict[str, MaskRefused] = {
    "binary_jpeg.jpg": MaskRefused(beside="0 and 255", words=("391 pixels (13 %)", "only 0, 255"), mended=TWO),
    "out_of_range_7.png": MaskRefused(beside="classes", words=("value 7 in 280 pixels", "only 0 to 2")),
    "off_by_one_1_2_3.png": MaskRefused(
        beside="classes from 1",
        words=("values 1 to 3 and no 0",),
        mended=TRUTH,
        accepted=('data.classes=["ground","left","right"]',),
    ),
    "antialiased.png": MaskRefused(beside="0 and 255", words=("171 pixels (5.6 %)", "only 0, 255"), mended=TWO),
    "different_size.png": MaskRefused(beside="classes", words=("60 x 40 pixels", "64 x 48")),
    "transposed.png": MaskRefused(
        beside="classes", words=("48 x 64 pixels", "64 x 48", "looks transposed, as by an EXIF"), mended=TRUTH
    ),
    "float_probs.tif": MaskRefused(beside="classes", words=("880 values that are no whole numbers",)),
}


# Names, by what is odd about them

NAMES: dict[str, str] = {
    "markup": "<img src=x onerror=alert(1)>.png",
    "blanks": "a b (1).png",
    "option": "-rf.png",
    "long option": "--help.png",
    "shell": "$(touch x).png",
    "line break": "a\nb.png",
    "composed": "\u00e9.png",
    "decomposed": "e\u0301.png",
    "capital": "A.png",
    "small": "a.png",
    "device": "con.png",
    "long": "x" * 250 + ".png",
    "right to left": "\u202egnp.exe.png",
    "template": "{{7*7}}.png",
    "format": "%s%n.png",
    "statement": "'; DROP TABLE x;--.png",
    "no UTF-8": "\udcff\udcfe\udce9.png",
}
HIDDEN = (".hidden.png", "._AppleDouble.png", "..%2f..%2fetc%2fpasswd.png")
"""Names that begin with a dot are hidden, whatever follows it."""
DUPLICATES = ("dups/s.png", "dups/s.jpg", "dups/sub1/t.png", "dups/sub2/t.png")
FILE_SYSTEM: dict[str, str] = {
    "fs/loop": "",
    "fs/dangling.png": "cannot be opened",
    "fs/outside.png": "the content is no known picture",
    "fs/pipe.png": "",
    "fs/folder.png": "",
    "fs/sparse_10GB.png": "damaged or unsupported",
}
"""What is said of each; nothing of those that are no file of their own."""


# Models, by their suffix and what is wrong

STATES = (
    "header_len_2e63 header_len_past_eof header_not_json offset_past_eof overlap hole shape_overflow dup_keys "
    "negative_shape trailing_bytes empty zero_size_shared_offset nan_weights"
)
ZIPS = ("zipslip.zip", "zipabs.zip", "zip_symlink.zip", "zip_bomb_1000to1.zip")
MODELS = (
    *(
        "pickle_raw.pt",
        "pickle_renamed.safetensors",
        "pickle_renamed.onnx",
        "pickle_renamed.png",
        "pickle_torchzip.pth",
    ),
    *("npy_object.npy", "yaml_object.yaml", "yaml_billion_laughs.yaml"),
    *("config_target.json", "config_traversal.json", "config_memory_bomb.json", "config_deep.json", "config_nan.json"),
    *(f"st_{state}.safetensors" for state in STATES.split()),
    *ZIPS,
)
EVERY_ITEM = {
    *(f"images/{name}" for name in (*READ, *REFUSED, STACK)),
    *(f"masks/{name}" for name in (*MASKS_READ, *MASKS_REFUSED)),
    *(f"names/{name}" for name in (*NAMES.values(), *HIDDEN)),
    *DUPLICATES,
    *FILE_SYSTEM,
    *(f"models/{name}" for name in MODELS),
}


# Data sets around an item


def draw_beside(folder: Path, name: str, *, channels: int, seed: int) -> None:
    """A good pair: noise of 8 bits, and a mask of its brighter pixels."""
    image_HWC = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)
    write_pair(folder, name, image_HWC, brighter(image_HWC))


def brighter(image_HWC: Pixels) -> Pixels:
    """A mask of the pixels above the mean: 0 and 1."""
    grey_HW = image_HWC.mean(axis=2, dtype=np.float64)
    return (grey_HW > grey_HW.mean()).astype(np.uint8)


def draw_scene(mask_HW: Pixels, *, seed: int) -> Pixels:
    """An image in which the classes of a mask have colours of their own, with a little noise."""
    noise = np.random.default_rng(seed).normal(0, 8, (*mask_HW.shape, 3))
    return np.clip(0.6 * COLOURS[mask_HW] + 60 + noise, 0, 255).astype(np.uint8)


def write_pair(folder: Path, name: str, image_HWC: Pixels, mask: Pixels) -> None:
    """Image and mask as PNG; as TIFF where a PNG has no such number of channels."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    if image_HWC.shape[2] in (1, 3):
        Image.fromarray(image_HWC.squeeze(2) if image_HWC.shape[2] == 1 else image_HWC).save(
            folder / "images" / f"{name}.png"
        )
    else:
        tifffile.imwrite(folder / "images" / f"{name}.tif", image_HWC, photometric="minisblack", planarconfig="contig")
