"""A package with nnU-Net's preprocessing in the application: place, labels, roles, cascade."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from operators.errors import InputError
from operators.lesion_segmentation.engine import Engine, open_engine
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import (
    ModelDescription,
    ModelPackage,
    file_sha256,
    load_model_package,
    write_model_description,
)
from operators.lesion_segmentation.reference import on_reference, to_study_grid
from operators.lesion_segmentation.segmentation import segment_studies, segment_study
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.messages import AlignedStudy
from tests.operators.lesion_segmentation.builders import (
    aligned_studies,
    aligned_study,
    empty_volume,
    paint,
    points_of,
    rigid,
)

SETTINGS = LesionSegmentationSettings(engine="openvino", precision="fp32", threads=1)
FLAIR = empty_volume(
    (14, 46, 38), (3.1, 0.8, 1.0), (9, -6, 5), (3, -11, 20), ((0, 0, 1), (0, 1, 0), (1, 0, 0))
)
"""Axial slices first, then rows and columns; oblique."""
T2 = empty_volume((40, 44, 24), (1.1, 1.0, 2.6), (-3, 6, 2), (8, -6, 17))
MOTION = rigid((4, -3, 2), (5.0, 4.0, -3.0))
"""FLAIR points to T2 points."""
BLOB, RADIUS = np.array([9.0, -14.0, 24.0]), 6.0
DARK = np.array([-2.0, -8.0, 14.0])
PATCH = (16, 24, 16)


def _brain(points: np.ndarray) -> np.ndarray:
    return (((points - [3, -11, 20]) / [15, 14, 18]) ** 2).sum(-1) <= 1


def _ball(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.clip(RADIUS - np.linalg.norm(points - centre, axis=-1) + 0.5, 0, 1)


def _flair(points: np.ndarray) -> np.ndarray:
    return 200 + 0.1 * points[..., 2] + 300 * _ball(points, BLOB)


def _t2(points: np.ndarray) -> np.ndarray:
    return 500 + 0.1 * points[..., 0] - 300 * _ball(points, DARK)


def _study(**options: object) -> AlignedStudy:
    return aligned_study(
        {"flair": paint(FLAIR, _flair), "t2": paint(T2, _t2, MOTION)},
        paint(FLAIR, _brain),
        matrices={"t2": MOTION},
        **options,
    )


def _network(channels: int, rows: list[list[float]], bias: list[float]) -> onnx.ModelProto:
    """Each label's logit is a weighted sum of the channels."""
    kernel = np.asarray(rows, dtype=np.float32)[:, :, None, None, None]
    axes = ["z", "y", "x"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["output"])],
        "sum",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, *axes])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", len(rows), *axes])],
        [
            numpy_helper.from_array(kernel, "w"),
            numpy_helper.from_array(np.asarray(bias, dtype=np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _package(
    folder: Path, networks: dict[str, onnx.ModelProto], roles: tuple[str, ...], **changes: object
) -> ModelPackage:
    folder.mkdir(parents=True)
    for name, network in networks.items():
        onnx.save(network, folder / name)
    stages = ["lowres", "fullres"][-len(networks) :]
    spacings = [(2.5, 2.0, 2.0), (1.5, 1.0, 1.0)][-len(networks) :]
    content: dict[str, object] = {
        "schema_version": "1.1",
        "name": folder.name,
        "version": "0.0.1",
        "body_site": "brain",
        "channels": [{"role": role, "normalisation": "zscore_in_mask"} for role in roles],
        "labels": {"background": 0, "lesion": 1},
        "preprocessing": "nnunet",
        "resampling": {},
        "networks": [
            {"file": name, "stage": stage, "spacing_zyx_mm": spacing, "patch_size_zyx": PATCH}
            for name, stage, spacing in zip(networks, stages, spacings, strict=True)
        ],
        "folds": 1,
        "averaging": "logits",
        "threshold": 0.5,
        "source": "weights made by a test",
        "licence": "none",
        "files": {name: file_sha256(folder / name) for name in networks},
    } | changes
    write_model_description(folder, ModelDescription.model_validate(content))
    return load_model_package(folder)


def _open(package: ModelPackage, network: Network) -> Engine:
    return open_engine(package, SETTINGS, network=network)


def _assert_ball(mask: np.ndarray, centre: np.ndarray) -> None:
    np.testing.assert_allclose(points_of(FLAIR)[mask].mean(axis=0), centre, atol=0.8)
    volume = mask.sum() * np.prod(FLAIR.spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.3)


@pytest.mark.parametrize(
    ("orientation", "transpose"),
    [("LPS", (0, 1, 2)), ("RAS", (0, 1, 2)), ("RAS", (1, 2, 0)), ("ASR", (0, 1, 2))],
)
def test_a_blob_comes_back_where_it_is(
    tmp_path: Path, orientation: str, transpose: tuple[int, int, int]
) -> None:
    package = _package(
        tmp_path / "p",
        {"ensemble.onnx": _network(2, [[0, 0], [8, 0]], [0, -20])},
        ("flair", "t2"),
        orientation=orientation,
        transpose_forward=transpose,
    )
    result = segment_studies(aligned_studies(_study()), (package,), _open, SETTINGS).current
    assert result.probability.spatial_shape == FLAIR.spatial_shape
    np.testing.assert_allclose(result.probability.affine, FLAIR.affine, atol=1e-9)
    assert (result.probability.array[~np.asarray(_study().brain_mask.array)] == 0).all()
    _assert_ball(result.probability.array >= result.threshold, BLOB)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_the_network_sees_the_axes_it_was_trained_on(tmp_path: Path, orientation: str) -> None:
    package = _package(
        tmp_path / "p",
        {"ensemble.onnx": _network(2, [[0, 0], [8, 0]], [0, -20])},
        ("flair", "t2"),
        orientation=orientation,
    )
    prepared = on_reference(_study(), package.description)
    directions = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}
    for axis, letter in enumerate(orientation):
        # array axes are (z, y, x): the last one runs along the first letter
        step = np.asarray(prepared.grid.direction)[:, axis]
        assert np.argmax(np.abs(step)) == directions[letter]
        assert (step[directions[letter]] > 0) == (letter in "LPS")
    expected = _flair(points_of(prepared.grid)).transpose(2, 1, 0)
    np.testing.assert_allclose(prepared.image[0][prepared.mask], expected[prepared.mask], rtol=1e-5)
    # the T2 came through its registration
    expected = _t2(points_of(prepared.grid)).transpose(2, 1, 0)
    assert np.abs(prepared.image[1] - expected)[prepared.mask].mean() < 5
    assert (prepared.image[:, ~prepared.mask] == 0).all()
    back = to_study_grid(prepared.mask.astype(np.float32), prepared, _study(), package.description)
    np.testing.assert_array_equal(back.array > 0, _study().brain_mask.array)


def test_the_answer_of_another_reference_series_lies_on_the_flair(tmp_path: Path) -> None:
    package = _package(
        tmp_path / "p",
        {"ensemble.onnx": _network(2, [[0, 0], [8, 0]], [0, -20])},
        ("flair", "t2"),
        reference_role="t2",
    )
    prepared = on_reference(_study(), package.description)
    assert sorted(prepared.grid.spatial_shape) == sorted(T2.spatial_shape)
    result, _ = segment_study(_study(), package, _open, SETTINGS)
    np.testing.assert_allclose(result.probability.affine, FLAIR.affine, atol=1e-9)
    _assert_ball(result.probability.array >= result.threshold, BLOB)


def test_free_roles_and_several_labels(tmp_path: Path) -> None:
    """A model of another kind: its own role names, two foreground labels, the largest decides."""
    labels = {"background": 0, "bright": 1, "dark": 2}
    network = _network(2, [[0, 0], [8, 0], [0, -8]], [0, -20, -20])
    found = {}
    for targets in (("bright",), ("dark",), ("bright", "dark")):
        package = _package(
            tmp_path / "-".join(targets),
            {"ensemble.onnx": network},
            ("space flair", "t2 star"),
            labels=labels,
            target_labels=targets,
            threshold=None,
        )
        study = aligned_study(
            {"space flair": paint(FLAIR, _flair), "t2 star": paint(T2, _t2, MOTION)},
            paint(FLAIR, _brain),
            matrices={"t2 star": MOTION},
        )
        study.to_flair.pop("space flair")
        result = segment_studies(aligned_studies(study), (package,), _open, SETTINGS).current
        found[targets] = result.probability.array >= result.threshold
    _assert_ball(found["bright",], BLOB)
    _assert_ball(found["dark",], DARK)
    np.testing.assert_array_equal(found["bright", "dark"], found["bright",] | found["dark",])


def test_a_cascade_runs_both_of_its_engines(tmp_path: Path) -> None:
    """The second network only repeats the first one's segmentation, which is its third channel."""
    package = _package(
        tmp_path / "p",
        {
            "lowres.onnx": _network(2, [[0, 0], [8, 0]], [0, -20]),
            "ensemble.onnx": _network(3, [[0, 0, 0], [0, 0, 20]], [0, -10]),
        },
        ("flair", "t2"),
    )
    opened: list[str] = []

    def engine_of(package: ModelPackage, network: Network) -> Engine:
        opened.append(network.file)
        return _open(package, network)

    result, _ = segment_study(_study(), package, engine_of, SETTINGS)
    assert opened[:2] == ["lowres.onnx", "ensemble.onnx"]
    _assert_ball(result.probability.array >= result.threshold, BLOB)


def test_a_series_beside_the_brain_is_refused(tmp_path: Path) -> None:
    package = _package(
        tmp_path / "p",
        {"ensemble.onnx": _network(2, [[0, 0], [8, 0]], [0, -20])},
        ("flair", "t2"),
    )
    far = empty_volume((20, 20, 20), (1, 1, 1), centre=(300, 0, 0))
    study = aligned_study(
        {"flair": paint(FLAIR, _flair), "t2": paint(far, _t2)}, paint(FLAIR, _brain)
    )
    with pytest.raises(InputError, match="series 2"):
        segment_study(study, package, _open, SETTINGS)


def test_partial_coverage_is_noted(tmp_path: Path) -> None:
    package = _package(
        tmp_path / "p",
        {"ensemble.onnx": _network(2, [[0, 0], [8, 0]], [0, -20])},
        ("flair", "t2"),
    )
    short = empty_volume((40, 44, 8), (1.1, 1.0, 2.6), (-3, 6, 2), (3, -11, 8))
    study = aligned_study(
        {"flair": paint(FLAIR, _flair), "t2": paint(short, _t2)}, paint(FLAIR, _brain)
    )
    _, notes = segment_study(study, package, _open, SETTINGS)
    assert [n.code for n in notes] == ["sequence_covers_part_of_brain"]
