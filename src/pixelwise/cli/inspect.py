"""`pixelwise inspect`: the layers of a network, what they cost, how far they see, and how its gradients flow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixelwise.cli.models import option_words, short_paper
from pixelwise.cli.screen import Screen, counted
from pixelwise.cli.subject import find_subject, parse_size
from pixelwise.cli.tables import fitted_facts, fitted_table, large_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from pixelwise.cli.subject import Subject
    from pixelwise.inference.receptive_field import EffectiveField
    from pixelwise.inspection.gradients import LayerGradient
    from pixelwise.inspection.overview import Overview
    from pixelwise.inspection.summary import Layer

LINES = 40
NOISE_SIZE, NOISE_IMAGES = (128, 128), 2
FIELD_SIDES, FIELD_IMAGES = (128, 512), 4
HEADS = ("layer", "does", "gives", "parameters", "MACs", "sees")


def inspect_verb(
    model: Annotated[str, typer.Argument(help="A model's name (pixelwise models lists them), a run, or a model file.")],
    settings: Annotated[list[str] | None, typer.Argument(help="model.option=value, such as model.width=16")] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the images [as published].")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes [as published].")] = None,
    size: Annotated[str | None, typer.Option(help="Of the image: 512, or ROWSxCOLUMNS [as published].")] = None,
    depth: Annotated[
        int | None,
        typer.Option(min=0, help="Sum up layers whose names begin with the same parts, this many; 0: none."),
    ] = None,
    gradients: Annotated[bool, typer.Option("--gradients", help="Norms of gradients, from a batch of noise.")] = False,
    figures: Annotated[Path | None, typer.Option(help="Folder for pictures of all this.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")] = False,
) -> None:
    """Look into a network: layers, parameters, multiply-adds, receptive fields, up-sampling, gradients."""
    from pixelwise.inspection.overview import look_at
    from pixelwise.runtime import memory_refusals

    # The network without memory for its weights.
    screen = Screen(json=json)
    subject = find_subject(model, settings or [], channels=channels, classes=classes)
    image_size = subject.size if size is None else parse_size(size)
    on_paper = subject.on_paper()
    stride = int(on_paper.stride)  # type: ignore[arg-type]
    with memory_refusals():
        overview = look_at(on_paper, subject.in_channels, image_size, stride=stride)

    # What only its weights can tell.
    rows: list[LayerGradient] = []
    facts, result = overview_facts(overview, subject), {"model": subject.to_dict(), **overview.to_dict()}
    if gradients or figures is not None:
        rows, more_facts, more_results = look_at_weights(subject, overview, figures)
        facts, result = facts | more_facts, result | more_results

    screen.say(*title_lines(subject, image_size), "")
    screen.say(*layer_table(overview, rows, depth), "")
    screen.say(*fitted_facts(facts))
    screen.result(result)


# ------------------------------------------------------------------------------------------------------ what is said


def title_lines(subject: Subject, size: tuple[int, int]) -> list[str]:
    """Which network this is, of which paper, for which images."""
    from pixelwise.models.registry import MODELS

    architecture = MODELS[subject.name]
    return [
        f"{subject.name} ({short_paper(architecture.paper)} {architecture.year}, {architecture.link})",
        *([option_words(dict(subject.options))] if subject.options else []),
        f"{images_and_classes(subject.in_channels, subject.task.outputs)}, an image of {size[0]} × {size[1]}",
    ]


def layer_table(overview: Overview, rows: Sequence[LayerGradient], depth: int | None) -> list[str]:
    """A line per layer, or per group of layers; with a column of gradients where they are known."""
    from pixelwise.inspection.overview import sees
    from pixelwise.inspection.summary import fitting_depth, folded

    layers = overview.summary.layers
    chosen = fitting_depth(layers, LINES) if depth is None else depth
    shown = folded(layers, chosen) if chosen else list(layers)
    norms = _norms_by_layer(shown, rows)
    table = [
        (
            layer.name,
            layer.kind,
            "×".join(map(str, layer.shape)),
            f"{layer.parameters:,}",
            large_number(layer.multiply_adds),
            sees(overview, layer),
            *([f"{norms[layer.name]:.1e}"] if rows else []),
        )
        for layer in shown
    ]
    lines = fitted_table([*HEADS, *(["gradient"] if rows else [])], table, right="parameters MACs sees gradient")
    if len(shown) < len(layers):
        parts = "part" if chosen == 1 else f"{chosen} parts"
        lines += ["", f"{len(layers)} layers, summed up by the first {parts} of their names; --depth 0 shows all"]
    return lines


def _norms_by_layer(shown: Sequence[Layer], rows: Sequence[LayerGradient]) -> dict[str, float]:
    """The norm of the gradients of all layers that a line of the table stands for."""
    squares = {layer.name: 0.0 for layer in shown}
    names = sorted(squares, key=len, reverse=True)
    for row in rows:
        own = next((name for name in names if row.name == name or row.name.startswith(f"{name}.")), None)
        if own is not None:
            squares[own] += row.gradient**2
    return {name: math.sqrt(square) for name, square in squares.items()}


def overview_facts(overview: Overview, subject: Subject) -> dict[str, str]:
    """What is known of the whole network, by a name for each fact."""
    summary, boards = overview.summary, overview.checkerboards
    parameters = f"{summary.parameters:,}, {summary.parameters * 4 / 1e6:,.1f} MB in float32{_published(subject)}"
    if summary.idle_parameters:
        parameters += f"; {summary.idle_parameters:,} of them in layers that do not run as such"
    multiply_adds = f"{large_number(summary.multiply_adds)}: one per weight and place of a convolution"
    if summary.multiply_adds_between:
        multiply_adds += f"; {large_number(summary.multiply_adds_between)} of them between the layers"
    return {
        "parameters": parameters,
        "multiply-adds (MACs)": multiply_adds,
        "total stride": counted(overview.stride, "pixel"),
        "receptive field": _field_words(overview),
        "up-sampling": _upsampling_words({name: board.score for name, board in boards.items()}),
    }


def _published(subject: Subject) -> str:
    """What the paper's own network has, where this is another one."""
    from pixelwise.models.registry import MODELS, model_options

    published, defaults = MODELS[subject.name].published, model_options(subject.name)
    own = (subject.in_channels, subject.task.outputs, dict(subject.options))
    if own == (published.in_channels, published.classes, defaults | dict(published.options)):
        return ", as published"
    differences = option_words(dict(published.options))
    return (
        f"; published: {published.parameters:,} with {images_and_classes(published.in_channels, published.classes)}"
        f"{', ' + differences if differences else ''}"
    )


