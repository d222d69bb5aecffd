"""The house plan as a test: imports go down, files are short, and only task.py decides what logits mean."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "pixelwise"
FLOORS = {
    0: ("task", "tiles", "config", "runtime", "files", "errors", "archive"),
    1: ("data", "models", "losses", "metrics", "postprocess"),
    2: ("bundle",),
    3: ("inference",),
    4: ("training", "evaluation"),
    5: ("export", "inspection", "report", "serving"),
    6: ("cli",),
    7: ("__main__",),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
LONGEST_FILE = 400
VAGUE_NAMES = {"utils", "helpers", "base", "misc", "common"}
ACTIVATIONS = {"softmax", "log_softmax", "sigmoid", "logsigmoid", "Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid"}
DECISIONS = {"argmax", "binary_cross_entropy", "binary_cross_entropy_with_logits"}
DECIDING_ROOMS = {"models", "losses", "inference", "training", "evaluation", "bundle"}
TORCH_OWNERS = {"F", "functional", "nn", "torch"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`data/images.py` is `data.images`; the package itself is the empty name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip(".")


def room(module: str) -> str:
    return module.partition(".")[0]


def imported(node: ast.AST) -> list[str]:
    """The pixelwise modules that an import statement names, without the leading `pixelwise.`."""
    match node:
        case ast.Import(names=names):
            found = [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names) if module == "pixelwise":
            found = [f"pixelwise.{alias.name}" for alias in names if alias.name != "__version__"]
        case ast.ImportFrom(module=str(module)):
            found = [module]
        case _:
            found = []
    return [name.removeprefix("pixelwise.") for name in found if name.startswith("pixelwise.")]


def may_import(own: str, other: str) -> bool:
    """Down, or within a room. The modules of the ground floor are one room."""
    return own in ("", other) or FLOOR_OF[other] < FLOOR_OF[own] or FLOOR_OF[own] == FLOOR_OF[other] == 0


def type_checking_lines(tree: ast.Module) -> set[int]:
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    return {line for block in guarded for line in range(block.lineno, (block.end_lineno or block.lineno) + 1)}


def hidden_imports(tree: ast.Module) -> Iterator[ast.AST]:
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (node for node in ast.walk(function) if imported(node))


def import_offences(source: str, module: str) -> Iterator[str]:
    """What is wrong with the imports of a module."""
    tree, own = ast.parse(source), room(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: a relative import"
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"line {node.lineno}: a star import"
        for target in imported(node):
            if room(target) not in FLOOR_OF:
                yield f"line {node.lineno}: {target} is on no floor"
            elif not may_import(own, room(target)):
                floors = f"floor {FLOOR_OF[own]} imports floor {FLOOR_OF[room(target)]}"
                yield f"line {node.lineno}: {target}: {floors}"
    if own != "cli":
        allowed = type_checking_lines(tree)
        for node in hidden_imports(tree):
            if node.lineno not in allowed:
                yield f"line {node.lineno}: an import of pixelwise inside a function"


def text_offences(source: str, module: str) -> Iterator[str]:
    """What is wrong with a module as a text."""
    if len(source.splitlines()) > LONGEST_FILE:
        yield f"{len(source.splitlines())} lines, more than {LONGEST_FILE}"
    if VAGUE_NAMES & set(module.split(".")):
        yield "a name that says nothing"
    if re.search(r"\b(TODO|FIXME|XXX)\b", source):
        yield "a TODO"
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    if room(module) != "cli" and any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls):
        yield "a print"


def decision_offences(source: str, module: str) -> Iterator[str]:
    """Where a module other than task.py turns logits into scores or scores into labels."""
    if module == "task":
        return
    for node in ast.walk(ast.parse(source)):
        if named(node) & ACTIVATIONS or (room(module) in DECIDING_ROOMS and decides(node)):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def decides(node: ast.AST) -> bool:
    return bool(named(node) & DECISIONS) or takes_torch_entropy(node) or thresholds(node)


def named(node: ast.AST) -> set[str]:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return {name}
        case ast.ImportFrom(names=aliases):
            return {alias.name for alias in aliases}
    return set()


def takes_torch_entropy(node: ast.AST) -> bool:
    """Torch's own cross_entropy, by any of its names; ours is a plain function of pixelwise.losses."""
    match node:
        case ast.Attribute(value=owner, attr="cross_entropy" | "CrossEntropyLoss" | "BCELoss" | "BCEWithLogitsLoss"):
            return ast.unparse(owner).rpartition(".")[2] in TORCH_OWNERS
        case ast.ImportFrom(module=str(module), names=aliases) if module.startswith("torch"):
            return any(alias.name == "cross_entropy" for alias in aliases)
    return False


