"""The synthetic patient's DICOM files against its truth."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from demo.anatomy import Anatomy
from demo.lesions import LesionPlan
from demo.patient import (
    CONTRASTS,
    ScannedStudy,
    SyntheticPatient,
    make_patient,
    with_roles,
    with_studies,
)
from demo.synthetic import main, series_header, write_patient
from demo.truth import Truth, load_truth, save_truth, truth_of
from demo.vendors import VENDORS

NAMES = ("siemens", "ge", "philips", "enhanced")
CLASSIC = ("siemens", "ge", "philips")


@cache
def headers(folder: Path) -> dict[Path, pydicom.Dataset]:
    """Every DICOM file's header."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            found[path] = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
    return found


def series_files(
    folder: Path, patient: SyntheticPatient, study: ScannedStudy, role: str, vendor: str
) -> list[Path]:
    uid = series_header(
        patient,
        study,
        study.acquisitions[role],
        VENDORS[vendor],  # type: ignore[index]
    ).series_uid
    return [p for p, header in headers(folder).items() if header.SeriesInstanceUID == uid]


def read_with_simpleitk(files: list[Path]) -> sitk.Image:
    """Read a series without highdicom or this project's code."""
    if len(files) == 1:
        return sitk.ReadImage(str(files[0]))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(
        str(files[0].parent), pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID
    )
    return sitk.ReadImage(names)


