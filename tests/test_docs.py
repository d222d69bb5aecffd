"""Every command of the pages for users runs, and says what the page shows.

A section of a page has its own data set, `photos`, drawn and then damaged as the section is about. What a page shows
under its commands must be in what they say; its numbers, and what stands for `…`, may be others.
"""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pages import Block, Mask, draw, part, read, remask, run, says, sections, shortened
from pixelwise.cli import planning
from pixelwise.data.dataset import open_dataset
from pixelwise.data.masks import KINDS
from pixelwise.data.synthetic import draw_cells, write_data_set
from pixelwise.errors import DataError
from pixelwise.training.estimate import Probe

ROOT = Path(__file__).resolve().parents[1]
BLACK = ROOT / "docs" / "my-masks-are-black.md"
SETS = ROOT / "docs" / "data-sets.md"
WATCHED_STEPS = 24  # as many as are needed before a loss is judged


# ------------------------------------------------------------------------------------------ docs/my-masks-are-black.md


def nothing(photos: Path) -> None:
    """Leave the data set as it is."""


def empty(photos: Path) -> None:
    remask(photos, lambda mask_HW, _: 0 * mask_HW)


def rare(photos: Path) -> None:
    def line(mask_HW: Mask, place: int) -> Mask:
        line_HW = np.zeros_like(mask_HW)
        line_HW[8 + 5 * place] = 1
        return line_HW

    remask(photos, line)


def leaking(photos: Path) -> None:
    for kind in ("images", "masks"):
        for place, path in enumerate(sorted((photos / kind).iterdir())):
            path.rename(path.with_name(f"patient{place // 2}_{place % 2}.png"))
    part(photos, validating=2)
    for kind in ("images", "masks"):
        shutil.copy(photos / "train" / kind / "patient1_0.png", photos / "val" / kind / "patient7_0.png")


def with_a_third_class(mask_HW: Mask, _: int = 0) -> Mask:
    mask_HW[:32] *= 2
    return mask_HW


def lacking(photos: Path) -> None:
    part(photos, validating=2)
    remask(photos / "train", with_a_third_class)


def turned(photos: Path) -> None:
    for path in sorted((photos / "images").iterdir())[:3]:
        stored, mask = (
            Image.open(p).transpose(Image.Transpose.ROTATE_270) for p in (path, photos / "masks" / path.name)
        )
        orientation = Image.Exif()
        orientation[0x0112] = 8
        stored.save(path.with_suffix(".jpg"), exif=orientation, quality=95)
        mask.save(photos / "masks" / path.name)
        path.unlink()


def lossy(photos: Path) -> None:
    for path in sorted((photos / "masks").iterdir()):
        Image.fromarray(255 * read(path)).save(path.with_suffix(".jpg"), quality=75)
        path.unlink()


def stray(photos: Path) -> None:
    def stamp(mask_HW: Mask, place: int) -> Mask:
        if place == 5:
            mask_HW[:12, :12] = 7
        return mask_HW

    remask(photos, stamp)


def mixed(photos: Path) -> None:
    remask(photos, lambda mask_HW, place: mask_HW * 255 if place < 3 else mask_HW)


def from_one(photos: Path) -> None:
    remask(photos, lambda mask_HW, _: mask_HW + 1)


def unpaired(photos: Path) -> None:
    (photos / "masks" / "cells_004.png").rename(photos / "masks" / "cell_004.png")


def tiny(photos: Path) -> None:
    def dots(mask_HW: Mask, place: int) -> Mask:
        dots_HW = np.zeros_like(mask_HW)
        for row, column in np.random.default_rng(place).integers(1, 60, (9, 2)):
            dots_HW[row : row + 3, column : column + 3] = 1
        return dots_HW

    remask(photos, dots)
    for path in (photos / "images").iterdir():
        Image.fromarray(np.where(read(photos / "masks" / path.name) > 0, 255, 20).astype(np.uint8)).save(path)