def thresholds(node: ast.AST) -> bool:
    """A comparison of logits or scores by order, such as `scores_BKHW > 0.5`."""
    if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
        return False
    sides = [node.left, *node.comparators]
    return any(isinstance(side, ast.Name) and re.match(r"(scores|logits)(_|$)", side.id) for side in sides)


@pytest.mark.parametrize("check", [import_offences, text_offences, decision_offences])
def test_every_file_keeps_the_rules(check):
    offences = [f"{p.relative_to(PACKAGE)}: {o}" for p in files() for o in check(p.read_text("utf-8"), module_name(p))]
    assert not offences, "\n".join(offences)


def test_every_file_is_on_a_floor():
    assert {room(module_name(path)) for path in files()} - {""} <= FLOOR_OF.keys()
    assert len(files()) > 30


def test_no_module_imports_itself_through_others():
    modules = {module_name(path) for path in files()}
    graph = {
        module_name(path): {
            t for n in ast.walk(ast.parse(path.read_text("utf-8"))) for t in imported(n) if t in modules
        }
        for path in files()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)
    with pytest.raises(CycleError):
        TopologicalSorter({"data.images": {"data.masks"}, "data.masks": {"data.images"}}).prepare()


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("losses.bad", "from pixelwise.models.unet import UNet", "floor 1 imports floor 1"),
        ("files", "import pixelwise.bundle", "floor 0 imports floor 2"),
        ("training.bad", "from pixelwise import evaluation", "floor 4 imports floor 4"),
        ("losses.bad", "from pixelwise.elsewhere import x", "on no floor"),
        ("losses.bad", "from . import tversky", "relative"),
        ("losses.bad", "from pixelwise.task import *", "star"),
        ("losses.bad", "def f():\n    from pixelwise.task import Task", "inside a function"),
    ],
)
def test_the_check_of_imports_finds_offenders(module, source, said):
    assert any(said in offence for offence in import_offences(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses.fine", "from pixelwise.task import Task"),
        ("losses.fine", "from pixelwise.losses.tversky import dice"),
        ("cli.fine", "def f():\n    from pixelwise.bundle import Bundle"),
        ("losses.fine", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pixelwise.task import Task"),
    ],
)
def test_the_check_of_imports_leaves_good_ones_alone(module, source):
    assert not list(import_offences(source, module))


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("data.long", "x = 1\n" * 401, "401 lines"),
        ("data.utils", "", "says nothing"),
        ("data.late", "# TODO: later", "TODO"),
        ("data.loud", "print(1)", "print"),
    ],
)
def test_the_check_of_texts_finds_offenders(module, source, said):
    assert any(said in offence for offence in text_offences(source, module))
    assert not list(text_offences("print(1)", "cli.loud"))


@pytest.mark.parametrize(
    "source",
    [
        "y = logits.softmax(dim=1)",
        "y = torch.sigmoid(logits)",
        "from torch.nn.functional import log_softmax",
        "layer = nn.Softmax(1)",
        "y = scores.argmax(1)",
        "y = torch.argmax(scores, 1)",
        "y = F.cross_entropy(a, b)",
        "y = torch.nn.functional.cross_entropy(a, b)",
        "from torch.nn.functional import cross_entropy",
        "y = F.binary_cross_entropy_with_logits(a, b)",
        "y = scores_BKHW > 0.5",
        "y = 0 < logits",
    ],
)
def test_the_check_of_decisions_finds_offenders(source):
    assert list(decision_offences(source, "losses.bad"))
    assert not list(decision_offences(source, "task"))


def test_the_check_of_decisions_leaves_good_ones_alone():
    good = "from pixelwise.losses.cross_entropy import cross_entropy\nif best_scores > 3 or len(scores) > 0: pass"
    assert not list(decision_offences(good, "losses.fine"))
    assert not list(decision_offences("largest = areas.argmax()", "data.fine"))
