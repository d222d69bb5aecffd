"""Tensors and JSON together in one safetensors file: the form of saved models and of checkpoints.

Opening one never runs code. The size, the header, the JSON and a checksum over everything are checked before a value is
used; whatever does not fit is refused in a sentence. Writing is atomic.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pixelwise.errors import BundleError, TrainingError, UnreadableError, printable
from pixelwise.files import write_bytes

Purpose = Literal["model", "checkpoint"]
FORMAT = 1
METADATA_KEY = "pixelwise"
LONGEST_HEADER = 100 * 2**20
PICKLES = {b"PK\x03\x04": "a zip file, as torch.save writes", b"\x80": "a Python pickle", b"\x93NUMPY": "a NumPy array"}


@dataclass(frozen=True, slots=True)
class Archive:
    """What a file holds: named tensors, and a description of plain JSON values."""

    tensors: dict[str, Tensor]
    description: dict[str, Any]


def save_archive(path: Path, archive: Archive, *, kind: Purpose) -> None:
    """Write tensors and description to one file, completely or not at all.

    Raises OutputError where the system refuses, and TrainingError for weights that are not finite: they are not saved.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(archive.tensors.items())}
    wild = _not_finite(tensors)
    if wild:
        raise TrainingError(
            f"{printable(path)} was not written: the weights {wild} hold NaN or infinity; lower training.learning_rate"
        )
    text = json.dumps(archive.description, allow_nan=False, sort_keys=True)
    envelope = {"format": FORMAT, "kind": kind, "sha256": _checksum(tensors, text), "description": text}
    metadata = {METADATA_KEY: json.dumps(envelope, sort_keys=True)}
    write_bytes(path, save(tensors, metadata))


def load_archive(path: Path, *, kind: Purpose) -> Archive:
    """Read a file that `save_archive` wrote; raises BundleError, naming what is wrong, for any other."""
    try:
        if not path.is_file():
            raise _refusal(path, "there is no such file")
        with path.open("rb") as file:  # opened once: another process may put a new file in its place meanwhile
            envelope = _read_envelope(file, path, kind)
            file.seek(0)
            tensors: dict[str, Tensor] = load(file.read())
        if envelope["sha256"] != _checksum(tensors, envelope["description"]):
            raise _refusal(path, "its checksum does not fit: the file was changed or damaged after it was written")
        wild = _not_finite(tensors)
        if wild:
            raise _refusal(path, f"the weights {wild} hold NaN or infinity")
        return Archive(tensors, _parse_json(envelope["description"], path))
    except (SafetensorError, KeyError, TypeError, AttributeError, RuntimeError, UnicodeError) as error:
        raise _refusal(path, f"it is damaged ({error})") from error
    except OSError as error:
        raise UnreadableError(f"{printable(path)} cannot be used: {error.strerror or error}") from error


def _read_envelope(file: BinaryIO, path: Path, kind: Purpose) -> dict[str, Any]:
    """The checked outer JSON of a file; reads no tensor."""
    header = _parse_json(_read_header(file, path), path)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        raise _refusal(path, "it is a safetensors file, but not one that pixelwise wrote")
    envelope = _parse_json(metadata[METADATA_KEY], path)
    if envelope.get("format") != FORMAT:
        raise _refusal(
            path, f"its format is {envelope.get('format')!r}, this version reads {FORMAT}; a newer one made it"
        )
    if envelope.get("kind") != kind:
        raise _refusal(path, f"it is a {envelope.get('kind')}, not a {kind}")
    return envelope


def _read_header(file: BinaryIO, path: Path) -> bytes:
    """The JSON text before the tensors. Its length comes first, as 8 bytes, and is checked before memory is taken."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if 2 <= length <= min(LONGEST_HEADER, path.stat().st_size - 8):
        return file.read(length)
    for magic, meaning in PICKLES.items():
        if start.startswith(magic):
            raise _refusal(path, f"it is {meaning}, which can run code when opened")
    raise _refusal(path, "it is not a safetensors file, or only a part of one")


def _parse_json(text: str | bytes, path: Path) -> dict[str, Any]:
    """A JSON object; duplicate keys, NaN, other types at the top and endless nesting are refused."""
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"its description is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _refusal(path, "its description is not a JSON object")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity."""
    wild = (n for n, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all())
    return next(wild, None)


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refusal(path: Path, reason: str) -> BundleError:
    return BundleError(f"{printable(path)} cannot be used: {reason}; give a file that pixelwise train wrote")
