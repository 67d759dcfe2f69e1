from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.deploy.core import Application, Operator

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine import Engine, Machine, open_engine
from operators.lesion_segmentation.gpu import Gpu, NoGpuError
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import ModelPackage, find_packages
from operators.lesion_segmentation.operator import LesionSegmentationOperator
from operators.lesion_segmentation.segmentation import choose_packages, segment_studies
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.messages import AlignedStudies, AlignedStudy, LesionProbabilities
from tests.operators.lesion_segmentation.builders import (
    aligned_studies,
    aligned_study,
    channel_network,
    empty_volume,
    paint,
    points_of,
    rigid,
    write_package,
)

SETTINGS = LesionSegmentationSettings(precision="fp32", threads=1)
FLAIR = empty_volume((20, 40, 34), (3.2, 0.9, 1.3), (7, -4, 5), (3, -11, 20))
PRIOR_FLAIR = empty_volume(
    (36, 32, 24), (1.1, 1.4, 2.5), (-2, 3, 1), (0, 0, 0), frame_of_reference_uid="1.2.4"
)
T2 = empty_volume((40, 44, 24), (1.1, 1.0, 2.6), (-3, 6, 2), (3, -11, 20))
PRIOR_T2 = empty_volume((40, 44, 24), (1.1, 1.0, 2.6), (4, 2, -6), (0, 0, 0))
BALLS = (((6.0, -14.0, 24.0), 5.0), ((-4.0, -6.0, 12.0), 4.0))
PRIOR_MOTION = rigid((5, -6, 4), (-3.0, 11.0, -20.0))
"""Current FLAIR points to prior FLAIR points."""


def _brain(points: np.ndarray) -> np.ndarray:
    return (((points - [3, -11, 20]) / [16, 15, 22]) ** 2).sum(-1) <= 1


def _head(points: np.ndarray) -> np.ndarray:
    image = np.where(_brain(points), 100.0, 5.0) + 0.1 * points[..., 2]
    for centre, radius in BALLS:
        distance = np.linalg.norm(points - np.asarray(centre), axis=-1)
        image += 80 * np.clip(radius - distance + 0.5, 0, 1)
    return image


def _study(roles: tuple[str, ...], *, prior: bool = False, **options: object) -> AlignedStudy:
    motion = PRIOR_MOTION if prior else np.eye(4)
    t2 = PRIOR_T2 if prior else T2
    grids = {"flair": PRIOR_FLAIR if prior else FLAIR, "t2": t2, "t1": t2}
    volumes = {role: paint(grids[role], _head, motion) for role in roles}
    mask = paint(grids["flair"], _brain, motion)
    return aligned_study(volumes, mask, study_uid="1.2.826.2" if prior else "1.2.826.1", **options)


def _packages(tmp_path: Path) -> tuple[ModelPackage, ...]:
    # the FLAIR at more than two deviations above the mean is lesion
    write_package(tmp_path / "three", network=channel_network(3, [8.0, 0, 0], -16.0))
    write_package(tmp_path / "two", ("flair", "t2"), channel_network(2, [8.0, 0], -16.0))
    return find_packages(tmp_path)


def _open(package: ModelPackage, network: Network | None = None) -> Engine:
    return open_engine(package, SETTINGS)


def test_lesions_come_back_in_the_right_place_at_both_time_points(tmp_path: Path) -> None:
    aligned = aligned_studies(
        _study(("flair", "t2", "t1")), _study(("flair", "t2", "t1"), prior=True), PRIOR_MOTION
    )
    result = segment_studies(aligned, _packages(tmp_path), _open, SETTINGS)

    assert result.quality == ()
    assert result.prior is not None
    for part, grid, motion in (
        (result.current, FLAIR, np.eye(4)),
        (result.prior, PRIOR_FLAIR, PRIOR_MOTION),
    ):
        assert part.model.name == "three"
        assert part.model.precision == "fp32"
        assert part.threshold == 0.5
        assert part.probability.spatial_shape == grid.spatial_shape
        np.testing.assert_allclose(part.probability.affine, grid.affine)
        lesion = part.probability.array >= part.threshold
        points = points_of(grid)[lesion]
        for centre, radius in BALLS:
            where = motion[:3, :3] @ centre + motion[:3, 3]
            near = points[np.linalg.norm(points - where, axis=1) < radius + 3]
            np.testing.assert_allclose(near.mean(axis=0), where, atol=0.6)
            volume = len(near) * np.prod(grid.spacing)
            assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.25)
        assert lesion.sum() * np.prod(grid.spacing) == pytest.approx(
            sum(4 / 3 * np.pi * r**3 for _, r in BALLS), rel=0.2
        )


def test_the_prior_is_left_out_when_the_registration_was_refused(tmp_path: Path) -> None:
    aligned = aligned_studies(
        _study(("flair", "t2", "t1")),
        _study(("flair", "t2", "t1"), prior=True),
        PRIOR_MOTION,
        accepted=False,
    )
    assert segment_studies(aligned, _packages(tmp_path), _open, SETTINGS).prior is None


@pytest.mark.parametrize("lacking", ["current", "prior"])
def test_both_studies_get_the_variant_that_both_support(tmp_path: Path, lacking: str) -> None:
    full, less = ("flair", "t2", "t1"), ("flair", "t2")
    aligned = aligned_studies(
        _study(less if lacking == "current" else full),
        _study(less if lacking == "prior" else full, prior=True),
        PRIOR_MOTION,
    )
    current, prior, _, notes = choose_packages(aligned, _packages(tmp_path))
    assert prior is not None
    assert (current.folder.name, prior.folder.name) == ("two", "two")
    codes = {note.code: note for note in notes}
    assert "T1 is missing" in codes["common_model"].message
    assert ("no_t1" in codes) == (lacking == "current")
    assert all(note.severity == "info" for note in notes)


