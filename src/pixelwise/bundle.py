"""The saved model: everything that prediction needs and nothing that training needs, in one safetensors file.

It holds the weights, and as JSON: the task, the network's name and arguments, the normalisation, how masks are coded,
how large images are cut into windows, how objects are made of scores, and where all this comes from (versions, data,
plan, scores).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pixelwise.archive import Archive, load_archive, save_archive
from pixelwise.config import PredictConfig
from pixelwise.data.masks import Coding
from pixelwise.data.normalise import Normalisation
from pixelwise.errors import BundleError, PixelwiseError, printable
from pixelwise.models.registry import build_model
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.task import Task

NECK = 0.7
"""Where objects, or the seeds of learned borders, are cut before tuning: good for convex ones (`split_by_distance`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Which network: its name in MODELS, its number of input channels and its further arguments."""

    name: str
    in_channels: int
    options: Mapping[str, Any]

    def build(self, task: Task) -> nn.Module:
        """The network with fresh weights, one output per class of the task."""
        return build_model(self.name, in_channels=self.in_channels, classes=task.outputs, options=self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A trained model. `provenance` is for people and audits; prediction uses everything else.

    instances  how single objects are made of the scores; None: the model has classes alone
    """

    task: Task
    network: Network
    normalisation: Normalisation
    coding: Coding
    predict: PredictConfig
    weights: Mapping[str, Tensor]
    provenance: Mapping[str, Any]
    instances: InstanceSettings | None = None

    def save(self, path: Path) -> None:
        """Write the model to one file, completely or not at all."""
        save_archive(path, Archive(dict(self.weights), self._description()), kind="model")

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Read a model. Runs nothing from the file; raises BundleError, naming what is wrong, where it is not one."""
        archive = load_archive(path, kind="model")
        try:
            bundle = _from_description(archive.description, archive.tensors)
            bundle._check_weights()
        except (PixelwiseError, ValidationError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{printable(path)} cannot be used: {error}") from error
        return bundle

    def build_network(self) -> nn.Module:
        """The network with the weights of the model, ready to predict."""
        network = self.network.build(self.task)
        network.load_state_dict(dict(self.weights))
        return network.eval()

    def _description(self) -> dict[str, Any]:
        network = {
            "name": self.network.name,
            "in_channels": self.network.in_channels,
            "options": dict(self.network.options),
        }
        return {
            "task": self.task.to_dict(),
            "network": network,
            "normalisation": self.normalisation.to_dict(),
            "coding": self.coding.to_dict(),
            "predict": self.predict.model_dump(),
            "instances": self.instances.to_dict() if self.instances else None,
            "provenance": dict(self.provenance),
        }

    def _check_weights(self) -> None:
        """Names, shapes and types must be those of the network, checked without taking memory for it."""
        with torch.device("meta"):
            wanted = self.network.build(self.task).state_dict()
        missing, foreign = sorted(wanted.keys() - self.weights.keys()), sorted(self.weights.keys() - wanted.keys())
        if missing or foreign:
            raise BundleError(
                f"the weights do not belong to {self.network.name}: missing {missing[:3]}, foreign {foreign[:3]}"
            )
        for name, tensor in wanted.items():
            found = self.weights[name]
            if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise BundleError(
                    f"the weights {name} are {tuple(found.shape)} of {found.dtype}, "
                    f"the network needs {tuple(tensor.shape)} of {tensor.dtype}"
                )


def instances_of(coding: Coding) -> InstanceSettings | None:
    """How objects are made of the scores of a model that learned such masks, before tuning; None: they hold no objects.

    >>> instances_of(Coding(kind="instances", border=2)).form, instances_of(Coding(kind="instances")).form
    ('softmax3', 'plain')
    """
    if coding.kind != "instances":
        return None
    return InstanceSettings(form=coding.form if coding.border else "plain", neck=NECK)


def _from_description(values: dict[str, Any], weights: dict[str, Tensor]) -> Bundle:
    known = {"task", "network", "normalisation", "coding", "predict", "instances", "provenance"}
    values = {"instances": None, **values}  # models of classes alone were once saved without it
    if values.keys() != known:
        raise BundleError(f"the description must hold {sorted(known)}, it holds {sorted(values)[:10]}")
    bundle = Bundle(
        task=Task.from_dict(values["task"]),
        network=Network(**values["network"]),
        normalisation=Normalisation.from_dict(values["normalisation"]),
        coding=Coding.from_dict(values["coding"]),
        predict=PredictConfig.model_validate(values["predict"]),
        weights=weights,
        provenance=values["provenance"],
        instances=None if values["instances"] is None else InstanceSettings.from_dict(values["instances"]),
    )
    if bundle.instances and len(bundle.instances.channels) != bundle.task.outputs:
        raise BundleError(
            f"instances of the form {bundle.instances.form} are made of {len(bundle.instances.channels)} outputs, "
            f"the task has {bundle.task.outputs}"
        )
    if len(bundle.normalisation.mean) != bundle.network.in_channels:
        raise BundleError(
            f"the network takes {bundle.network.in_channels} channels, "
            f"the normalisation has {len(bundle.normalisation.mean)}"
        )
    return bundle
