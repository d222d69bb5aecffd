"""Where runs live, and how the command line names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pixelwise.errors import UsageError, printable
from pixelwise.files import LAST_FILE, MODEL_FILE

RUNS = Path("runs")


def find_model(run: str) -> Path:
    """The model file that a user means by a file, a run's folder, or a run's name in runs/.

    Raises UsageError saying which runs there are, or that the run stopped before it had a model.
    """
    for path in (Path(run), RUNS / run):
        if path.is_file():
            return path
        if (path / MODEL_FILE).is_file():
            return path / MODEL_FILE
        if (path / LAST_FILE).is_file():
            raise UsageError(
                f"{path} was stopped before its first validation; go on with pixelwise train --resume --name "
                f"{path.name}, or use its weights as they are: {path / LAST_FILE}"
            )
    raise UsageError(f"there is no model at {printable(run)}; {_runs_there_are()}")


def new_run_folder(data: Path, name: str | None, *, resume: bool) -> Path:
    """The folder for a run: runs/<name>, or the first of runs/<data>-1, -2, ... that is free (the last, to resume it).

    Raises UsageError where the name is taken and the run is not to be resumed, or where no name is given and there is
    no run to resume.
    """
    if name is None:
        numbered = _numbered(RUNS, data.resolve().name or "run")
        folders = [next(numbered)]
        while folders[-1].exists():
            folders.append(next(numbered))
        if resume and len(folders) == 1:
            raise UsageError(f"there is no run {folders[0]} to resume; name one with --name, or leave out --resume")
        return folders[-2] if resume else folders[-1]
    if not name.strip() or Path(name).name != name:
        raise UsageError(f"--name {name!r}: give a plain name, without slashes; runs are kept in {RUNS}/")
    folder = RUNS / name
    if folder.exists() and not resume:
        raise UsageError(f"{folder} is there already; go on with it by --resume, or choose another --name")
    return folder


def free_folder(parent: Path, name: str) -> Path:
    """The first of parent/name, parent/name-2, parent/name-3, ... that is not there yet."""
    if not (parent / name).exists():
        return parent / name
    return next(folder for folder in _numbered(parent, name, first=2) if not folder.exists())


def _numbered(parent: Path, stem: str, first: int = 1) -> Iterator[Path]:
    return (parent / f"{stem}-{number}" for number in range(first, 10**9))


def _runs_there_are() -> str:
    names = sorted(path.parent.name for path in RUNS.glob(f"*/{MODEL_FILE}"))
    return f"runs here: {', '.join(names)}" if names else "train one first: pixelwise train DATA"
