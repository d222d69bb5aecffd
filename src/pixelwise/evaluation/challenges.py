"""The measures of public challenges as each defines them, in a table of its own.

isbi2012  Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation algorithms for connectomics.
          Frontiers in Neuroanatomy 2015
dsb2018   Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl. Nature Methods
          2019
camvid    the 11 classes of Badrinarayanan, Kendall, Cipolla: SegNet. PAMI 2017
voc2012   Everingham et al.: The PASCAL visual object classes (VOC) challenge. IJCV 2010
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pixelwise.errors import UsageError
from pixelwise.evaluation.evaluate import Evaluation
from pixelwise.evaluation.scores import aligned, four_decimals, json_number
from pixelwise.metrics.instances import IOU_THRESHOLDS
from pixelwise.postprocess.instances import InstanceSettings
from pixelwise.task import Task

PIECES = InstanceSettings(form="plain")
"""Objects of a model of two classes: the connected pieces of the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A challenge: what it is for, what it needs to be counted, and its table.

    title         its full name
    rule          the task that it is for, in words
    suits         whether a task, and how its objects are found (None: they are not), is such a task
    rows          what is measured, and its value, in the order of the table
    note          how the numbers were made, or which numbers of the table above they are
    objects       whether it counts objects
    regions       whether it counts regions
    """

    title: str
    rule: str
    suits: Callable[[Task, InstanceSettings | None], bool]
    rows: Callable[[Evaluation], Sequence[tuple[str, float]]]
    note: str
    objects: bool = False
    regions: bool = False

    def table(self, evaluation: Evaluation) -> list[str]:
        """The lines of the challenge's own table."""
        rows = [[name, four_decimals(value)] for name, value in self.rows(evaluation)]
        return [self.title, *aligned(rows), "", self.note]

    def to_dict(self, evaluation: Evaluation) -> dict[str, Any]:
        """The challenge's table as JSON values; None where undefined."""
        rows = {name: json_number(value) for name, value in self.rows(evaluation)}
        return {"title": self.title, "scores": rows, "note": self.note}


def find_challenge(name: str, task: Task, instances: InstanceSettings | None) -> Challenge:
    """The challenge of that name; raises UsageError where there is none, or where the task is not its task."""
    challenge = CHALLENGES.get(name)
    if challenge is None:
        near = difflib.get_close_matches(name, CHALLENGES, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown challenge {name!r}{meant}; choose one of {', '.join(CHALLENGES)}")
    if not challenge.suits(task, instances):
        found = f"{task.outputs} classes ({', '.join(task.names[:5])}{', …' if task.outputs > 5 else ''})"
        raise UsageError(
            f"--metrics {name} is for {challenge.rule}, and this model has {found}; leave it out, or evaluate a model "
            "of that task"
        )
    return challenge


def _is_binary(task: Task, instances: InstanceSettings | None) -> bool:
    return _has_classes(2, task) and instances is None


def _has_objects(task: Task, instances: InstanceSettings | None) -> bool:
    return instances is not None or _has_classes(2, task)


def _has_classes(number: int, task: Task) -> bool:
    return task.kind == "exclusive" and task.outputs == number


def _isbi_rows(evaluation: Evaluation) -> list[tuple[str, float]]:
    assert evaluation.regions is not None, "the regions were counted"
    scores = evaluation.regions.scores()
    return [(title, scores[name]) for name, title in ISBI_TITLES.items()]


ISBI_TITLES = {
    "v_rand": "V_Rand after thinning",
    "v_info": "V_Info after thinning",
    "rand_error": "Rand error",
    "warping_error": "warping error, all pixels",
    "splits_and_mergers": "warping error, splits and mergers",
    "pixel_error": "pixel error",
}


def _bowl_rows(evaluation: Evaluation) -> list[tuple[str, float]]:
    assert evaluation.objects is not None, "the objects were counted"
    counts = evaluation.objects.counts
    rows = [(f"IoU above {t:.2f}", ap) for t, ap in zip(IOU_THRESHOLDS, counts.ap.tolist(), strict=True)]
    return [*rows, ("score (mean)", counts.dsb_score)]


def _class_rows(evaluation: Evaluation) -> list[tuple[str, float]]:
    return list(zip(evaluation.task.names, evaluation.scores.per_class["iou"], strict=True))


def _camvid_rows(evaluation: Evaluation) -> list[tuple[str, float]]:
    means = evaluation.scores.means
    return [
        ("global accuracy", means["pixel_accuracy"]),
        ("class average accuracy", means["mean_accuracy"]),
        ("mean IoU", means["mean_iou"]),
    ]


def _voc_rows(evaluation: Evaluation) -> list[tuple[str, float]]:
    return [*_class_rows(evaluation), ("average IoU", evaluation.scores.means["mean_iou"])]


CHALLENGES = {
    "isbi2012": Challenge(
        title="ISBI 2012 challenge: segmentation of neuronal structures",
        rule="two classes of which the second, the higher mask value, is the inside of cells",
        suits=_is_binary,
        rows=_isbi_rows,
        note="each at the threshold that is best for the whole stack; the map is the score of the second class, taken "
        "as the inside of cells; V_Rand and V_Info are means over the slices, and more is better; of errors, less",
        regions=True,
    ),
    "dsb2018": Challenge(
        title="Data Science Bowl 2018: TP / (TP + FP + FN) of the nuclei",
        rule="single objects: a model of borders (data.target=borders), or of two classes",
        suits=_has_objects,
        rows=_bowl_rows,
        note="the mean over the images at each threshold, then the mean over the thresholds: the DSB score above",
        objects=True,
    ),
    "camvid": Challenge(
        title="CamVid, 11 classes",
        rule="11 classes, with void left out",
        suits=lambda task, _: _has_classes(11, task) and task.ignore_index is not None,
        rows=_camvid_rows,
        note="of one confusion matrix over all images, void left out: these are the pixel accuracy, the mean accuracy "
        "and the mean IoU above",
    ),
    "voc2012": Challenge(
        title="PASCAL VOC 2012, 21 classes: intersection over union",
        rule="21 classes, the background with them, with void left out",
        suits=lambda task, _: _has_classes(21, task) and task.ignore_index is not None,
        rows=_voc_rows,
        note="of one confusion matrix over all images, void left out: the IoU and the mean IoU above; the challenge "
        "takes the mean over all 21 classes, which is the same where none is absent",
    ),
}
"""The challenges by the names that `pixelwise evaluate --metrics` takes."""
