"""NIfTI to DICOM: voxels and their positions survive, whatever the axes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from demo.dicom_series import encode_pixels
from demo.wrap import (
    Source,
    TimePoint,
    WrappedPatient,
    main,
    read_demographics,
    volume_from_nifti,
    wrap_patient,
)
from operators.errors import InputError

SHAPE = (20, 17, 9)
SPACING = (0.8, 1.3, 3.1)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PATIENT = WrappedPatient("case7", "F", 31, 200)


def oblique_affine(flips: tuple[int, int, int], order: tuple[int, int, int]) -> np.ndarray:
    """RAS affine of an oblique, anisotropic image with any axes."""
    turn = Rotation.from_euler("xyz", (12.0, -7.0, 5.0), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = (turn[:, order] * np.asarray(flips)) * np.asarray(SPACING)
    affine[:3, 3] = (-21.5, 33.25, 47.125)
    return affine


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(None, code=0)
    nib.save(image, path)
    return path


def values(dtype: type = np.uint16) -> np.ndarray:
    rng = np.random.default_rng(5)
    if np.issubdtype(dtype, np.floating):
        return rng.normal(40.0, 100.0, SHAPE).astype(dtype)
    return rng.integers(0, 1200, SHAPE).astype(dtype)


def at_positions(array: np.ndarray, affine_lps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) positions of the voxels in millimetres, and their (n,) values."""
    indices = np.argwhere(np.ones(array.shape, bool))
    return indices @ affine_lps[:3, :3].T + affine_lps[:3, 3], array.ravel().astype(float)


def same_everywhere(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], atol: float
) -> None:
    """Every voxel of the first has one of the second at its place, with its value."""
    gaps, partners = cKDTree(second[0]).query(first[0])
    assert gaps.max() < 1e-3
    assert sorted(partners) == list(range(np.prod(SHAPE)))
    np.testing.assert_allclose(second[1][partners], first[1], rtol=0, atol=atol)


def wrap_one(tmp_path: Path, nifti: Path, role: str = "flair") -> list[Path]:
    return wrap_patient([TimePoint({role: nifti})], PATIENT, tmp_path / "dicom")


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (-1, 1, 1), (1, -1, -1)])
def test_every_voxel_keeps_its_value_and_place(
    order: tuple[int, int, int], flips: tuple[int, int, int], tmp_path: Path
) -> None:
    affine = oblique_affine(flips, order)
    array = values()
    files = wrap_one(tmp_path, save(tmp_path / "x.nii.gz", array, affine))
    original = at_positions(array, RAS_TO_LPS @ affine)

    volume = hd.get_volume_from_series([pydicom.dcmread(f) for f in files])
    same_everywhere(original, at_positions(volume.array, np.asarray(volume.affine)), 0.0)

    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(files[0].parent))
    image = sitk.ReadImage(names)
    lps = np.eye(4)
    lps[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    same_everywhere(original, at_positions(sitk.GetArrayFromImage(image).T, lps), 0.0)


def test_slices_look_the_usual_way_round(tmp_path: Path) -> None:
    affine = oblique_affine((1, 1, 1), (0, 1, 2))
    files = wrap_one(tmp_path, save(tmp_path / "x.nii", values(), affine))
    assert len(files) == SHAPE[2]
    cosines = np.asarray(pydicom.dcmread(files[0]).ImageOrientationPatient, float)
    assert np.argmax(np.abs(cosines[:3])) == 0
    assert cosines[0] > 0.9
    assert np.argmax(np.abs(cosines[3:])) == 1
    assert cosines[4] > 0.9
    by_number = sorted((pydicom.dcmread(f) for f in files), key=lambda d: int(d.InstanceNumber))
    heights = [float(d.ImagePositionPatient[2]) for d in by_number]
    assert heights == sorted(heights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_fractions_and_negative_values_survive(dtype: type, tmp_path: Path) -> None:
    affine = oblique_affine((-1, 1, 1), (0, 1, 2))
    array = values(np.float64).astype(dtype)
    assert array.min() < 0
    files = wrap_one(tmp_path, save(tmp_path / "x.nii.gz", array, affine))
    datasets = [pydicom.dcmread(f) for f in files]
    volume = hd.get_volume_from_series(datasets)
    step = float(datasets[0].RescaleSlope)
    assert step <= float(np.ptp(array.astype(float))) / 65000.0
    same_everywhere(
        at_positions(array, RAS_TO_LPS @ affine),
        at_positions(volume.array, np.asarray(volume.affine)),
        step * 0.51,
    )
    assert datasets[0].ImageType[0] == "DERIVED"


def test_scaled_integers_of_the_file_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(values(np.uint8) % 200, oblique_affine((1, 1, 1), (0, 1, 2)))
    image.header.set_slope_inter(0.5, -7.0)
    nib.save(image, tmp_path / "x.nii")
    expected = np.asarray(nib.load(tmp_path / "x.nii").dataobj)
    volume = volume_from_nifti(tmp_path / "x.nii")
    assert sorted(expected.ravel()) == sorted(volume.array.ravel())


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (-5.0, 5.0), (0.0, 1e9), (-1e-7, 1e-7), (70000.0, 70001.5)]
)
def test_stored_values_give_the_values_back(low: float, high: float) -> None:
    original = np.linspace(low, high, 50)
    stored, slope, intercept = encode_pixels(original)
    assert stored.dtype == np.uint16
    tolerance = 0.51 * slope + 1e-11 * max(abs(low), abs(high))
    np.testing.assert_allclose(stored * slope + intercept, original, rtol=0, atol=tolerance)
    if high > low:
        assert slope < (high - low) / 60000.0


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        encode_pixels(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="fit 16 bits"):
        encode_pixels(np.array([0.0, 1000.0]), slope=0.001)


