"""The public surface, written down: a name that appears, moves or goes is a decision, not an accident."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "pixelwise"
PUBLIC_NAMES = {
    "archive": "Archive load_archive save_archive",
    "bundle": "Bundle Network instances_of",
    "config": "AugmentConfig DataConfig ModelConfig PredictConfig RunConfig RuntimeConfig Section TrainingConfig "
    "parse_config read_config",
    "errors": "BundleError DataError Finding ImageFileError MissingExtraError OutputError PixelwiseError TrainingError "
    "UnreadableError UsageError printable require",
    "inference.predict": "Prediction Predictor labels_of predict",
    "inference.sliding": "sliding_logits",
    "losses.border": "border_weights two_distances",
    "losses.class_weights": "effective_number inverse_frequency median_frequency weight_map",
    "losses.compound": "combo exponential_logarithmic",
    "losses.contracts": "Target check_range check_word log_complements mean_over_entries mean_over_pixels power "
    "target_of weighted_sum",
    "losses.cross_entropy": "balanced_cross_entropy class_balance cross_entropy entropies one_against_rest",
    "losses.distance": "distance_cross_entropy distance_to_boundary hausdorff_distance_loss shape_aware",
    "losses.focal": "balanced_focal focal",
    "losses.lovasz": "lovasz",
    "losses.registry": "loss_arguments parse_loss",
    "losses.regression": "l1 l2",
    "losses.structural": "structural",
    "losses.tversky": "SoftCounts dice focal_tversky generalised_dice jaccard log_cosh_dice sensitivity_specificity "
    "soft_counts tversky tversky_index",
    "metrics.confusion": "absent count count_overlapping f1 frequency_weighted_iou iou mean_accuracy mean_f1 mean_iou "
    "pixel_accuracy pixels_counted precision recall truth_share",
    "metrics.boundary": "SurfaceDistances average_surface_distance boundaries boundary_counts break_even "
    "hausdorff_distance mean_boundary_f1 near_f1 near_precision near_recall relaxed_counts surface_dice "
    "surface_distances tolerance_counts trimap_counts",
    "metrics.instances": "InstanceCounts count_instances",
    "metrics.isbi": "IsbiCounts RegionAgreement compare_regions count_slice",
    "metrics.overlap": "Overlap count_overlap",
    "models.encoders": "EncoderPlan ModuleEncoder TimmEncoder build_encoder dilates parse_encoder plan_encoder",
    "models.registry": "build_model model_options",
    "postprocess.instances": "InstanceSettings evidence_of find_instances objects_of tune",
    "postprocess.watershed": "split_by_distance watershed",
    "postprocess.labels": "classes_of_instances from_cityscapes from_panoptic number_within_classes paint_classes "
    "panoptic_to_rgb rgb_to_panoptic split_classes to_cityscapes to_panoptic",
    "postprocess.polygons": "ObjectImage instances_to_geojson mask_to_geojson outlines to_coco",
    "postprocess.rle": "box_counts coco_counts compress_counts decode_runs encode_runs expand_counts from_coco_rle "
    "to_coco_rle",
    "task": "Task distinct_colours",
    "tiles": "Tile TileGrid Window fading_weights starts windows",
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
