"""The 32 real series of scanner headers: read without an exception, with the right attributes.

Only the first, middle and last instance of each are there, so that gaps are expected.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from operators.dicom_loader.scan import scan_folder
from operators.dicom_loader.volume import read_volume
from operators.errors import InputError
from operators.messages import Series

NO_MR_IMAGE = {"00_Siemens_PhoenixZIPReport_n7"}

PLANES = {
    "00_Philips_T1W_FFE_Sno_CS2_n2": "axial",
    "01_Philips_T1W_FFE_Sno_CS4_n24": "axial",
    "02_Philips_T1W_TSE_Sno_CSno_CSAIno_n2": "axial",
    "03_Philips_T1W_TSE_Sno_CSno_CSAI2_n2": "axial",
    "00_GE_MEDIC_Accelerated_SAG_IR_SPGR_n196": "sagittal",
    "00_Siemens_REST1_w_SMS_PF7_8_n4": "axial",
    "01_Philips_B0_NS_n1": "axial",
    "00_GE_MEDIC_3D_Ax_T1_MP_RAGE_R22_n130": "axial",
    "01_Siemens_anat_T1w_acq_tfl_n1": "sagittal",
    "02_Siemens_anat_T1w_acq_tfl_n1": "sagittal",
    "03_Siemens_DWI_dir80_PA_TRACEW_n1": "axial",
    "04_Siemens_DWI_dir80_PA_TENSOR_B0_n1": "axial",
    "00_Philips_n8": "axial",
    "01_Hitachi_n4": "sagittal",
    "02_GE_MEDIC_n4": "sagittal",
    "03_GE_MEDIC_n4": "sagittal",
    "04_GE_MEDIC_n1": "sagittal",
    "05_GE_MEDIC_n8": "axial",
    "06_UNKNOWN_n4": "sagittal",
    "07_UNKNOWN_n20": "sagittal",
    "08_Philips_n4": "coronal",
    "09_Philips_n8": "axial",
    "10_Philips_n1": "sagittal",
    "11_Philips_n1": "axial",
    "12_SIEMENS_n4": "sagittal",
    "13_SIEMENS_n2": "axial",
    "14_SIEMENS_n8": "axial",
    "15_PMOD_Tec_n4": "axial",
    "16_Siemens_n1": "axial",
    "17_Hyperfin_n1": "axial",
    "18_TEST_T1_WM_AX_n4": "axial",
}


@pytest.fixture(scope="module")
def found(shared_data: Path) -> dict[str, tuple[Series, ...]]:
    series: dict[str, tuple[Series, ...]] = {}
    for folder in sorted((shared_data / "dicom_headers").glob("*/*_n*")):
        try:
            studies = scan_folder(folder).studies
        except InputError as error:
            assert "no MR images" in error.rule
            series[folder.name] = ()
        else:
            series[folder.name] = tuple(one for study in studies for one in study.series)
    return series


def codes(series: Series) -> set[str]:
    return {problem.code for problem in series.problems}


def test_all_series_are_read(found: dict[str, tuple[Series, ...]]) -> None:
    assert len(found) == 32
    assert {name for name, series in found.items() if not series} == NO_MR_IMAGE


def test_planes_and_vendors(found: dict[str, tuple[Series, ...]]) -> None:
    for name, plane in PLANES.items():
        assert {series.attributes.orientation for series in found[name]} == {plane}, name
        for series in found[name]:
            maker = (series.attributes.manufacturer or "").lower()
            vendor = name.split("_")[1].lower()[:5]
            assert vendor[:2] in maker or vendor == "unkno", (name, maker)


def test_sequence_parameters(found: dict[str, tuple[Series, ...]]) -> None:
    def parameters(name: str) -> tuple[float | None, ...]:
        attributes = found[name][0].attributes
        return (
            attributes.echo_time_ms,
            attributes.repetition_time_ms,
            attributes.inversion_time_ms,
        )

    assert parameters("06_UNKNOWN_n4") == (394.0, 6000.0, 2200.0)
    assert parameters("08_Philips_n4") == (386.754, 4800.0, 1650.0)
    assert parameters("17_Hyperfin_n1") == (pytest.approx(194.4), 4000.0, 1400.0)
    assert parameters("02_Siemens_anat_T1w_acq_tfl_n1") == (2.41, 1800.0, 900.0)
    assert parameters("10_Philips_n1") == (3.133, pytest.approx(6.7702), None)
    trace = found["03_Siemens_DWI_dir80_PA_TRACEW_n1"][0].attributes
    assert (trace.b_value, trace.image_type[-1]) == (2500.0, "TRACEW")


def test_stacks(found: dict[str, tuple[Series, ...]]) -> None:
    labels = {name: {one.stack for one in series} for name, series in found.items()}
    assert labels["00_Philips_n8"] == {"SW_M_FFE\\SW_M", "SW_P_FFE\\SW_P"}
    assert labels["11_Philips_n1"] == {f"temporal position {number}" for number in (1, 2, 3, 4)}
    assert len(labels["01_Philips_B0_NS_n1"]) == 2
    assert [one.attributes.temporal_positions for one in found["11_Philips_n1"]] == [4] * 4
    assert {one.attributes.temporal_positions for one in found["00_Siemens_REST1_w_SMS_PF7_8_n4"]}


def test_complete_series_are_sound(found: dict[str, tuple[Series, ...]]) -> None:
    for name in (
        "00_Philips_T1W_FFE_Sno_CS2_n2",
        "02_Philips_T1W_TSE_Sno_CSno_CSAIno_n2",
        "01_Siemens_anat_T1w_acq_tfl_n1",
        "03_Siemens_DWI_dir80_PA_TRACEW_n1",
        "01_Philips_B0_NS_n1",
    ):
        assert all(codes(one) == set() for one in found[name]), name


def test_incomplete_series_are_named(found: dict[str, tuple[Series, ...]]) -> None:
    for name in ("02_GE_MEDIC_n4", "06_UNKNOWN_n4", "01_Philips_T1W_FFE_Sno_CS4_n24"):
        assert "missing_slices" in codes(found[name][0]), name
    large = found["00_GE_MEDIC_Accelerated_SAG_IR_SPGR_n196"][0]
    assert {"absurd_spacing", "fewer_images_than_stated"} <= codes(large)
    assert "196 images" in " ".join(problem.message for problem in large.problems)


def test_other_kinds_of_images_are_named(found: dict[str, tuple[Series, ...]]) -> None:
    assert "mosaic" in codes(found["13_SIEMENS_n2"][0])
    assert {"not_mr_image", "colour_image"} <= codes(found["18_TEST_T1_WM_AX_n4"][0])
    assert "single_slice" in codes(found["04_GE_MEDIC_n1"][0])
    assert "duplicate_positions" in codes(found["05_GE_MEDIC_n8"][0])
    assert "missing_frame_of_reference" in codes(found["16_Siemens_n1"][0])


ENHANCED = [
    ("00_Philips_T1W_FFE_Sno_CS2_n2", 1),
    ("02_Philips_T1W_TSE_Sno_CSno_CSAIno_n2", 1),
    ("00_Siemens_REST1_w_SMS_PF7_8_n4", 1),
    ("01_Philips_B0_NS_n1", 2),
    ("01_Siemens_anat_T1w_acq_tfl_n1", 1),
    ("10_Philips_n1", 1),
    ("11_Philips_n1", 4),
    ("16_Siemens_n1", 1),
    ("17_Hyperfin_n1", 1),
]


@pytest.mark.parametrize(("name", "stacks"), ENHANCED)
def test_real_enhanced_headers_with_pixels_become_volumes(
    shared_data: Path, tmp_path: Path, name: str, stacks: int
) -> None:
    """Each frame gets its own number as stored value, and has to be found at its own position."""
    (source,) = (shared_data / "dicom_headers").glob(f"*/{name}/0000.dcm")
    dataset = dcmread(source)
    if "FrameOfReferenceUID" not in dataset:
        dataset.FrameOfReferenceUID = generate_uid()
    count = int(dataset.NumberOfFrames)
    pixels = np.zeros((count, dataset.Rows, dataset.Columns), np.uint16)
    pixels += np.arange(1, count + 1, dtype=np.uint16)[:, None, None]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(tmp_path / "image")
    (study,) = scan_folder(tmp_path).studies
    assert len(study.series) == stacks
    seen = 0
    for series in study.series:
        volume, _ = read_volume(series)
        for number in series.frame_numbers or range(1, count + 1):
            groups = dataset.PerFrameFunctionalGroupsSequence[number - 1]
            position = groups.PlanePositionSequence[0].ImagePositionPatient
            index = volume.map_reference_to_indices(np.array([[float(v) for v in position]]))[0]
            np.testing.assert_allclose(index, np.rint(index), atol=0.02)
            transformation = groups.get("PixelValueTransformationSequence")
            if transformation is None:
                shared = dataset.get("SharedFunctionalGroupsSequence")
                transformation = shared and shared[0].get("PixelValueTransformationSequence")
            slope = float(transformation[0].RescaleSlope) if transformation else 1.0
            intercept = float(transformation[0].RescaleIntercept) if transformation else 0.0
            value = volume.array[round(index[0]), 0, 0]
            assert value == pytest.approx(number * slope + intercept, rel=1e-5)
            seen += 1
    assert seen == count
