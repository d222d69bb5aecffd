"""The bytes of one Zarr chunk turned into its values: the codecs of versions 2 and 3 that images are kept in.

They are decoded here, by imagecodecs and into memory of the size that the metadata states, and not by Zarr itself:
nothing that a chunk claims can take more memory or run code, and what was cut short is an error.

Specifications: Zarr v2; Zarr v3 core and its codecs bytes, transpose, blosc, gzip, zstd, crc32c; Blosc 1 (its header).
"""

from __future__ import annotations

import bz2
import lzma
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pixelwise.data.zarr_layout import Json, ZarrNode

CHECKSUM = 4  # bytes of CRC-32C
BLOSC_HEADER = 16
MOST_LZMA_MEMORY = 2**27
Decompress = Callable[[bytes, int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCodec:
    """How the bytes of a chunk are its values.

    shape       of the chunk
    dtype       of its values, in the order of bytes of the file
    transposed  the order of its axes in the file
    steps       what turns bytes into the ones before, the last codec first, each with the length that must come out
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    transposed: tuple[int, ...]
    steps: tuple[tuple[Decompress, int], ...] = ()

    def decode(self, data: bytes) -> NDArray[Any]:
        """The values of a chunk; raises ValueError, or what a decoder raises, where they are not whole."""
        for step, length in self.steps:
            data = step(data, length)
        expected = math.prod(self.shape) * self.dtype.itemsize
        if len(data) != expected:
            raise ValueError(f"{len(data)} bytes in it where its values need {expected}")
        stored_shape = [self.shape[axis] for axis in self.transposed]
        return np.frombuffer(data, self.dtype).reshape(stored_shape).transpose(np.argsort(self.transposed))


def chunk_codec(array: ZarrNode, codecs: list[Json], shape: tuple[int, ...]) -> ChunkCodec:
    """The codec of chunks of `shape`; raises ValueError naming a codec or a type that is not read.

    `codecs` are those of version 3; an array of version 2 names its own.
    """
    return _of_version_2(array, shape) if array.version == 2 else _of_version_3(array, codecs, shape)


def value_type(array: ZarrNode) -> np.dtype[Any]:
    """The type of the values of an array; raises ValueError for what is not bool, a whole or a real number."""
    name = array.metadata["dtype"] if array.version == 2 else array.metadata["data_type"]
    dtype = np.dtype(name) if isinstance(name, str) else None
    if dtype is None or dtype.kind not in "buif":
        raise ValueError(f"values of type {name}; these are read: bool, whole and real numbers")
    return dtype


def _of_version_2(array: ZarrNode, shape: tuple[int, ...]) -> ChunkCodec:
    compressor, filters = array.metadata.get("compressor"), array.metadata.get("filters")
    names = [codec["id"] for codec in [*(filters or []), *([compressor] if compressor else [])]]
    _check_names(names[:-1] if compressor else names, {})
    axes = range(len(shape))
    order = {"C": tuple(axes), "F": tuple(reversed(axes))}[array.metadata.get("order", "C")]
    codec = ChunkCodec(shape=shape, dtype=value_type(array), transposed=order)
    if not compressor:
        return codec
    _check_names(names[-1:], OLD_COMPRESSORS)
    return replace(codec, steps=((OLD_COMPRESSORS[compressor["id"]], _length(codec)),))


def _of_version_3(array: ZarrNode, codecs: list[Json], shape: tuple[int, ...]) -> ChunkCodec:
    names = [codec["name"] for codec in codecs]
    _check_names([name for name in names if name not in ("transpose", "bytes")], COMPRESSORS)
    at = names.index("bytes")
    axes = tuple(range(len(shape)))
    for codec in codecs[:at]:
        axes = tuple(axes[axis] for axis in codec["configuration"]["order"])
    if set(names[:at]) - {"transpose"} or "transpose" in names[at:] or sorted(axes) != list(range(len(shape))):
        raise ValueError(f"codecs in the order {', '.join(names)}")
    endian = codecs[at].get("configuration", {}).get("endian", "little")
    dtype = {"little": value_type(array).newbyteorder("<"), "big": value_type(array).newbyteorder(">")}[endian]
    codec_of_bytes = ChunkCodec(shape=shape, dtype=dtype, transposed=axes)
    return replace(codec_of_bytes, steps=_steps(names[at + 1 :], _length(codec_of_bytes)))


def _steps(names: list[str], length: int) -> tuple[tuple[Decompress, int], ...]:
    """What undoes the codecs of bytes, last first; the length of a result is known up to the first that compresses."""
    steps: list[tuple[Decompress, int]] = []
    for name in names:
        if length < 0 and name != "crc32c":
            raise ValueError(f"codec {name} after another that compresses")
        steps.append((COMPRESSORS[name], length))
        length = length + CHECKSUM if name == "crc32c" and length >= 0 else -1
    return tuple(reversed(steps))


def _length(codec: ChunkCodec) -> int:
    return math.prod(codec.shape) * codec.dtype.itemsize


def _check_names(names: list[str], known: Mapping[str, Any]) -> None:
    """Some codecs run code that lies in the data (pickle), others are not known to be safe: none of these is used."""
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        these = f"these are read: {', '.join(known)}" if known else "filters are not read"
        raise ValueError(f"codec {', '.join(unknown)}; {these}")


def _blosc(data: bytes, length: int) -> bytes:
    """Blosc reads on beyond the end of what was cut short, so its header is asked before."""
    if len(data) < BLOSC_HEADER or struct.unpack("<II", data[4:8] + data[12:16]) != (length, len(data)):
        raise ValueError("it was cut short")
    return bytes(imagecodecs.blosc_decode(data, out=length))


def _crc32c(data: bytes, _: int) -> bytes:
    values, checksum = data[:-CHECKSUM], data[-CHECKSUM:]
    if google_crc32c.value(values).to_bytes(CHECKSUM, "little") != checksum:
        raise ValueError("its checksum does not fit")
    return values


def _bz2(data: bytes, length: int) -> bytes:
    return _all_of(bz2.BZ2Decompressor(), data, length)


def _lzma(data: bytes, length: int) -> bytes:
    return _all_of(lzma.LZMADecompressor(memlimit=MOST_LZMA_MEMORY), data, length)


def _all_of(stream: bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes, length: int) -> bytes:
    values = stream.decompress(data, length + 1)
    if not stream.eof:
        raise ValueError(f"its stream was cut short, or has more than {length} bytes")
    return values


COMPRESSORS: Mapping[str, Decompress] = MappingProxyType(
    {
        "blosc": _blosc,
        "gzip": lambda data, length: bytes(imagecodecs.gzip_decode(data, out=length)),
        "zstd": lambda data, length: bytes(imagecodecs.zstd_decode(data, out=length)),
        "crc32c": _crc32c,
    }
)
OLD_COMPRESSORS: Mapping[str, Decompress] = MappingProxyType(
    {
        "blosc": _blosc,
        "gzip": COMPRESSORS["gzip"],
        "zstd": COMPRESSORS["zstd"],
        "zlib": lambda data, length: bytes(imagecodecs.zlib_decode(data, out=length)),
        "lz4": lambda data, length: bytes(imagecodecs.lz4_decode(data, header=True, out=length)),
        "bz2": _bz2,
        "lzma": _lzma,
    }
)
