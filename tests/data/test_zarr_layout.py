"""What is in a Zarr folder: OME-Zarr of all versions, axes, levels, planes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from windows_read import HEIGHT, WIDTH, whole

from pixelwise.data.large_images import open_large
from pixelwise.data.zarr_layout import find_image
from pixelwise.errors import ImageFileError

zarr = pytest.importorskip("zarr")

RNG = np.random.default_rng(4)
VALUES = RNG.integers(1, 65536, (2, 3, 2, HEIGHT, WIDTH)).astype(np.uint16)  # t c z y x
CYX = VALUES[0, :, 0]
UNITS = {"t": "second", "c": None, "z": "micrometer", "y": "micrometer", "x": "nanometer"}
SCALES = {"t": 1.0, "c": 1.0, "z": 2.0, "y": 0.25, "x": 500.0}


def described(axes: str, levels: int, version: str) -> dict[str, Any]:
    """The multiscales of OME-NGFF as each version writes them."""
    kinds = {"t": "time", "c": "channel"}
    scales = [[SCALES[axis] * (2**level if axis in "yx" else 1) for axis in axes] for level in range(levels)]
    datasets = [
        {"path": f"s{i}", "coordinateTransformations": [{"type": "scale", "scale": s}]} for i, s in enumerate(scales)
    ]
    full = [{"name": axis, "type": kinds.get(axis, "space"), "unit": UNITS[axis]} for axis in axes]
    match version:
        case "0.5":
            return {"ome": {"version": "0.5", "multiscales": [{"axes": full, "datasets": datasets}]}}
        case "0.4":
            return {"multiscales": [{"version": "0.4", "axes": full, "datasets": datasets}]}
        case "0.3":
            plain = [{"path": dataset["path"]} for dataset in datasets]
            return {"multiscales": [{"version": "0.3", "axes": list(axes), "datasets": plain}]}
    plain = [{"path": dataset["path"]} for dataset in datasets]
    return {"multiscales": [{"version": "0.2", "datasets": plain}]}


def write_ome(path: Path, values: NDArray[Any], axes: str, *, version: str = "0.5", levels: int = 1) -> Path:
    zarr_format = 3 if version == "0.5" else 2
    group = zarr.create_group(path, zarr_format=zarr_format, attributes=described(axes, levels, version))
    for level in range(levels):
        part = values[..., :: 2**level, :: 2**level]
        chunks = tuple(min(32, side) for side in part.shape)
        group.create_array(f"s{level}", shape=part.shape, dtype=part.dtype, chunks=chunks)[...] = part
    return path


@pytest.mark.parametrize("version", ["0.2", "0.3", "0.4", "0.5"])
def test_ome_zarr_of_every_version(tmp_path: Path, version: str) -> None:
    axes, values = ("tczyx", VALUES[:1, :, :1]) if version == "0.2" else ("cyx", CYX)
    path = write_ome(tmp_path / "a.zarr", values, axes, version=version, levels=3)
    for level in range(3):
        with open_large(path, level=level) as image:
            assert image.levels == ((75, 93), (38, 47), (19, 24))
            assert np.array_equal(whole(image), np.moveaxis(CYX, 0, 2)[:: 2**level, :: 2**level])
            size = (0.25 * 2**level, 0.5 * 2**level)
            assert image.pixel_size == (pytest.approx(size) if version >= "0.4" else None)
    with pytest.raises(ImageFileError, match=r"no level 3; rule: levels 0 to 2 \(93 x 75"):
        open_large(path, level=3).__enter__()


def test_levels_have_identities_of_their_own(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", CYX, "cyx", levels=2)
    with open_large(path) as full, open_large(path, level=1) as half, open_large(path / "s0") as plain:
        assert len({full.identity, half.identity}) == 2
        assert np.array_equal(whole(plain), whole(full))


@pytest.mark.parametrize(
    ("axes", "values"),
    [
        ("yx", CYX[0]),
        ("zyx", VALUES[0, 0, :1]),
        ("tyx", VALUES[:1, 0, 0]),
        ("cyx", CYX),
        ("tcyx", VALUES[:1, :, 0]),
        ("tczyx", VALUES[:1, :, :1]),
        ("yxc", np.moveaxis(CYX, 0, 2)),
    ],
)
def test_axes_of_length_one_fall_away(tmp_path: Path, axes: str, values: NDArray[Any]) -> None:
    with open_large(write_ome(tmp_path / "a.zarr", values, axes)) as image:
        expected = np.moveaxis(CYX, 0, 2) if "c" in axes else CYX[0, ..., None]
        assert np.array_equal(whole(image), expected)
        assert image.pixel_size == pytest.approx((0.25, 0.5))


def test_times_and_sections_need_a_choice(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", VALUES, "tczyx")
    with pytest.raises(ImageFileError, match=r"4 planes \(t: 2, z: 2\); .*choose one page, 0 to 3"):
        open_large(path).__enter__()
    names = set()
    for page in range(4):
        with open_large(path, page=page) as image:
            assert np.array_equal(whole(image), np.moveaxis(VALUES[page // 2, :, page % 2], 0, 2))
            names.add(image.identity)
    assert len(names) == 4
    with pytest.raises(ImageFileError, match="no page 4; rule: pages 0 to 3"):
        open_large(path, page=4).__enter__()


def test_the_scale_of_the_whole_pyramid_counts_too(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.zarr", CYX, "cyx")
    found = json.loads((path / "zarr.json").read_text())
    whole_scale = [{"type": "translation", "translation": [0, 5, 5]}, {"type": "scale", "scale": [1, 10, 20]}]
    found["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"] = whole_scale
    (path / "zarr.json").write_text(json.dumps(found))
    with open_large(path) as image:
        assert image.pixel_size == pytest.approx((2.5, 10))


# -------------------------------------------------------------------------------------------------------- plain arrays


@pytest.mark.parametrize(
    ("shape", "names", "expected"),
    [
        ((40, 60), None, (40, 60, 1)),
        ((3, 40, 60), None, (40, 60, 3)),
        ((40, 60, 3), None, (40, 60, 3)),
        ((16, 40, 17), None, (40, 17, 16)),
        ((2, 9, 3), None, (9, 3, 2)),
        ((1, 1, 4, 40, 60), None, (40, 60, 4)),
        ((1, 40, 60), None, (40, 60, 1)),
        ((40, 60, 20), ("y", "x", "band"), (40, 60, 20)),
        ((20, 40, 60), ("CHANNEL", "Y", "X"), (40, 60, 20)),
        ((1, 40, 60), ("time", "y", "x"), (40, 60, 1)),
        ((40, 60), ("row", "column"), (40, 60, 1)),  # names that say nothing to us
    ],
)
def test_axes_of_a_plain_array(
    tmp_path: Path, shape: tuple[int, ...], names: Any, expected: tuple[int, int, int]
) -> None:
    values = RNG.integers(1, 255, shape, np.uint8)
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype="u1", chunks=shape, dimension_names=names)[...] = values
    with open_large(tmp_path / "a.zarr") as image:
        assert (*image.shape, image.channels) == expected
        assert image.levels == (image.shape,)
        assert np.sum(whole(image), dtype=int) == values.sum(dtype=int)
        assert find_image(tmp_path / "a.zarr", 0, 0) == find_image(tmp_path / "a.zarr", 0, None)


def test_names_of_axes_that_xarray_writes(tmp_path: Path) -> None:
    values, attributes = RNG.integers(1, 255, (40, 20, 60), np.uint8), {"_ARRAY_DIMENSIONS": ["y", "band", "x"]}
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=values.shape, dtype="u1", chunks=(40, 20, 60), zarr_format=2, attributes=attributes
    )
    array[...] = values
    with open_large(tmp_path / "a.zarr") as image:
        assert np.array_equal(whole(image), np.moveaxis(values, 1, 2))


@pytest.mark.parametrize(
    ("shape", "names", "text"),
    [
        ((20, 40, 60), None, "an array of 20 x 40 x 60 without names of axes"),
        ((3, 40, 3), None, "an array of 3 x 40 x 3 without names"),
        ((2, 3, 40, 60), None, "an array of 2 x 3 x 40 x 60 without names"),
        ((40,), None, "an array of 40 without names"),
        ((40, 60, 2), ("y", "x", "y"), "axes y, x, y of an array"),
        ((2, 40, 60, 2), ("band", "y", "x", "c"), "at most one c"),
        ((5, 40, 60), ("time", "y", "x"), r"5 planes \(time: 5\)"),
    ],
)
def test_axes_that_are_not_clear_are_refused(tmp_path: Path, shape: tuple[int, ...], names: Any, text: str) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype="u1", chunks=shape, dimension_names=names)
    array[...] = 1
    with pytest.raises(ImageFileError, match=text):
        open_large(tmp_path / "a.zarr").__enter__()


def test_a_plain_array_has_one_level_and_one_page(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), dtype="u1", chunks=(4, 4))[...] = 1
    for choice, text in (({"level": 1}, "no level 1"), ({"page": 1}, "no page 1"), ({"page": -1}, "no page -1")):
        with pytest.raises(ImageFileError, match=text):
            open_large(tmp_path / "a.zarr", **choice).__enter__()  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ no single image


def test_a_group_that_is_no_image_names_what_is_in_it(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    for name in ("cells", "nuclei"):
        group.create_array(name, shape=(4, 4), dtype="u1")[...] = 1
    with pytest.raises(ImageFileError, match=r"no OME-Zarr image, with cells, nuclei in it; .*the path of one image"):
        open_large(tmp_path / "a.zarr").__enter__()
    empty = zarr.create_group(tmp_path / "b.zarr", zarr_format=2)
    assert empty is not None
    with pytest.raises(ImageFileError, match="with nothing in it"):
        open_large(tmp_path / "b.zarr").__enter__()


def test_a_folder_of_anything_else_is_no_zarr(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageFileError, match="a folder that is no Zarr"):
        open_large(tmp_path).__enter__()


def multiscales_of(path: Path, change: dict[str, Any]) -> None:
    found = json.loads((path / "zarr.json").read_text())
    found["attributes"]["ome"]["multiscales"][0] |= change
    (path / "zarr.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"datasets": []}, "a Zarr group of 1 OME images, with s0 in it"),
        ({"datasets": [{"path": "s9"}]}, "a folder that is no Zarr"),
        ({"datasets": [{"path": "../b.zarr/s0"}]}, "leaves the folder"),
        ({"datasets": [{"path": "/etc"}]}, "leaves the folder"),
        ({"datasets": [{"path": ""}]}, "leaves the folder"),
        ({"datasets": [{}]}, "damaged or unsupported Zarr"),
        ({"axes": ["y", "x"]}, "axes y, x of an array of 3 dimensions"),
        ({"axes": 5}, "damaged or unsupported Zarr"),
    ],
)
def test_descriptions_that_are_wrong_are_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    for name in ("a.zarr", "b.zarr"):
        write_ome(tmp_path / name, CYX, "cyx")
    multiscales_of(tmp_path / "a.zarr", change)
    with pytest.raises(ImageFileError, match=text):
        open_large(tmp_path / "a.zarr").__enter__()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"node_type": []}', b"[" * 100_000])
def test_metadata_that_is_no_json_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "zarr.json").write_bytes(text)
    with pytest.raises(ImageFileError, match="damaged Zarr metadata"):
        open_large(tmp_path).__enter__()


def test_metadata_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "zarr.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageFileError, match="more than 67108864 bytes"):
        open_large(tmp_path).__enter__()
