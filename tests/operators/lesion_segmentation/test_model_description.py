"""model.json: what schema 1.1 accepts, what it refuses, and that 1.0 means the same as before."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from operators.lesion_segmentation.model_description import ModelDescription

OLD = {
    "schema_version": "1.0",
    "name": "brain",
    "version": "0.1.0",
    "body_site": "brain",
    "channels": [
        {"role": "t2", "normalisation": "zscore_in_mask"},
        {"role": "flair", "normalisation": "zscore_in_mask"},
    ],
    "labels": {"background": 0, "lesion": 1},
    "spacing_zyx_mm": [1.0, 0.9, 0.8],
    "patch_size_zyx": [96, 80, 64],
    "folds": 5,
    "averaging": "logits",
    "mirror_axes": [],
    "tile_step": 0.5,
    "source": "s",
    "licence": "l",
    "files": {"ensemble.onnx": "0" * 64},
}

LIVER: dict[str, Any] = {
    "schema_version": "1.1",
    "name": "liver",
    "version": "0.1.0",
    "body_site": "liver",
    "channels": [
        {
            "role": "portal venous CT",
            "normalisation": "ct",
            "intensity": {
                "mean": 90.0,
                "std": 20.0,
                "percentile_00_5": -10.0,
                "percentile_99_5": 200.0,
            },
        }
    ],
    "labels": {"background": 0, "liver": 1, "tumour": 2, "vessel": 3},
    "target_labels": ["tumour"],
    "orientation": "PSR",
    "transpose_forward": [1, 0, 2],
    "preprocessing": "nnunet",
    "resampling": {},
    "brain_only": False,
    "networks": [
        {
            "file": "lowres.onnx",
            "stage": "lowres",
            "spacing_zyx_mm": [2, 2, 2],
            "patch_size_zyx": [64, 64, 64],
        },
        {"spacing_zyx_mm": [1, 0.7, 0.7], "patch_size_zyx": [128, 96, 96]},
    ],
    "folds": 5,
    "averaging": "logits",
    "source": "s",
    "licence": "l",
    "files": {"lowres.onnx": "1" * 64, "ensemble.onnx": "0" * 64},
}


def test_schema_1_0_keeps_its_meaning() -> None:
    description = ModelDescription.model_validate(OLD)
    assert description.schema_version == "1.1"
    assert description.spacing_zyx_mm == (1.0, 0.9, 0.8)
    assert description.patch_size_zyx == (96, 80, 64)
    assert description.networks[0].file == "ensemble.onnx"
    assert description.preprocessing == "aligned_grid"
    assert description.orientation == "LPS"
    assert description.transpose_forward == (0, 1, 2)
    assert description.threshold == 0.5
    assert description.reference_role == "flair"
    assert description.target_labels == ("lesion",)
    assert description.target_values == (1,)
    assert description.brain_only
    assert ModelDescription.model_validate(OLD | {"threshold": 0.4}).threshold == 0.4


def test_another_body_site_is_another_description() -> None:
    description = ModelDescription.model_validate(LIVER)
    assert description.reference_role == "portal venous CT"
    assert description.target_values == (2,)
    assert description.threshold is None
    assert description.patch_size_zyx == (128, 96, 96)
    low, full = description.networks
    assert (description.input_channels(low), description.input_channels(full)) == (1, 4)
    assert description.resampling is not None
    assert description.resampling.order_data == 3


def test_writing_and_reading_changes_nothing() -> None:
    for content in (OLD, LIVER):
        description = ModelDescription.model_validate(content)
        assert ModelDescription.model_validate_json(description.model_dump_json()) == description


TRIAL = {
    "files": ["lowres.int8.xml", "ensemble.int8.xml"],
    "passed": True,
    "minimum_dice": 0.99,
    "minimum_speed_up": 1.3,
    "speed_up": 1.4,
    "compared_with": "bf16",
    "calibrated_on": "2 studies, 16 tiles",
    "studies": [{"study": "a", "dice": 0.992, "mean_difference": 1e-4, "speed_up": 1.4}],
    "software": "s",
}
QUANTISED = LIVER | {
    "schema_version": "1.2",
    "int8": TRIAL,
    "files": LIVER["files"]
    | {f"{n}.int8.{ending}": "2" * 64 for n in ("lowres", "ensemble") for ending in ("xml", "bin")},
}


def test_an_int8_trial_is_part_of_the_description() -> None:
    description = ModelDescription.model_validate(QUANTISED)
    assert description.int8 is not None
    assert description.int8.passed
    assert ModelDescription.model_validate_json(description.model_dump_json()) == description
    assert ModelDescription.model_validate(LIVER).int8 is None
    refused = TRIAL | {"files": [], "passed": False, "speed_up": 1.1}
    bare = LIVER | {"schema_version": "1.2", "int8": refused}
    assert not ModelDescription.model_validate(bare).int8.passed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": "1.1"}, "belongs to schema 1.2"),
        ({"int8": None}, "belongs to schema 1.2"),
        ({"int8": TRIAL | {"passed": False}}, "a trial that was passed"),
        ({"int8": TRIAL | {"files": []}}, "a trial that was passed"),
        ({"int8": TRIAL | {"files": TRIAL["files"][:1]}}, "one file for each network"),
        ({"int8": TRIAL | {"files": ["lowres.int8.bin", "ensemble.int8.xml"]}}, r"\.xml"),
        ({"int8": TRIAL | {"speed_up": 1.2}}, "reach its limits"),
        ({"int8": TRIAL | {"studies": [TRIAL["studies"][0] | {"dice": 0.98}]}}, "its limits"),
        ({"int8": TRIAL | {"studies": []}}, "studies"),
        ({"files": LIVER["files"]}, "both files of each int8 network"),
    ],
)
def test_an_int8_trial_that_breaks_a_rule_is_refused(
    change: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelDescription.model_validate(QUANTISED | change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": "2.0"}, "schema_version"),
        ({"labels": {"background": 1, "liver": 0}}, "background 0"),
        ({"labels": {"background": 0, "liver": 2}}, "without a gap"),
        ({"labels": {"background": 0}}, "more than the background"),
        ({"target_labels": ["spleen"]}, "out of labels"),
        ({"target_labels": ["background"]}, "without background"),
        ({"target_labels": []}, "name the labels"),
        ({"reference_role": "t2"}, "role of a channel"),
        ({"channels": []}, "channels"),
        ({"channels": [LIVER["channels"][0]] * 2}, "each role once"),
        ({"channels": [{"role": "a", "normalisation": "ct"}]}, "intensity"),
        ({"channels": [LIVER["channels"][0] | {"normalisation": "zscore"}]}, "intensity"),
        ({"orientation": "LPP"}, "orientation"),
        ({"orientation": "LP"}, "orientation"),
        ({"orientation": "LPX"}, "orientation"),
        ({"transpose_forward": [0, 0, 2]}, "transpose_forward"),
        ({"mirror_axes": [3]}, "mirror_axes"),
        ({"mirror_axes": [1, 1]}, "mirror_axes"),
        ({"networks": LIVER["networks"][::-1]}, "lowres"),
        ({"networks": [LIVER["networks"][1]] * 2}, "lowres"),
        ({"files": {"ensemble.onnx": "0"}}, "own file"),
        ({"files": LIVER["files"] | {"../ensemble.onnx": "0"}}, "plain name"),
        ({"resampling": None}, "resampling"),
        ({"preprocessing": "aligned_grid", "resampling": None}, "aligned_grid"),
        ({"threshold": 1.0}, "threshold"),
        ({"folds": 0}, "folds"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_breaks_a_rule_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelDescription.model_validate(LIVER | change)
