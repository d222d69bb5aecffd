from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pixelwise.archive import FORMAT, METADATA_KEY, Archive, load_archive, save_archive
from pixelwise.errors import BundleError, TrainingError

CONTENT = Archive(
    {
        "weight": torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "count": torch.tensor(7, dtype=torch.int64),
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
    },
    {"names": ["a", "é\n\udcff"], "deep": {"x": [1, None, 0.5, True]}},
)


def saved(path: Path, archive: Archive = CONTENT) -> bytes:
    save_archive(path, archive, kind="model")
    return path.read_bytes()


def assert_same(one: Archive, other: Archive) -> None:
    assert one.description == other.description
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name])
        assert tensor.dtype == other.tensors[name].dtype


def refusal(path: Path, content: bytes) -> str:
    """What is said about a file of this content: one sentence that names it, and no traceback."""
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        load_archive(path, kind="model")
    said = str(caught.value)
    assert path.name in said
    assert "give a file that pixelwise train wrote" in said
    assert "\n" not in said
    return said


def safetensors_bytes(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def reworked(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A good file whose envelope was changed and written back, with a header that fits."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    envelope = json.loads(header["__metadata__"][METADATA_KEY])
    change(envelope)
    header["__metadata__"][METADATA_KEY] = json.dumps(envelope)
    return safetensors_bytes(json.dumps(header).encode(), content[8 + length :])


# There and back


def test_an_archive_survives_saving_and_loading(tmp_path):
    saved(tmp_path / "a")
    assert_same(load_archive(tmp_path / "a", kind="model"), CONTENT)


def test_an_empty_archive_survives_too(tmp_path):
    saved(tmp_path / "a", Archive({}, {}))
    assert_same(load_archive(tmp_path / "a", kind="model"), Archive({}, {}))


def test_the_same_content_gives_the_same_bytes(tmp_path):
    reordered = Archive(dict(reversed(CONTENT.tensors.items())), dict(reversed(CONTENT.description.items())))
    assert saved(tmp_path / "a") == saved(tmp_path / "b") == saved(tmp_path / "c", reordered)


def test_loaded_tensors_can_be_trained_further_and_outlive_the_file(tmp_path):
    saved(tmp_path / "a")
    loaded = load_archive(tmp_path / "a", kind="model")
    (tmp_path / "a").write_bytes(b"something else")
    loaded.tensors["weight"].add_(1)
    assert torch.equal(loaded.tensors["weight"], CONTENT.tensors["weight"] + 1)


def test_a_header_of_any_length_is_read_back(tmp_path):
    # The length is the file's first byte; at 128 it looks like the first byte of a pickle.
    first_bytes = set()
    for length in range(0, 256, 2):
        archive = Archive({}, {"text": "x" * length})
        first_bytes.add(saved(tmp_path / "a", archive)[0])
        assert_same(load_archive(tmp_path / "a", kind="model"), archive)
    assert 0x80 in first_bytes


def test_weights_that_require_gradients_are_saved(tmp_path):
    saved(tmp_path / "a", Archive({"w": torch.nn.Parameter(torch.ones(2))}, {}))
    assert load_archive(tmp_path / "a", kind="model").tensors["w"].tolist() == [1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    weights = {"w": torch.tensor([0.0, value])}
    with pytest.raises(TrainingError, match="the weights w hold NaN or infinity"):
        saved(tmp_path / "a", Archive(weights, {}))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_loaded_from_a_file_that_is_whole_either(tmp_path):
    with pytest.MonkeyPatch.context() as without_the_check:
        without_the_check.setattr("pixelwise.archive._not_finite", lambda *_: None)
        content = saved(tmp_path / "a", Archive({"w": torch.tensor([float("nan")])}, {}))
    assert "the weights w hold NaN or infinity" in refusal(tmp_path / "b", content)


# Damage


def test_a_truncated_file_is_refused(tmp_path):
    content = saved(tmp_path / "a")
    for sixteenth in range(16):
        refusal(tmp_path / "b", content[: len(content) * sixteenth // 16])
    refusal(tmp_path / "b", content[:-1])
    refusal(tmp_path / "b", content + b"\0")


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    content, draw = saved(tmp_path / "a"), random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "b").write_bytes(damaged)
        try:
            assert_same(load_archive(tmp_path / "b", kind="model"), CONTENT)
        except BundleError:
            refused += 1
    assert refused > 150


def test_every_flip_in_the_tensors_is_found(tmp_path):
    content = saved(tmp_path / "a")
    length = struct.unpack("<Q", content[:8])[0]
    for place in range(8 + length, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1
        assert "its checksum does not fit" in refusal(tmp_path / "b", bytes(damaged))


# Foreign files


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_no_code_of_a_pickle_runs(tmp_path, protocol):
    canary, buffer = tmp_path / "canary", io.BytesIO()
    refusal(tmp_path / "b", pickle.dumps(Bomb(canary), protocol))
    torch.save(Bomb(canary), buffer)
    assert "a zip file, as torch.save writes, which can run code" in refusal(tmp_path / "b", buffer.getvalue())
    np.save(tmp_path / "c.npy", np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    assert "a NumPy array" in refusal(tmp_path / "b", (tmp_path / "c.npy").read_bytes())
    assert not canary.exists()


def test_a_pickle_is_called_one(tmp_path):
    assert "it is a Python pickle" in refusal(tmp_path / "b", pickle.dumps({"weights": list(range(1000))}))


def test_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("../../escaped", "x")
    refusal(tmp_path / "b", (tmp_path / "a.zip").read_bytes())


def test_safetensors_of_others_are_refused(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "a")
    assert "not one that pixelwise wrote" in refusal(tmp_path / "b", (tmp_path / "a").read_bytes())
    save_file({"w": torch.ones(2)}, tmp_path / "a", {"format": "pt"})
    assert "not one that pixelwise wrote" in refusal(tmp_path / "b", (tmp_path / "a").read_bytes())


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"", "only a part of one"),
        (b"{}", "not one that pixelwise wrote"),
        (b"[1, 2]", "not a JSON object"),
        (b"not JSON", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b'{"a": 1, "a": 2}', "a key occurs twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"__metadata__": [1]}', "not one that pixelwise wrote"),
        (b'{"__metadata__": {"pixelwise": 7}}', "it is damaged"),
        (b'{"__metadata__": {"pixelwise": "7"}}', "not a JSON object"),
        (b'{"__metadata__": {"pixelwise": "{\\"format\\": 1, \\"format\\": 1}"}}', "a key occurs twice"),
    ],
)
def test_headers_that_are_wrong_are_refused(tmp_path, header, said):
    assert said in refusal(tmp_path / "b", safetensors_bytes(header))


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**32, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_takes_no_memory(tmp_path, length):
    assert "only a part of one" in refusal(tmp_path / "b", struct.pack("<Q", length) + b"{}" * 100)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.update(format=FORMAT + 1), "its format is 2, this version reads 1"),
        (lambda e: e.pop("format"), "its format is None"),
        (lambda e: e.update(kind="checkpoint"), "it is a checkpoint, not a model"),
        (lambda e: e.update(description="{}"), "its checksum does not fit"),
        (lambda e: e.update(description={}), "it is damaged"),
        (lambda e: e.update(description="\ud800"), "it is damaged"),
        (lambda e: e.pop("description"), "it is damaged"),
        (lambda e: e.pop("sha256"), "it is damaged"),
        (lambda e: e.update(sha256="0" * 64), "its checksum does not fit"),
    ],
)
def test_envelopes_that_are_wrong_are_refused(tmp_path, change, said):
    content = saved(tmp_path / "a")
    (tmp_path / "unchanged").write_bytes(reworked(content, lambda envelope: None))
    assert_same(load_archive(tmp_path / "unchanged", kind="model"), CONTENT)
    assert said in refusal(tmp_path / "b", reworked(content, change))


def test_a_checkpoint_is_no_model(tmp_path):
    save_archive(tmp_path / "a", CONTENT, kind="checkpoint")
    assert "it is a checkpoint, not a model" in refusal(tmp_path / "b", (tmp_path / "a").read_bytes())


@pytest.mark.parametrize("name", ["missing", ".", "x" * 300])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(BundleError, match=r"cannot be used: (there is no such file|File name too long)"):
        load_archive(tmp_path / name, kind="model")


def test_a_failed_save_keeps_the_old_file(tmp_path):
    before = saved(tmp_path / "a")
    with pytest.raises(TrainingError):
        saved(tmp_path / "a", Archive({"w": torch.tensor([float("nan")])}, {}))
    with pytest.raises(ValueError, match="JSON compliant"):
        saved(tmp_path / "a", Archive({}, {"loss": float("nan")}))
    assert (tmp_path / "a").read_bytes() == before
