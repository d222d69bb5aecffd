"""From an image to its scores, labels and objects: the whole pipeline in one function.

An image that is too large for the network at once is seen in windows (`tiling.py`); all its scores are in memory. For
images that do not fit into memory, see `large.py`.

B batch, C channels, K outputs, H rows, W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pixelwise.bundle import Bundle
from pixelwise.config import PredictConfig
from pixelwise.data.normalise import Normalisation
from pixelwise.inference.scales import seen_at
from pixelwise.inference.sliding import sliding_logits
from pixelwise.inference.symmetries import Symmetry, symmetries
from pixelwise.inference.tiling import USUAL_SIDE, Tiling, choose_tiling
from pixelwise.postprocess.instances import InstanceSettings, find_instances
from pixelwise.runtime import Runtime
from pixelwise.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A network with all that it needs to label an image.

    instances  how objects are made of scores; None: it finds none
    memory     budget in bytes for what the network takes at once; None: see `choose_tiling`
    """

    network: nn.Module
    task: Task
    normalisation: Normalisation
    runtime: Runtime
    settings: PredictConfig
    instances: InstanceSettings | None = None
    memory: int | None = None

    @classmethod
    def of(cls, bundle: Bundle, runtime: Runtime, settings: PredictConfig | None = None) -> Predictor:
        """The predictor of a saved model; `settings` replace those stored in it."""
        return cls(
            network=runtime.place(bundle.build_network()),
            task=bundle.task,
            normalisation=bundle.normalisation,
            runtime=runtime,
            settings=settings or bundle.predict,
            instances=bundle.instances,
        )

    def tiling(self, shape: tuple[int, int]) -> Tiling | None:
        """How an image of that height and width is cut; None: it goes through the network whole."""
        if math.prod(shape) <= (self.settings.tile or USUAL_SIDE) ** 2:
            return None
        tiling = choose_tiling(
            self.network, self.normalisation.channels, settings=self.settings, runtime=self.runtime, memory=self.memory
        )
        return None if tiling.holds(shape) else tiling


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says of an image.

    labels        (H, W) class indices, or the bits of overlapping classes (see task.py), or (K, H, W) values
    scores_KHW    float32
    instances_HW  0 background, objects from 1; None where the predictor finds no objects
    """

    labels: NDArray[Any]
    scores_KHW: NDArray[np.float32]
    instances_HW: NDArray[np.int32] | None = None


@torch.inference_mode()
def predict(image_HWC: NDArray[Any], predictor: Predictor) -> Prediction:
    """Label every pixel of an image (H, W, C) of any size, in raw grey values, with the model's number of channels.

    Objects are found in the same scores, where the predictor says how.
    """
    # Normalise as in training.
    image_CHW = predictor.normalisation.apply(image_HWC).transpose(2, 0, 1)
    image_BCHW = predictor.runtime.place_image(torch.from_numpy(np.ascontiguousarray(image_CHW))[None])

    # Logits to scores, averaged over sizes, mirror images and turns where that is asked for.
    scales = predictor.settings.scales or (1.0,)
    views = list(symmetries()) if predictor.settings.flips else [Symmetry()]
    seen = (
        view.back(seen_at(scale, view.turn(image_BCHW), lambda view_BCHW: _scores(view_BCHW, predictor)))
        for scale in scales
        for view in views
    )
    scores_BKHW = sum(seen) / (len(scales) * len(views))
    assert isinstance(scores_BKHW, Tensor), "there is at least one view"

    # Scores to labels, and to objects.
    labels = labels_of(scores_BKHW, predictor.task)[0].cpu().numpy()
    scores_KHW = scores_BKHW[0].cpu().numpy()
    instances_HW = None if predictor.instances is None else find_instances(scores_KHW, predictor.instances)
    return Prediction(labels, scores_KHW, instances_HW)


def labels_of(scores_BKHW: Tensor, task: Task) -> Tensor:
    """Labels as a picture holds them: class indices or bits, uint8 (B, H, W); of a task of values, the values."""
    decided = task.decide(scores_BKHW)
    match task.kind:
        case "exclusive":
            return decided.to(torch.uint8)
        case "overlapping":
            return task.pack(decided)
        case "values":
            return decided


def _scores(image_BCHW: Tensor, predictor: Predictor) -> Tensor:
    tiling = predictor.tiling((image_BCHW.shape[-2], image_BCHW.shape[-1]))
    with predictor.runtime.autocast():
        logits_BKHW = sliding_logits(
            predictor.runtime.place_image(image_BCHW), network=predictor.network, tiling=tiling
        )
    return predictor.task.activate(logits_BKHW)
