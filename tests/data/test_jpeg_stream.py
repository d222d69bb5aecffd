"""What a JPEG stream claims, and whether it has an end."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from pixelwise.data.jpeg_stream import check_jpeg

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(8, 16), (100, 3), (64, 64, 3)])
def test_whole_streams_pass(shape: tuple[int, ...]) -> None:
    stream = imagecodecs.jpeg_encode(RNG.integers(0, 256, shape, np.uint8))
    check_jpeg(stream, shape[:2])
    check_jpeg(stream + b"\0", shape[:2])  # some programs pad to an even length
    check_jpeg(stream, (shape[0] + 8, shape[1] + 8))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_what_was_cut_short_or_never_written_is_found(share: float) -> None:
    stream = imagecodecs.jpeg_encode(RNG.integers(0, 256, (64, 64), np.uint8))
    cut = stream[: int(len(stream) * share)]
    for damaged in (cut, cut.ljust(len(stream), b"\0"), b"", bytes(100)):
        with pytest.raises(ValueError, match="cut short"):
            check_jpeg(damaged, (64, 64))


@pytest.mark.parametrize(("shape", "place"), [((64, 64), (16, 16)), ((64, 16), (16, 64)), ((16, 17), (16, 16))])
def test_a_stream_larger_than_its_place_is_refused_before_it_is_decoded(
    shape: tuple[int, int], place: tuple[int, int]
) -> None:
    stream = imagecodecs.jpeg_encode(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=f"{shape[1]} x {shape[0]} pixels in a place for {place[1]} x {place[0]}"):
        check_jpeg(stream, place)


def test_fill_bytes_before_a_marker_are_passed_over() -> None:
    stream = imagecodecs.jpeg_encode(np.zeros((64, 64), np.uint8))
    with pytest.raises(ValueError, match="64 x 64 pixels"):
        check_jpeg(stream[:2] + b"\xff\xff" + stream[2:], (8, 8))


def test_tables_alone_claim_nothing() -> None:
    check_jpeg(b"\xff\xd8\xff\xdb\x00\x04\x00\x01\xff\xd9", (1, 1))
