"""`pixelwise models`: which networks there are, where they come from, and what can be chosen of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixelwise.cli.screen import Screen
from pixelwise.cli.tables import fitted_table

if TYPE_CHECKING:
    from pixelwise.models.contracts import Architecture

HEADS = ("model", "year", "parameters", "paper, and options with their defaults")


def models_verb(
    json: Annotated[bool, typer.Option("--json", help="Write the list as JSON to stdout.")] = False,
) -> None:
    """List the networks: paper, year, learnable parameters as published, and their options (model.OPTION=VALUE)."""
    from pixelwise.models.registry import MODELS, model_options

    screen = Screen(json=json)
    options = {name: model_options(name) for name in MODELS}
    rows = [
        (
            name,
            str(model.year),
            f"{model.published.parameters:,}",
            f"{short_paper(model.paper)}\n{option_words(options[name])}".rstrip(),
        )
        for name, model in MODELS.items()
    ]
    screen.say(*fitted_table(HEADS, rows, right="year parameters"), "")
    screen.say(
        f"{len(MODELS)} models; parameters are those of the network as it was published.",
        "Choose one with model.name=NAME, and its options with model.OPTION=VALUE.",
        "An encoder is any that pixelwise encoders lists; look into a model with pixelwise inspect NAME.",
    )
    screen.result({"models": [_facts(name, model, options[name]) for name, model in MODELS.items()]})


def short_paper(paper: str) -> str:
    """The authors and the venue of a paper, from "Authors: Title. Venue YEAR".

    >>> short_paper("Long, Shelhamer, Darrell: Fully Convolutional Networks. CVPR 2015")
    'Long et al., CVPR'
    """
    authors = paper.partition(": ")[0].split(", ")
    venue = paper.rpartition(". ")[2].rpartition(" ")[0]
    named = f"{authors[0]} et al." if len(authors) > 2 else ", ".join(authors)
    return f"{named}, {venue}"


def option_words(options: dict[str, Any]) -> str:
    """Options as they are typed, without the section before them.

    >>> option_words({"width": 32, "bias": True})
    'width=32 bias=true'
    """
    return " ".join(
        f"{key}={str(value).lower() if value in (True, False) else value}" for key, value in options.items()
    )


def _facts(name: str, model: Architecture, options: dict[str, Any]) -> dict[str, Any]:
    published = model.published
    return {
        "name": name,
        "paper": model.paper,
        "year": model.year,
        "link": model.link,
        "options": options,
        "published": {
            "parameters": published.parameters,
            "in_channels": published.in_channels,
            "classes": published.classes,
            "size": list(published.size),
            "options": dict(published.options),
        },
    }