def images_and_classes(channels: int, classes: int) -> str:
    """What goes in and what comes out, in words.

    >>> images_and_classes(3, 1)
    '3 channels, 1 class'
    """
    return f"{counted(channels, 'channel')}, {'1 class' if classes == 1 else f'{classes} classes'}"


def _field_words(overview: Overview) -> str:
    field = overview.field
    if field is None:
        return "the whole image"
    reach = f"; up to {counted(field.reach, 'pixel')} beyond the output's own place" if field.reach is not None else ""
    several = ", by the place of the output" if "–" in str(field) else ""
    return f"{field} pixels{several}{reach}"


def _upsampling_words(unevenness: Mapping[str, float]) -> str:
    if not unevenness:
        return "no transposed convolution that learns, so no checkerboard"
    what = counted(len(unevenness), "transposed convolution")
    alike: dict[str, list[str]] = {}
    for name, score in unevenness.items():
        alike.setdefault(f"{score:.2f}", []).append(name)
    if list(alike) == ["0.00"]:
        return f"{what}, even: no checkerboard"
    named = (
        f"{score} in {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for score, names in alike.items()
    )
    return f"{what}; unevenness (0 none, 1 holes) {', '.join(named)}"


# ------------------------------------------------------------------------------------------------- with its weights


def look_at_weights(
    subject: Subject, overview: Overview, figures: Path | None
) -> tuple[list[LayerGradient], dict[str, str], dict[str, Any]]:
    """Run the network on noise, and draw the pictures if there is a folder for them: gradients, facts, results."""
    from pixelwise.runtime import memory_refusals

    with memory_refusals():
        network = subject.build()
        rows = gradients_of_noise(network, subject)
        effective = field_of_noise(network, subject, overview) if figures is not None else None
    facts, results = gradient_facts(rows), {"gradients": [row.to_dict() for row in rows]}
    if figures is None:
        return rows, facts, results
    facts |= draw_figures(subject, overview, rows, effective, figures)
    return rows, facts, {**results, "effective_field": effective.side if effective else None}


