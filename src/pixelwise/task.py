"""What is predicted: the classes, their colours, how logits become scores and scores become labels.

Only this file turns logits into scores (softmax, sigmoid) and scores into labels (argmax, threshold). Losses, metrics,
predictors and writers ask the Task, so they cannot disagree.

A mask or a picture of labels has one whole number per pixel: the class, or, where classes overlap, the sum of 2**k over
the classes k that are there (bit k says whether class k is). So one picture holds either, and nothing is lost.

B batch, K outputs (one per class), H rows, W columns.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.errors import UsageError

Kind = Literal["exclusive", "overlapping", "values"]
Colour = tuple[int, int, int]
KINDS = ("exclusive", "overlapping", "values")
VOID = 255
MOST_CLASSES = 255
MOST_OVERLAPPING = 7
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a network predicts for every pixel.

    kind          `exclusive`: each pixel has one class (softmax, argmax);
                  `overlapping`: each class is there or not (sigmoid, one threshold per class);
                  `values`: each output is a real number (no activation; L1 or L2 loss).
    names         one per output, in the order of the outputs
    colours       one RGB triple, 0 to 255, per output
    ignore_index  the mask value that counts in no loss and no score. None: every pixel counts
    thresholds    overlapping only: a class is there where its score is above this

    >>> task = Task.of(["background", "cell"])
    >>> task.outputs, task.decide(task.activate(torch.tensor([[[[0.0]], [[2.0]]]]))).item()
    (2, 1)
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    kind: Kind = "exclusive"
    ignore_index: int | None = VOID
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_names(self.names, self.kind)
        if len(self.colours) != len(self.names):
            raise UsageError(f"{len(self.names)} classes but {len(self.colours)} colours; give one colour per class")
        if any(len(colour) != 3 or not all(0 <= part <= 255 for part in colour) for colour in self.colours):
            raise UsageError(f"colours must be triples of 0 to 255, got {self.colours}")
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind of task {self.kind!r}; choose one of {', '.join(KINDS)}")
        if self.ignore_index is not None and 0 <= self.ignore_index < len(self.names):
            raise UsageError(
                f"ignore_index {self.ignore_index} is also class {self.names[self.ignore_index]!r}; "
                f"choose a value outside 0 to {len(self.names) - 1}"
            )
        if self.kind == "overlapping" and len(self.names) > MOST_OVERLAPPING:
            raise UsageError(
                f"{len(self.names)} overlapping classes do not fit into the bits of a mask; "
                f"give 1 to {MOST_OVERLAPPING} of them"
            )
        if self.thresholds and (self.kind != "overlapping" or len(self.thresholds) != len(self.names)):
            raise UsageError("thresholds belong to overlapping classes, one for each class")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise UsageError(f"thresholds are scores from 0 to 1, got {self.thresholds}")

    @classmethod
    def of(cls, names: Sequence[str], *, kind: Kind = "exclusive", ignore_index: int | None = VOID) -> Task:
        """A task with colours chosen for you: black for the first of exclusive classes, then hues far apart."""
        return cls(names=tuple(names), colours=distinct_colours(len(names), kind), kind=kind, ignore_index=ignore_index)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Task:
        """The task that `to_dict` wrote; raises UsageError on anything else."""
        try:
            return cls(
                names=tuple(values["names"]),
                colours=tuple((int(r), int(g), int(b)) for r, g, b in values["colours"]),
                kind=values["kind"],
                ignore_index=None if values["ignore_index"] is None else int(values["ignore_index"]),
                thresholds=tuple(float(t) for t in values["thresholds"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"not the description of a task: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The task as plain JSON values."""
        return asdict(self)

    @property
    def outputs(self) -> int:
        """How many channels the network's logits have."""
        return len(self.names)

    @property
    def codes(self) -> int:
        """How many values a pixel of a mask may have, void left aside: the classes, or the sets of overlapping ones."""
        return 2**self.outputs if self.kind == "overlapping" else self.outputs

    @property
    def object_class(self) -> int:
        """The class of single objects, where the task has them: the first that is not the background."""
        return 1 if self.kind == "exclusive" else 0

    def activate(self, logits_BKHW: Tensor) -> Tensor:
        """Scores from logits, of the same shape: probabilities in 0 to 1, or the values themselves.

        They are in float32, or in float64 where the logits are.
        """
        logits_BKHW = _at_least_float32(logits_BKHW)
        match self.kind:
            case "exclusive":
                return logits_BKHW.softmax(dim=1)
            case "overlapping":
                return logits_BKHW.sigmoid()
            case "values":
                return logits_BKHW

    def log_scores(self, logits_BKHW: Tensor) -> Tensor:
        """Natural logarithm of `activate`, computed without overflow, for the losses of classes."""
        logits_BKHW = _at_least_float32(logits_BKHW)
        match self.kind:
            case "exclusive":
                return logits_BKHW.log_softmax(dim=1)
            case "overlapping":
                return F.logsigmoid(logits_BKHW)
            case "values":
                raise UsageError("a task of values has no probabilities; use the losses l1 or l2")

    def decide(self, scores_BKHW: Tensor) -> Tensor:
        """Labels from scores: class indices `labels_BHW` (int64), presence `BKHW` (bool), or the values unchanged.

        Equal scores go to the class with the lower index.
        """
        match self.kind:
            case "exclusive":
                return scores_BKHW.max(dim=1).indices  # the same as argmax, in a tenth of the time on a processor
            case "overlapping":
                thresholds = self.thresholds or (0.5,) * self.outputs
                return scores_BKHW > scores_BKHW.new_tensor(thresholds).view(-1, 1, 1)
            case "values":
                return scores_BKHW

    def pack(self, present_BKHW: Tensor) -> Tensor:
        """labels_BHW (uint8) of overlapping classes: bit k says whether class k is there. At most 7 classes.

        >>> Task.of(["cell", "border"], kind="overlapping").pack(torch.tensor([[[[True]], [[True]]]])).item()
        3
        """
        if self.kind != "overlapping":
            raise UsageError(f"classes of kind {self.kind} are no bits of a mask; only overlapping ones are")
        bits_K = 2 ** torch.arange(self.outputs, device=present_BKHW.device).view(-1, 1, 1)
        return (present_BKHW * bits_K).sum(dim=1).to(torch.uint8)

    def counts(self, mask: Tensor) -> Tensor:
        """True where a mask counts: not the ignore index, not negative (outside the image), not NaN (values)."""
        if self.kind == "values":
            return ~mask.isnan()
        known = mask >= 0
        return known if self.ignore_index is None else known & (mask != self.ignore_index)

    def truth(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Presence of each class, and which pixels count, both bool (B, K or 1, H, W).

        From mask_BHW of class indices (exclusive), or of bits (overlapping), or from mask_BKHW of 0 and 1
        (overlapping), of which each class may have void pixels of its own.
        """
        counts = self.counts(mask)
        classes = torch.arange(self.outputs, device=mask.device).view(-1, 1, 1)
        match self.kind:
            case "exclusive":
                return mask[:, None] == classes, counts[:, None]
            case "overlapping" if mask.dim() == 3:
                present = (mask[:, None] >> classes & 1).bool() & counts[:, None]
                return present, counts[:, None].expand_as(present)
            case "overlapping":
                return (mask == 1) & counts, counts
            case "values":
                raise UsageError("a task of values has no classes; use the losses l1 or l2")

    def palette(self) -> bytes:
        """256 RGB triples for an indexed picture: the colours of its values, then white for every other value."""
        flat = [part for colour in self.code_colours() for part in colour]
        return bytes(flat + [255] * (768 - len(flat)))

    def code_colours(self) -> tuple[Colour, ...]:
        """The colour of each value of a mask: of a class, or the mean of the overlapping classes that are there.

        >>> Task(names=("a", "b"), colours=((200, 0, 0), (0, 100, 0)), kind="overlapping").code_colours()
        ((0, 0, 0), (200, 0, 0), (0, 100, 0), (100, 50, 0))
        """
        if self.kind != "overlapping":
            return self.colours
        there = ([colour for k, colour in enumerate(self.colours) if code >> k & 1] for code in range(self.codes))
        return tuple(_mean_colour(colours) for colours in there)


def distinct_colours(count: int, kind: Kind = "exclusive") -> tuple[Colour, ...]:
    """`count` colours that the eye tells apart; black comes first where the first class is a background.

    >>> distinct_colours(2)
    ((0, 0, 0), (230, 69, 69))
    """
    golden = 0.61803398875
    hues = [colorsys.hsv_to_rgb((i * golden) % 1.0, 0.7, 0.9 if i % 2 == 0 else 0.7) for i in range(count)]
    colours: list[Colour] = [(round(r * 255), round(g * 255), round(b * 255)) for r, g, b in hues]
    return tuple([(0, 0, 0), *colours][:count]) if kind == "exclusive" else tuple(colours)


def _mean_colour(colours: Sequence[Colour]) -> Colour:
    """The mean of some colours; black of none."""
    red, green, blue = (sum(parts) // len(colours) for parts in zip(*colours, strict=True)) if colours else (0, 0, 0)
    return red, green, blue


def _at_least_float32(logits_BKHW: Tensor) -> Tensor:
    return logits_BKHW.to(torch.promote_types(logits_BKHW.dtype, torch.float32))


def _check_names(names: tuple[str, ...], kind: Kind) -> None:
    fewest = 2 if kind == "exclusive" else 1
    if not fewest <= len(names) <= MOST_CLASSES:
        raise UsageError(f"{len(names)} classes: a task of kind {kind} has {fewest} to {MOST_CLASSES}")
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
            raise UsageError(f"class name {name!r}: use 1 to {LONGEST_NAME} characters")
    if len(set(names)) != len(names):
        raise UsageError(f"class names must differ, got {', '.join(names)}")
