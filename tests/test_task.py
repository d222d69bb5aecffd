from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelwise.errors import UsageError
from pixelwise.task import KINDS, LONGEST_NAME, MOST_CLASSES, Task, distinct_colours

TWO = Task.of(["background", "cell"])
FLAGS = Task.of(["road", "wet"], kind="overlapping")
HEIGHT = Task.of(["height"], kind="values")
# Two classes, 2x2 pixels: the worked softmax example of the course on segmentation losses.
WORKED_LOGITS = torch.tensor([[[[2.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [1.0, 3.0]]]])


def random_logits(seed: int, classes: int) -> torch.Tensor:
    return 5 * torch.randn(2, classes, 3, 4, generator=torch.Generator().manual_seed(seed))


# Logits to scores


def test_scores_of_exclusive_classes_are_those_of_the_worked_example():
    expected = torch.tensor([[0.119203, 0.880797], [0.5, 0.880797]])
    torch.testing.assert_close(TWO.activate(WORKED_LOGITS)[0, 1], expected, atol=1e-6, rtol=0)


def test_scores_of_overlapping_classes_do_not_depend_on_one_another():
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    assert FLAGS.activate(logits).flatten().tolist() == pytest.approx([0.5, 0.75])
    logits[:, 0] = 9.0
    assert FLAGS.activate(logits)[0, 1].item() == pytest.approx(0.75)


def test_values_pass_through():
    values = torch.tensor([-3.5, 7.0]).view(1, 1, 1, 2)
    assert torch.equal(HEIGHT.activate(values), values)
    assert torch.equal(HEIGHT.decide(values), values)


@pytest.mark.parametrize("task", [TWO, FLAGS, HEIGHT])
@pytest.mark.parametrize("given_type", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_are_in_float32_or_better(task, given_type):
    logits = torch.zeros(1, task.outputs, 1, 1, dtype=given_type)
    wanted = torch.float64 if given_type == torch.float64 else torch.float32
    assert task.activate(logits).dtype == wanted


@given(st.integers(0, 10**6), st.integers(2, 7))
@settings(max_examples=25, deadline=None)
def test_scores_of_exclusive_classes_sum_to_one(seed, classes):
    task = Task.of([f"class {k}" for k in range(classes)])
    sums = task.activate(random_logits(seed, classes)).sum(dim=1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


@given(st.integers(0, 10**6), st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_all_logits_changes_no_label(seed, constant):
    task, logits = Task.of(["a", "b", "c"]), random_logits(seed, 3).double()
    assert torch.equal(task.decide(task.activate(logits)), task.decide(task.activate(logits + constant)))


@pytest.mark.parametrize("task", [TWO, FLAGS])
def test_log_scores_are_the_logarithm_of_scores_and_never_overflow(task):
    torch.testing.assert_close(task.log_scores(WORKED_LOGITS), task.activate(WORKED_LOGITS).log())
    assert task.log_scores(torch.tensor([1e4, -1e4]).view(1, 2, 1, 1)).isfinite().all()


# Scores to labels


def test_equal_scores_go_to_the_lower_index():
    task = Task.of(["a", "b", "c"])
    scores = torch.tensor([[0.4, 0.2, 1 / 3], [0.4, 0.4, 1 / 3], [0.2, 0.4, 1 / 3]]).view(1, 3, 1, 3)
    assert task.decide(scores).flatten().tolist() == [0, 1, 0]


def test_labels_of_overlapping_classes_lie_above_their_thresholds():
    scores = torch.tensor([[0.5, 0.51], [0.2, 0.95]]).view(1, 2, 1, 2)
    assert FLAGS.decide(scores).flatten().tolist() == [False, True, False, True]
    strict = Task(names=FLAGS.names, colours=FLAGS.colours, kind="overlapping", thresholds=(0.6, 0.1))
    assert strict.decide(scores).flatten().tolist() == [False, False, True, True]


# Masks


def test_void_and_what_lies_outside_the_image_do_not_count():
    mask = torch.tensor([[0, 1, 255, -1]])
    assert TWO.counts(mask).tolist() == [[True, True, False, False]]
    assert Task.of(["a", "b"], ignore_index=None).counts(mask).tolist() == [[True, True, True, False]]
    assert HEIGHT.counts(torch.tensor([0.0, math.nan, -7.0])).tolist() == [True, False, True]


def test_truth_tells_the_presence_of_each_class():
    truth, counts = TWO.truth(torch.tensor([[[0, 1, 255]]]))
    assert truth.shape == (1, 2, 1, 3)
    assert counts.shape == (1, 1, 1, 3)
    assert (truth & counts).int().tolist() == [[[[1, 0, 0]], [[0, 1, 0]]]]


def test_a_mask_of_bits_holds_overlapping_classes():
    mask = torch.tensor([[[0, 1, 2, 3, 255, -1]]])
    present, counts = FLAGS.truth(mask)
    assert present[0, :, 0].int().tolist() == [[0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0]]
    assert counts[0, :, 0].int().tolist() == [[1, 1, 1, 1, 0, 0]] * 2
    assert FLAGS.pack(present)[0, 0].tolist() == [0, 1, 2, 3, 0, 0]
    assert FLAGS.codes == 4
    assert FLAGS.palette()[9:12] == bytes(sum(parts) // 2 for parts in zip(*FLAGS.colours, strict=True))


def test_a_mask_has_seven_bits_and_exclusive_classes_have_none():
    with pytest.raises(UsageError, match=r"8 overlapping classes .* give 1 to 7 of them"):
        Task.of([*"abcdefgh"], kind="overlapping")
    with pytest.raises(UsageError, match="only overlapping ones are"):
        Task.of(["a", "b"]).pack(torch.zeros(1, 2, 1, 1, dtype=torch.bool))


def test_truth_of_overlapping_classes_counts_each_class_for_itself():
    truth, counts = FLAGS.truth(torch.tensor([[1, 255], [1, 0]]).view(1, 2, 1, 2))
    assert truth.flatten().tolist() == [True, False, True, False]
    assert counts.flatten().tolist() == [True, False, True, True]


@pytest.mark.parametrize("of_classes", [HEIGHT.log_scores, HEIGHT.truth])
def test_values_have_no_classes(of_classes):
    with pytest.raises(UsageError, match=r"task of values has no .*; use the losses l1 or l2"):
        of_classes(torch.zeros(1, 1, 1, 1))


# Its own values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ignore_index", [None, 255, 254])
def test_a_task_survives_the_way_through_json(kind, ignore_index):
    task = Task.of(["a", "b\n<b>"], kind=kind, ignore_index=ignore_index)
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_thresholds_survive_too():
    task = Task(names=("a",), colours=((1, 2, 3),), kind="overlapping", thresholds=(0.25,))
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"names": ["only"]}, "1 classes: a task of kind exclusive has 2 to 255"),
        ({"names": [str(k) for k in range(MOST_CLASSES + 1)]}, "256 classes"),
        ({"names": ["a", "a"]}, "must differ, got a, a"),
        ({"names": ["a", " "]}, "class name ' '"),
        ({"names": ["a", "b" * (LONGEST_NAME + 1)]}, "1 to 200 characters"),
        ({"names": ["a", 7]}, "class name 7"),
        ({"names": 7}, "not the description of a task"),
        ({"colours": [[0, 0, 0]]}, "2 classes but 1 colours"),
        ({"colours": [[0, 0, 0], [0, 0, 256]]}, "triples of 0 to 255"),
        ({"colours": [[0, 0, 0], [0, 0]]}, "not the description of a task"),
        ({"kind": "binary"}, "unknown kind of task 'binary'; choose one of exclusive, overlapping, values"),
        ({"ignore_index": 1}, "ignore_index 1 is also class 'b'"),
        ({"ignore_index": "void"}, "not the description of a task"),
        ({"thresholds": [0.5, 0.5]}, "thresholds belong to overlapping classes"),
        ({"kind": "overlapping", "thresholds": [0.5]}, "one for each class"),
        ({"kind": "overlapping", "thresholds": [0.5, math.nan]}, "scores from 0 to 1"),
    ],
)
def test_what_is_no_task_is_refused(changed, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        Task.from_dict(Task.of(["a", "b"]).to_dict() | changed)


def test_a_description_without_a_key_is_refused():
    values = TWO.to_dict()
    del values["names"]
    with pytest.raises(UsageError, match="names"):
        Task.from_dict(values)


@pytest.mark.parametrize("count", [1, 2, 21, MOST_CLASSES])
@pytest.mark.parametrize("kind", ["exclusive", "overlapping"])
def test_colours_differ_and_fill_a_palette(count, kind):
    colours = distinct_colours(count, kind)
    assert len(set(colours)) == count
    assert (colours[0] == (0, 0, 0)) == (kind == "exclusive")


def test_the_palette_is_the_colours_then_white():
    palette = Task(names=("a", "b"), colours=((1, 2, 3), (4, 5, 6))).palette()
    assert palette == bytes([1, 2, 3, 4, 5, 6]) + b"\xff" * 762
    assert len(Task.of([str(k) for k in range(MOST_CLASSES)]).palette()) == 768