def gradients_of_noise(network: nn.Module, subject: Subject) -> list[LayerGradient]:
    """The gradients of cross-entropy (of values: of the square error) for a batch of noise with random truth."""
    import torch

    from pixelwise.inspection.gradients import gradient_norms
    from pixelwise.losses.registry import parse_loss

    task, generator = subject.task, torch.Generator().manual_seed(0)
    shape = (NOISE_IMAGES, task.outputs, *NOISE_SIZE)
    match task.kind:
        case "exclusive":
            truth = torch.randint(0, task.outputs, (NOISE_IMAGES, *NOISE_SIZE), generator=generator)
        case "overlapping":
            truth = torch.randint(0, 2, shape, generator=generator)
        case "values":
            truth = torch.randn(shape, generator=generator)
    loss = parse_loss("l2" if task.kind == "values" else "ce")
    image_BCHW = torch.randn(NOISE_IMAGES, subject.in_channels, *NOISE_SIZE, generator=generator)
    return gradient_norms(network, lambda logits_BKHW: loss(logits_BKHW, truth, task, None), image_BCHW)


def gradient_facts(rows: Sequence[LayerGradient]) -> dict[str, str]:
    """The layers with the smallest and the largest gradient."""
    layers = [row for row in rows if not row.is_norm] or list(rows)
    least, most = (choose(layers, key=lambda row: row.gradient) for choose in (min, max))
    return {"gradients": f"from {least.gradient:.1e} ({least.name}) to {most.gradient:.1e} ({most.name})"}


def field_of_noise(network: nn.Module, subject: Subject, overview: Overview) -> EffectiveField | None:
    """The effective receptive field on images of noise, somewhat larger than all that an output can see.

    None where the logits do not depend on the image: fresh networks may begin with zeros in their last layer.
    """
    import torch

    from pixelwise.errors import UsageError
    from pixelwise.inference.receptive_field import effective_field

    lowest, highest = FIELD_SIDES
    largest = max(overview.field.rows[1], overview.field.columns[1]) if overview.field else highest
    side = min(highest, max(lowest, math.ceil(1.15 * largest / overview.stride) * overview.stride))
    noise_BCHW = torch.randn(FIELD_IMAGES, subject.in_channels, side, side, generator=torch.Generator().manual_seed(0))
    try:
        return effective_field(network, noise_BCHW)
    except UsageError:
        return None


def draw_figures(
    subject: Subject,
    overview: Overview,
    rows: Sequence[LayerGradient],
    effective: EffectiveField | None,
    folder: Path,
) -> dict[str, str]:
    """Draw the pictures there are; what is to be said of them."""
    from pixelwise.inspection.figures import plot_checkerboards, plot_gradients, plot_receptive_field

    weights = "fresh weights" if subject.bundle is None else "trained weights"
    title, field = f"{subject.name}, {weights}", f"none: with {weights}, the logits do not depend on the image"
    pictures = ["gradients.png"]
    plot_gradients(rows, folder / "gradients.png", title=f"{title}: gradients from a batch of noise")
    if effective is not None:
        pictures.append("receptive_field.png")
        plot_receptive_field(effective, folder / "receptive_field.png", title=f"{title}: what an output sees")
        field = f"95 % of the gradient from {effective.side} × {effective.side} pixels ({weights})"
    if overview.checkerboards:
        pictures.append("checkerboard.png")
        title = f"{subject.name}:\nhow often up-sampling adds to each place"
        plot_checkerboards(overview.checkerboards, folder / "checkerboard.png", title=title)
    return {"effective field": field, "pictures": f"{', '.join(pictures)} in {folder}"}
