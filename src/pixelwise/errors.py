"""What pixelwise says when it cannot go on: one family of errors, each a sentence that a person can act on.

PixelwiseError            exit code 2: refused, nothing was changed
├── UsageError            exit code 1: the command line or the configuration is wrong
├── MissingExtraError     exit code 1: an optional package is not installed
├── DataError             a data set cannot be used; carries one Finding per wrong file
│   └── ImageFileError    one picture file cannot be read; the other files go on
├── BundleError           a saved model or a checkpoint cannot be opened
│   └── UnreadableError   the system refuses to read it
├── TrainingError         training cannot continue (a loss that is not finite, a resume that does not fit)
└── OutputError           a result could not be written (disk full, no permission)

A message names the thing, the value, the rule and the next step. `assert` is for our own mistakes only.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

EXIT_DONE, EXIT_USAGE, EXIT_REFUSED, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
FINDINGS_SHOWN = 10


class PixelwiseError(ValueError):
    """Any refusal by pixelwise. `exit_code` is what a command ends with."""

    exit_code = EXIT_REFUSED


class UsageError(PixelwiseError):
    """The command line or the configuration asks for something that does not exist."""

    exit_code = EXIT_USAGE


class MissingExtraError(PixelwiseError):
    """A feature needs a package that is not installed."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with a data set: where, what was found, what the rule is, and how to mend it.

    >>> print(Finding(file=Path("masks/7.png"), found="value 9 in 12 pixels", rule="values 0 to 2, or 255 for void",
    ...               fix="correct the mask"))
    masks/7.png: value 9 in 12 pixels; rule: values 0 to 2, or 255 for void; fix: correct the mask
    """

    file: Path
    found: str
    rule: str
    fix: str
    severity: Literal["error", "warning", "note"] = "error"

    def __str__(self) -> str:
        return f"{printable(self.file)}: {self.found}; rule: {self.rule}; fix: {self.fix}"


class DataError(PixelwiseError):
    """A data set cannot be used as it is. `findings` lists every wrong file, not only the first."""

    def __init__(self, summary: str, findings: Sequence[Finding] = ()) -> None:
        self.findings = tuple(findings)
        lines = [summary, *(f"  {finding}" for finding in self.findings[:FINDINGS_SHOWN])]
        if len(self.findings) > FINDINGS_SHOWN:
            lines.append(f"  … and {len(self.findings) - FINDINGS_SHOWN} more like these")
        super().__init__("\n".join(lines))


class ImageFileError(DataError):
    """One picture file cannot be read as an image."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.findings = (finding,)


class BundleError(PixelwiseError):
    """A saved model or a checkpoint is damaged, foreign or newer than this version."""


class UnreadableError(BundleError):
    """The system refuses to read a file that may be good: no permission, a failing disk."""


class TrainingError(PixelwiseError):
    """Training cannot continue from here."""


class OutputError(PixelwiseError):
    """A result could not be written; what was there before is untouched."""


def printable(name: object) -> str:
    r"""The name of a file as text that any terminal, log or JSON can hold: control characters are escaped.

    >>> printable("a\nb.png")
    'a\\nb.png'
    """
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional third-party package, or say which extra installs it.

    >>> require("json", extra="none").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the package {package}, which is not installed; "
            f"install it with: pip install 'pixelwise[{extra}]'"
        ) from error