def of_another_kind(photos: Path) -> None:
    """16 bits in three images to train on; new images in colour and in 16 bits."""
    new = photos.with_name("new-photos")
    grey_HW = read(new / "a.png")
    Image.fromarray(np.dstack([grey_HW] * 3)).save(new / "colour.png")
    Image.fromarray(257 * grey_HW.astype(np.uint16)).save(new / "deep.png")
    for path in sorted((photos / "images").iterdir())[:3]:
        Image.fromarray(257 * read(path).astype(np.uint16)).save(path)


SCENES: dict[str, Callable[[Path], None]] = {
    "My masks are black, what now": nothing,
    "The masks only look black": nothing,
    "The masks are black": empty,
    "The network predicts one class only": rare,
    "The loss does not fall": nothing,
    "Scores are 0, – or NaN": nothing,
    "The scores are too good": leaking,
    "A class is missing": lacking,
    "Masks lie turned on their images": turned,
    "Masks were saved as JPEG, or resized": lossy,
    "Values that are no class": stray,
    "Some masks hold 0 and 1, others 0 and 255": mixed,
    "The classes are numbered from 1": from_one,
    "Image and mask are not a pair": unpaired,
    "Objects melt into one": nothing,
    "Everything is border": nothing,
    "Thin and small things vanish": tiny,
    "Training takes too long": nothing,
    "Memory runs out": nothing,
    "Other images than those of the training": of_another_kind,
}
CHANGES = ("rotate", "scale", "shear", "elastic", "brightness", "contrast", "noise", "blur", "balance")
UNCHANGED = [f"augment.{name}=0" for name in CHANGES]
WATCHED: dict[str, list[str]] = {
    "The network predicts one class only": [],
    # Every step sees all images as they are, so that nothing but learning can change the loss.
    "The loss does not fall": ["training.batch=7", "training.crop=[64,96]", "augment.turn=false", *UNCHANGED],
}
"""Scenes whose first command needs WATCHED_STEPS, and its settings."""


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Keep the collections of garbage, which a training asks for before it measures, from looking at all libraries."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page talks about: photos, cells (numbered objects), new-photos, and a run that predicts one class."""
    place = tmp_path_factory.mktemp("page")
    photos, cells = draw(place / "photos", seed=0), place / "cells"
    write_data_set(cells, images=6, size=(64, 96), channels=1, seed=3)
    shutil.rmtree(cells / "masks")
    (cells / "instances").rename(cells / "masks")
    new = place / "new-photos"
    new.mkdir()
    Image.fromarray(draw_cells(size=(64, 96), seed=9).image_HWC[..., 0]).save(new / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        rare(photos)
        assert run(shortened(["train", "photos"], WATCHED_STEPS) + ["--name", "photos-1"]) == 0
    shutil.rmtree(photos)
    draw(photos, seed=0)
    return place


@pytest.fixture
def scene(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these folders to work in, on a screen of 100 columns."""
    place = tmp_path / "page"
    shutil.copytree(folders, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "100")
    return place


@pytest.mark.parametrize("heading", SCENES)
def test_a_symptom_its_message_and_its_cure(
    heading: str, scene: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    SCENES[heading](scene / "photos")
    if heading == "Memory runs out":
        sizes = {"one": 1_060_000_000, "more": 80_000_000, "validating": 0, "kept": 0, "model": 9, "checkpoint": 9}
        probe = Probe(step=1.0, validation=1.0, whole=True, **sizes)
        monkeypatch.setattr(planning, "probe_training", lambda *_, limit: probe)
    shown, extra = "", WATCHED.get(heading)
    for block in sections(BLACK)[heading]:
        if block.language == "bash":
            shown, extra = carried_out(block, capsys, extra), None
        elif block.language == "python":
            exec(compile(block.text, heading, "exec"), {})  # noqa: S102
        else:
            assert says(shown, block.text), f"not said:\n{block.text}\nbut:\n{shown}"


def carried_out(block: Block, capsys: pytest.CaptureFixture[str], extra: list[str] | None) -> str:
    """Run the commands of a block, `extra` beside the settings of one that is watched; what they said."""
    shown = ""
    for arguments, code in block.commands():
        found = run(shortened([*arguments, *(extra or [])], steps=2 if extra is None else WATCHED_STEPS))
        captured = capsys.readouterr()
        shown += captured.out + captured.err
        repairs = "--fix" in arguments
        assert found == code or (repairs and found in (0, 3)), f"{arguments}: exit code {found}\n{shown}"
        if repairs:
            check_repaired(Path(arguments[arguments.index("--fix") + 1]))
    return shown


def check_repaired(copy: Path) -> None:
    """The masks of a repaired copy are those that were drawn, but for the edges that JPEG has blurred."""
    draw(copy.with_name("undamaged"), seed=0)
    repaired = open_dataset(copy)
    assert len(repaired.samples) >= 7
    for sample in repaired.samples:
        true_HW = read(copy.with_name("undamaged") / "masks" / f"{sample.name}.png")
        assert (repaired.read(sample)[1] != true_HW).mean() < 0.01, sample.name


def test_every_symptom_is_tested_and_in_the_table() -> None:
    assert list(sections(BLACK)) == list(SCENES)
    text = BLACK.read_text(encoding="utf-8")
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in SCENES}
    linked = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert linked == anchors - {"my-masks-are-black-what-now"}


@pytest.mark.parametrize(
    ("shown", "expected", "same"),
    [
        ("found  7 of\n  9 files", "found 12 of 1,000\nfiles", True),
        ("a (in x.png) b", "a … b", True),
        ("1.5 GB, then", "1e-06 GB", True),
        ("value 7", "values 7", False),
        ("share – of", "share 0.5 of", False),
    ],
)
def test_what_counts_as_said(shown: str, expected: str, same: bool) -> None:
    assert says(shown, expected) == same


# --------------------------------------------------------------------------------------------------- docs/data-sets.md


MASK_WORDS = ("mask", "annot", "labels", "SegmentationClass")
LISTS = {"train": "a", "val": "b"}


def grow(tree: str) -> None:
    """The files of a tree: images and masks of cells; lists of names where it has them; stacks of three pages."""
    for seed, path in enumerate(map(Path, tree.splitlines())):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_mask = any(word in str(path) for word in MASK_WORDS)
        cells = [draw_cells(size=(64, 96), seed=10 * seed + page) for page in range(3)]
        pages = [drawn.mask_HW if is_mask else drawn.image_HWC[..., 0] for drawn in cells]
        if path.suffix == ".txt":
            path.write_text(LISTS[path.stem] + "\n")
        elif path.suffix == ".tif":
            tifffile.imwrite(path, np.stack(pages), photometric="minisblack")
        else:
            Image.fromarray(pages[0]).save(path)


TREES = [heading for heading, blocks in sections(SETS).items() if blocks[0].language == "tree"]


@pytest.mark.parametrize("heading", TREES)
def test_a_layout_is_recognised(
    heading: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree, shown = sections(SETS)[heading]
    grow(tree.text)
    assert run(["doctor", "photos"]) == 0
    said = capsys.readouterr().out
    assert says(said, shown.text)
    pairs = re.search(r"(\d+ files read, \d+ pairs)", shown.text)
    assert heading == "Stacks" or (pairs is not None and pairs[1] in said)
    assert run(shortened(["train", "photos", "--dry-run"], steps=1)) == 0


def test_the_other_commands_of_the_page(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remask(scene / "photos", with_a_third_class)
    for kind in ("images", "masks"):
        for place, path in enumerate(sorted((scene / "photos" / kind).iterdir())):
            day = scene / "days" / kind / f"day{place // 2}"
            day.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, day)
            path.rename(path.with_name(f"patient{place // 2}_{place % 2}.png"))
    names = [f"patient{place // 2}_{place % 2},group {place // 3}" for place in range(8)]
    (scene / "groups.csv").write_text("\n".join(["name,group", *names]))
    grow("my-copy/train-volume.tif\nmy-copy/train-labels.tif\nmy-copy/test-volume.tif\nmy-copy/test-labels.tif")
    for number in range(6):
        grow(f"nuclei/images/{number}.png\nnuclei/masks/{number}_cell.png\nnuclei/masks/{number}_nucleus.png")
    verbs = []
    for heading, blocks in sections(SETS).items():
        shown = ""
        for block in blocks if heading not in TREES else ():
            for arguments, code in block.commands():
                verbs.append(arguments[0])
                assert run(shortened([*arguments, *dry(arguments)], steps=1)) == code, arguments
                captured = capsys.readouterr()
                shown += captured.out + captured.err
            assert block.language == "bash" or says(shown, block.text), shown
    assert set(verbs) == {"train", "plan", "data", "doctor"}


def dry(arguments: list[str]) -> list[str]:
    """Trainings of this page stop after the data and the plan: what they are about is settled by then."""
    return ["--dry-run"] if arguments[0] == "train" else []


def colours_of(classes_HW: Mask) -> Mask:
    return np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[classes_HW]


def palette_of(classes_HW: Mask) -> Image.Image:
    image = Image.fromarray(classes_HW)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    return image


def with_void(classes_HW: Mask, void: int) -> Mask:
    return np.where(np.arange(len(classes_HW))[:, None] < 8, void, classes_HW.astype(np.int32))


CODINGS: dict[str, tuple[Callable[[Mask], Any], str]] = {
    "| 0, 1, 2 … without a gap |": (lambda m: with_void(m, 255).astype(np.uint8), "index"),
    "| 0 and 255, or 0 and 65535, or one bit |": (lambda m: (m > 0).astype(np.uint16) * 65535, "binary"),
    "or one bit |": (lambda m: m > 0, "binary"),
    "| a palette |": (palette_of, "index"),
    "| RGB colours, 2 to 64 |": (colours_of, "colours"),
    "| numbers above 255 |": (lambda m: np.where(m > 0, m.astype(np.uint16) + 299, 0).astype(np.uint16), "instances"),
    "| 16-bit numbers 0 to 2 and more |": (lambda m: m.astype(np.uint16), "may be classes or objects"),
    "| 1 to 3, and no 0 |": (lambda m: m + 1, "values 1 to 3 and no 0"),
    "| -1 beside classes |": (lambda m: with_void(m, -1), "value -1"),
    "| 0.5, or any other fraction |": (lambda m: (m / 2).astype(np.float32), "no whole numbers"),
}


@pytest.mark.parametrize("row", CODINGS)
def test_a_row_of_the_table_of_masks(row: str, tmp_path: Path) -> None:
    assert row in SETS.read_text(encoding="utf-8")
    change, expected = CODINGS[row]
    draw(tmp_path, seed=4, images=3)
    for path in sorted((tmp_path / "masks").iterdir()):
        changed = change(with_a_third_class(read(path)))
        path.unlink()
        if isinstance(changed, Image.Image):
            changed.save(path)
        else:
            tifffile.imwrite(path.with_suffix(".tif"), changed)
    if expected not in KINDS:
        with pytest.raises(DataError, match=expected):
            open_dataset(tmp_path)
        return
    dataset = open_dataset(tmp_path)
    assert dataset.coding.kind == expected
    assert sum(dataset.survey.pixels) + dataset.survey.void_pixels == 3 * 64 * 96
    assert (dataset.survey.void_pixels == 3 * 8 * 96) == ("void" in row or row.startswith("| 0, 1"))


def test_a_repaired_copy_holds_what_the_table_names(scene: Path) -> None:
    lossy(scene / "photos")
    before = {path: path.read_bytes() for path in (scene / "photos").rglob("*") if path.is_file()}
    assert run(["doctor", "photos", "--fix", "out"]) in (0, 3)
    assert {path: path.read_bytes() for path in before} == before
    section = SETS.read_text(encoding="utf-8").partition("## What `--fix` writes")[2]
    names = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)))
    assert {name.rstrip("/") for name in names} == {path.name for path in (scene / "out").iterdir()}
