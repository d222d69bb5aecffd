"""What a training will take, before it begins: seconds, memory and disk, from a probe of this machine.

The probe takes a few steps with weights that are then thrown away: one of a single image, one of two, and some of
the whole batch. The memory of a step is that of the first one and, for each further image, what the others took on top.
It is measured (of a processor the peak of what is resident, of a GPU torch's own counter), not calculated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from pixelwise.config import RunConfig
from pixelwise.data.loaders import training_batches
from pixelwise.data.memory import KEPT_BYTES
from pixelwise.inference.estimate import LEAST_TILE
from pixelwise.inference.predict import predict
from pixelwise.inference.tiling import USUAL_SIDE
from pixelwise.runtime import LackOfMemoryError, byte_text, duration, memory_refusals, peak_memory, reset_peak
from pixelwise.training.loop import learning_network, update_weights
from pixelwise.training.plan import Plan, is_open, with_value
from pixelwise.training.resume import State
from pixelwise.training.rules import CROP_MULTIPLE, SMALLEST_CROP
from pixelwise.training.setup import Parts, make_state, steps_of

LONGEST_PROBE = 10.0
WARM_UP, TIMED = 2, 4
_ADVICE = "lower training.batch or training.crop where you set them, or model.width"
MARGIN = 1.15
"""A whole run takes up to so many times the memory of its probe: 1.67 GB instead of 1.5 on ISBI 2012, 2.08 instead of
1.8 on CamVid, with the pictures at the end and what is broken into pieces by then."""
LOG_ROW = 150
PICTURES = 1_500_000
"""bytes of curves, contact sheet and labels of a run, as measured on ISBI 2012, DSB2018 and CamVid (1.0 to 1.4 MB)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was measured.

    step, validation  seconds that one of each takes; whole: whether steps of the whole batch were taken
    one, more         bytes: the peak of a step of one image, and what each further image adds
    validating        bytes: the peak of a validation; None: there was not enough memory for one
    kept              bytes of images that stay in memory during the training and were not yet there
    model, checkpoint bytes of the files
    """

    step: float
    validation: float
    whole: bool
    one: int
    more: int
    validating: int | None
    kept: int
    model: int
    checkpoint: int

    def training(self, batch: int) -> int:
        """The peak of a step with so many images in this process, bytes."""
        return self.one + (batch - 1) * self.more

    def memory(self, batch: int) -> int:
        """The peak of a run with such a batch in this process, bytes.

        The averaged weights, which are validated, are one more copy of the model than the probe held.
        """
        return math.ceil(MARGIN * (max(self.training(batch), self.validating or 0) + self.kept + self.model))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEstimate:
    """What a training takes: seconds, the peak of its memory, and the bytes that it leaves on the disk, by what."""

    step: float
    steps: int
    validation: float
    validations: int
    seconds: float
    memory: int
    disk: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def describe(self) -> list[str]:
        """Lines for a person."""
        files = ", ".join(f"{name} {byte_text(size)}" for name, size in self.disk.items())
        return [
            f"time: {duration(self.seconds)} for {self.steps} steps of {self.step:.3g} s "
            f"and {self.validations} validations of {self.validation:.3g} s",
            f"memory: {byte_text(self.memory)} at the peak",
            f"disk: {byte_text(sum(self.disk.values()))} ({files})",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A plan that fits into memory, its probe, and the settings that were lowered for it, with the reasons."""

    plan: Plan
    probe: Probe
    lowered: Mapping[str, str]


Measure = Callable[[RunConfig, int | None], Probe]


