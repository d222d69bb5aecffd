"""Pretrained weights for encoders: read from a safetensors file, or fetched from where timm publishes them.

Only safetensors is read, never a pickle. The weights are those of a classifier, trained on ImageNet for the most part;
its last layers are left unused. Which tensor belongs where is told by timm's own names, or, for an encoder that
pixelwise builds itself, by the order of the layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from pixelwise.archive import PICKLES
from pixelwise.errors import UsageError, printable
from pixelwise.files import file_hash
from pixelwise.models.encoders import parse_encoder
from pixelwise.models.map_fit import first_line

IMAGENET = "imagenet"  # the weights that timm publishes, whatever they were trained on
ANSWER_WITHIN = 1.0  # seconds in which the server of the weights has to answer
LEAST_SHARE = 0.5  # of the encoder's tensors that a file must hold
NAMES_SHOWN = 3
MOST_WRAPPERS = 2  # modules of ours and of timm around a network
NEXT_STEP = "choose model.encoder_weights=FILE.safetensors, or model.encoder_weights=none"
NO_LICENCE = "unknown"
NON_COMMERCIAL_WORDS = {"nc", "noncommercial"}
RESEARCH_ONLY = {"apple-amlr", "seer-license"}  # licences that say so in their text, not in their name


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeights:
    """What was loaded, in timm's names: `unused` holds what the file has and the encoder has not, such as a classifier.

    >>> print(LoadedWeights(loaded=("conv1.weight",), missing=(), unused=("fc.weight", "fc.bias")))
    1 of 1 tensors loaded; 2 of the file unused: fc.weight, fc.bias
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors loaded"]
        if self.missing:
            parts.append(f"{len(self.missing)} keep their random start: {_few(self.missing)}")
        if self.unused:
            parts.append(f"{len(self.unused)} of the file unused: {_few(self.unused)}")
        return "; ".join(parts)


def load_pretrained(encoder: nn.Module, source: str | Path) -> LoadedWeights:
    """Fill an encoder with pretrained weights, in place, completely or not at all.

    `source` is a safetensors file, or "imagenet": the weights of timm for the encoder's `timm_name`, from the cache on
    this machine or else from the network. The first convolution is adapted to the number of channels of the images.
    Raises UsageError, naming the file and what is wrong, for one that cannot be read or does not fit, for weights that
    cannot be fetched, and for an encoder of which timm has no weights.
    """
    name = str(encoder.timm_name)
    if not name:
        raise UsageError(f"there are no pretrained weights that fit the encoder of this network; {NEXT_STEP}")
    path = fetch_weights(name) if source == IMAGENET else Path(source)
    tensors = _read(path)
    state = _weights(encoder)
    names = _timm_names(list(state), name)

    # Everything is checked before the first weight is replaced.
    wanted = {names.get(key, key): tensor for key, tensor in state.items()}
    found = {key: tensors[key] for key in wanted if key in tensors}
    if len(found) < LEAST_SHARE * len(wanted):
        missing = _few([key for key in wanted if key not in found])
        held = f"it holds {len(found)} of the encoder's {len(wanted)} tensors and lacks {missing}"
        raise UsageError(f"{printable(path)} does not hold the weights of {name}: {held}; {NEXT_STEP}")
    fitting = _fitting(found, wanted, name, path)
    with torch.no_grad():
        for key, tensor in fitting.items():
            wanted[key].copy_(tensor)
    return LoadedWeights(
        loaded=tuple(fitting),
        missing=tuple(key for key in wanted if key not in fitting),
        unused=tuple(sorted(key for key in tensors if key not in wanted and tensors[key].is_floating_point())),
    )


def pretrained_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, per channel, by which the weights of timm expect images of 0 to 1 to be scaled.

    >>> pretrained_statistics("resnet18")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    config = _config(name)
    return tuple(config.mean), tuple(config.std)


def weights_licence(name: str) -> str:
    """The licence of the weights of timm, by its short name; "unknown" where timm does not say, "" without weights.

    >>> weights_licence("resnet18"), weights_licence("convnextv2_atto")
    ('apache-2.0', 'cc-by-nc-4.0')
    """
    config = timm.get_pretrained_cfg(parse_encoder(name)[0])
    if config is None or not config.has_weights:
        return ""
    return config.license or NO_LICENCE


def is_non_commercial(licence: str) -> bool:
    """Whether weights under a licence may not be used commercially. False for a licence that is not known: read it.

    >>> is_non_commercial("cc-by-nc-4.0"), is_non_commercial("apache-2.0")
    (True, False)
    """
    return licence in RESEARCH_ONLY or not NON_COMMERCIAL_WORDS.isdisjoint(licence.lower().split("-"))