def voxels_near(
    image: sitk.Image, point: tuple[float, float, float], reach_mm: float = 18.0
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) positions in millimetres and (n,) values of the voxels around a point."""
    middle = np.asarray(image.TransformPhysicalPointToContinuousIndex(point))
    reach = reach_mm / np.asarray(image.GetSpacing())
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach) + 1, image.GetSize()).astype(int)
    box = image[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
    array = sitk.GetArrayFromImage(box).astype(float).T
    indices = np.argwhere(np.ones(array.shape, bool))
    direction = np.asarray(box.GetDirection()).reshape(3, 3)
    points = indices * np.asarray(box.GetSpacing()) @ direction.T + np.asarray(box.GetOrigin())
    return points, array.ravel()


@pytest.fixture(scope="session")
def truth(patient: SyntheticPatient) -> Truth:
    return truth_of(patient)


@pytest.mark.parametrize("vendor", NAMES)
def test_planted_lesions_shine_where_the_truth_says(
    vendor: str, patient: SyntheticPatient, truth: Truth, written: Callable[[str], Path]
) -> None:
    for study, volume, centroid in (
        (patient.studies[0], "volume_mm3", "centroid_lps_mm"),
        (patient.studies[1], "prior_volume_mm3", "prior_centroid_lps_mm"),
    ):
        image = read_with_simpleitk(series_files(written(vendor), patient, study, "flair", vendor))
        checked = 0
        for lesion in truth.lesions:
            size = getattr(lesion, volume)
            if size < 250.0:
                continue
            points, values = voxels_near(image, getattr(lesion, centroid))
            away = np.linalg.norm(points - np.asarray(getattr(lesion, centroid)), axis=1)
            radius = np.cbrt(size * 3.0 / 4.0 / np.pi)
            around = np.median(values[(away > radius + 4.0) & (away < radius + 9.0)])
            near = away < radius + 2.5
            excess = np.clip(values[near] - around * 1.15, 0.0, None)
            centre = excess @ points[near] / excess.sum()
            assert np.median(values[away < 0.5 * radius]) > 1.25 * around, lesion
            assert np.linalg.norm(centre - getattr(lesion, centroid)) < 0.9, lesion
            checked += 1
        assert checked >= 7


@pytest.mark.parametrize("vendor", NAMES)
def test_volumes_read_back_are_the_scanned_ones(
    vendor: str, patient: SyntheticPatient, written: Callable[[str], Path]
) -> None:
    for study in patient.studies:
        for role, acquisition in study.acquisitions.items():
            files = series_files(written(vendor), patient, study, role, vendor)
            if vendor == "enhanced":
                volume = hd.imread(files[0]).get_volume()
            else:
                volume = hd.get_volume_from_series(
                    [pydicom.dcmread(f) for f in files], apply_real_world_transform=False
                )
            np.testing.assert_allclose(volume.affine, acquisition.volume.affine, atol=1e-6)
            gap = np.abs(volume.array.astype(float) - acquisition.volume.array).max()
            assert gap <= (0.16 if vendor == "philips" else 0.0)
            assert volume.frame_of_reference_uid == study.frame_of_reference_uid


@pytest.mark.parametrize("vendor", NAMES)
def test_the_patient_is_called_soerensen_aase_and_belongs_to_one_study_each(
    vendor: str, written: Callable[[str], Path]
) -> None:
    found = headers(written(vendor)).values()
    charset = "ISO_IR 100" if vendor in ("siemens", "ge") else "ISO_IR 192"
    assert {str(h.PatientName) for h in found} == {"Sørensen^Åse"}
    assert {h.SpecificCharacterSet for h in found} == {charset}
    assert {(h.PatientID, h.PatientSex, h.PatientBirthDate) for h in found} == {
        ("DEMO-4711", "F", "19840502")
    }
    magnetic = {(h.StudyDate, h.PatientAge, h.PatientWeight) for h in found if h.Modality == "MR"}
    assert magnetic == {("20240313", "039Y", 63.5), ("20250416", "040Y", 63.5)}
    instances = [h.SOPInstanceUID for h in found]
    assert len(instances) == len(set(instances))


@pytest.mark.parametrize("vendor", NAMES)
def test_studies_hold_what_must_not_be_chosen(vendor: str, written: Callable[[str], Path]) -> None:
    folder = written(vendor)
    found = headers(folder)
    by_study: dict[str, set[int]] = {}
    for header in found.values():
        by_study.setdefault(header.StudyInstanceUID, set()).add(int(header.SeriesNumber))
    assert sorted(by_study.values(), key=len) == [
        {2},
        {1, 3, 4, 5, 6, 7, 8, 9, 99},
        {1, 3, 4, 5, 6, 7, 8, 9, 99},
    ]
    assert {h.Modality for h in found.values()} == {"MR", "OT", "CT"}
    localizer = [h for h in found.values() if h.Modality == "MR" and h.SeriesNumber == 1]
    planes = {tuple(np.round(h.ImageOrientationPatient, 3)) for h in localizer}
    assert len(planes) == 3
    dual = [h for h in found.values() if h.Modality == "MR" and h.SeriesNumber == 6]
    assert {int(h.EchoNumbers) for h in dual} == {1, 2}
    diffusion = [h for h in found.values() if h.Modality == "MR" and h.SeriesNumber == 7]
    assert {h.DiffusionBValue for h in diffusion} == {0.0, 1000.0}
    contrast = [h for h in found.values() if h.Modality == "MR" and h.SeriesNumber == 9]
    assert all(h.ContrastBolusAgent for h in contrast)
    others = {p.name for p in folder.rglob("*") if p.is_file() and p not in found}
    assert others == {"README.txt", "worklist.csv", "DICOMDIR"}


def test_vendors_write_their_own_style(
    patient: SyntheticPatient, written: Callable[[str], Path]
) -> None:
    syntaxes = {
        "siemens": ExplicitVRLittleEndian,
        "ge": RLELossless,
        "philips": JPEGLSLossless,
        "enhanced": ExplicitVRLittleEndian,
    }
    makers = set()
    for vendor, syntax in syntaxes.items():
        files = series_files(written(vendor), patient, patient.current, "flair", vendor)
        first = [pydicom.dcmread(f, stop_before_pixels=True) for f in files]
        makers.add((first[0].Manufacturer, first[0].SeriesDescription))
        assert {h.file_meta.TransferSyntaxUID for h in first} == {syntax}
        expected = EnhancedMRImageStorage if vendor == "enhanced" else MRImageStorage
        assert {h.SOPClassUID for h in first} == {expected}
        if vendor == "enhanced":
            assert len(first) == 1
            assert first[0].NumberOfFrames == 56
            continue
        by_height = sorted(first, key=lambda h: float(h.ImagePositionPatient[2]))
        numbers = [int(h.InstanceNumber) for h in by_height]
        ascending = list(range(1, 57))
        if vendor == "siemens":
            assert numbers == ascending
        elif vendor == "ge":
            assert numbers == ascending[::-1]
        else:
            assert sorted(numbers) == ascending
            assert numbers[:3] == [1, 29, 2]
            assert len({h.RescaleSlope for h in first}) > 50
    assert len(makers) == 4


@pytest.mark.parametrize("vendor", NAMES)
def test_files_are_valid_dicom(
    vendor: str, written: Callable[[str], Path], need_tool: Callable[[str], str]
) -> None:
    dciodvfy, dcentvfy = need_tool("dciodvfy"), need_tool("dcentvfy")
    found = headers(written(vendor))
    one_of_each = {
        (h.SeriesInstanceUID, h.get("EchoNumbers"), str(h.get("DiffusionBValue"))): path
        for path, h in found.items()
    }
    assert len(one_of_each) == 23
    for path in one_of_each.values():
        done = subprocess.run(
            [dciodvfy, "-new", str(path)], capture_output=True, text=True, check=False
        )
        report = done.stdout + done.stderr
        errors = [line for line in report.splitlines() if line.startswith("Error")]
        assert not errors, (path.name, errors)
        assert "Image" in report
    done = subprocess.run([dcentvfy, *map(str, found)], capture_output=True, text=True, check=False)
    assert "Error" not in done.stdout + done.stderr


def test_truth_is_saved_and_loaded(truth: Truth, tmp_path: Path) -> None:
    save_truth(truth, tmp_path)
    loaded = load_truth(tmp_path)
    assert loaded.lesions == truth.lesions
    assert loaded.interval_days == 399
    assert loaded.transforms.keys() == truth.transforms.keys()
    for name, matrix in truth.transforms.items():
        np.testing.assert_allclose(loaded.transforms[name], matrix)
    for here, there in ((truth.labels, loaded.labels), (truth.prior_labels, loaded.prior_labels)):
        assert here is not None
        assert there is not None
        np.testing.assert_array_equal(here.array, there.array)
        np.testing.assert_allclose(here.affine, there.affine, atol=1e-4)
    with pytest.raises(FileNotFoundError):
        load_truth(tmp_path / "nothing")


def test_head_motion_is_several_millimetres_and_degrees(truth: Truth) -> None:
    expected = {"t1_to_flair", "t2_to_flair", "prior_flair_to_flair"}
    assert expected <= truth.transforms.keys()
    for matrix in truth.transforms.values():
        np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)

    def size(name: str) -> tuple[float, float]:
        matrix = truth.transforms[name]
        turn = np.degrees(np.arccos((np.trace(matrix[:3, :3]) - 1.0) / 2.0))
        centre = np.asarray(truth.lesions[0].centroid_lps_mm)
        return float(np.linalg.norm((matrix @ np.append(centre, 1.0))[:3] - centre)), float(turn)

    motion, turn = size("prior_flair_to_flair")
    assert motion > 4.0
    assert turn > 4.0
    for name in ("t1_to_flair", "t2_to_flair"):
        motion, turn = size(name)
        assert 0.3 < motion < 3.0
        assert 0.3 < turn < 3.0


def test_truth_transform_carries_a_lesion_from_one_study_to_the_other(truth: Truth) -> None:
    assert truth.prior_labels is not None
    matrix = truth.transforms["prior_flair_to_flair"]
    for lesion in truth.lesions:
        if lesion.change != "stable" or lesion.volume_mm3 < 250.0:
            continue
        centres = []
        for labels in (truth.labels, truth.prior_labels):
            index = np.argwhere(labels.array == lesion.number).mean(axis=0)
            centres.append((labels.affine @ np.append(index, 1.0))[:3])
        there = (matrix @ np.append(centres[0], 1.0))[:3]
        np.testing.assert_allclose(there, centres[1], atol=0.5)
        np.testing.assert_allclose(centres[0], lesion.centroid_lps_mm, atol=0.4)


def test_truth_masks_have_the_volumes_of_the_shapes(truth: Truth) -> None:
    assert len(truth.lesions) == 17
    for lesion in truth.lesions:
        pairs = [(lesion.voxel_volume_mm3, lesion.volume_mm3)]
        pairs.append((lesion.prior_voxel_volume_mm3 or 0.0, lesion.prior_volume_mm3 or 0.0))
        for voxels, exact in pairs:
            assert voxels == pytest.approx(exact, rel=0.06, abs=1e-9), lesion


def test_variants_without_t1_prior_and_lesions(patient: SyntheticPatient, tmp_path: Path) -> None:
    small = with_studies(with_roles(patient, ["flair", "t2"]), 1)
    files = write_patient(small, tmp_path, "siemens", distractors=False)
    assert len(files) == 56 + 54
    truth = truth_of(small)
    assert {lesion.change for lesion in truth.lesions} == {"baseline"}
    assert len(truth.lesions) == 15
    assert truth.prior_labels is None
    assert set(truth.transforms) == {"anatomy_to_flair", "t2_to_flair"}


def test_a_healthy_brain_and_one_lesion_of_choice(
    patient: SyntheticPatient, anatomy: Anatomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.patient.build_anatomy", lambda seed: anatomy)
    by_name = {CONTRASTS[role].name: image for role, image in patient.heads.items()}
    monkeypatch.setattr("demo.patient.head_image", lambda _, contrast: by_name[contrast.name])
    healthy = make_patient(plan=(), studies=1, roles=["flair"])
    assert truth_of(healthy).lesions == ()
    assert not truth_of(healthy).labels.array.any()
    plan = [LesionPlan("deep_white_matter", "new", 600.0)]
    ill = make_patient(plan=plan, studies=1, roles=["flair"])
    labels = truth_of(ill).labels.array
    before, after = (
        p.current.acquisitions["flair"].volume.array.astype(float) for p in (healthy, ill)
    )
    assert (after - before)[labels > 0].mean() > 80.0
    changed = (np.abs(after - before) > 0.5) & (labels == 0)
    assert 0 < changed.sum() < 5 * (labels > 0).sum()


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(ValueError, match="one or two studies"):
        make_patient(studies=3)
    with pytest.raises(ValueError, match="unknown roles"):
        make_patient(roles=["flair", "pd"])


def test_the_command_line_does_not_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dicom").mkdir()
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2
    assert "exists already" in capsys.readouterr().err
