"""What the values in masks mean: the coding, its inference from all masks of a folder, and reading by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pixelwise.data.layouts import Source
from pixelwise.data.mask_codes import run_unique
from pixelwise.data.mask_coding import MaskOptions, infer_coding
from pixelwise.data.mask_counts import count_mask
from pixelwise.data.masks import Coding, read_mask, read_objects, unknown_codes
from pixelwise.data.targets import border_target
from pixelwise.errors import DataError, PixelwiseError, UsageError
from pixelwise.task import Task, distinct_colours

INDEX = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [0, 0, 2, 2]], np.uint8)
FOREGROUND = (INDEX > 0).astype(np.uint8)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def save(path: Path, mask: NDArray[Any], palette: list[int] | None = None) -> Source:
    if path.suffix == ".tif":
        tifffile.imwrite(path, mask)
        return Source(path)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(palette)
    image.save(path)
    return Source(path)


def infer(sources: list[tuple[Source, ...]], **options: Any) -> tuple[Coding, Task]:
    chosen = MaskOptions(**options)
    return infer_coding([count_mask(masks, chosen.counted) for masks in sources], chosen)


def opened(tmp_path: Path, *masks: NDArray[Any], suffix: str = "png", **options: Any) -> Any:
    """The coding, the task, and all masks read by them."""
    sources = [(save(tmp_path / f"{number}.{suffix}", mask),) for number, mask in enumerate(masks)]
    coding, task = infer(sources, **options)
    return coding, task, [read_mask(masks, coding, task) for masks in sources]


def refused(tmp_path: Path, *masks: NDArray[Any], text: str, suffix: str = "png", **options: Any) -> None:
    with pytest.raises(DataError, match=text) as caught:
        opened(tmp_path, *masks, suffix=suffix, **options)
    assert all(finding.file.parent == tmp_path for finding in caught.value.findings)
    assert caught.value.findings


def void_where(mask: NDArray[Any], value: int, void: int = 255) -> NDArray[Any]:
    return np.where(mask == value, void, mask).astype(mask.dtype)


# What is accepted


def test_index_masks(tmp_path: Path) -> None:
    coding, task, (mask_HW, empty_HW) = opened(tmp_path, INDEX, np.zeros_like(INDEX))
    assert coding == Coding(kind="index", values=(0, 1, 2), void=(255,))
    assert (task.names, task.ignore_index) == (("class 0", "class 1", "class 2"), 255)
    assert mask_HW.dtype == np.uint8
    assert np.array_equal(mask_HW, INDEX)
    assert not empty_HW.any()


@pytest.mark.parametrize(
    ("mask", "suffix", "values"),
    [
        (FOREGROUND * np.uint8(255), "png", (0, 255)),
        (FOREGROUND.astype(bool), "png", (0, 1)),
        (FOREGROUND.astype(bool), "tif", (0, 1)),
        (FOREGROUND * np.uint16(65535), "png", (0, 65535)),
        (np.dstack([FOREGROUND * np.uint8(255)] * 4), "png", (0, 255)),
        (FOREGROUND * np.float32(255), "tif", (0, 255)),
    ],
)
def test_two_extreme_values_are_background_and_foreground(
    tmp_path: Path, mask: NDArray[Any], suffix: str, values: tuple[int, int]
) -> None:
    coding, task, (mask_HW,) = opened(tmp_path, mask, suffix=suffix)
    assert (coding.kind, coding.values, task.names) == ("binary", values, ("background", "foreground"))
    assert np.array_equal(mask_HW, FOREGROUND)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_whole_numbers_of_other_types(tmp_path: Path, suffix: str) -> None:
    for mask in (
        FOREGROUND,
        FOREGROUND.astype(np.float32 if suffix == "tif" else np.uint8),
        np.dstack([FOREGROUND] * 3),
    ):
        coding, _, (mask_HW,) = opened(tmp_path, mask, suffix=suffix)
        assert (coding.kind, coding.values) == ("index", (0, 1))
        assert np.array_equal(mask_HW, FOREGROUND)


def test_void_255_and_a_declared_void(tmp_path: Path) -> None:
    mask = void_where(INDEX, 2)
    assert opened(tmp_path, mask)[2][0].tolist() == mask.tolist()
    assert opened(tmp_path, void_where(INDEX, 2, 9), ignore_index=9)[2][0].tolist() == void_where(INDEX, 2, 9).tolist()
    coding, task, (mask_HW,) = opened(tmp_path, INDEX, ignore_index=0)
    assert (coding.values, coding.void, task.ignore_index) == ((1, 2), (0,), 255)
    assert mask_HW.tolist() == np.array([255, 0, 1])[INDEX].tolist()


def test_minus_one_is_void_only_if_declared(tmp_path: Path) -> None:
    mask = np.where(INDEX == 2, -1, INDEX.astype(np.int64))
    refused(tmp_path, mask, suffix="tif", text=r"0\.tif: value -1 in 4 pixels")
    coding, task, (mask_HW,) = opened(tmp_path, mask, suffix="tif", ignore_index=-1)
    assert (coding.void, task.ignore_index) == ((-1,), 255)
    assert np.array_equal(mask_HW, void_where(INDEX, 2))


def test_palette_gives_indices_and_their_colours(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", INDEX, palette=COLOURS.ravel().tolist())
    coding, task = infer([(source,)])
    assert coding.kind == "index"
    assert task.colours == ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    assert np.array_equal(read_mask([source], coding, task), INDEX)


def test_palettes_that_disagree_are_refused_but_for_colours(tmp_path: Path) -> None:
    one = save(tmp_path / "1.png", INDEX, palette=COLOURS.ravel().tolist())
    two = save(tmp_path / "2.png", INDEX, palette=COLOURS[[0, 2, 1]].ravel().tolist())
    with pytest.raises(DataError, match=r"index 1 is the colour \(0, 255, 0\), but \(255, 0, 0\) in 1\.png"):
        infer([(one,), (two,)])
    coding, task = infer([(one,), (two,)], masks="colours")
    swapped = np.array([0, 2, 1])[read_mask([two], coding, task)]
    assert np.array_equal(read_mask([one], coding, task), swapped)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_colours_do_not_depend_on_the_order_of_files(tmp_path: Path, order: tuple[int, int]) -> None:
    masks = [COLOURS[INDEX], np.zeros((2, 2), np.uint8)]
    coding, task, _ = opened(tmp_path, *(masks[place] for place in order))
    assert coding.values == task.names == ("#000000", "#00ff00", "#ff0000")
    assert task.colours == ((0, 0, 0), (0, 255, 0), (255, 0, 0))


def test_colours_are_read_with_alpha_dropped(tmp_path: Path) -> None:
    rgba = np.dstack([COLOURS[INDEX], np.zeros(INDEX.shape, np.uint8)])
    _, task, (mask_HW,) = opened(tmp_path, rgba, classes=("ground", "plant", "stone"))
    assert np.array_equal(mask_HW, np.array([0, 2, 1])[INDEX])
    assert task.names == ("ground", "plant", "stone")


def test_large_numbers_are_objects_and_never_wrap(tmp_path: Path) -> None:
    ids = INDEX.astype(np.uint16) * 256
    coding, _, (mask_HW,) = opened(tmp_path, ids)
    assert coding == Coding(kind="instances")
    assert np.array_equal(mask_HW, FOREGROUND)
    refused(tmp_path, ids, text="values 256, 512 in 7 pixels", masks="index")


def test_one_file_per_object_is_their_union(tmp_path: Path) -> None:
    sources = tuple(save(tmp_path / f"{k}.png", (k == INDEX) * np.uint8(255)) for k in (1, 2))
    coding, task = infer([sources])
    assert coding.kind == "instances"
    assert np.array_equal(read_mask(sources, coding, task), FOREGROUND)
    noisy = save(tmp_path / "9.png", INDEX)
    with pytest.raises(DataError, match=r"9\.png: 3 pixels are neither 0 nor 2"):
        read_mask((*sources, noisy), coding, task)
    small = save(tmp_path / "8.png", FOREGROUND[:2])
    with pytest.raises(DataError, match=r"8\.png: 4 x 2 pixels where its neighbour has 4 x 3"):
        read_mask((*sources, small), coding, task)
    with pytest.raises(DataError, match="2 masks for one image"):
        count_mask(sources, "index")


# Objects


@pytest.mark.parametrize("shape", ["numbers", "colours", "palette", "files"])
def test_objects_are_read_however_they_are_told_apart(tmp_path: Path, shape: str) -> None:
    if shape == "files":
        sources = tuple(save(tmp_path / f"{k}.png", (k == INDEX) * np.uint8(255)) for k in (1, 2))
    else:
        mask = {"numbers": INDEX.astype(np.uint16) * 300, "colours": COLOURS[INDEX], "palette": INDEX}[shape]
        sources = (save(tmp_path / "a.png", mask, palette=COLOURS.ravel().tolist() if shape == "palette" else None),)
    coding, task = infer([sources], masks="instances")
    assert coding == Coding(kind="instances")
    expected = np.array([0, 2, 1])[INDEX] if shape == "colours" else INDEX  # colours go by their number
    objects_HW = read_objects(sources, coding, task)
    assert (objects_HW.tolist(), objects_HW.dtype) == (expected.tolist(), np.int32)
    coding, task = infer([sources], border=1)
    assert (coding, task.names) == (Coding(kind="instances", border=1), ("background", "object", "border"))
    assert read_mask(sources, coding, task).tolist() == border_target(INDEX, width=1).tolist()


def test_the_first_file_that_claims_a_pixel_has_it(tmp_path: Path) -> None:
    sources = [save(tmp_path / f"{k}.png", np.array([row], np.uint8)) for k, row in enumerate(([0, 1, 1], [9, 9, 0]))]
    assert read_objects(sources, Coding(kind="instances"), Task.of(["a", "b"])).tolist() == [[2, 1, 1]]


def test_void_is_no_object_and_stays_void_beside_borders(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", np.array([[7, 3, 3, 255, 255, 5]], np.uint8))
    coding, task = infer([(source,)], border=1, ignore_index=255, classes=("none", "cell"))
    assert (task.names, task.ignore_index) == (("none", "cell", "border"), 255)
    assert read_objects([source], coding, task).tolist() == [[3, 1, 1, -1, -1, 2]]
    assert read_mask([source], coding, task).tolist() == [[2, 2, 1, 255, 255, 1]]


def test_objects_of_classes_are_the_connected_pieces_of_all_but_the_first(tmp_path: Path) -> None:
    mask = np.array([[1, 0, 1, 2], [0, 1, 0, 2], [255, 0, 2, 0]], np.uint8)
    coding, task, _ = opened(tmp_path, mask)
    objects_HW = read_objects([Source(tmp_path / "0.png")], coding, task)
    assert objects_HW.dtype == np.int32
    assert objects_HW.tolist() == [[1, 0, 2, 4], [0, 3, 0, 4], [-1, 0, 5, 0]]


def test_borders_need_two_objects_told_apart(tmp_path: Path) -> None:
    refused(tmp_path, FOREGROUND * np.uint8(255), text="no mask holds two objects", border=2)
    refused(tmp_path, np.where(INDEX, -1, 0), text="value -1", suffix="tif", border=2)
    for options, text in (
        ({"masks": "index"}, "data.masks=index has none"),
        ({"layout": "camvid"}, "the masks of camvid hold classes"),
    ):
        with pytest.raises(UsageError, match=text):
            _ = MaskOptions(border=2, **options).counted
    with pytest.raises(UsageError, match="4 class names"):
        opened(tmp_path, INDEX, border=2, classes=("a", "b", "c", "d"))
    assert opened(tmp_path, INDEX, border=2, classes=("a", "b", "c"))[1].names == ("a", "b", "c")


def test_named_classes_may_be_absent_or_start_at_one(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    assert opened(tmp_path, void_where(INDEX, 1, 3), classes=names)[0].values == (0, 1, 2, 3)
    coding, _, (mask_HW,) = opened(tmp_path, INDEX + np.uint8(1), classes=names[:3])
    assert coding.values == (1, 2, 3)
    assert np.array_equal(mask_HW, INDEX)
    assert opened(tmp_path, FOREGROUND * np.uint8(255), classes=("no", "yes"))[0].kind == "binary"
    assert opened(tmp_path, np.zeros_like(INDEX), classes=("no", "yes"))[0].kind == "index"


def test_any_two_values_if_declared_binary(tmp_path: Path) -> None:
    coding, _, (mask_HW,) = opened(tmp_path, FOREGROUND * np.uint8(40) + np.uint8(7), masks="binary")
    assert coding.values == (7, 47)
    assert np.array_equal(mask_HW, FOREGROUND)


def test_camvid_and_voc_are_known(tmp_path: Path) -> None:
    mask = void_where(INDEX, 2, 11)
    _, task, (mask_HW,) = opened(tmp_path, mask, layout="camvid")
    assert (len(task.names), task.names[3], task.colours[10], task.ignore_index) == (11, "Road", (0, 128, 192), 11)
    assert np.array_equal(mask_HW, mask)
    colours = np.array([[60, 40, 222], [0, 0, 0], [128, 128, 128]], np.uint8)[INDEX]
    assert np.array_equal(opened(tmp_path, colours, layout="camvid")[2][0], np.array([4, 11, 0])[INDEX])
    refused(tmp_path, void_where(INDEX, 2, 12), layout="camvid", text="value 12 in 4 pixels")
    _, task, read = opened(tmp_path, void_where(INDEX, 1, 20), void_where(INDEX, 2), layout="voc")
    assert (task.names[20], task.colours[20], task.ignore_index) == ("tvmonitor", (0, 64, 128), 255)
    assert np.array_equal(read[0], void_where(INDEX, 1, 20))


# What is refused


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (void_where(INDEX, 2, 7), r"0\.png: value 7 in 4 pixels \(33 %\); rule: only 0, 1, and 255"),
        (INDEX + np.uint8(1), "values 1 to 3 and no 0"),
        (np.zeros_like(INDEX), r"the masks hold only \[0\]"),
        (np.full_like(INDEX, 255), "the masks hold only void"),
        (np.dstack([INDEX] * 4), "4 channels"),
        (np.arange(3, dtype=np.uint16)[INDEX], "may be classes or objects"),
    ],
)
def test_doubtful_values_are_refused(tmp_path: Path, mask: NDArray[Any], text: str) -> None:
    suffix = "tif" if mask.ndim == 3 else "png"
    refused(tmp_path, mask, text=text, suffix=suffix)


def test_fractions_are_refused(tmp_path: Path) -> None:
    refused_file = save(tmp_path / "a.tif", INDEX.astype(np.float32) / 2)
    with pytest.raises(DataError, match="3 values that are no whole numbers"):
        infer([(refused_file,)])


def test_smoothed_and_jpeg_masks_are_refused_with_their_strays(tmp_path: Path) -> None:
    disc = np.hypot(*np.mgrid[-16:16, -16:16]) < 10
    grey = Image.fromarray(disc * np.uint8(255))
    smooth = np.array(grey.resize((64, 64), Image.Resampling.BILINEAR))
    strays = int(((smooth > 0) & (smooth < 255)).sum())
    refused(tmp_path, smooth, text=rf"in {strays} pixels \(.*rule: only 0, 255")
    grey.save(tmp_path / "noisy.jpg", quality=75)
    with pytest.raises(DataError, match=r"noisy\.jpg: values .* more in \d+ pixels .*rule: only 0, 255"):
        infer([(Source(tmp_path / "noisy.jpg"),)])
    coloured = np.dstack([smooth, 255 - smooth, smooth // 2])
    refused(tmp_path, coloured, text="3 colours, one per class", classes=("a", "b", "c"))


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    with pytest.raises(DataError, match="is it an image"):
        infer([(save(tmp_path / "a.png", noise),)])


def test_two_codings_in_one_folder_are_refused(tmp_path: Path) -> None:
    mixed = FOREGROUND, FOREGROUND * np.uint8(255)
    refused(tmp_path, *mixed, text="the masks mix two codings")
    assert opened(tmp_path, *mixed, ignore_index=255)[2][1].max() == 255


def test_numbers_that_count_objects_are_not_taken_for_classes(tmp_path: Path) -> None:
    masks = [np.arange(last, dtype=np.uint8)[None].repeat(2, axis=0) for last in (5, 12)]
    refused(tmp_path, *masks, text="may be classes or objects")
    assert opened(tmp_path, *masks, masks="instances")[0].kind == "instances"
    assert len(opened(tmp_path, *masks, masks="index")[0].values) == 12


@pytest.mark.parametrize("kind", ["auto", "binary", "index", "instances"])
def test_one_value_in_all_masks_is_nothing_to_learn_unless_classes_are_named(tmp_path: Path, kind: str) -> None:
    empty = np.zeros_like(INDEX)
    refused(tmp_path, empty, empty, text=r"nothing to tell apart\n.*0\.png: the masks hold only \[0\]", masks=kind)
    assert opened(tmp_path, empty, empty, masks=kind, classes=("ground", "cell"))[1].names == ("ground", "cell")


@pytest.mark.parametrize("options", [{}, {"masks": "colours"}, {"masks": "instances", "border": 2}, {"layout": "voc"}])
def test_no_masks_are_nothing_to_learn(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="nothing to tell apart") as caught:
        infer([], **options)
    assert caught.value.findings == ()


@pytest.mark.parametrize(("dtype", "factor"), [(np.uint16, 300), (np.int64, -1)])
def test_numbers_that_are_no_colour_beside_colours_are_named(tmp_path: Path, dtype: type, factor: int) -> None:
    colours = [(save(tmp_path / f"{number}.png", COLOURS[INDEX]),) for number in range(2)]
    numbers = save(tmp_path / "numbers.tif", (INDEX * np.array(factor)).astype(dtype))
    with pytest.raises(DataError, match=rf"numbers\.tif: value {2 * factor} beside colours; rule: only colours"):
        infer([*colours, (numbers,)])
    assert infer(colours)[0].kind == "colours"


def test_shares_of_strays_are_plain_numbers() -> None:
    coding = Coding(kind="index", values=(0, 1, 2))
    for pixels, share in ((1000, "100 %"), (996, "100 %"), (130, "13 %"), (9, "0.9 %")):
        finding = unknown_codes(Path("a.png"), coding, {0: 1000 - pixels, 7: pixels})
        assert finding is not None
        assert finding.found == f"value 7 in {pixels} pixels ({share})"


def test_a_foreign_value_is_named_when_read(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", INDEX)
    task = Task.of(["a", "b"])
    for coding in (Coding(kind="index", values=(0, 1), void=(255,)), Coding(kind="binary", values=(0, 1))):
        with pytest.raises(DataError, match=r"a\.png: value 2 in 4 pixels"):
            read_mask([source], coding, task)
    colour = save(tmp_path / "b.png", COLOURS[INDEX])
    with pytest.raises(DataError, match=r"b\.png: value #00ff00 in 4 pixels"):
        read_mask([colour], Coding(kind="colours", values=("#000000", "#ff0000")), task)
    with pytest.raises(DataError, match="a mask in colours"):
        read_mask([colour], Coding(kind="binary", values=(0, 1)), task)


# The coding itself


@pytest.mark.parametrize(
    "coding",
    [
        Coding(kind="index", values=(1, 2, 3), void=(-1,)),
        Coding(kind="colours", values=("#000000", "#00ff7f")),
        Coding(kind="instances"),
        Coding(kind="instances", void=(255,), border=3),
    ],
)
def test_codings_survive_json(coding: Coding) -> None:
    assert Coding.from_dict(json.loads(json.dumps(coding.to_dict()))) == coding


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "os.system", "values": [0, 1], "void": []},
        {"kind": "index", "values": [], "void": []},
        {"kind": "index", "values": [0, 0], "void": []},
        {"kind": "index", "values": [0, 1], "void": [1]},
        {"kind": "binary", "values": [0, 1, 2], "void": []},
        {"kind": "index", "values": [0, 2**60], "void": []},
        {"kind": "index", "values": [0, 1.5], "void": []},
        {"kind": "index", "values": [False, True], "void": []},
        {"kind": "colours", "values": ["#00000g", "#ffffff"], "void": []},
        {"kind": "colours", "values": ["black", "#ffffff"], "void": []},
        {"kind": "instances", "values": [1], "void": []},
        {"kind": ["index"], "values": [0, 1], "void": []},
        {"kind": "index", "values": [0, 1], "void": [], "border": 2},
        {"kind": "instances", "values": [], "void": [], "border": -1},
        {"kind": "instances", "values": [], "void": [], "border": 1.5},
        {"kind": "instances", "values": [], "void": [], "border": True},
    ],
)
def test_foreign_codings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Coding.from_dict(values)


@given(st.lists(st.integers(-3, 300), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_counting_runs_is_counting_pixels(values: list[int]) -> None:
    codes = np.array([values], np.int64)
    distinct, (inverse, lengths), counts = run_unique(codes)
    expected, pixels = np.unique(codes, return_counts=True)
    assert (distinct.tolist(), counts.tolist()) == (expected.tolist(), pixels.tolist())
    assert np.repeat(distinct[inverse], lengths).tolist() == values


@given(st.permutations(list(range(5))), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_classes_of_is_the_inverse_of_the_values(order: list[int], seed: int) -> None:
    coding = Coding(kind="index", values=tuple(7 * value for value in order), void=(255,))
    labels = np.random.default_rng(seed).integers(0, 5, 50)
    codes = np.array(coding.value_codes())[labels]
    assert np.array_equal(coding.classes_of(codes), labels)
    assert coding.classes_of(np.array([255, 1, -1])).tolist() == [-1, -2, -2]


def test_orientation_of_a_mask_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(INDEX).save(tmp_path / "a.png", exif=exif)
    source = Source(tmp_path / "a.png")
    coding, task = infer([(source,)])
    assert np.array_equal(read_mask([source], coding, task), np.rot90(INDEX, -1))


def test_void_needs_an_ignore_index(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", void_where(INDEX, 2))
    task = Task(names=("a", "b"), colours=distinct_colours(2), ignore_index=None)
    with pytest.raises(PixelwiseError, match="declares no ignore_index"):
        read_mask([source], Coding(kind="index", values=(0, 1), void=(255,)), task)
