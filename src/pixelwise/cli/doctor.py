"""`pixelwise doctor`: what is wrong with a data set, and a repaired copy of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixelwise.cli.screen import Screen, counted
from pixelwise.errors import EXIT_DONE, EXIT_REFUSED, EXIT_SOME_FAILED, DataError, UsageError, printable

if TYPE_CHECKING:
    from pixelwise.data.doctor import Diagnosis
    from pixelwise.data.examination import Examination
    from pixelwise.data.repair import Written

FILES_SHOWN, FOUND_SHOWN = 3, 12
MEANINGS = {
    "index": "each number is a class",
    "binary": "background and foreground",
    "colours": "each value is a class",
    "instances": "each value is an object",
}
EXIT_REPAIRABLE = EXIT_SOME_FAILED
STRIDE = 16
"""Of the deepest map of the network that a training takes by itself; objects are measured against it."""


def doctor_verb(
    data: Annotated[Path, typer.Argument(help="Folder of images and masks.")],
    fix: Annotated[
        Path | None, typer.Option(help="New folder for a repaired copy; the original is never touched.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names in the order of their values, such as ground,cell.")
    ] = None,
    ignore_index: Annotated[int | None, typer.Option(help="Mask value that counts nowhere.")] = None,
    masks: Annotated[str, typer.Option(help="auto, index, binary, colours, instances or overlapping.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Write the findings as JSON to stdout.")] = False,
) -> int:
    """Read every file of a data set and say what is wrong; exit code 0: nothing, 3: repairable, 2: not all of it.

    With --fix: 0 where the copy has no error left, 3 where files are left out or something remains for you to decide.
    """
    from pixelwise.data.examination import examine_folder

    # Every file, once.
    screen = Screen(json=json)
    options = _options(classes, ignore_index, masks)
    if fix is not None and fix.exists():
        raise UsageError(f"{printable(fix)} is there already; choose another folder with --fix, or remove it")
    examination = examine_folder(
        data,
        options,
        lambda records, total: screen.progress(records, total=total, title="reading"),
        stride=STRIDE,
    )

    # What was found.
    say_summary(examination, screen)
    say_diagnoses(examination, screen)
    if fix is None:
        screen.say("", next_step(examination, data))
        screen.result(as_json(examination))
        return exit_code(examination)

    # The repaired copy.
    try:
        written = _repair(examination, fix, screen)
    except DataError:
        screen.result(as_json(examination))
        raise
    screen.result({**as_json(examination), "written": printable(fix), "left_out": len(written.left_out)})
    return EXIT_DONE if examination.mendable and not written.left_out else EXIT_SOME_FAILED


def exit_code(examination: Examination) -> int:
    """0 without errors, 3 where --fix mends all of them, else 2."""
    if not examination.of_severity("error"):
        return EXIT_DONE
    return EXIT_REPAIRABLE if examination.mendable else EXIT_REFUSED


def say_summary(examination: Examination, screen: Screen) -> None:
    """What there is: images, pairs, classes with their share of the pixels."""
    from pixelwise.data.examination import class_shares
    from pixelwise.data.survey import LAYOUTS

    records = examination.records
    pairs = sum(record.mask is not None for record in records)
    layout = LAYOUTS.get(examination.folder.layout, examination.folder.layout)
    files = len({record.path for record in records}) + sum(len(record.sample.masks) for record in records)
    screen.say(f"{counted(files, 'file')} read, {counted(pairs, 'pair')} of image and mask; layout: {layout}")
    meaning = examination.meaning
    if meaning is not None:
        *shares, void = class_shares(records, meaning.task)
        each = [f"{name} {100 * share:.3g} %" for name, share in zip(meaning.task.names, shares, strict=True)]
        nowhere = f"; void {100 * void:.3g} %" if void else ""
        screen.say(f"{len(each)} class{'es' * (len(each) > 1)}: {', '.join(each)}{nowhere}")


def say_diagnoses(examination: Examination, screen: Screen) -> None:
    """The findings by severity, each group once: what, where, what was found, what is expected, and the repair."""
    from pixelwise.cli.tables import fitted_facts

    for severity in ("error", "warning", "note"):
        groups = grouped(examination.of_severity(severity))
        if not groups:
            continue
        screen.say("", f"{severity.upper()}S")
        for group in groups:
            finding = group[0].finding
            mends = f"--fix: {group[0].mends}; or " if group[0].mends else ""
            facts = {"  found": found_in(group), "  rule": finding.rule, "  fix": mends + finding.fix}
            screen.say(f"{group[0].kind}: {where(group, examination.folder.path)}", *fitted_facts(facts))


def grouped(diagnoses: Sequence[Diagnosis]) -> list[list[Diagnosis]]:
    """Diagnoses of one kind and rule together, in the order of their first."""
    groups: dict[tuple[str, str, bool], list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        key = diagnosis.kind, diagnosis.finding.rule, bool(diagnosis.mends)
        groups.setdefault(key, []).append(diagnosis)
    return list(groups.values())


def found_in(group: Sequence[Diagnosis]) -> str:
    """What was found: all of it, where it is in one file, else that in the first of the files."""
    first = group[0].finding
    if len(group) == 1:
        return first.found
    if len({diagnosis.finding.file for diagnosis in group}) > 1:
        return f"{first.found} (in {printable(first.file.name)})"
    found = list(dict.fromkeys(diagnosis.finding.found for diagnosis in group))
    more = f"; and {len(found) - FOUND_SHOWN} more" if len(found) > FOUND_SHOWN else ""
    return "; ".join(found[:FOUND_SHOWN]) + more


def where(group: Sequence[Diagnosis], root: Path) -> str:
    """The file of a finding, or how many files have it and the names of some."""
    files = list(dict.fromkeys(relative(diagnosis.finding.file, root) for diagnosis in group))
    if len(files) == 1:
        return files[0]
    return f"in {len(files)} files, such as {', '.join(files[:FILES_SHOWN])}"


def relative(path: Path, root: Path) -> str:
    """A file of the data set as people call it."""
    return printable(path.relative_to(root) if path != root and path.is_relative_to(root) else path)


def next_step(examination: Examination, data: Path) -> str:
    """What to do next: one sentence with the command."""
    errors = examination.of_severity("error")
    doctor = f"pixelwise doctor {shlex.quote(str(data))}{_typed(examination)}"
    if not errors:
        return f"next: pixelwise train {shlex.quote(str(data))}{_typed(examination, prefix='data.')}"
    if examination.meaning is None and (ways := _declaring(examination)):
        return "\n".join(["next: declare what the masks mean:", *(f"  {doctor} {way}" for way in ways)])
    if not any(error.mends for error in errors) and not examination.meaning:
        return f"next: correct these files, then look again: {doctor}"
    if all(error.whole for error in errors):
        return f"next: decide about the images named above, which --fix cannot, then look again: {doctor}"
    copy = data.with_name(f"{data.resolve().name}-repaired")
    rest = "" if examination.mendable else " (files that cannot be mended are left out of the copy and named)"
    return f"next: {doctor} --fix {shlex.quote(str(copy))}{rest}"


def as_json(examination: Examination) -> dict[str, Any]:
    """The findings for programs."""
    records, meaning = examination.records, examination.meaning
    return {
        "path": printable(examination.folder.path),
        "layout": examination.folder.layout,
        "images": len(records),
        "pairs": sum(record.mask is not None for record in records),
        "classes": list(meaning.task.names) if meaning else None,
        "repairable": examination.mendable,
        "exit_code": exit_code(examination),
        "findings": [
            {
                "severity": diagnosis.finding.severity,
                "kind": diagnosis.kind,
                "file": printable(diagnosis.finding.file),
                "found": printable(diagnosis.finding.found),
                "expected": printable(diagnosis.finding.rule),
                "fix": printable(diagnosis.finding.fix),
                "mends": printable(diagnosis.mends),
            }
            for diagnosis in examination.diagnoses
        ],
    }


def _repair(examination: Examination, out: Path, screen: Screen) -> Written:
    """Write the copy and say what became of it."""
    from pixelwise.data.repair import write_repaired
    from pixelwise.data.repair_log import mapping_lines, setting_text
    from pixelwise.data.repair_plan import plan_repair

    plan = plan_repair(examination)
    written = write_repaired(plan, out, lambda entries, total: screen.progress(entries, total=total, title="writing"))
    pairs, changed = len(written.dataset.samples), written.changed
    screen.say(
        "", f"{printable(out)}: {counted(pairs, 'pair')} written, {changed} of them repaired; it opens as it should"
    )
    screen.say(*(f"  {line}" for line in mapping_lines(plan)))
    for path, reason in written.left_out[:FILES_SHOWN]:
        screen.warn(f"left out: {relative(path, examination.folder.path)}: {reason}")
    if len(written.left_out) > FILES_SHOWN:
        screen.warn(f"… and {len(written.left_out) - FILES_SHOWN} more, named in {printable(out / 'CHANGES.md')}")
    remaining = sum(error.whole for error in examination.of_severity("error"))
    if remaining:
        screen.warn(f"{counted(remaining, 'error')} of the data set as a whole remain in the copy, see above")
    settings = "".join(f" {shlex.quote(f'data.{k}={setting_text(v)}')}" for k, v in written.options.items())
    screen.say(
        "", f"next: look at {printable(out / 'CHANGES.md')}, then pixelwise train {shlex.quote(str(out))}{settings}"
    )
    return written


def _options(classes: str | None, ignore_index: int | None, masks: str) -> Any:
    from pixelwise.data.mask_coding import MaskOptions
    from pixelwise.data.masks import KINDS, MaskKind

    known: dict[str, MaskKind] = {kind: kind for kind in KINDS}
    if masks != "auto" and masks not in known:
        raise UsageError(f"unknown kind of masks {masks!r}; choose auto or one of {', '.join(known)}")
    names = tuple(name.strip() for name in classes.split(",")) if classes else ()
    return MaskOptions(classes=names, ignore_index=ignore_index, masks=known.get(masks, "auto"))


def _typed(examination: Examination, prefix: str = "--") -> str:
    """The options that were given, as they are typed again: as options, or as settings of a training."""
    options = examination.options
    given: dict[str, str] = {}
    if options.classes:
        given["classes"] = ",".join(options.classes)
    if options.ignore_index is not None:
        given["ignore_index"] = str(options.ignore_index)
    if options.masks != "auto":
        given["masks"] = options.masks
    if prefix == "--":
        return "".join(f" --{key.replace('_', '-')} {shlex.quote(value)}" for key, value in given.items())
    from pixelwise.data.repair_log import setting_text

    given |= {"classes": setting_text(options.classes)} if options.classes else {}
    return "".join(f" {shlex.quote(f'{prefix}{key}={value}')}" for key, value in given.items())


def _declaring(examination: Examination) -> list[str]:
    """The options that would make the masks understood, each with what it says."""
    fixes = " ".join(error.finding.fix for error in examination.of_severity("error"))
    void = re.search(r"data\.ignore_index=(-?\d+)", fixes)
    ways = [f"--masks {kind:9}  # {MEANINGS[kind]}" for kind in examination.declarable]
    return ways + ([f"--ignore-index {void[1]}  # {void[1]} counts nowhere"] if void else [])
