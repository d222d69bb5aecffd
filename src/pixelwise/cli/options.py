"""The options of a verb as one value: a dataclass whose fields are the arguments and options of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

OptionsT = TypeVar("OptionsT")


def verb_of(run: Callable[[OptionsT], Any], options: Callable[..., OptionsT]) -> Callable[..., Any]:
    """A function for typer that takes what `options` is made of, one by one, and hands it to `run` as one value.

    >>> verb = verb_of(lambda complex: complex.real, complex)
    >>> verb(real=3, imag=4)
    3.0
    """

    def verb(**values: Any) -> Any:
        return run(options(**values))

    verb.__doc__, verb.__name__ = run.__doc__, run.__name__
    verb.__signature__ = inspect.signature(options, eval_str=True)  # type: ignore[attr-defined]
    verb.__annotations__ = {}
    return verb
