"""What is said about a data set."""

from __future__ import annotations

import json
from pathlib import Path

from pixelwise.data.layouts import Folder, Sample, Source
from pixelwise.data.masks import Coding
from pixelwise.data.stored import ImageHeader
from pixelwise.data.survey import Survey, make_survey, mapping_text
from pixelwise.task import Task

TASK = Task.of(["ground", "cell\n"])
CODING = Coding(kind="index", values=(0, 1), void=(255,))


def survey_of(*sizes: tuple[int, int], skipped: int = 0) -> Survey:
    mask = (Source(Path("m.png")),)
    samples = [
        Sample(name=f"{n}", image=Source(Path(f"{n}.png")), masks=mask, split="train") for n in range(len(sizes))
    ]
    lone = Sample(name="lone", image=Source(Path("lone.png")), split="test")
    folder = Folder(
        path=Path(),
        layout="splits",
        samples=(*samples, lone),
        skipped=tuple((Path(f"{n}.txt"), "not a picture") for n in range(skipped)),
    )
    headers = [ImageHeader(height=height, width=width, channels=3, dtype="uint8") for height, width in sizes]
    return make_survey(folder, headers, counts={0: 510, 1: 255, -1: 85}, coding=CODING, task=TASK)


def test_a_survey_reads_well() -> None:
    assert survey_of((10, 20), (10, 20), (30, 15), skipped=2).describe() == [
        "3 pairs of image and mask (3 train); 1 images without mask; layout: train, val and test folders",
        "images: 15 x 10 to 20 x 30 pixels, most often 20 x 10, 3 channel(s), uint8",
        "masks: index: 0 is ground, 1 is cell\\n; 255 is void",
        "classes: ground 60 %, cell\\n 30 %; void 10 %",
        "skipped: 2 not a picture",
    ]
    assert survey_of((10, 20)).describe()[1] == "images: 20 x 10 pixels, 3 channel(s), uint8"


def test_a_survey_is_json() -> None:
    values = json.loads(json.dumps(survey_of((10, 20)).to_dict()))
    assert values["pixels"] == [510, 255]
    assert values["sizes"] == [[10, 20]] * 3
    assert values["void_pixels"] == 85


def test_every_kind_of_coding_is_explained() -> None:
    two = Task.of(["no", "yes"])
    colours = Coding(kind="colours", values=("#000000", "#ff0000"), void=("#ffffff",))
    assert mapping_text(colours, two) == "colours: #000000 is no, #ff0000 is yes; #ffffff is void"
    assert mapping_text(Coding(kind="instances"), two) == "instances: 0 is no, every object is yes"
