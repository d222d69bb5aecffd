"""The public surface, written down: a name that appears, moves or goes is a decision, not an accident."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "pixelwise"
PUBLIC_NAMES = {
    "archive": "Archive load_archive save_archive",
    "bundle": "Bundle Network",
    "config": "AugmentConfig DataConfig ModelConfig PredictConfig RunConfig RuntimeConfig Section TrainingConfig "
    "parse_config read_config",
    "errors": "BundleError DataError Finding ImageFileError MissingExtraError OutputError PixelwiseError TrainingError "
    "UnreadableError UsageError printable require",
    "inference.predict": "Prediction Predictor predict symmetries",
    "inference.sliding": "sliding_logits",
    "losses.cross_entropy": "cross_entropy",
    "losses.registry": "parse_loss",
    "losses.regression": "l1 l2",
    "losses.tversky": "dice jaccard tversky_index",
    "metrics.confusion": "absent count f1 frequency_weighted_iou iou mean_accuracy mean_f1 mean_iou pixel_accuracy "
    "precision recall truth_share",
    "models.registry": "build_model model_options",
    "task": "Task distinct_colours",
    "tiles": "Window fading_weights starts windows",
}


def public_names(path: Path) -> list[str]:
    """The functions and classes that a file defines at its top level, without those marked private."""
    tree = ast.parse(path.read_text("utf-8"))
    defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return sorted(name for name in defined if not name.startswith("_"))


@pytest.mark.parametrize("module", PUBLIC_NAMES)
def test_public_names_are_those_written_down(module):
    assert " ".join(public_names(PACKAGE / f"{module.replace('.', '/')}.py")) == PUBLIC_NAMES[module]


def test_no_two_files_define_the_same_public_name():
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in public_names(path):
            places[name].append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
    assert places["Task"] == ["task.py"]