def test_headers_say_what_is_known_and_that_it_was_converted(
    tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    affine = oblique_affine((1, 1, 1), (0, 1, 2))
    points = [
        TimePoint({r: save(tmp_path / f"{n}{r}.nii", values(), affine) for r in ("flair", "t1")})
        for n in (1, 2)
    ]
    source = Source("open_ms_data, CC-BY", "Somebody et al. 2016")
    files = wrap_patient(points, PATIENT, tmp_path / "dicom", source)
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in files]
    assert {(h.PatientID, h.PatientSex) for h in headers} == {("case7", "F")}
    dates = sorted({h.StudyDate for h in headers})
    assert dates == ["20150105", "20150724"]
    assert {h.PatientAge for h in headers} == {"031Y"}
    assert len({h.StudyInstanceUID for h in headers}) == 2
    assert len({h.SeriesInstanceUID for h in headers}) == 4
    assert len({h.FrameOfReferenceUID for h in headers}) == 2
    for header in headers:
        assert "converted from NIfTI" in header.SeriesDescription
        assert "Converted from NIfTI (open_ms_data, CC-BY)" in header.DerivationDescription
        assert "typical values" in header.ImageComments
        assert "Somebody et al. 2016" in header.ImageComments
    flair = next(h for h in headers if h.SeriesDescription.startswith("FLAIR"))
    assert flair.InversionTime == 2500
    assert flair.EchoTime == 120
    for path in files[:: len(files) // 4]:
        done = subprocess.run(
            [need_tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False
        )
        assert "Error" not in done.stdout + done.stderr
        assert "MRImage" in done.stdout + done.stderr


def test_a_little_rounding_is_straightened_and_shear_is_refused(tmp_path: Path) -> None:
    affine = oblique_affine((1, 1, 1), (0, 1, 2))
    nearly = affine.copy()
    nearly[:3, 0] += 2e-4 * affine[:3, 1]
    volume = volume_from_nifti(save(tmp_path / "nearly.nii", values(), nearly))
    direction = np.asarray(volume.direction)
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    middle = (RAS_TO_LPS @ nearly @ np.append((np.asarray(SHAPE) - 1) / 2.0, 1.0))[:3]
    centre = (np.asarray(volume.array.shape) - 1) / 2.0
    np.testing.assert_allclose((volume.affine @ np.append(centre, 1.0))[:3], middle, atol=1e-4)

    sheared = affine.copy()
    sheared[:3, 2] += 0.1 * affine[:3, 1]
    with pytest.raises(InputError, match="not perpendicular"):
        volume_from_nifti(save(tmp_path / "sheared.nii", values(), sheared))


def test_images_that_no_series_can_hold_are_refused(tmp_path: Path) -> None:
    affine = oblique_affine((1, 1, 1), (0, 1, 2))
    four = np.zeros((4, 5, 6, 2), np.float32)
    with pytest.raises(InputError, match="4 dimensions"):
        volume_from_nifti(save(tmp_path / "four.nii", four, affine))
    assert volume_from_nifti(save(tmp_path / "one.nii", four[..., :1], affine)).array.ndim == 3
    bad = np.full((4, 5, 6), np.nan, np.float32)
    with pytest.raises(InputError, match="not finite"):
        volume_from_nifti(save(tmp_path / "nan.nii", bad, affine))
    lost = nib.Nifti1Image(four[..., 0], None)
    nib.save(lost, tmp_path / "lost.nii")
    with pytest.raises(InputError, match="position is unknown"):
        volume_from_nifti(tmp_path / "lost.nii")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(InputError, match="cannot be read"):
        volume_from_nifti(tmp_path / "text.nii")
    with pytest.raises(InputError, match="cannot be read"):
        volume_from_nifti(tmp_path / "absent.nii")
    whole = save(tmp_path / "whole.nii.gz", values(), affine).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        volume_from_nifti(tmp_path / "cut.nii.gz")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nifti = save(tmp_path / "x.nii", values(), oblique_affine((1, 1, 1), (0, 1, 2)))
    assert main([str(tmp_path / "out"), "--current", f"flair={nifti}"]) == 0
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == SHAPE[2]
    assert main([str(tmp_path / "out2"), "--current", f"flair={tmp_path / 'no.nii'}"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out3"), "--current", "pd=x.nii"])


def test_demographics_of_the_data_set(tmp_path: Path) -> None:
    table = tmp_path / "patient_info.csv"
    table.write_text("patient_id,sex,days_between_studies,age,ms_type\n12,M,81,19,RR\n")
    assert read_demographics(table) == {12: WrappedPatient("open_ms_patient12", "M", 19, 81)}
    table.write_text("patient_id,sex,days_between_studies,patient_age_at_first_study\n3,M,671,19\n")
    assert read_demographics(table)[3].age_years == 19
    table.write_text("patient_id,sex\n3,M\n")
    with pytest.raises(InputError, match="lacks a column"):
        read_demographics(table)


def test_a_real_patient_keeps_every_voxel_in_place(open_ms: Path, tmp_path: Path) -> None:
    source = open_ms / "longitudinal" / "patient12" / "study2_FLAIR.nii.gz"
    files = wrap_one(tmp_path, source)
    volume = hd.get_volume_from_series([pydicom.dcmread(f) for f in files])
    image = nib.load(source)
    array = np.asarray(image.dataobj)
    step = 7
    indices = np.stack(
        np.meshgrid(*[np.arange(0, n, step) for n in array.shape], indexing="ij"), axis=-1
    ).reshape(-1, 3)
    lps = indices @ (RAS_TO_LPS @ image.affine)[:3, :3].T + (RAS_TO_LPS @ image.affine)[:3, 3]
    back = np.linalg.solve(
        np.asarray(volume.affine), np.column_stack([lps, np.ones(len(lps))]).T
    ).T[:, :3]
    np.testing.assert_allclose(back, np.rint(back), atol=2e-3)
    found = volume.array[tuple(np.rint(back).astype(int).T)]
    np.testing.assert_array_equal(found, array[tuple(indices.T)])
