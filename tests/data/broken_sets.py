"""A small data set drawn by code, and the ways in which such sets arrive broken: each is one function of its folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pixelwise.data.synthetic import write_data_set

SIZE = (80, 112)
COLOURS = np.array([[0, 0, 0], [200, 30, 30], [30, 30, 200]], np.uint8)


def draw_set(folder: Path, *, images: int = 5, classes: int = 2, size: tuple[int, int] = SIZE) -> Path:
    """Images of cells with index masks of 2 classes, or of 3, where the cells on the right are of another class."""
    write_data_set(folder, images=images, size=size, channels=3, seed=3)
    shutil.rmtree(folder / "instances")
    for path, mask in masks_of(folder):
        if classes == 3:
            mask[:, size[1] // 2 :] *= 2
        Image.fromarray(mask).save(path)
    return folder


def masks_of(folder: Path) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    for path in sorted((folder / "masks").iterdir()):
        with Image.open(path) as picture:
            yield path, np.array(picture)


def first_mask(folder: Path, number: int = 1) -> tuple[Path, NDArray[np.uint8]]:
    return list(masks_of(folder))[number]


def replace_tiff(path: Path, values: NDArray) -> None:
    tifffile.imwrite(path.with_suffix(".tif"), values, photometric="rgb" if values.ndim == 3 else "minisblack")
    path.unlink()


# Every mask


def binary_255(folder: Path) -> None:
    for path, mask in masks_of(folder):
        Image.fromarray((mask > 0).astype(np.uint8) * 255).save(path)


def jpeg(folder: Path) -> None:
    for path, mask in masks_of(folder):
        Image.fromarray(mask * 255).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()


def jpeg_in_rgb(folder: Path) -> None:
    for path, mask in masks_of(folder):
        Image.fromarray(np.repeat(mask[..., None] * 255, 3, axis=2)).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()


def jpeg_saved_as_png(folder: Path) -> None:
    jpeg(folder)
    for path, noisy in masks_of(folder):
        Image.fromarray(noisy).save(path.with_suffix(".png"))
        path.unlink()


def smooth_edges(folder: Path) -> None:
    """Pixels at borders move by up to 40 % towards the other class, as anti-aliasing does."""
    for path, mask in masks_of(folder):
        wide = np.pad(mask.astype(float), 1, mode="edge")
        mean = sum(wide[1 + y : 1 + y + mask.shape[0], 1 + x : 1 + x + mask.shape[1]] for y, x in NEAR) / len(NEAR)
        Image.fromarray(np.rint(255 * (0.6 * mask + 0.4 * mean)).astype(np.uint8)).save(path)


NEAR = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1))


def from_one(folder: Path) -> None:
    for path, mask in masks_of(folder):
        Image.fromarray(mask + 1).save(path)


def colours(folder: Path) -> None:
    for path, mask in masks_of(folder):
        Image.fromarray(COLOURS[mask]).save(path)


def colours_in_jpeg(folder: Path) -> None:
    for path, mask in masks_of(folder):
        Image.fromarray(COLOURS[mask]).save(path.with_suffix(".jpg"), quality=95, subsampling=0)
        path.unlink()


def palettes(folder: Path) -> None:
    """In every other mask the two indices, and their colours, are exchanged."""
    for number, (path, mask) in enumerate(masks_of(folder)):
        picture = Image.fromarray(1 - mask if number % 2 else mask)
        picture.putpalette([255, 0, 0, 0, 0, 0] if number % 2 else [0, 0, 0, 255, 0, 0])
        picture.save(path)


def alpha(folder: Path) -> None:
    for path, mask in masks_of(folder):
        Image.fromarray(np.dstack([np.zeros((*mask.shape, 3), np.uint8), mask * 255])).save(path)


def fractions(folder: Path) -> None:
    for path, mask in masks_of(folder):
        replace_tiff(path, (mask / np.float32(255)).astype(np.float32))


def probabilities(folder: Path) -> None:
    for path, mask in masks_of(folder):
        replace_tiff(path, (0.05 + 0.9 * mask).astype(np.float32))


def gap(folder: Path) -> None:
    for path, mask in masks_of(folder):
        Image.fromarray(mask * 3).save(path)


def two_codings(folder: Path) -> None:
    for number, (path, mask) in enumerate(masks_of(folder)):
        Image.fromarray(mask * (255 if number % 2 else 1)).save(path)


# One file


def upside_down(folder: Path) -> None:
    path, mask = first_mask(folder)
    Image.fromarray(mask[::-1, ::-1]).save(path)


def transposed(folder: Path) -> None:
    path, mask = first_mask(folder)
    Image.fromarray(mask.T).save(path)


def exif_of_image_only(folder: Path) -> None:
    """The image is stored sideways with an orientation that its mask does not have."""
    path, mask = first_mask(folder)
    exif = Image.Exif()
    exif[274] = 6
    image = folder / "images" / path.name
    with Image.open(image) as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(image, exif=exif)
    Image.fromarray(np.rot90(mask)).save(path)


def swapped(folder: Path) -> None:
    """Two images of sizes of their own have each other's mask."""
    (first, _), (second, _) = first_mask(folder, 1), first_mask(folder, 3)
    for path, height in ((first, 64), (second, 72)):
        for file in (path, folder / "images" / path.name):
            with Image.open(file) as picture:
                picture.crop((0, 0, SIZE[1], height)).save(file)
    kept = folder / "kept.png"
    first.rename(kept)
    second.rename(first)
    kept.rename(second)


