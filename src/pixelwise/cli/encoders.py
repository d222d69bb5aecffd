"""`pixelwise encoders`: which encoders there are, what maps they give, and under which licence their weights are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixelwise.cli.screen import Screen, counted

if TYPE_CHECKING:
    from pixelwise.models.catalogue import EncoderFacts

MEASURED = 6  # encoders of which the maps are shown; to measure more takes longer than a person waits


def encoders_verb(
    pattern: Annotated[
        str, typer.Argument(help="A name, a part of one, or a pattern such as 'resnet*'. Without it: the families.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Write the list as JSON to stdout.")] = False,
) -> None:
    """List the encoders: networks of timm that a model can stand on, with model.encoder=NAME."""
    screen = Screen(json=json)
    if pattern:
        _show_encoders(pattern, screen)
    else:
        _show_families(screen)


def _show_families(screen: Screen) -> None:
    from pixelwise.models.catalogue import families

    found = families()
    heads = ("family", "networks", "with weights", "dilates to", "for example")
    rows = [
        (family.name, family.networks, family.pretrained, _numbers(family.dilates_to), family.example)
        for family in found
    ]
    screen.say(*_table(heads, rows), "")
    total = counted(sum(family.networks for family in found), "network")
    screen.say(f"{total} in {len(found)} families; to see the maps of some: pixelwise encoders NAME, or 'resnet*'")
    screen.result({"families": [asdict(family) for family in found]})


def _show_encoders(pattern: str, screen: Screen) -> None:
    from pixelwise.errors import UsageError
    from pixelwise.models.catalogue import encoder_facts, encoders_like

    # Some of them are measured; a single one that cannot be an encoder ends the command with the reason.
    names = encoders_like(pattern)
    measured, refused = [], {}
    for name in screen.progress(names[:MEASURED], total=min(len(names), MEASURED), title="measuring"):
        try:
            measured.append(encoder_facts(name))
        except UsageError as error:
            refused[name] = str(error)
            if len(names) == 1:
                raise

    if measured:
        heads = ("encoder", "million parameters", "strides", "channels", "dilates to", "licence of the weights")
        screen.say(*_table(heads, [_row(facts) for facts in measured]))
    for reason in refused.values():
        screen.warn(reason)
    if len(names) == 1:
        _show_weights(measured[0], screen)
    if len(names) > MEASURED:
        screen.say("", f"and {len(names) - MEASURED} more, whose maps a narrower pattern shows:", *names[MEASURED:])
    screen.result(
        {"encoders": [asdict(facts) for facts in measured], "refused": refused, "not_measured": names[MEASURED:]}
    )


def _show_weights(facts: EncoderFacts, screen: Screen) -> None:
    if not facts.licences:
        screen.say("", "timm has no pretrained weights of it")
        return
    rows = [(name, _licence(licence)) for name, licence in facts.licences.items()]
    screen.say("", "pretrained weights, the first by default:", *_table(("name", "licence"), rows))


def _row(facts: EncoderFacts) -> tuple[Any, ...]:
    return (
        facts.name,
        f"{facts.parameters / 1e6:.1f}",
        _numbers(facts.strides),
        _numbers(facts.channels),
        _numbers(facts.dilates_to),
        next((_licence(name) for name in facts.licences.values()), "no weights"),
    )


def _licence(name: str) -> str:
    from pixelwise.models.pretrained import is_non_commercial

    return f"{name} (not for commercial use)" if is_non_commercial(name) else name


def _numbers(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a table for people: numbers to the right, words to the left.

    >>> print(*_table(("name", "size"), [("a", 5), ("bcdef", 10)]), sep="|")
    name   size|a         5|bcdef    10
    """
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    right = [all(str(cell).replace(".", "").isdigit() for cell in column[1:]) for column in columns]

    def line(cells: Sequence[Any]) -> str:
        placed = zip(cells, widths, right, strict=True)
        return "  ".join(
            f"{cell!s:>{width}}" if number else f"{cell!s:<{width}}" for cell, width, number in placed
        ).rstrip()

    return [line(row) for row in (heads, *rows)]
