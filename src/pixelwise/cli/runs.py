"""Where runs live, and how the command line names them."""

from __future__ import annotations

from pathlib import Path

from pixelwise.errors import UsageError, printable

RUNS = Path("runs")
MODEL_FILE, LAST_FILE = "model.safetensors", "last.safetensors"


def find_model(run: str) -> Path:
    """The model file that a user means by a file, a run's folder, or a run's name in runs/.

    Raises UsageError saying which runs there are.
    """
    for path in (Path(run), RUNS / run):
        if path.is_file():
            return path
        if (path / MODEL_FILE).is_file():
            return path / MODEL_FILE
    raise UsageError(f"there is no model at {printable(run)}; {_runs_there_are()}")


def run_folder(model: Path) -> Path:
    """The folder of the run that a model file belongs to."""
    return model.parent


def new_run_folder(data: Path, name: str | None, *, resume: bool) -> Path:
    """The folder for a run: runs/<name>, or the first of runs/<data>-1, -2, ... that is free.

    Raises UsageError where the name is taken and the run is not to be resumed: no run is ever overwritten.
    """
    if name is None:
        stem = data.resolve().name or "run"
        number = next(n for n in range(1, 10**6) if not (RUNS / f"{stem}-{n}").exists())
        if resume and number > 1:
            return RUNS / f"{stem}-{number - 1}"
        return RUNS / f"{stem}-{number}"
    if not name.strip() or Path(name).name != name:
        raise UsageError(f"--name {name!r}: give a plain name, without slashes; runs are kept in {RUNS}/")
    folder = RUNS / name
    if folder.exists() and not resume:
        raise UsageError(f"{folder} is there already; go on with it by --resume, or choose another --name")
    return folder


def _runs_there_are() -> str:
    names = sorted(path.parent.name for path in RUNS.glob(f"*/{MODEL_FILE}"))
    return f"runs here: {', '.join(names)}" if names else "train one first: pixelwise train DATA"
