"""The facts of a PNG file that its chunks state: size, bits, frames and orientation, without decoding a pixel."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_CHUNKS = 1_000_000
LONGEST_EXIF = 2**16
ORIENTATION_TAG = 274
SAMPLES = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class PngFacts:
    """What the chunks of a PNG say; `channels` counts a palette as 3 and leaves alpha out."""

    height: int
    width: int
    bits: int
    channels: int
    frames: int
    orientation: int


def read_png_facts(path: Path) -> PngFacts:
    """Walk through the chunks of a PNG; raises ValueError where they are damaged.

    The orientation is that of an eXIf chunk, wherever it stands; 1 without one.
    """
    frames, orientation, header = 1, 1, b""
    with path.open("rb") as file:
        for kind, length in _chunks(file):
            if kind == b"IHDR":
                header = _read(file, 13)
            elif kind == b"acTL":
                frames = struct.unpack(">I", _read(file, 4))[0]
            elif kind == b"eXIf" and length <= LONGEST_EXIF:
                orientation = _orientation(file.read(length))
    if len(header) < 13:
        raise ValueError("the PNG has no header")
    width, height, bits, colour_type = struct.unpack(">IIBB", header[:10])
    if colour_type not in SAMPLES:
        raise ValueError(f"the PNG header names colour type {colour_type}, which does not exist")
    return PngFacts(
        height=height,
        width=width,
        bits=bits,
        channels=SAMPLES[colour_type],
        frames=frames,
        orientation=orientation,
    )


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and length of each chunk, with the file standing at its data."""
    position = len(SIGNATURE)
    for _ in range(MOST_CHUNKS):
        file.seek(position)
        length, kind = struct.unpack(">I4s", _read(file, 8))
        if not kind.isalpha():
            raise ValueError("a chunk of the PNG is damaged")
        yield kind, length
        position += length + 12
        if kind == b"IEND":
            return
    raise ValueError(f"the PNG has more than {MOST_CHUNKS} chunks")


def _read(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise ValueError("the file ends within a chunk, it was cut short")
    return data


def _orientation(data: bytes) -> int:
    exif = Image.Exif()
    exif.load(data)
    return int(exif.get(ORIENTATION_TAG, 1))
