"""The frame of a JPEG stream: what its decoder does not say by itself.

ITU-T T.81, annex B. A decoder fills what is missing at the end with grey, and takes the size that the stream claims.
"""

from __future__ import annotations

import struct

END = b"\xff\xd9"
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
ALONE = (0x01, *range(0xD0, 0xD9))
SCAN = 0xDA


def check_jpeg(data: bytes, shape: tuple[int, int]) -> None:
    """Raise ValueError where a stream has no end, or claims more rows or columns than `shape`.

    >>> check_jpeg(b"\\xff\\xd8\\xff\\xd9", (8, 8))
    >>> check_jpeg(b"\\xff\\xd8", (8, 8))
    Traceback (most recent call last):
    ...
    ValueError: the JPEG stream was cut short
    """
    if not data.rstrip(b"\0").endswith(END):
        raise ValueError("the JPEG stream was cut short")
    size = _claimed(data)
    if size is not None and (size[0] > shape[0] or size[1] > shape[1]):
        raise ValueError(f"a JPEG stream of {size[1]} x {size[0]} pixels in a place for {shape[1]} x {shape[0]}")


def _claimed(data: bytes) -> tuple[int, int] | None:
    """Height and width in the header of the first frame; None where there is none before the pixels."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF and data[at + 1] != SCAN:
        marker = data[at + 1]
        if marker in FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        # Fill bytes and markers without a body are two bytes; all others say how long they are.
        at += 1 if marker == 0xFF else 2 if marker in ALONE else 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None