def _config(name: str) -> Any:
    """What timm knows of the weights of a network."""
    config = timm.get_pretrained_cfg(parse_encoder(name)[0])
    if config is None or not config.has_weights:
        raise UsageError(f"timm has no pretrained weights of {name}; {NEXT_STEP}")
    return config


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and running statistics; counters are none of our business."""
    return {key: tensor for key, tensor in module.state_dict().items() if tensor.is_floating_point()}


def _timm_names(keys: list[str], name: str) -> dict[str, str]:
    """What timm calls the tensors of an encoder: names that end alike, else those in the same place of the order.

    timm itself writes `features_0.weight` for `features.0.weight` where a network gives maps.
    """
    with torch.device("meta"):
        known = list(_weights(timm.create_model(name)))
    spelt = {_spelling(key): key for key in known}
    alike: list[dict[str, str]] = []
    for wrappers in range(MOST_WRAPPERS + 1):
        ends = {key: _spelling(key.split(".", wrappers)[-1]) for key in keys}
        alike.append({key: spelt[end] for key, end in ends.items() if end in spelt})
    best = max(alike, key=len)
    return best if len(best) > len(keys) / 2 else dict(zip(keys, known, strict=False))


def _spelling(key: str) -> str:
    return key.replace(".", "_")


def _fitting(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a file in the shapes that are wanted; refuses other shapes, and values that are not finite."""
    first = _first_convolutions(name)
    fitting = {
        key: _adapted(tensor, wanted[key]) if key in first and tensor.shape != wanted[key].shape else tensor
        for key, tensor in found.items()
    }
    wrong = [
        f"{key} is {tuple(tensor.shape)} and should be {tuple(wanted[key].shape)}"
        for key, tensor in fitting.items()
        if tensor.shape != wanted[key].shape
    ]
    wrong += [f"{key} holds NaN or infinity" for key, tensor in fitting.items() if not tensor.isfinite().all()]
    if wrong:
        raise UsageError(f"{printable(path)} does not fit {name}: {_few(wrong)}; {NEXT_STEP}")
    return fitting


def _first_convolutions(name: str) -> set[str]:
    config = timm.get_pretrained_cfg(name)
    layers = config.first_conv if config else None
    return {f"{layer}.weight" for layer in ((layers,) if isinstance(layers, str) else layers or ())}


def _adapted(weight: Tensor, wanted: Tensor) -> Tensor:
    """The filters of a first convolution for images of another number of channels.

    For one channel the sum over the three; for N the three over and over, times 3 / N to keep the size of the response.
    """
    try:
        return adapt_input_conv(wanted.shape[1], weight)
    except (NotImplementedError, AssertionError):  # a first layer that rearranges pixels; its shape will not fit
        return weight


def _few(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
        for magic, meaning in PICKLES.items():
            if start.startswith(magic):
                raise UsageError(f"{printable(path)} is {meaning}, which can run code when opened; {NEXT_STEP}")
        tensors: dict[str, Tensor] = load_file(path)
    except OSError as error:
        raise UsageError(
            f"cannot read the weights {printable(path)}: {error.strerror or error}; {NEXT_STEP}"
        ) from error
    except SafetensorError as error:
        raise UsageError(f"{printable(path)} is not a whole safetensors file ({error}); {NEXT_STEP}") from error
    return tensors


def fetch_weights(name: str) -> Path:
    """The file of the weights of timm: from the cache without asking the network, else from the network."""
    config = _config(name)
    if not config.hf_hub_id:
        raise UsageError(f"the weights of {name} are published only as a pickle, which can run code; {NEXT_STEP}")
    repository, _, revision = config.hf_hub_id.partition("@")
    file = _safe_name(config.hf_hub_filename or "model.safetensors")
    cached = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
    path = Path(cached) if isinstance(cached, str) else _download(name, repository, file, revision or None)
    _check_sum(path)
    return path


def _safe_name(file: str) -> str:
    """What the safetensors form of a published file is called.

    >>> _safe_name("open_clip_pytorch_model.bin")
    'open_clip_model.safetensors'
    """
    return str(Path(file.replace("pytorch_model", "model")).with_suffix(".safetensors"))


def _download(name: str, repository: str, file: str, revision: str | None) -> Path:
    """Fetch a file into the cache. Where the server does not answer, that is said at once and not tried again."""
    try:
        _check_answer(huggingface_hub.hf_hub_url(repository, file, revision=revision))
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # of the library for the network, which has been another one with every major version
        raise UsageError(
            f"the pretrained weights of {name} are not on this machine and cannot be fetched ({first_line(error)}); "
            f"{NEXT_STEP}"
        ) from error


def _check_answer(address: str) -> None:
    """Ask for a file without fetching it; the library itself would ask again and again for most of a minute."""
    status = huggingface_hub.get_session().head(address, timeout=ANSWER_WITHIN).status_code
    if status >= HTTPStatus.BAD_REQUEST and status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise ConnectionError(f"the server answers {status}")


def _check_sum(path: Path) -> None:
    """Compare a file of the cache with its checksum, by which the cache names it."""
    target = path.readlink().name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", target) and target != file_hash(path):
        raise UsageError(f"{printable(path.resolve())} is damaged: its checksum does not fit; delete it and run again")
