"""`pixelwise data`: public data sets by name, listed, and brought to this machine ready for training."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pixelwise.cli.screen import Screen, counted
from pixelwise.cli.tables import fitted_facts, fitted_table
from pixelwise.errors import UsageError, printable

if TYPE_CHECKING:
    from pixelwise.data.checksums import ProvenArchive
    from pixelwise.data.download import Receipt
    from pixelwise.data.public_sets import PublicSet

HEADS = ("name", "what is to be told apart", "images with masks", "size", "licence", "here")
PARTS = ("train", "val", "test")


class DataAction(StrEnum):
    """What `pixelwise data` can do."""

    GET = "get"
    LIST = "list"


def data_verb(
    action: Annotated[DataAction, typer.Argument(help="list: show the sets; get: bring one to this machine.")],
    name: Annotated[str, typer.Argument(help="The data set to get.")] = "",
    data_dir: Annotated[Path, typer.Option(help="Folder of data sets; each is a folder in it.")] = Path("data"),
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A copy of your own, archive or folder: it is copied, and nothing is fetched."),
    ] = None,
    sha256: Annotated[str, typer.Option(help="The SHA-256 that the archive must have, whatever is published.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")] = False,
) -> None:
    """Get public data sets by name, laid out for `pixelwise train`: checked, unpacked safely, whole or not at all."""
    screen = Screen(json=json)
    if action == DataAction.LIST:
        if name or source or sha256:
            raise UsageError("pixelwise data list takes no name, --from or --sha256; to get a set: pixelwise data get")
        show_sets(data_dir, screen)
    elif name:
        from pixelwise.data.public_sets import find_public_set

        get_and_show(find_public_set(name), data_dir, source=source, sha256=sha256, screen=screen)
    else:
        raise UsageError("which data set? pixelwise data get NAME; pixelwise data list shows the names")


def show_sets(data_dir: Path, screen: Screen) -> None:
    """The data sets that are known, and which of them are in `data_dir` already."""
    from pixelwise.data.public_sets import PUBLIC_SETS

    here = {known.name: _is_here(known, data_dir) for known in PUBLIC_SETS.values()}
    rows = [
        (known.name, known.purpose, known.images, size_words(known.megabytes), known.licence, here[known.name])
        for known in PUBLIC_SETS.values()
    ]
    screen.say(*fitted_table(HEADS, rows, right="size"), "")
    screen.say(f"Get one with pixelwise data get NAME: it shows what to cite, then puts it into {data_dir}/NAME.")
    sets = [{**_facts(known), "here": here[known.name]} for known in PUBLIC_SETS.values()]
    screen.result({"sets": sets})


def get_and_show(wanted: PublicSet, data_dir: Path, *, source: Path | None, sha256: str, screen: Screen) -> None:
    """Bring a set to `data_dir` and say what it is, what to cite, how it was checked, and how to go on."""
    from pixelwise.data.download import get_set, present

    # What it is, before anything is fetched.
    folder = data_dir / wanted.name
    screen.say(*fitted_facts(_heading(wanted)), "")
    receipt = present(wanted, data_dir)
    if receipt is not None:
        screen.say(f"{folder} is there already, {counted(receipt.files, 'file')}; nothing was fetched")
    else:
        began = time.monotonic()
        screen.say(*([f"fetching {file.address}" for file in wanted.files] if source is None else []))
        with ProgressLine() as line:
            receipt = get_set(wanted, data_dir, source=source, sha256=sha256, watch=line.show)
        screen.say(*_what_was_done(wanted, receipt, data_dir), f"done in {time.monotonic() - began:.1f} s")

    # What to do with it.
    screen.say("", *_next_steps(wanted, folder))
    screen.result({**_facts(wanted), "folder": str(folder), **asdict(receipt)})


def size_words(megabytes: int) -> str:
    """A size for people, in two digits or as many as the number has before its point.

    >>> [size_words(number) for number in (32, 110, 1900, 10500)]
    ['32 MB', '110 MB', '1.9 GB', '10 GB']
    """
    if megabytes < 1000:
        return f"{megabytes} MB"
    return f"{megabytes / 1000:.1f} GB" if megabytes < 10_000 else f"{megabytes // 1000} GB"


class ProgressLine:
    """A line on the terminal that shows how far a download or the unpacking is; nothing where there is no terminal."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[amount]}"))
        shown = console.is_terminal
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Show that so much is done; a total of 0 is one that nobody knows."""
        if what not in self._tasks:
            for task in self._tasks.values():
                self._bar.update(task, visible=False)
            self._tasks[what] = self._bar.add_task(printable(what), total=total or None, amount="")
        amount = f"{done:,} of {total:,}" if what == "unpacking" else f"{done / 1e6:.1f} MB"
        self._bar.update(self._tasks[what], completed=done, total=total or None, amount=amount)


# Words


def _heading(wanted: PublicSet) -> dict[str, str]:
    return {
        "data set": wanted.title,
        "for": wanted.purpose,
        "images": f"{wanted.images}, with masks; about {size_words(wanted.megabytes)} on the disk",
        "licence": "; ".join(filter(None, (wanted.licence, wanted.conditions))),
        "cite": wanted.cite,
        "from": wanted.home,
    }


def _what_was_done(wanted: PublicSet, receipt: Receipt, data_dir: Path) -> list[str]:
    left_out = f"; {counted(receipt.left_out, 'other file')} left out" if receipt.left_out else ""
    files = f"{counted(receipt.files, 'file')} put into {data_dir / wanted.name}{left_out}"
    return [*(_proof_words(wanted, archive, data_dir) for archive in receipt.archives), files]


def _proof_words(wanted: PublicSet, archive: ProvenArchive, data_dir: Path) -> str:
    from pixelwise.data.checksums import sums_file

    kept = sums_file(wanted, data_dir)
    said = {
        "published": "as published",
        "given": "as --sha256 says",
        "remembered": f"as at the first download ({kept})",
        "none": "nobody publishes a checksum of it, so it was taken as it is",
        "first download": f"nobody publishes a checksum of it, so this one is kept in {kept} and later downloads are "
        "compared with it; compare it with the one that others have, or give --sha256 one that you trust",
    }
    return f"{archive.name}: {archive.size / 1e6:.1f} MB, sha256 {archive.sha256}: {said[archive.proof]}"


def _next_steps(wanted: PublicSet, folder: Path) -> list[str]:
    """How many pairs the reader finds, and the commands that come next."""
    from pixelwise.data.layouts import find_samples

    samples = find_samples(folder).samples
    pairs: Counter[str] = Counter(sample.split or "all" for sample in samples if sample.masks)
    shown = ", ".join(f"{pairs[part]} {part}" for part in PARTS if pairs[part])
    lone = len(samples) - pairs.total()
    lines = [
        f"{pairs.total()} images with masks" + (f" ({shown})" if shown else "") + (f", {lone} without" if lone else ""),
        f"train on it:  {' '.join(['pixelwise train', str(folder), *wanted.settings])}",
    ]
    if wanted.challenge:
        part = " --split test" if pairs["test"] else ""
        lines.append(f"then score:   pixelwise evaluate RUN {folder}{part} --metrics {wanted.challenge}")
    return lines


def _facts(wanted: PublicSet) -> dict[str, Any]:
    """The entry of the table as plain JSON values."""
    return {
        "name": wanted.name,
        "title": wanted.title,
        "purpose": wanted.purpose,
        "images": wanted.images,
        "megabytes": wanted.megabytes,
        "licence": wanted.licence,
        "conditions": wanted.conditions,
        "cite": wanted.cite,
        "home": wanted.home,
        "addresses": {file.address: list(file.checksums) for file in wanted.files},
        "by_hand": wanted.by_hand,
        "settings": list(wanted.settings),
        "challenge": wanted.challenge,
    }


def _is_here(wanted: PublicSet, data_dir: Path) -> str:
    """The folder that holds a set, or nothing; what it holds is looked at when the set is asked for."""
    from pixelwise.data.public_sets import RECEIPT

    folder = data_dir / wanted.name
    return str(folder) if (folder / RECEIPT).is_file() else ""
