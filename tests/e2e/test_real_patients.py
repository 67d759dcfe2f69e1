"""Real studies of real patients, wrapped into DICOM with their true geometry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from demo.open_ms import real_patient
from operators.dicom_writer.results import results_schema
from tests.e2e.running import Run, run_app

MEMORY_MB = 4096


@pytest.fixture(scope="module")
def real_run(open_ms: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Run]:
    """A function that gives the run on one patient, made once."""
    runs: dict[int, Run] = {}

    def run(number: int) -> Run:
        if number not in runs:
            folder = tmp_path_factory.mktemp(f"patient{number:02d}")
            real_patient(folder / "in", number, folder=open_ms)
            runs[number] = run_app(folder / "in", folder / "out")
        return runs[number]

    return run


@pytest.mark.parametrize("number", [12, 4, 3])
def test_a_real_patient_runs_within_four_gigabytes(
    number: int, real_run: Callable[[int], Run]
) -> None:
    run = real_run(number)
    assert run.code == 0, run.log
    assert run.peak_mb < MEMORY_MB
    results = run.results
    jsonschema.validate(results, results_schema())
    assert 0.2 < results["totals"]["lesion_volume_ml"] < 100
    assert results["current"]["series"]["flair"]["series_uid"]
    image = run.segmentation()
    assert image.number_of_segments == results["totals"]["lesion_count"]


def test_patient_12_is_compared_with_the_prior_study(real_run: Callable[[int], Run]) -> None:
    results = real_run(12).results
    assert results["prior"]["interval_days"] == 81
    assert set(results["current"]["series"]) == {"flair", "t2", "t1"}
    assert all(entry["accepted"] for entry in results["registration"].values())
    changes = {lesion["change"] for lesion in results["lesions"]}
    assert "baseline" not in changes
    assert "stable" in changes
    ratio = results["totals"]["lesion_volume_ml"] / results["totals"]["prior_lesion_volume_ml"]
    assert 0.5 < ratio < 2


def test_patient_4_has_one_study(real_run: Callable[[int], Run]) -> None:
    results = real_run(4).results
    assert results["prior"] is None
    assert {lesion["change"] for lesion in results["lesions"]} == {"baseline"}


def test_patient_3_had_no_t1_and_another_protocol_before(real_run: Callable[[int], Run]) -> None:
    """Both time points use the model without T1, and the reader is told."""
    results = real_run(3).results
    assert "t1" not in results["prior"]["series"]
    assert results["model"]["name"].endswith("flair_t2")
    assert [note for note in results["quality"] if "t1" in note["message"].lower()]
    spacing = (results["current"]["spacing_mm"], results["prior"]["spacing_mm"])
    assert not np.allclose(*spacing)


def test_lesions_lie_in_the_brain_that_the_data_set_outlined(
    real_run: Callable[[int], Run], open_ms: Path
) -> None:
    """Nearly every lesion voxel of patient 12 is inside the data set's own brain mask, in mm."""
    import SimpleITK as sitk  # noqa: N813

    run = real_run(12)
    folder = open_ms / "longitudinal" / "patient12"
    brain = sitk.ReadImage(str(folder / "brainmask.nii.gz"))
    to_raw = sitk.ReadTransform(str(folder / "study2_FLAIR_to_common_space.txt")).GetInverse()
    volume = run.segmentation().get_volume(combine_segments=True, relabel=True)
    indices = np.argwhere(np.asarray(volume.array) > 0)
    points = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    array = sitk.GetArrayFromImage(brain)
    inside = 0
    for point in points:
        common = to_raw.TransformPoint([float(v) for v in point])
        x, y, z = brain.TransformPhysicalPointToIndex(common)
        if all(0 <= i < n for i, n in zip((x, y, z), brain.GetSize(), strict=True)):
            inside += int(array[z, y, x] > 0)
    assert inside / len(points) > 0.97