def test_two_variants_are_used_with_a_warning_when_none_fits_both(tmp_path: Path) -> None:
    write_package(tmp_path / "t1", ("flair", "t1"))
    write_package(tmp_path / "t2", ("flair", "t2"))
    aligned = aligned_studies(
        _study(("flair", "t2")), _study(("flair", "t1"), prior=True), PRIOR_MOTION
    )
    current, prior, _, notes = choose_packages(aligned, find_packages(tmp_path))
    assert prior is not None
    assert (current.folder.name, prior.folder.name) == ("t2", "t1")
    assert [n.code for n in notes if n.severity == "warning"] == ["different_models"]


def test_a_prior_that_no_package_fits_is_not_compared(tmp_path: Path) -> None:
    aligned = aligned_studies(
        _study(("flair", "t2", "t1")), _study(("flair",), prior=True), PRIOR_MOTION
    )
    current, prior, _, notes = choose_packages(aligned, _packages(tmp_path))
    assert (current.folder.name, prior) == ("three", None)
    assert [n.code for n in notes if n.severity == "warning"] == ["prior_not_segmented"]


def test_a_sequence_that_could_not_be_aligned_is_not_used(tmp_path: Path) -> None:
    aligned = aligned_studies(_study(("flair", "t2", "t1"), rejected=("t1",)))
    current, _, _, notes = choose_packages(aligned, _packages(tmp_path))
    assert current.folder.name == "two"
    assert [n.code for n in notes] == ["sequence_not_aligned"]


def test_no_package_for_the_current_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="three needs flair, t2, t1; two needs flair, t2"):
        choose_packages(aligned_studies(_study(("flair",))), _packages(tmp_path))


def test_softmax_averages_are_taken_as_probabilities(tmp_path: Path) -> None:
    package = write_package(
        tmp_path / "s", ("flair", "t2"), channel_network(2, [0, 0], 0.3), averaging="softmax"
    )
    result = segment_studies(aligned_studies(_study(("flair", "t2"))), (package,), _open, SETTINGS)
    inside = result.current.probability.array[paint(FLAIR, _brain).array > 0]
    np.testing.assert_allclose(inside, 0.3, atol=1e-5)


def test_a_sequence_that_covers_half_the_brain_is_noted(tmp_path: Path) -> None:
    study = _study(("flair", "t2"))
    short = empty_volume((40, 44, 8), (1.1, 1.0, 2.6), (-3, 6, 2), (3, -11, 10))
    study = aligned_study(
        {"flair": study.selected.series["flair"].volume, "t2": paint(short, _head)},
        study.brain_mask,
    )
    result = segment_studies(aligned_studies(study), _packages(tmp_path), _open, SETTINGS)
    assert [n.code for n in result.quality] == ["no_t1", "sequence_covers_part_of_brain"]
    assert "series 2 (T2) covers" in result.quality[1].message


class _Source(Operator):
    def __init__(self, fragment: Application, messages: list[AlignedStudies], name: str) -> None:
        self._messages = messages
        super().__init__(fragment, name=name)

    def setup(self, spec) -> None:
        spec.output("aligned_studies")

    def compute(self, op_input, op_output, context) -> None:
        op_output.emit(self._messages.pop(), "aligned_studies")


class _Sink(Operator):
    def __init__(
        self, fragment: Application, results: list[LesionProbabilities], name: str
    ) -> None:
        self._results = results
        super().__init__(fragment, name=name)

    def setup(self, spec) -> None:
        spec.input("lesion_probabilities")

    def compute(self, op_input, op_output, context) -> None:
        self._results.append(op_input.receive("lesion_probabilities"))


def test_the_operator_loads_each_network_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holoscan.conditions import CountCondition

    import operators.lesion_segmentation.operator as module

    opened: list[str] = []

    def no_gpu() -> Gpu:
        raise NoGpuError("cuInit failed (CUDA_ERROR_UNKNOWN)", present=True)

    def counted(
        package: ModelPackage, settings: LesionSegmentationSettings, **options: Any
    ) -> Engine:
        opened.append(package.folder.name)
        return open_engine(package, settings, **options)

    monkeypatch.setattr(module, "open_engine", counted)
    _packages(tmp_path)
    three, two = ("flair", "t2", "t1"), ("flair", "t2")
    messages = [aligned_studies(_study(roles)) for roles in (two, three, two, three)]
    results: list[LesionProbabilities] = []

    class _Application(Application):
        def compose(self) -> None:
            source = _Source(self, messages, name="source")
            source.add_arg(CountCondition(self, 4))
            middle = LesionSegmentationOperator(
                self,
                models_folder=tmp_path,
                settings=SETTINGS,
                work_folder=tmp_path / "work",
                machine=Machine(no_gpu),
                name="lesion_segmentation",
            )
            self.add_flow(source, middle)
            self.add_flow(middle, _Sink(self, results, name="sink"))

    _Application().run()
    assert [r.current.model.name for r in results] == ["three", "two", "three", "two"]
    assert opened == ["three", "two"]
    assert len(list((tmp_path / "work" / "engines").glob("openvino-*.json"))) == 2
    assert set(results[0].timing_s) == {"lesion_segmentation"}
    assert results[0].timing_s["lesion_segmentation"] > 0
    # the GPU that cannot be used is told in every result, beside the stage's other notes
    for result in results:
        assert [note.code for note in result.quality].count("gpu_not_used") == 1
    assert {"no_t1", "gpu_not_used"} <= {note.code for note in results[1].quality}
