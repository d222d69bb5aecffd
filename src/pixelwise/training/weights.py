"""The pretrained weights that an encoder starts from: which file, under which licence, for images scaled how.

They are loaded once, where a run begins. A resumed run has them in its checkpoint, a trained model in itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixelwise.config import ModelConfig
from pixelwise.data.normalise import Normalisation
from pixelwise.data.survey import Survey
from pixelwise.errors import UsageError, printable
from pixelwise.files import file_hash
from pixelwise.models.pretrained import (
    IMAGENET,
    NO_LICENCE,
    LoadedWeights,
    fetch_weights,
    is_non_commercial,
    load_pretrained,
    pretrained_statistics,
    weights_licence,
)
from pixelwise.models.registry import build_model
from pixelwise.training.encoder import find_encoder, timm_name

BRIGHTEST = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderWeights:
    """What an encoder starts from.

    network  its name in timm
    source   imagenet, or the path of a file
    sha256   checksum of the file
    licence  short name, such as apache-2.0; unknown for a file of the user's
    """

    network: str
    source: str
    sha256: str
    licence: str

    @classmethod
    def of(cls, model: ModelConfig) -> EncoderWeights | None:
        """Those that a network is to start from; None: random weights.

        Published weights that are not on this machine are fetched, unless their checksum is known. Raises UsageError
        for weights that are not there, and for a network to whose encoder none fit.
        """
        if not model.encoder_weights:
            return None
        name, published = encoder_name(model), model.encoder_weights == IMAGENET
        if not name:
            raise UsageError(
                f"model.encoder_weights = {printable(model.encoder_weights)}: no published weights fit the encoder of "
                f"{model.name} with these arguments; leave it out, or choose a network on an encoder of timm"
            )
        source = IMAGENET if published else str(Path(model.encoder_weights).resolve())
        checksum = model.encoder_sha256 or file_hash(pretrained_file(name, source))
        licence = weights_licence(name) if published else NO_LICENCE
        return cls(network=name, source=source, sha256=checksum, licence=licence)

    @property
    def is_non_commercial(self) -> bool:
        """Whether what is trained from them may not be used commercially either."""
        return is_non_commercial(self.licence)

    def to_dict(self) -> dict[str, Any]:
        """For the provenance of a model."""
        return asdict(self)

    def describe(self) -> str:
        """One line for a person."""
        source = "the weights that timm publishes" if self.source == IMAGENET else printable(self.source)
        return f"encoder {self.network} starts from {source} (sha256 {self.sha256[:12]}…, licence: {self.licence})"

    def load(self, network: nn.Module) -> LoadedWeights:
        """Fill the network's encoder with them; on the meta device, only see whether they fit.

        Raises UsageError where they do not, and where the file is another than before.
        """
        encoder = find_encoder(network)
        assert encoder is not None, "check_network refuses weights without an encoder"
        path = pretrained_file(self.network, self.source)
        if self.sha256 != file_hash(path):
            raise UsageError(
                f"{printable(path)} is not the file of weights that the plan names (sha256 {self.sha256[:12]}…); "
                "give that file, or take this one by model.encoder_sha256="
            )
        return load_pretrained(encoder, path)


def pin_weights(model: ModelConfig) -> dict[str, str]:
    """The settings of the encoder's weights, complete: the full path of a file, and its checksum."""
    weights = EncoderWeights.of(model)
    if weights is None:
        return {"encoder_sha256": ""}
    return {"encoder_weights": weights.source, "encoder_sha256": weights.sha256}


def expected_normalisation(weights: EncoderWeights, survey: Survey) -> Normalisation | None:
    """How the weights expect images to be scaled, where they can say so: for images of 8 bits and three colours.

    None for other images, and for networks of which timm publishes no weights.
    """
    if survey.channels != (3,) or survey.dtypes != ("uint8",) or not weights_licence(weights.network):
        return None
    mean, std = pretrained_statistics(weights.network)
    return Normalisation(tuple(BRIGHTEST * value for value in mean), tuple(BRIGHTEST * value for value in std))


def encoder_name(model: ModelConfig) -> str:
    """What timm calls the encoder of a network; empty where none of its weights fit."""
    with torch.device("meta"):
        return timm_name(build_model(model.name, in_channels=3, classes=2, options=model.options))


def pretrained_file(name: str, source: str) -> Path:
    """The file of the weights: that of the user, or the one that timm publishes for the network of that name.

    Raises UsageError for a file that is not there, and where it cannot be fetched.
    """
    if source == IMAGENET:
        return fetch_weights(name)
    if not Path(source).is_file():
        raise UsageError(
            f"model.encoder_weights = {printable(source)}: there is no such file; "
            "give a file .safetensors, imagenet, or none"
        )
    return Path(source)