def estimate_training(plan: RunConfig, probe: Probe, *, ranks: int = 1) -> TrainingEstimate:
    """What a plan with its steps fixed takes, by what was measured with its own network and crops."""
    settings = plan.training
    assert settings.steps is not None, "the plan fixes the number of steps"
    assert settings.validate_every is not None, "the plan fixes the steps between validations"
    validations = math.ceil(settings.steps / settings.validate_every)
    rows = settings.steps + validations
    return TrainingEstimate(
        step=probe.step,
        steps=settings.steps,
        validation=probe.validation,
        validations=validations + 1,
        seconds=settings.steps * probe.step + (validations + 1) * probe.validation,
        memory=probe.memory(settings.batch // ranks),
        disk={
            "models": 2 * probe.model,
            "checkpoints": (2 if validations > 1 else 1) * probe.checkpoint,
            "log": LOG_ROW * rows,
            "pictures": PICTURES,
        },
    )


def probe_training(parts: Parts, *, seconds: float = LONGEST_PROBE, limit: int | None = None) -> Probe:
    """Measure a run on this machine in about so many seconds; all processes of it take part.

    Where the whole batch would take more than `limit` bytes it is not tried, and its step is extrapolated from one of
    two images. Where memory is lacking, what torch and the system raise goes up.
    """
    until, state, ranks = time.perf_counter() + seconds, make_state(parts), parts.job.ranks
    network, share = learning_network(state, parts.job), parts.job.settings.batch // ranks.count

    # One image, then two; the first time something is done once for all.
    _one_step(parts, state, network, images=1)
    one, _ = _one_step(parts, state, network, images=1)
    two, pair = _one_step(parts, state, network, images=min(2, share))
    more, step = max(0, two - one), pair * max(1.0, share / 2)

    # The whole batch, where there is room for it.
    whole = all(ranks.gather(limit is None or one + (share - 1) * more <= limit))
    if whole:
        reset_peak(parts.job.runtime.device)
        step = _timed_steps(parts, state, network, until=until)
        more = max(more, (peak_memory(parts.job.runtime.device) - one) // max(1, share - 1)) if share > 1 else more

    validating, validation = _one_validation(parts, state)
    return Probe(
        step=max(ranks.gather(step)),
        validation=max(ranks.gather(validation)),
        whole=whole,
        one=one,
        more=more,
        validating=validating,
        kept=_kept_bytes(parts),
        model=_byte_count(state.network.state_dict().values()),
        checkpoint=_byte_count(_checkpoint_tensors(state)),
    )


def _one_step(parts: Parts, state: State, network: nn.Module, *, images: int) -> tuple[int, float]:
    """The peak of the memory and the seconds of a step of so many images."""
    device, batch = parts.job.runtime.device, parts.samples.batch(range(images))
    reset_peak(device)
    began = time.perf_counter()
    update_weights(state, network, batch, parts.job)
    state.average.update(state.network, state.step)
    return peak_memory(device), time.perf_counter() - began


def _timed_steps(parts: Parts, state: State, network: nn.Module, *, until: float) -> float:
    """Seconds of a step of the whole batch, the loading of its images included; a few are taken where there is time."""
    job, times = parts.job, list[float]()
    began = time.perf_counter()
    steps = steps_of(job, start=0, stop=WARM_UP + TIMED)
    for batch in training_batches(parts.samples, steps, workers=job.settings.workers):
        update_weights(state, network, batch, job)
        state.average.update(state.network, state.step)
        now = time.perf_counter()
        times.append(now - began)
        began = now
        if job.ranks.any(now > until):
            break
    timed = times[min(WARM_UP, len(times) - 1) :]
    return sum(timed) / len(timed)


def _one_validation(parts: Parts, state: State) -> tuple[int | None, float]:
    """The peak of the memory while an image is predicted, and the seconds of all, the largest share of any process.

    None, and no seconds, where there is not enough memory.
    """
    device = parts.job.runtime.device
    predictor = parts.predictor(state.network.eval())
    image_HWC, _ = parts.dataset.read(parts.validation[0])
    reset_peak(device)
    times = []
    try:
        for _ in range(2):
            began = time.perf_counter()
            with memory_refusals():
                predict(image_HWC, predictor)
            times.append(time.perf_counter() - began)
    except LackOfMemoryError:
        return None, 0.0
    return peak_memory(device), min(times) * math.ceil(len(parts.validation) / parts.job.ranks.count)


def _kept_bytes(parts: Parts) -> int:
    """Bytes of the images and masks that the training and the validation keep in memory; none on a GPU."""
    if parts.job.runtime.device.type == "cuda":
        return 0
    image_HWC, mask_HW = parts.dataset.read(parts.training[0])
    size = image_HWC.nbytes + mask_HW.nbytes
    return sum(min(KEPT_BYTES, size * len(part)) for part in (parts.training, parts.validation))


def _checkpoint_tensors(state: State) -> Iterable[Tensor]:
    """What a checkpoint holds: network, heads, averages and the moments of the optimiser."""
    yield from state.network.state_dict().values()
    yield from state.heads.state_dict().values()
    yield from state.average.values.values()
    for moments in state.optimizer.state.values():
        yield from (value for value in moments.values() if isinstance(value, Tensor))


def _byte_count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


# What to lower where memory is lacking


def fit_memory(asked: RunConfig, *, plan: Callable[[RunConfig], Plan], measure: Measure, limit: int | None) -> Fitted:
    """A plan that fits into memory, with what was measured of it: first the batch is halved, then the crop.

    plan     makes one of settings; asked, too, again with those that were lowered
    measure  probes a plan: `probe_training`
    limit    bytes; None: what torch and the system give

    What the user set is not lowered. Raises LackOfMemoryError, with what would fit, where nothing is left to lower.
    """
    settled, lowered = asked, dict[str, str]()
    while True:
        made = plan(settled)
        try:
            with memory_refusals():
                probe = measure(made.config, limit)
            why, predicting = _too_much(probe, made.config.training.batch, limit)
            if not why:
                return Fitted(plan=made.with_config(made.config, lowered), probe=probe, lowered=lowered)
        except LackOfMemoryError as error:
            why, predicting = str(error).partition(";")[0], False
        key, value = smaller(made.config, asked, predicting=predicting)
        if not key:
            raise LackOfMemoryError(f"{_sizes_text(made.config)}: {why}; {_ADVICE}")
        lowered[key] = f"lowered, as with {_sizes_text(made.config)} {why}"
        settled = with_value(settled, key, value)


def smaller(plan: RunConfig, asked: RunConfig, *, predicting: bool = False) -> tuple[str, Any]:
    """The setting to lower next, by section.key, and its value; an empty key where the user left none open.

    predicting  what does not fit is the prediction of the validation images

    >>> plan = RunConfig().with_values({"training": {"batch": 1, "crop": (256, 80)}})
    >>> smaller(plan, RunConfig()), smaller(plan, RunConfig(), predicting=True)
    (('training.crop', (128, 48)), ('predict.tile', 512))
    """
    batch, crop = plan.training.batch, plan.training.crop or (SMALLEST_CROP,) * 2
    tile = plan.predict.tile or USUAL_SIDE
    halves = (math.ceil(side / 2 / CROP_MULTIPLE) * CROP_MULTIPLE for side in crop)
    steps: list[tuple[str, Any, bool]] = [
        ("predict.tile", tile // 2, predicting and tile >= 2 * LEAST_TILE),
        ("training.batch", batch // 2, not predicting and batch > 1),
        ("training.crop", tuple(max(SMALLEST_CROP, half) for half in halves), max(crop) > SMALLEST_CROP),
    ]
    possible = [(key, value) for key, value, able in steps if able and is_open(asked, key)]
    return possible[0] if possible else ("", None)


def resume_advice(config: RunConfig, run: str) -> str:
    """What to do where memory is lacking in the middle of a run, of which a checkpoint is kept."""
    key, value = smaller(config, RunConfig())
    change = (
        f", or with less memory, as another run: pixelwise train --resume --force --name {run} {key}={_typed(value)}"
    )
    return f"free memory and go on with the same numbers: pixelwise train --resume --name {run}{change if key else ''}"


def _too_much(probe: Probe, batch: int, limit: int | None) -> tuple[str, bool]:
    """Why a plan does not fit, empty where it does, and whether that is in predicting."""
    if probe.validating is None:
        return "there is not enough memory to predict a validation image", True
    taken = probe.memory(batch)
    if limit is None or taken <= limit:
        return "", False
    return f"it takes {byte_text(taken)} of memory, more than {byte_text(limit)}", probe.validating > probe.training(
        batch
    )


def _sizes_text(plan: RunConfig) -> str:
    crop = " x ".join(str(side) for side in plan.training.crop or ())
    return f"a batch of {plan.training.batch}, crops of {crop} and windows of {plan.predict.tile or USUAL_SIDE}"


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
