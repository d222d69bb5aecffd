"""`pixelwise plan`: what a training would do with a folder of images and masks, why, and what it would take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixelwise.cli.screen import Screen
from pixelwise.cli.train import read_asked
from pixelwise.errors import UsageError


def plan_verb(
    data: Annotated[str, typer.Argument(help="Folder of images and masks.")],
    settings: Annotated[list[str] | None, typer.Argument(help="section.key=value, such as model.width=16")] = None,
    minutes: Annotated[float | None, typer.Option(help="Length as a time budget [10 without any length].")] = None,
    memory: Annotated[str | None, typer.Option(help="What it may take, such as 4GB [what is free].")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto: the first that is there.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for the plan, such as plan.toml.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write all of it as JSON to stdout.")] = False,
) -> None:
    """Look at the data, choose the settings of a training with reasons, and measure what it takes. Trains nothing.

    The plan is a file to read and to change: pixelwise train --config plan.toml
    """
    if out is not None and out.exists():
        raise UsageError(f"{out} is there already; choose another --out, or delete it")
    overrides = [f"runtime.device={device}", *(settings or [])]
    if minutes is not None:
        overrides.append(f"training.minutes={minutes}")
    asked = read_asked(None, overrides, data)

    from pixelwise.cli.planning import preflight, show_preflight
    from pixelwise.files import write_text
    from pixelwise.runtime import parse_bytes

    screen = Screen(json=json)
    found = preflight(asked, memory=None if memory is None else parse_bytes(memory), screen=screen)
    show_preflight(found, screen)
    if out is not None:
        write_text(out, found.draft.plan.to_toml())
        screen.say("", f"the plan is in {out}; to run it: pixelwise train --config {out}")
    else:
        screen.say("", "to keep this plan: -o plan.toml; to run it at once: pixelwise train DATA")
    screen.result(found.to_dict())
