"""Reading of images and masks, matching of a stripped brain, and what is kept on disk."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept

from demo.wrap import TimePoint, WrappedPatient, wrap_patient
from model_tools.change.chain import study_of
from model_tools.evaluate.dataset import Case
from model_tools.evaluate.examination import match_brain, prepare, read_image, read_mask
from model_tools.evaluate.store import Store, fingerprint, prepared_mark
from operators.errors import InputError
from operators.geometry import resample_to
from operators.registration.settings import RegistrationSettings
from operators.registration.template import load_template

SHAPE = (22, 18, 9)


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique, anisotropic NIfTI image."""
    angle = 0.2
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ) * np.array([0.9, 1.2, 3.0])
    affine[:3, 3] = (-11.0, 7.5, 30.0)
    values = np.random.default_rng(2).integers(1, 900, SHAPE).astype(np.uint16)
    path = tmp_path_factory.mktemp("nifti") / "flair.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.fixture(scope="module")
def dicom(flair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a DICOM series."""
    folder = tmp_path_factory.mktemp("dicom")
    files = wrap_patient(
        [TimePoint({"flair": flair})], WrappedPatient("case7", "F", 31, 200), folder
    )
    return files[0].parent


def at(volume: hd.Volume, points: np.ndarray) -> np.ndarray:
    """Values at patient millimetres (n, 3), nearest voxel."""
    index = np.linalg.inv(volume.affine) @ np.vstack([points.T, np.ones(len(points))])
    return np.asarray(volume.array[tuple(np.rint(index[:3]).astype(int))])


def centres(volume: hd.Volume, mask: np.ndarray) -> np.ndarray:
    index = np.argwhere(mask)
    return np.asarray(index @ volume.affine[:3, :3].T + volume.affine[:3, 3])


def test_a_dicom_folder_is_read_as_the_nifti_file(flair: Path, dicom: Path) -> None:
    one, two = read_image(flair), read_image(dicom)
    points = centres(one, np.ones(SHAPE, bool))
    assert np.allclose(at(two, points), at(one, points), atol=0.5)


def test_a_dicom_seg_is_read_as_a_mask(dicom: Path, tmp_path: Path) -> None:
    images = [pydicom.dcmread(path) for path in sorted(dicom.glob("*"))]
    volume = hd.get_volume_from_series(images)
    mask = np.zeros(volume.spatial_shape, bool)
    mask[2:5, 6:11, 4:9] = True
    brain = CodedConcept("12738006", "SCT", "Brain")
    segment = hd.seg.SegmentDescription(
        1, "lesion", brain, brain, hd.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    made = hd.seg.Segmentation(
        source_images=images,
        pixel_array=volume.with_array(mask.astype(np.uint8)),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=hd.UID(),
        series_number=9,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    made.save_as(tmp_path / "mask.dcm")
    grid = read_image(dicom)
    found = read_mask(tmp_path / "mask.dcm", grid)
    wanted = centres(volume, mask)
    assert found.sum() == mask.sum()
    assert at(grid.with_array(found), wanted).all()


def test_what_is_no_mask_is_refused(dicom: Path, flair: Path, tmp_path: Path) -> None:
    grid = read_image(flair)
    with pytest.raises(InputError, match="no DICOM SEG"):
        read_mask(next(iter(sorted(dicom.glob("*")))), grid)
    (tmp_path / "x.nii.gz").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read_mask(tmp_path / "x.nii.gz", grid)


def test_the_template_is_matched_to_a_stripped_brain() -> None:
    template = load_template()
    truth = np.array(
        [[1.12, 0.05, 0.0, 3.0], [-0.05, 1.1, 0.04, -4.0], [0.0, -0.04, 1.2, 6.0], [0, 0, 0, 1]]
    )
    affine = np.diag([1.7, 1.9, 3.1, 1.0])
    affine[:3, 3] = (-75.0, -95.0, -62.0)
    grid = hd.Volume(np.zeros((88, 100, 48), np.uint8), affine=affine, coordinate_system="PATIENT")
    stripped = template.flair.with_array(template.flair.array * template.mask.array)
    flair = resample_to(stripped, grid, truth)
    brain = flair.with_array(flair.array > 0.1)
    found = match_brain(flair, brain, RegistrationSettings(threads=1), "made")
    points = centres(brain, brain.array)[::50]
    homogeneous = np.vstack([points.T, np.ones(len(points))])
    error = np.linalg.norm(((found - truth) @ homogeneous)[:3], axis=0)
    assert error.max() < 3.0
    with pytest.raises(InputError, match="brain mask is empty"):
        match_brain(
            flair, brain.with_array(np.zeros_like(brain.array)), RegistrationSettings(), "x"
        )


def test_a_registration_is_kept_for_the_same_images_only(flair: Path, tmp_path: Path) -> None:
    image = nib.load(flair)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:-3, 3:-3, 1:-1] = 1
    nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "brain.nii.gz")
    case = Case("c", {"flair": flair}, None, brain=tmp_path / "brain.nii.gz", aligned=True)
    first = prepare(case, RegistrationSettings(threads=1))
    assert first.reference is None
    assert first.valid.all()
    store = Store(tmp_path / "out")
    mark = prepared_mark(case)
    store.write_prepared("c", mark, first.study)
    selected = study_of({"flair": read_image(flair)}, 2, current=True)
    again = store.read_prepared("c", mark, selected)
    assert again is not None
    assert np.array_equal(again.brain_mask.array, first.study.brain_mask.array)
    assert np.array_equal(again.template_to_flair, first.study.template_to_flair)
    assert store.read_prepared("c", "another", selected) is None
    before = fingerprint(case, "m", fill_missing=False)
    nib.save(nib.Nifti1Image(mask[::-1].copy(), image.affine), tmp_path / "brain.nii.gz")
    assert prepared_mark(case) != mark
    assert fingerprint(case, "m", fill_missing=False) != before
