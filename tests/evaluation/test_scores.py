"""Scores as JSON and as a table: the numbers, the undefined ones, and names of any kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.cells import cell_len

from pixelwise.evaluation.scores import LONGEST_NAME_SHOWN, Scores

COUNTS = np.array([[5, 1, 0], [0, 2, 0], [1, 1, 1]])


def scores(counts=COUNTS, names=("sky", "road", "car"), void=1, images=3):
    return Scores(counts_KK=np.asarray(counts), names=tuple(names), void=void, images=images)


def test_json_holds_everything():
    values = json.loads(json.dumps(scores().to_dict(), allow_nan=False))
    assert values["mean_iou"] == pytest.approx(0.515873, abs=1e-6)
    assert values["classes"][2] == {
        "name": "car",
        "share": pytest.approx(3 / 11),
        "precision": 1.0,
        "recall": pytest.approx(1 / 3),
        "f1": 0.5,
        "iou": pytest.approx(1 / 3),
    }
    assert values["confusion"] == COUNTS.tolist()
    assert (values["images"], values["pixels"], values["void_pixels"], values["absent"]) == (3, 11, 1, [])


def test_undefined_is_none_in_json_and_a_dash_in_the_table():
    values = scores(np.zeros((3, 3), np.int64)).to_dict()
    assert values["mean_iou"] is None
    assert values["classes"][0]["iou"] is None
    assert values["absent"] == ["sky", "road", "car"]
    table = scores(np.zeros((3, 3), np.int64)).table()
    assert table[1].split() == ["sky", "–", "–", "–", "–", "–"]


def test_the_table_reads_as_written_by_hand():
    assert scores().table() == [
        "class   share  precision  recall  F1 (Dice)     IoU",
        "sky    0.5455     0.8333  0.8333     0.8333  0.7143",
        "road   0.1818     0.5000  1.0000     0.6667  0.5000",
        "car    0.2727     1.0000  0.3333     0.5000  0.3333",
        "",
        "mean IoU                0.5159",
        "mean F1 (Dice)          0.6667",
        "pixel accuracy          0.7273",
        "mean accuracy           0.7222",
        "frequency-weighted IoU  0.5714",
        "",
        "one confusion matrix over all 3 images (1 void pixel excluded); "
        "classes absent from truth and prediction are left out of the means: none",
    ]


def test_the_last_line_names_the_absent_classes():
    last = scores([[4, 0, 0], [0, 0, 0], [0, 0, 0]], void=0, images=1).table()[-1]
    assert last.startswith("one confusion matrix over 1 image (0 void pixels excluded)")
    assert last.endswith("left out of the means: road, car")


def test_long_wide_and_odd_names_keep_the_table_aligned():
    lines = scores(names=("a\nb", "細胞" * 40, "x" * 200)).table()[:4]
    assert len({cell_len(line) for line in lines}) == 1
    assert lines[1].startswith("a\\nb ")
    assert lines[2][:LONGEST_NAME_SHOWN].rstrip().count("…") == 1
    assert lines[3].startswith("x" * (LONGEST_NAME_SHOWN - 1) + "… ")
