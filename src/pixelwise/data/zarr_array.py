"""One array of a Zarr v3 store as files: its description, and shards that one writer makes whole.

A shard holds a core of the image in compressed chunks, then an index of where each chunk begins and how long it is,
then a checksum of the index; every chunk carries a checksum of its own. We write and read these bytes ourselves: the
same pixels give the same bytes, a shard is flushed to the disk and renamed like every file of ours, and a chunk that is
missing or changed is an error and never the fill value. Any reader of Zarr v3 opens them.

Source: Zarr core specification version 3, with the codecs sharding_indexed, bytes, zstd and crc32c.

K channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, BinaryIO

import google_crc32c
import imagecodecs
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from pixelwise.tiles import TileGrid, Window

COMPRESSION = 3
ABSENT = 2**64 - 1
CRC_BYTES = 4
Index = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrArray:
    """What an array is, and how its shards are packed.

    path   of its folder within the store
    shape  (H, W) or (K, H, W)
    fill   what other programs show where there is no shard yet; NaN for real values
    shard  side of a shard in pixels, a multiple of `chunk`; a shard holds all channels
    chunk  side of the pieces that are compressed and can be read one by one, each of one channel

    >>> array = ZarrArray(path="labels/0", shape=(3, 5), dtype="uint8", fill=255, shard=4, chunk=2)
    >>> array.shard_path(0, 1), array.metadata()["fill_value"]
    ('labels/0/c/0/1', 255)
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    fill: float
    shard: int
    chunk: int

    @property
    def channels(self) -> int:
        """How many numbers there are for a pixel."""
        return math.prod(self.shape[:-2])

    def metadata(self) -> dict[str, Any]:
        """What `zarr.json` in the folder of the array says."""
        front = self.shape[:-2]
        number = {"name": "bytes", "configuration": {"endian": "little"}}
        zstd = {"name": "zstd", "configuration": {"level": COMPRESSION, "checksum": True}}
        sharding = {
            "chunk_shape": [1 for _ in front] + [self.chunk, self.chunk],
            "codecs": [number, zstd],
            "index_codecs": [number, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*front, self.shard, self.shard]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill_in_json(self.fill),
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["c", "y", "x"][-len(self.shape) :],
            "attributes": {},
        }

    def shard_path(self, row: int, column: int) -> str:
        """The file of a shard within the store; shards are counted from the upper left."""
        return "/".join([self.path, "c", *("0" for _ in self.shape[:-2]), str(row), str(column)])

    def encode(self, values: NDArray[Any]) -> bytes:
        """The bytes of the shard that holds `values`, (h, w) or (K, h, w); at the lower and right edge it is smaller.

        The same values always give the same bytes.
        """
        values_KHW = values.reshape(self.channels, *values.shape[-2:])
        zstd = Zstd(level=COMPRESSION, checksum=True)  # which imagecodecs verifies but does not write
        index = self._empty_index()
        frames = []
        offset = 0
        for place in self._places(Window(0, 0, *values_KHW.shape[1:])):
            frame = zstd.encode(self._chunk(values_KHW, place))
            index[place] = offset, len(frame)
            frames.append(frame)
            offset += len(frame)
        table = index.astype("<u8").tobytes()
        return b"".join([*frames, table, google_crc32c.value(table).to_bytes(CRC_BYTES, "little")])

    def decode(self, file: BinaryIO, window: Window) -> NDArray[Any]:
        """The pixels of a window of one shard, (h, w) or (K, h, w), from its open file; reads only the chunks it needs.

        Raises ValueError where the file is no whole shard of this array, or lacks a chunk of the window.
        """
        index = self._read_index(file)
        chunks = TileGrid((self.shard, self.shard), self.chunk)
        values_KHW = np.empty((self.channels, *window.shape), self.dtype)
        for place in self._places(window):
            box = chunks.window(place[1] * chunks.columns + place[2])
            part = box.overlap(window)
            assert part is not None, "only chunks that touch the window are read"
            chunk_HW = self._read_chunk(file, *index[place].tolist())
            values_KHW[place[0]][part.within(window).slices] = chunk_HW[part.within(box).slices]
        return values_KHW.reshape(*self.shape[:-2], *window.shape)

    def _places(self, window: Window) -> Iterator[tuple[int, int, int]]:
        """Channel, row and column of each chunk that a window of the shard touches."""
        rows = range(window.top // self.chunk, -(-window.bottom // self.chunk))
        columns = range(window.left // self.chunk, -(-window.right // self.chunk))
        return product(range(self.channels), rows, columns)

    def _chunk(self, values_KHW: NDArray[Any], place: tuple[int, int, int]) -> NDArray[Any]:
        """One chunk, filled up beyond the edge of the image."""
        channel, row, column = place
        top, left = row * self.chunk, column * self.chunk
        inside_HW = values_KHW[channel, top : top + self.chunk, left : left + self.chunk]
        if inside_HW.shape == (self.chunk, self.chunk):
            return np.ascontiguousarray(inside_HW, self._little_endian)
        chunk_HW = np.full((self.chunk, self.chunk), self.fill, self._little_endian)
        chunk_HW[: inside_HW.shape[0], : inside_HW.shape[1]] = inside_HW
        return chunk_HW

    def _read_chunk(self, file: BinaryIO, offset: int, length: int) -> NDArray[Any]:
        if offset == ABSENT:
            raise ValueError("a part of it was never written")
        file.seek(offset)
        data = bytearray(self.chunk**2 * self._little_endian.itemsize)
        try:
            found = len(imagecodecs.zstd_decode(file.read(length), out=data))
        except imagecodecs.ZstdError as error:
            raise ValueError(str(error)) from error
        if found != len(data):
            raise ValueError(f"a chunk holds {found} bytes, not {len(data)}")
        return np.frombuffer(data, self._little_endian).reshape(self.chunk, self.chunk)

    def _read_index(self, file: BinaryIO) -> Index:
        """Offset and length of each chunk, (K, rows, columns, 2)."""
        index = self._empty_index()
        length = index.nbytes + CRC_BYTES
        if file.seek(0, 2) < length:
            raise ValueError("it is shorter than its index")
        file.seek(-length, 2)
        table, checksum = file.read(index.nbytes), file.read(CRC_BYTES)
        if google_crc32c.value(table).to_bytes(CRC_BYTES, "little") != checksum:
            raise ValueError("the checksum of its index does not fit")
        return np.frombuffer(table, "<u8").reshape(index.shape)

    def _empty_index(self) -> Index:
        side = self.shard // self.chunk
        return np.full((self.channels, side, side, 2), ABSENT, np.uint64)

    @property
    def _little_endian(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<")


def fill_in_json(value: float) -> float | str:
    """A number as Zarr writes it in JSON, which has no NaN.

    >>> fill_in_json(255), fill_in_json(math.nan)
    (255, 'NaN')
    """
    return "NaN" if math.isnan(value) else value
