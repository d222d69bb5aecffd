"""A certificate that windows change nothing, or how much they do, measured with a trained network on a real image.

A part of the image is predicted twice: whole, and in windows so small that there are several. Where the network sees
the whole image no windows are exact; then the seam score says how much they show.

K outputs, H rows, W columns, C channels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixelwise.errors import UsageError
from pixelwise.inference.context import context_of
from pixelwise.inference.predict import Predictor, labels_of
from pixelwise.inference.sliding import sliding_logits
from pixelwise.inference.tiling import Tiling, choose_tiling, smallest_side

SMALL_CORE = 192
"""pixels: the core of the windows that are compared, so that an image of ordinary size holds several"""
SMALL_SIDE = 512
"""the same for windows that are not exact, halo and all"""
TOLERANCE = 1e-5
"""of the spread of the logits: what another order of summation may change in float32"""
COARSE_TOLERANCE = 0.02
"""the same for 16-bit precision, which keeps 2 to 3 digits"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What windows change in the logits of one image.

    context     what the network sees around a part of an image, in words
    tiling      how the image was cut, in words
    shape       height and width of what was compared
    tiles       how many windows there were
    difference  the largest between tiled and whole logits, as a share of the spread of the logits
    identical   whether all logits are the same bit for bit
    relabelled  share of the pixels that get another label
    seam_score  see the function of that name, of the tiled scores; `whole_score` is that of the whole image's scores
                at the same places: what the image itself has there
    exact       whether the windows are exact by the network's own structure, and the difference no more than rounding
    allowed     the share of the spread that counts as rounding, by the precision
    """

    context: str
    tiling: str
    shape: tuple[int, int]
    tiles: int
    difference: float
    identical: bool
    relabelled: float
    seam_score: float
    whole_score: float
    exact: bool
    allowed: float

    @property
    def allowance(self) -> str:
        """What counted as rounding, in words; nothing where there was none."""
        return "" if self.identical else f" (but for rounding, up to {self.allowed:g} of the spread)"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: _finite(value) for name, value in asdict(self).items()}

    def describe(self) -> list[str]:
        """Lines for a person."""
        same = "the same bit for bit" if self.identical else f"{self.difference:.1e} of their spread apart at most"
        verdict = f"tiled = untiled{self.allowance}" if self.exact else "tiled is not untiled"
        return [
            f"network: {self.context}",
            f"compared: {self.shape[1]} x {self.shape[0]} pixels, whole and in {self.tiles} {self.tiling}",
            f"logits: {same}; {self.relabelled:.4%} of the pixels get another label",
            f"seam score: {self.seam_score:.3f} (1 is no seam; the whole image has {self.whole_score:.3f} there)",
            f"verdict: {verdict}",
        ]


@torch.inference_mode()
def certify(image_HWC: NDArray[Any], predictor: Predictor) -> Certificate:
    """Compare the tiled with the untiled logits of an image (H, W, C), which must fit into memory whole.

    The windows are as small as the settings allow: those of `predict.tile`, or small ones of our own where it is 0.
    Raises UsageError where the image is too small to be cut.
    """
    tiling = _small_tiling(predictor)
    shape = (image_HWC.shape[0], image_HWC.shape[1])
    windows = tiling.seen(shape)
    if len(windows) < 2:
        raise UsageError(
            f"an image of {shape[1]} x {shape[0]} pixels is one window, so there is nothing to compare; give a larger "
            "image, or a smaller predict.tile"
        )

    # The same logits twice.
    image_BCHW = _normalised(image_HWC, predictor)
    with predictor.runtime.autocast():
        whole, tiled = (sliding_logits(image_BCHW, network=predictor.network, tiling=way) for way in (None, tiling))

    # What is different.
    scores = [predictor.task.activate(logits)[0].cpu().numpy() for logits in (tiled, whole)]
    labels = [labels_of(predictor.task.activate(logits), predictor.task) for logits in (tiled, whole)]
    difference = float((tiled - whole).abs().max() / (whole.max() - whole.min()).clamp_min(1e-30))
    rows, columns = seams_of(tiling, shape)
    allowed = TOLERANCE if predictor.runtime.precision == "fp32" else COARSE_TOLERANCE
    return Certificate(
        context=context_of(predictor.network, predictor.normalisation.channels).describe(),
        tiling=tiling.describe(),
        shape=shape,
        tiles=len(windows),
        difference=difference,
        identical=bool(torch.equal(tiled, whole)),
        relabelled=float((labels[0] != labels[1]).float().mean()),
        seam_score=seam_score(scores[0], rows=rows, columns=columns),
        whole_score=seam_score(scores[1], rows=rows, columns=columns),
        exact=tiling.way == "exact" and difference <= allowed,
        allowed=allowed,
    )


def seams_of(tiling: Tiling, shape: tuple[int, int]) -> tuple[list[int], list[int]]:
    """The rows and the columns of an image at which another window begins to count: the last pixel before each.

    >>> seams_of(Tiling(way="exact", side=48, halo=8, stride=8), (64, 70))
    ([31], [31, 63])
    """
    if tiling.way in ("exact", "inner"):
        boxes = [tile.write for tile in tiling.tiles(shape)]
        return sorted({box.top - 1 for box in boxes} - {-1}), sorted({box.left - 1 for box in boxes} - {-1})
    boxes = tiling.seen(shape)
    rows = {edge for box in boxes for edge in (box.top - 1, box.bottom - 1)} - {-1, shape[0] - 1}
    columns = {edge for box in boxes for edge in (box.left - 1, box.right - 1)} - {-1, shape[1] - 1}
    return sorted(rows), sorted(columns)


def seam_score(scores_KHW: NDArray[Any], *, rows: list[int], columns: list[int]) -> float:
    """How much more scores change across seams than elsewhere: a ratio of mean absolute differences of neighbours.

    `rows` and `columns` are the last pixels before the seams. 1: the seams cannot be seen; 2: scores change twice as
    much there. NaN where there is no seam, or nothing beside them; infinite where scores change at seams alone.

    >>> seam_score(np.array([[[0.0, 1.0, 2.0, 5.0, 6.0]]]), rows=[], columns=[2])
    3.0
    """
    across, beside = [], []
    for seams, axis in ((rows, 1), (columns, 2)):
        if seams:
            change = np.abs(np.diff(scores_KHW.astype(np.float64), axis=axis))
            across.append(np.take(change, seams, axis=axis).ravel())
            beside.append(np.delete(change, seams, axis=axis).ravel())
    if not across or not sum(one.size for one in beside):
        return math.nan
    seam, other = float(np.concatenate(across).mean()), float(np.concatenate(beside).mean())
    if other == 0:
        return 1.0 if seam == 0 else math.inf
    return seam / other


def _small_tiling(predictor: Predictor) -> Tiling:
    """Windows of the way that the predictor would choose, as small as is sensible."""
    channels, settings = predictor.normalisation.channels, predictor.settings
    context = context_of(predictor.network, channels)
    if not settings.tile:
        exact = context.halo is not None and settings.tiling in ("auto", "exact")
        side = smallest_side(context) - context.stride + SMALL_CORE if exact else SMALL_SIDE
        settings = settings.model_copy(update={"tile": max(side, smallest_side(context)) if exact else side})
    return choose_tiling(predictor.network, channels, settings=settings, runtime=predictor.runtime)


def _normalised(image_HWC: NDArray[Any], predictor: Predictor) -> Tensor:
    image_CHW = predictor.normalisation.apply(image_HWC).transpose(2, 0, 1)
    return predictor.runtime.place_image(torch.from_numpy(np.ascontiguousarray(image_CHW))[None])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
