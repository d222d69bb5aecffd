"""Keeping what was read in memory, up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

KEPT_BYTES = 2 << 30
KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Kept(Generic[KeyT, ValueT]):
    """A reading function that remembers its answers while they take no more than `limit` bytes together.

    read  the function; what it gives for a key must never change
    size  bytes of an answer
    limit, bytes  most bytes to keep, and bytes kept now

    >>> lengths = Kept(read=str.upper, size=len, limit=3)
    >>> lengths("ab"), lengths("cd"), lengths.bytes
    ('AB', 'CD', 2)
    """

    def __init__(
        self, *, read: Callable[[KeyT], ValueT], size: Callable[[ValueT], int], limit: int = KEPT_BYTES
    ) -> None:
        self._read, self._size = read, size
        self.limit = limit
        self._answers: dict[KeyT, ValueT] = {}
        self.bytes = 0

    def __call__(self, key: KeyT) -> ValueT:
        """The answer for a key, read only where it is not in memory."""
        if key in self._answers:
            return self._answers[key]
        answer = self._read(key)
        if self.bytes + self._size(answer) <= self.limit:
            self._answers[key] = answer
            self.bytes += self._size(answer)
        return answer