def cmyk(folder: Path) -> None:
    with Image.open(folder / "images" / "cells_001.png") as picture:
        picture.convert("CMYK").save(folder / "images" / "cells_001.tif")
    (folder / "images" / "cells_001.png").unlink()


def grey_among_rgb(folder: Path) -> None:
    path = folder / "images" / "cells_001.png"
    with Image.open(path) as picture:
        picture.convert("L").save(path)


def wrong_suffix(folder: Path) -> None:
    path = folder / "images" / "cells_001.png"
    with Image.open(path) as picture:
        picture.save(path, format="JPEG")


# One file that nobody can mend


def outlier(folder: Path) -> None:
    path, mask = first_mask(folder)
    mask[3:9, 4:11] = 9
    Image.fromarray(mask).save(path)


def foreign_area_in_jpeg(folder: Path) -> None:
    jpeg(folder)
    path, mask = first_mask(folder)
    mask[8:32, 8:32] = 120
    Image.fromarray(mask).save(path, quality=90)


def other_size(folder: Path) -> None:
    path, mask = first_mask(folder)
    Image.fromarray(mask[:70, :90]).save(path)


def truncated(folder: Path) -> None:
    path = folder / "images" / "cells_001.png"
    path.write_bytes(path.read_bytes()[:900])


def empty_file(folder: Path) -> None:
    (folder / "images" / "cells_001.png").write_bytes(b"")


def no_picture(folder: Path) -> None:
    (folder / "images" / "cells_001.png").write_text("hello")


def animated(folder: Path) -> None:
    path = folder / "images" / "cells_001.png"
    with Image.open(path) as picture:
        frames = [picture.copy(), picture.transpose(Image.Transpose.ROTATE_180)]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])
    path.unlink()


def not_a_number(folder: Path) -> None:
    path = folder / "images" / "cells_001.png"
    with Image.open(path) as picture:
        values = np.array(picture, np.float32)
    values[3, 4] = np.nan
    replace_tiff(path, values)


def bomb(folder: Path) -> None:
    path = folder / "images" / "cells_001.png"
    data = bytearray(path.read_bytes())
    data[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    path.write_bytes(bytes(data))


def link_to_itself(folder: Path) -> None:
    path = folder / "images" / "cells_001.png"
    path.unlink()
    path.symlink_to(path.name)


def mask_is_text(folder: Path) -> None:
    (folder / "masks" / "cells_001.png").write_text("hello")


def no_mask(folder: Path) -> None:
    (folder / "masks" / "cells_001.png").unlink()


def no_image(folder: Path) -> None:
    (folder / "images" / "cells_001.png").unlink()


def pipe_and_loop(folder: Path) -> None:
    os.mkfifo(folder / "images" / "pipe.png")
    (folder / "images" / "loop").symlink_to(folder / "images")


Break = Callable[[Path], None]
MENDED: dict[str, tuple[Break, str]] = {
    "noise of JPEG": (jpeg, "noise of JPEG in masks"),
    "noise of JPEG in three channels": (jpeg_in_rgb, "noise of JPEG in masks"),
    "noise of JPEG saved losslessly": (jpeg_saved_as_png, "smooth edges or noise in masks"),
    "smooth edges": (smooth_edges, "smooth edges or noise in masks"),
    "numbers from 1": (from_one, "numbered from 1"),
    "palettes": (palettes, "palettes that differ"),
    "alpha": (alpha, "masks in the alpha channel"),
    "fractions": (fractions, "fractions"),
    "upside down": (upside_down, "turned masks"),
    "transposed": (transposed, "turned masks"),
    "EXIF of the image only": (exif_of_image_only, "turned masks"),
    "swapped": (swapped, "swapped masks"),
    "CMYK in TIFF": (cmyk, "colours that cannot be read"),
    "grey among RGB": (grey_among_rgb, "other numbers of channels"),
}
LEFT_OUT: dict[str, tuple[Break, str]] = {
    "another value": (outlier, "values that are no class"),
    "a foreign area in JPEG": (foreign_area_in_jpeg, "values that are no class"),
    "another size": (other_size, "masks of another size"),
    "truncated": (truncated, "damaged pictures"),
    "empty file": (empty_file, "empty files"),
    "no picture": (no_picture, "files that are no picture"),
    "animated": (animated, "several pictures in one file"),
    "NaN": (not_a_number, "NaN or infinity"),
    "a bomb": (bomb, "pictures of an impossible size"),
    "a link to itself": (link_to_itself, "files that cannot be opened"),
    "a mask that is text": (mask_is_text, "files that are no picture"),
    "no mask": (no_mask, "files that cannot be paired"),
    "no image": (no_image, "files that cannot be paired"),
}
