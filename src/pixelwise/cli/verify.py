"""`pixelwise verify`: a certificate that large images get the result of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pixelwise.cli.options import verb_of
from pixelwise.cli.runs import find_model
from pixelwise.cli.screen import Screen
from pixelwise.errors import EXIT_DONE

LARGEST_SIDE = 2048
"""pixels: of a larger image the middle is compared"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What stands behind `pixelwise verify`."""

    run: Annotated[str, typer.Argument(help="A run's name or folder, or a model file.")]
    image: Annotated[Path, typer.Argument(help="An image: a picture, a TIFF of any size, or a Zarr folder.")]
    tile: Annotated[int, typer.Option(help="Side of the windows, pixels; 0: small ones that fit the network.")] = 0
    tiling: Annotated[str, typer.Option(help="exact, fading, average, inner; auto: exact where possible.")] = "auto"
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16; auto: as predict does.")] = "auto"
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto: the first that is there.")] = "auto"
    json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")] = False


def verify_tiling(options: VerifyOptions) -> int:
    """Compare the tiled with the untiled result on an image, and say how they differ.

    Prints what the network sees around each pixel, the largest difference between tiled and whole logits, and the seam
    score. Exact windows change nothing but the last digits.
    """
    from pixelwise.bundle import Bundle
    from pixelwise.config import parse_config
    from pixelwise.data.large_images import open_large
    from pixelwise.inference.cores import fill_unmeasured
    from pixelwise.inference.predict import Predictor
    from pixelwise.inference.verify import certify
    from pixelwise.runtime import memory_refusals, prepare
    from pixelwise.tiles import Window

    screen = Screen(json=options.json)
    asked = {
        "runtime": {"device": options.device, "precision": options.precision},
        "predict": {"tile": options.tile, "tiling": options.tiling},
    }
    config = parse_config(asked, "the command line")
    runtime = prepare(config.runtime)
    predictor = Predictor.of(Bundle.load(find_model(options.run)), runtime, config.predict)
    with open_large(options.image) as image:
        height, width = image.shape
        rows, columns = min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)
        top, left = (height - rows) // 2, (width - columns) // 2
        screen.say(f"image: {image.describe()}", runtime.describe())
        seen_HWC = image.read(Window(top, left, top + rows, left + columns))
        image_HWC = fill_unmeasured(seen_HWC, image, predictor.normalisation)
    with memory_refusals("give a smaller image"):
        certificate = certify(image_HWC, predictor)
    screen.say(*certificate.describe())
    screen.result(certificate.to_dict())
    return EXIT_DONE


verify_verb = verb_of(verify_tiling, VerifyOptions)
