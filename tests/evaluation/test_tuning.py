"""Tuning finds the threshold that parts what is drawn apart."""

from __future__ import annotations

import numpy as np
import pytest

from pixelwise.errors import DataError
from pixelwise.evaluation.tuning import dsb_score_of, tune_objects
from pixelwise.inference.predict import Prediction
from pixelwise.postprocess.instances import InstanceSettings, find_instances
from pixelwise.task import Task

TASK = Task.of(["background", "object", "border"])
START = InstanceSettings(form="softmax3")


def softmax3(inside_HW, border_HW):
    return np.stack([1 - inside_HW - border_HW, inside_HW, border_HW]).astype(np.float32)


def two_discs():
    """Two squares of ten pixels that touch; where they do, the inside is still 0.55; a faint speck of four pixels."""
    inside_HW, border_HW, truth_HW = np.zeros((12, 30)), np.zeros((12, 30)), np.zeros((12, 30), np.int32)
    truth_HW[1:11, 1:11], truth_HW[1:11, 11:21] = 1, 2
    inside_HW[1:11, 1:21] = 0.9
    inside_HW[1:11, 10:12], border_HW[1:11, 10:12] = 0.55, 0.4
    inside_HW[5:7, 26:28] = 0.8
    return softmax3(inside_HW, border_HW), truth_HW


def tuned(scores_KHW, truth_HW, mask_HW, samples=("a",)):
    return tune_objects(
        samples,
        START,
        read=lambda _: (scores_KHW, mask_HW, truth_HW),
        predict=lambda image: Prediction(image, image),
        task=TASK,
    )


def test_the_settings_found_part_the_objects_and_drop_the_speck():
    scores_KHW, truth_HW = two_discs()
    assert dsb_score_of(find_instances(scores_KHW, START), truth_HW) < 0.5
    found = tuned(scores_KHW, truth_HW, np.zeros_like(truth_HW))
    assert dsb_score_of(find_instances(scores_KHW, found), truth_HW) == 1.0
    assert (found.seed, found.smallest) == (0.6, 8)


def test_what_lies_in_void_is_not_tuned_for():
    scores_KHW, truth_HW = two_discs()
    mask_HW = np.zeros_like(truth_HW)
    mask_HW[:, 22:] = 255
    assert tuned(scores_KHW, truth_HW, mask_HW).smallest == 1


def test_no_samples_are_refused():
    scores_KHW, truth_HW = two_discs()
    with pytest.raises(DataError, match="no images to tune"):
        tuned(scores_KHW, truth_HW, truth_HW, samples=())
