"""Aligned studies with analytic images on oblique grids, and model packages with tiny networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.spatial.transform import Rotation

from operators.lesion_segmentation.model_package import (
    NETWORK_FILE,
    ModelDescription,
    ModelPackage,
    file_sha256,
    load_model_package,
    write_model_description,
)
from operators.messages import (
    AlignedStudies,
    AlignedStudy,
    InstanceRef,
    Registration,
    SelectedSeries,
    SelectedStudies,
    SelectedStudy,
    Series,
    SeriesAttributes,
    Study,
)

Field = Callable[[np.ndarray], np.ndarray]
"""Intensity at LPS points (…, 3) in the FLAIR's space."""


def rigid(angles_deg: Sequence[float], shift_mm: Sequence[float]) -> np.ndarray:
    """A rigid 4×4 LPS matrix."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def empty_volume(
    shape: Sequence[int],
    spacing: Sequence[float],
    angles_deg: Sequence[float] = (0, 0, 0),
    centre: Sequence[float] = (0, 0, 0),
    axes: Sequence[Sequence[float]] = ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    frame_of_reference_uid: str = "1.2.3",
) -> hd.Volume:
    """Zeros on an oblique grid whose middle lies at ``centre``; ``axes`` are the array's axes."""
    rotation = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.asarray(axes, dtype=float).T * np.asarray(spacing, dtype=float)
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return hd.Volume(
        np.zeros(shape, dtype=np.float32),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference_uid,
    )


def points_of(volume: hd.Volume) -> np.ndarray:
    """LPS millimetres of every voxel centre, shape (i, j, k, 3)."""
    indices = np.stack(np.meshgrid(*map(np.arange, volume.spatial_shape), indexing="ij"), -1)
    return indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def paint(volume: hd.Volume, field: Field, matrix_lps: np.ndarray | None = None) -> hd.Volume:
    """Sample a field; ``matrix_lps`` maps points of the field's space to the volume's."""
    points = points_of(volume)
    if matrix_lps is not None:
        back = np.linalg.inv(matrix_lps)
        points = points @ back[:3, :3].T + back[:3, 3]
    return volume.with_array(np.asarray(field(points), dtype=np.float32))


def registration(matrix_lps: np.ndarray, *, accepted: bool = True) -> Registration:
    """A registration with a given matrix."""
    return Registration(
        matrix_lps=np.asarray(matrix_lps, dtype=float),
        translation_mm=float(np.linalg.norm(matrix_lps[:3, 3])),
        rotation_deg=0.0,
        similarity=1.2,
        accepted=accepted,
    )


def selected_series(role: str, volume: hd.Volume, uid: str) -> SelectedSeries:
    """A chosen series without headers."""
    series = Series(
        series_uid=uid,
        stack="",
        study_uid=uid.rpartition(".")[0],
        frame_of_reference_uid=volume.frame_of_reference_uid,
        attributes=SeriesAttributes(modality="MR", series_number=int(uid.rpartition(".")[2])),
        instances=(),
        frame_numbers=None,
    )
    return SelectedSeries(role=role, reason="test", series=series, volume=volume, headers=())


def aligned_study(
    volumes: Mapping[str, hd.Volume],
    brain_mask: hd.Volume,
    *,
    study_uid: str = "1.2.826.1",
    matrices: Mapping[str, np.ndarray] | None = None,
    rejected: Sequence[str] = (),
    template_to_flair: np.ndarray | None = None,
    interval_days: int | None = 0,
) -> AlignedStudy:
    """One time point; registrations are the identity unless given."""
    series = {
        role: selected_series(role, volume, f"{study_uid}.{number}")
        for number, (role, volume) in enumerate(volumes.items(), start=1)
    }
    study = Study(
        study_uid=study_uid,
        patient_key="p",
        acquired=None,
        acquired_time=None,
        series=tuple(s.series for s in series.values()),
    )
    return AlignedStudy(
        selected=SelectedStudy(
            study=study, series=series, rejected=(), interval_days=interval_days
        ),
        to_flair={
            role: registration((matrices or {}).get(role, np.eye(4)), accepted=role not in rejected)
            for role in volumes
            if role != "flair"
        },
        brain_mask=brain_mask.with_array(np.asarray(brain_mask.array, dtype=bool)),
        template_to_flair=np.eye(4) if template_to_flair is None else template_to_flair,
    )


def aligned_studies(
    current: AlignedStudy,
    prior: AlignedStudy | None = None,
    prior_to_current: np.ndarray | None = None,
    *,
    accepted: bool = True,
    prior_segmentations: tuple[InstanceRef, ...] = (),
) -> AlignedStudies:
    """Both time points."""
    return AlignedStudies(
        selected=SelectedStudies(
            current=current.selected,
            prior=None if prior is None else prior.selected,
            prior_segmentations=prior_segmentations,
        ),
        current=current,
        prior=prior,
        prior_to_current=None
        if prior is None
        else registration(
            np.eye(4) if prior_to_current is None else prior_to_current, accepted=accepted
        ),
    )


def random_network(channels: int, seed: int = 0, width: int = 4) -> onnx.ModelProto:
    """Two 3×3×3 convolutions with random weights: (n, channels, z, y, x) to (n, 2, z, y, x)."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.normal(0, 0.3, (width, channels, 3, 3, 3)),
        "w2": random.normal(0, 0.3, (2, width, 3, 3, 3)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1] * 6),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.01),
        helper.make_node("Conv", ["b", "w2"], ["output"], pads=[1] * 6),
    ]
    return _model(channels, nodes, weights)


def channel_network(channels: int, weights: Sequence[float], bias: float = 0.0) -> onnx.ModelProto:
    """A network whose lesion logit is a weighted sum of the channels, background logit 0."""
    kernel = np.zeros((2, channels, 1, 1, 1))
    kernel[1, :, 0, 0, 0] = weights
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["output"])]
    return _model(channels, nodes, {"w": kernel, "b": np.array([0.0, bias])})


def _model(
    channels: int, nodes: list[onnx.NodeProto], weights: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    space = ["z", "y", "x"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, *space])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 2, *space])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_package(
    folder: Path,
    roles: Sequence[str] = ("flair", "t2", "t1"),
    network: onnx.ModelProto | None = None,
    *,
    patch: tuple[int, int, int] = (24, 16, 20),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **changes: object,
) -> ModelPackage:
    """Write and load a model package; ``changes`` replace fields of model.json."""
    folder.mkdir(parents=True)
    onnx.save(network or random_network(len(roles)), folder / NETWORK_FILE)
    content: dict[str, object] = {
        "schema_version": "1.1",
        "name": folder.name,
        "version": "0.0.1",
        "body_site": "brain",
        "channels": [{"role": role, "normalisation": "zscore_in_mask"} for role in roles],
        "labels": {"background": 0, "lesion": 1},
        "preprocessing": "aligned_grid",
        "networks": [{"spacing_zyx_mm": spacing, "patch_size_zyx": patch}],
        "folds": 1,
        "averaging": "logits",
        "threshold": 0.5,
        "source": "random weights made by a test",
        "licence": "none",
        "files": {NETWORK_FILE: file_sha256(folder / NETWORK_FILE)},
    } | changes
    write_model_description(folder, ModelDescription.model_validate(content))
    return load_model_package(folder)
