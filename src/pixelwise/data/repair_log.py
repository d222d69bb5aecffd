"""The log of a repair: what became of each file, for programs and for people, and the classes of the copy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from pixelwise.data.checkup import MaskRecord
from pixelwise.data.mask_findings import normal_codes
from pixelwise.data.mask_meaning import Meaning
from pixelwise.data.masks import code_text
from pixelwise.data.repair_plan import Entry, RepairPlan, image_suffix
from pixelwise.data.survey import mapping_text
from pixelwise.errors import printable
from pixelwise.files import write_json, write_text
from pixelwise.task import VOID

FILES_SHOWN = 5


def write_log(folder: Path, plan: RepairPlan, options: Mapping[str, Any]) -> None:
    """Write `classes.toml`, `changes.json` and `CHANGES.md` into the folder of a copy."""
    write_text(folder / "classes.toml", _classes_toml(plan))
    write_json(folder / "changes.json", _changes(plan, options))
    write_text(folder / "CHANGES.md", _changes_text(plan, options))


def mapping_lines(plan: RepairPlan) -> list[str]:
    """Which values became which class, with the stray pixels that each class was given; for review."""
    meaning = plan.meaning
    lines = [mapping_text(meaning.coding, meaning.task)]
    if meaning.void:
        lines.append(f"{' and '.join(map(str, meaning.void))} became void")
    strays = stray_pixels(_masks(plan), meaning)
    for index, pixels in sorted(strays.items()):
        name = printable(meaning.task.names[index]) if index >= 0 else "void"
        lines.append(f"{pixels} stray pixels became {name}, the nearest class")
    return lines


def stray_pixels(masks: Sequence[MaskRecord], meaning: Meaning) -> dict[int, int]:
    """Pixels whose value is no class and that were taken for the nearest one, by class index."""
    strays: Counter[int] = Counter()
    for mask in masks:
        codes = normal_codes(mask, meaning)
        odd = meaning.exact(codes) == -2
        if odd.any():
            for index, pixels in zip(meaning.nearest(codes)[odd].tolist(), mask.pixels[odd].tolist(), strict=True):
                strays[index] += pixels
    return dict(strays)


def _masks(plan: RepairPlan) -> list[MaskRecord]:
    masks = [entry.mask_from.mask for entry in plan.entries if entry.mask_from is not None]
    return [mask for mask in masks if mask is not None]


def _classes_toml(plan: RepairPlan) -> str:
    meaning = plan.meaning
    document = tomlkit.document()
    document.add(tomlkit.comment("Classes of this data set, and the values of the old masks that became them."))
    document.add(
        tomlkit.comment("Review it: where a class is wrong, declare the classes and repair the original again.")
    )
    kind = meaning.coding.kind
    document["masks"] = kind if kind in ("instances", "overlapping") else "index"
    document["ignore_index"] = VOID
    strays = stray_pixels(_masks(plan), meaning)
    values = [code_text(code, meaning.coding.kind) for code in meaning.coding.value_codes()]
    classes = tomlkit.aot()
    for index, (name, colour) in enumerate(zip(meaning.task.names, meaning.task.colours, strict=True)):
        table = tomlkit.table()
        table["index"], table["name"], table["colour"] = index, name, list(colour)
        if values:
            table["was"] = values[index]
        if strays.get(index):
            table["stray_pixels"] = strays[index]
        classes.append(table)
    document["classes"] = classes
    return tomlkit.dumps(document)


def _changes(plan: RepairPlan, options: Mapping[str, Any]) -> dict[str, Any]:
    root = plan.examination.folder.path
    return {
        "source": printable(root),
        "masks": mapping_lines(plan),
        "open_with": {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()},
        "samples": [_entry_changes(entry, root) for entry in plan.entries],
        "left_out": [{"file": _relative(path, root), "reason": reason} for path, reason in plan.left_out],
    }


def _entry_changes(entry: Entry, root: Path) -> dict[str, Any]:
    value: dict[str, Any] = {
        "name": printable(entry.record.name),
        "image": {
            "from": _relative(entry.record.path, root),
            "to": printable(Path("images") / f"{entry.place}{image_suffix(entry)}"),
            "changes": list(entry.image_changes),
        },
    }
    if entry.mask_from is not None:
        value["mask"] = {
            "from": [_relative(source.path, root) for source in entry.mask_from.sample.masks],
            "to": printable(Path("masks") / f"{entry.place}.png"),
            "changes": list(entry.mask_changes),
        }
    return value


def _changes_text(plan: RepairPlan, options: Mapping[str, Any]) -> str:
    root = plan.examination.folder.path
    images, masks = defaultdict(list), defaultdict(list)
    for entry in plan.entries:
        for words in entry.image_changes:
            images[words].append(_relative(entry.record.path, root))
        for words in entry.mask_changes if entry.mask_from is not None else ():
            masks[words].append(_relative(entry.record.sample.masks[0].path, root))
    settings = " ".join(f"`data.{key}={setting_text(value)}`" for key, value in options.items())
    lines = [
        "# Changes",
        "",
        f"A repaired copy of `{printable(root)}`, which was not touched. Every file is in `changes.json`.",
        "",
        *(f"* {line}" for line in mapping_lines(plan)),
        *([f"* train on it with {settings}"] if settings else []),
        "",
        "## Images",
        "",
        f"{len(plan.entries)} images; those not named here were copied byte for byte.",
        "",
        *_listed(images),
        "",
        "## Masks",
        "",
        "All masks were saved again as PNG, with the number of its class in each pixel and 255 for void"
        " (objects: numbers from 256).",
        "",
        *_listed(masks),
        "",
        "## Left out",
        "",
        *([f"* `{_relative(path, root)}`: {printable(reason)}" for path, reason in plan.left_out] or ["Nothing."]),
    ]
    return "\n".join(lines) + "\n"


def _listed(changes: Mapping[str, Sequence[str]]) -> list[str]:
    lines = []
    for words, files in changes.items():
        shown = ", ".join(f"`{file}`" for file in files[:FILES_SHOWN])
        more = f" and {len(files) - FILES_SHOWN} more" if len(files) > FILES_SHOWN else ""
        lines.append(f"* {words}: {shown}{more}")
    return lines or ["Nothing else was changed."]


def _relative(path: Path, root: Path) -> str:
    return printable(path.relative_to(root) if path.is_relative_to(root) else path)


def setting_text(value: Any) -> str:
    """A setting as it is typed on the command line."""
    match value:
        case tuple() | list():
            return "[" + ",".join(f'"{part}"' for part in value) + "]"
        case _:
            return str(value)
