"""The command `pixelwise`: its verbs, and what an error looks like.

Exit codes: 0 all done; 1 the command line is wrong; 2 refused; 3 done, but some inputs failed; 130 stopped by the user.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pixelwise import __version__
from pixelwise.cli.data import data_verb
from pixelwise.cli.demo import demo_verb
from pixelwise.cli.doctor import doctor_verb
from pixelwise.cli.encoders import encoders_verb
from pixelwise.cli.evaluate import evaluate_verb
from pixelwise.cli.inspect import inspect_verb
from pixelwise.cli.models import models_verb
from pixelwise.cli.plan import plan_verb
from pixelwise.cli.predict import predict_verb
from pixelwise.cli.train import train_verb
from pixelwise.cli.verify import verify_verb
from pixelwise.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, PixelwiseError

VERBS: dict[str, Callable[..., Any]] = {
    "demo": demo_verb,
    "doctor": doctor_verb,
    "data": data_verb,
    "plan": plan_verb,
    "train": train_verb,
    "evaluate": evaluate_verb,
    "predict": predict_verb,
    "verify": verify_verb,
    "encoders": encoders_verb,
    "models": models_verb,
    "inspect": inspect_verb,
}


def make_app() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="A class for every pixel: train, score and use image segmentation models.",
    )
    app.callback()(_options)
    for name, verb in VERBS.items():
        app.command(name)(verb)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code; a refusal is one message on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a sign shows its number
    try:
        result = make_app()(arguments, standalone_mode=False)
    except PixelwiseError as error:
        sys.stderr.write(f"pixelwise: {error}\n")
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("pixelwise: stopped\n")
        sys.exit(EXIT_INTERRUPTED)
    except typer.TyperException as error:
        sys.stderr.write(f"pixelwise: {error.format_message()} See pixelwise --help.\n")
        sys.exit(EXIT_USAGE)
    sys.exit(result if isinstance(result, int) else EXIT_DONE)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pixelwise {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of the command itself."""
