"""The chunks of a Zarr array as files: where each lies, alone or in a shard, and whether it is there.

A missing chunk is legal: it stands for the fill value. It is also what an interrupted copy leaves, so it is told apart.
Specifications: Zarr v2; Zarr v3 core, chunk key encodings and the codec sharding_indexed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pixelwise.data.large_source import RecentSegments
from pixelwise.data.zarr_codecs import CHECKSUM, ChunkCodec, chunk_codec
from pixelwise.data.zarr_layout import Json, ZarrNode

SHARDING = "sharding_indexed"
METADATA_FILES = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
ABSENT = 2**64 - 1
KEPT_BYTES_OF_INDICES = 2**22

Coordinates = tuple[int, ...]
Ranges = Sequence[tuple[int, int]]
"""For each axis, the first index and the one after the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkFiles:
    """The files that hold the chunks of an array.

    shape   of the array
    stored  the shape of what one file holds: a chunk, or a shard
    chunk   the shape of what is decoded at once: the chunk in a shard
    index   how a shard says where its chunks are; None where a file is a chunk
    recent  the indices of shards that were read last
    """

    folder: Path
    shape: Coordinates
    stored: Coordinates
    chunk: Coordinates
    prefix: str
    separator: str
    codec: ChunkCodec
    index: ShardIndex | None = None
    recent: RecentSegments = field(default_factory=partial(RecentSegments, KEPT_BYTES_OF_INDICES), compare=False)

    @property
    def expected(self) -> int:
        """How many files a store has where none is missing."""
        return math.prod(-(-side // step) for side, step in zip(self.shape, self.stored, strict=True))

    def files(self) -> Iterator[os.DirEntry[str]]:
        """All files of chunks that there are, in no order."""
        return (entry for entry in _walk(self.folder) if entry.name not in METADATA_FILES)

    def touched(self, ranges: Ranges) -> Iterator[Coordinates]:
        """The chunks that a region has values of."""
        steps = zip(ranges, self.chunk, strict=True)
        return product(*(range(low // step, -(-high // step)) for (low, high), step in steps))

    def region(self, chunk: Coordinates) -> Ranges:
        """The values that a chunk has; the last ones of an axis reach beyond the array."""
        return [(number * side, (number + 1) * side) for number, side in zip(chunk, self.chunk, strict=True)]

    def name(self, chunk: Coordinates) -> str:
        """A chunk in words: the file that holds it, and which it is of a shard."""
        file, inner = self._place(chunk)
        return self._key(file) if self.index is None else f"{'/'.join(map(str, inner))} of shard {self._key(file)}"

    def read(self, chunk: Coordinates) -> NDArray[Any] | None:
        """The values of a chunk, None where it is missing; raises ValueError and others where it is not whole."""
        file, inner = self._place(chunk)
        try:
            descriptor = os.open(self.folder / self._key(file), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            data = self._bytes(descriptor, file, inner)
        finally:
            os.close(descriptor)
        return None if data is None else self.codec.decode(data)

    def _bytes(self, descriptor: int, file: Coordinates, inner: Coordinates) -> bytes | None:
        offset, length = 0, os.fstat(descriptor).st_size
        if self.index is not None:
            index = self.recent.get(file, partial(self.index.read, descriptor, length, self._chunks_per_file))
            offset, length = index[inner].tolist()
            if offset == length == ABSENT:
                return None
        # Nothing that compresses makes values much longer; what is longer was not written for this array.
        most = 2 * math.prod(self.chunk) * self.codec.dtype.itemsize + 2**16
        data = os.pread(descriptor, min(length, most), offset)
        if len(data) < length:
            raise ValueError(f"{len(data)} bytes in it where {length} are said to be")
        return data

    def _place(self, chunk: Coordinates) -> tuple[Coordinates, Coordinates]:
        """The file of a chunk, and which of the chunks in the file it is."""
        pairs = [divmod(number, count) for number, count in zip(chunk, self._chunks_per_file, strict=True)]
        return tuple(file for file, _ in pairs), tuple(inner for _, inner in pairs)

    @property
    def _chunks_per_file(self) -> Coordinates:
        return tuple(side // inner for side, inner in zip(self.stored, self.chunk, strict=True))

    def _key(self, file: Coordinates) -> str:
        return self.separator.join([*([self.prefix] if self.prefix else []), *map(str, file)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """The table in a shard that says where its chunks are, at its end or at its start, with or without a checksum."""

    at_end: bool
    has_checksum: bool

    def read(self, descriptor: int, size: int, chunks: Coordinates) -> NDArray[np.uint64]:
        """Offset and length (..., 2) of each chunk in a shard of `size` bytes; raises ValueError for a damaged one."""
        length = 16 * math.prod(chunks)
        whole = length + CHECKSUM * self.has_checksum
        data = os.pread(descriptor, whole, max(0, size - whole) if self.at_end else 0)
        if len(data) < whole:
            raise ValueError(f"its shard of {size} bytes is shorter than its index")
        if self.has_checksum and google_crc32c.value(data[:length]).to_bytes(CHECKSUM, "little") != data[length:]:
            raise ValueError("the checksum of the index of its shard does not fit")
        return np.frombuffer(data[:length], "<u8").reshape(*chunks, 2)


def chunk_files(array: ZarrNode) -> ChunkFiles:
    """How an array is cut into files; raises ValueError for kinds that are not known."""
    return _of_version_2(array) if array.version == 2 else _of_version_3(array)


def _of_version_2(array: ZarrNode) -> ChunkFiles:
    chunk = _sides(array, array.metadata["chunks"])
    return ChunkFiles(
        folder=array.folder,
        shape=array.shape,
        stored=chunk,
        chunk=chunk,
        prefix="",
        separator=_separator(array.metadata.get("dimension_separator", ".")),
        codec=chunk_codec(array, [], chunk),
    )


def _of_version_3(array: ZarrNode) -> ChunkFiles:
    metadata = array.metadata
    if metadata["chunk_grid"]["name"] != "regular" or metadata.get("storage_transformers"):
        raise ValueError("chunks of a kind that is not known")
    stored = _sides(array, metadata["chunk_grid"]["configuration"]["chunk_shape"])
    encoding = metadata["chunk_key_encoding"]
    prefix, separator = {"default": ("c", "/"), "v2": ("", ".")}[encoding["name"]]
    shard, codecs = _shard(metadata["codecs"])
    chunk = stored if shard is None else _inner(array, stored, shard["chunk_shape"])
    return ChunkFiles(
        folder=array.folder,
        shape=array.shape,
        stored=stored,
        chunk=chunk,
        prefix=prefix,
        separator=_separator(encoding.get("configuration", {}).get("separator", separator)),
        codec=chunk_codec(array, codecs, chunk),
        index=None if shard is None else _shard_index(shard),
    )


def _shard(codecs: list[Json]) -> tuple[Json | None, list[Json]]:
    """The settings of shards, where there are some, and the codecs of the chunks."""
    if SHARDING not in [codec["name"] for codec in codecs]:
        return None, codecs
    if len(codecs) > 1:
        raise ValueError("shards that are encoded once more")
    settings: Json = codecs[0]["configuration"]
    return settings, settings["codecs"]


def _shard_index(shard: Json) -> ShardIndex:
    codecs = shard["index_codecs"]
    names = [codec["name"] for codec in codecs]
    if names not in (["bytes"], ["bytes", "crc32c"]) or codecs[0]["configuration"]["endian"] != "little":
        raise ValueError("shards with an index of a kind that is not known")
    return ShardIndex(at_end=shard.get("index_location", "end") == "end", has_checksum="crc32c" in names)


def _separator(found: str) -> str:
    if found not in (".", "/"):
        raise ValueError(f"a separator {found!r} in the names of chunks")
    return found


def _sides(array: ZarrNode, sides: Sequence[Any]) -> Coordinates:
    found = tuple(int(side) for side in sides)
    if len(found) != len(array.shape) or min(found, default=1) < 1:
        raise ValueError(f"chunks of {found} for an array of {array.shape}")
    return found


def _inner(array: ZarrNode, stored: Coordinates, sides: Sequence[Any]) -> Coordinates:
    inner = _sides(array, sides)
    if any(side % step for side, step in zip(stored, inner, strict=True)):
        raise ValueError(f"shards of {stored} with chunks of {inner}")
    return inner


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path))
            elif entry.is_file():
                yield entry
