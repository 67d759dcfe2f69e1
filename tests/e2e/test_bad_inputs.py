"""Bad input: the exit code, a message with file or series, rule and remedy, and no DICOM in OUT.

Every case runs the whole application on real files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydicom.uid import JPEG2000, generate_uid

from app.__main__ import main
from demo.patient import SyntheticPatient, with_studies
from demo.synthetic import write_patient
from operators.version import NAME
from tests.conftest import ROOT
from tests.e2e.running import run_app
from tests.e2e.small_study import BRAIN, head_pixels, series, study, write
from tests.operators.dicom_loader.builders import (
    FrameSpec,
    Grid,
    make_classic_series,
    make_enhanced,
    write_files,
)

MODELS = ROOT / "models"
PRIVATE = ("Sørensen", "Åse", "P-0815", "19800101", "20240312")


def run(source: Path, out: Path, models: Path = MODELS) -> int:
    """Run the application in this process."""
    return main(["-i", str(source), "-o", str(out), "-m", str(models)])


def assert_no_dicom(out: Path) -> None:
    """No file below OUT is a DICOM object, and nothing is left of a staging folder."""
    if not out.exists():
        return
    left = [path for path in out.rglob("*") if path.is_file()]
    for path in left:
        assert path.read_bytes()[128:132] != b"DICM", path
    assert not [path for path in left if path.name in {"results.json", "report.pdf"}]
    assert not list(out.glob(".*"))


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def truncated(folder: Path) -> Path:
    write(study(), folder)
    path = sorted(folder.iterdir())[10]
    path.write_bytes(path.read_bytes()[:-900])
    return folder


def text_named_dcm(folder: Path) -> Path:
    folder.mkdir()
    (folder / "report.dcm").write_text("no image here\n" * 50)
    return folder


def ct_only(folder: Path) -> Path:
    ct = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}
    return write(series(**ct), folder)


def missing_slice(folder: Path) -> Path:
    flair = series()
    del flair[17]
    return write(flair, folder)


def duplicated_slice(folder: Path) -> Path:
    flair = series()
    flair[20].ImagePositionPatient = flair[19].ImagePositionPatient
    return write(flair, folder)


def two_patients(folder: Path) -> Path:
    return write(study() + study(PatientID="P-4711", PatientBirthDate="19700202"), folder)


def mixed_echoes(folder: Path) -> Path:
    flair = series()
    for dataset in flair[::2]:
        dataset.EchoTime = "20"
        dataset.EchoNumbers = 2
    return write(flair, folder)


def localizer_only(folder: Path) -> Path:
    planes = []
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    for number, plane in enumerate(("axial", "sagittal", "coronal")):
        grid = Grid(plane=plane, shape=(3, 40, 36), spacing_mm=(10.0, 5.1, 4.7))
        planes += make_classic_series(
            grid,
            **uids,
            first_instance_number=1 + 3 * number,
            ImageType=["ORIGINAL", "PRIMARY", "M", "LOCALIZER"],
            SeriesDescription="localizer",
            ProtocolName="localizer",
            ScanningSequence="GR",
            SequenceName="*fl2d1",
            EchoTime="4",
            RepetitionTime="9",
            InversionTime=None,
        )
    return write(planes, folder)


def no_flair(folder: Path) -> Path:
    return write(series("t2") + series("t1"), folder)


def contrast_t1_only(folder: Path) -> Path:
    return write(series("t1", ContrastBolusAgent="Gadovist", SeriesDescription="t1 +KM"), folder)


def no_t2(folder: Path) -> Path:
    return write(series("flair"), folder)


def one_slice(folder: Path) -> Path:
    return write(series()[:1], folder)


def zero_pixels(folder: Path) -> Path:
    uids = {"study_uid": generate_uid(), "frame_of_reference_uid": generate_uid()}
    black = np.zeros(BRAIN.shape, dtype=np.uint16)
    return write(series(pixels=black, **uids) + series("t2", **uids), folder)


def nan_pixels(folder: Path) -> Path:
    datasets = study()
    for dataset in datasets:
        del dataset.PixelData
        floats = np.full((dataset.Rows, dataset.Columns), np.nan, dtype=np.float32)
        dataset.FloatPixelData = floats.tobytes()
        dataset.BitsAllocated = 32
        for keyword in ("BitsStored", "HighBit", "PixelRepresentation"):
            delattr(dataset, keyword)
    return write(datasets, folder)


def zero_slope(folder: Path) -> Path:
    return write(study(slope=0.0), folder)


def absurd_spacing(folder: Path) -> Path:
    return write(study(PixelSpacing=["0", "0"]), folder)


def missing_position(folder: Path) -> Path:
    return write(study(ImagePositionPatient=None), folder)


def sheared(folder: Path) -> Path:
    grid = Grid(
        shape=BRAIN.shape,
        spacing_mm=BRAIN.spacing_mm,
        position_mm=BRAIN.position_mm,
        shear_mm=1.3,
    )
    uids = {"study_uid": generate_uid(), "frame_of_reference_uid": generate_uid()}
    return write(series(grid=grid, **uids) + series("t2", **uids), folder)


def uneven_spacing(folder: Path) -> Path:
    flair = series()
    for index, dataset in enumerate(flair[20:], start=20):
        dataset.ImagePositionPatient = [float(v) for v in BRAIN.position(index + 0.4)]
    return write(flair, folder)


def future_date(folder: Path) -> Path:
    later = {"StudyDate": "29990101", "SeriesDate": "29990101", "AcquisitionDate": "29990101"}
    return write(study(**later, ContentDate="29990101"), folder)


def newest_without_flair(folder: Path) -> Path:
    later = {"StudyDate": "20250101", "SeriesDate": "20250101", "AcquisitionDate": "20250101"}
    return write(study() + series("t2", study_uid=generate_uid(), **later), folder)


def undated_studies(folder: Path) -> Path:
    undated = dict.fromkeys(
        ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "StudyTime"), ""
    )
    return write(study(**undated) + study(**undated), folder)


def four_d(folder: Path) -> Path:
    """A perfusion-like series: the same slices at twenty time points, named after nothing."""
    grid = Grid(shape=(6, 20, 18), spacing_mm=(5.0, 10.1, 9.7))
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    datasets = []
    for time in range(20):
        datasets += make_classic_series(
            grid,
            **uids,
            pixels=head_pixels(grid, seed=time),
            first_instance_number=1 + 6 * time,
            TemporalPositionIdentifier=time + 1,
            NumberOfTemporalPositions=20,
            SeriesDescription="ep2d_perf",
            ProtocolName="ep2d_perf",
            ScanningSequence="EP",
            SequenceName="*epfid2d1_64",
            EchoTime="30",
            RepetitionTime="1500",
            InversionTime=None,
        )
    return write(datasets, folder)


def unreadable_compression(folder: Path) -> Path:
    datasets = study()
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = JPEG2000
        dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + (
            b"\xfe\xff\x00\xe0\x10\x00\x00\x00" + b"no codestream..." + b"\xfe\xff\xdd\xe0\0\0\0\0"
        )
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    return write(datasets, folder)


def other_frames_in_enhanced(folder: Path) -> Path:
    """An Enhanced FLAIR whose frames are shuffled and one of which is missing."""
    order = np.random.default_rng(3).permutation(BRAIN.shape[0])
    frames = [FrameSpec(int(index)) for index in order if index != 21]
    pixels = head_pixels()
    stack = np.stack([pixels[frame.slice_index] for frame in frames])
    return write([make_enhanced(BRAIN, frames=frames, pixels=stack)], folder)


def secondary_capture_only(folder: Path) -> Path:
    capture = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"}
    return write(series(**capture)[:3], folder)


CASES: list[tuple[Callable[[Path], Path], tuple[str, ...]]] = [
    (empty, ("input folder", "no files")),
    (truncated, ("im_0011",)),
    (text_named_dcm, ("DICOM",)),
    (ct_only, ("CT",)),
    (missing_slice, ("series 4", "slice")),
    (duplicated_slice, ("series 4", "position")),
    (two_patients, ("patient",)),
    (mixed_echoes, ("series 4", "slice")),
    (localizer_only, ("flair", "localizer")),
    (no_flair, ("flair",)),
    (contrast_t1_only, ("flair", "contrast")),
    (no_t2, ("t2",)),
    (one_slice, ("series 4", "slice")),
    (zero_pixels, ("series 4",)),
    (nan_pixels, ("series 4",)),
    (zero_slope, ("series 4",)),
    (absurd_spacing, ("series 4", "spacing")),
    (missing_position, ("series 4", "missing_position")),
    (sheared, ("series 4", "shear")),
    (uneven_spacing, ("series 4", "spacing")),
    (future_date, ("future",)),
    (newest_without_flair, ("flair",)),
    (undated_studies, ("date",)),
    (four_d, ("flair",)),
    (unreadable_compression, ("im_00",)),
    (other_frames_in_enhanced, ("series 4", "slice")),
    (secondary_capture_only, ("MR",)),
]


@pytest.mark.parametrize(("make", "words"), CASES, ids=[case[0].__name__ for case in CASES])
def test_input_is_refused_with_rule_and_remedy(
    make: Callable[[Path], Path],
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run(make(tmp_path / "in"), out) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word.lower() in message.lower(), message
    assert not [word for word in PRIVATE if word in message], message
    assert_no_dicom(out)


def copy_of_models(folder: Path) -> Path:
    shutil.copytree(MODELS, folder)
    return folder


def damaged_network(models: Path) -> str:
    for network in models.glob("*/ensemble.onnx"):
        content = bytearray(network.read_bytes())
        content[len(content) // 2] ^= 0xFF
        network.write_bytes(content)
    return "ensemble.onnx"


def missing_network(models: Path) -> str:
    for network in models.glob("*/ensemble.onnx"):
        network.unlink()
    return "ensemble.onnx"


def invalid_description(models: Path) -> str:
    for description in models.glob("*/model.json"):
        description.write_text('{"schema_version": "1.0"}')
    return "model.json"


def no_package(models: Path) -> str:
    shutil.rmtree(models)
    models.mkdir()
    return "model"


@pytest.mark.parametrize(
    "damage", [damaged_network, missing_network, invalid_description, no_package]
)
def test_broken_model_is_a_configuration_error(
    damage: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = copy_of_models(tmp_path / "models")
    word = damage(models)
    assert run(write(study(), tmp_path / "in"), tmp_path / "out", models) == 3
    assert word in capsys.readouterr().err
    assert_no_dicom(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("settings: [\n", ("YAML", "line")),
        ("application: {}\n", ("settings",)),
        ("settings: {unheard_of: 1}\n", ("unheard_of",)),
        ("settings: {registration: {iterations: many}}\n", ("registration",)),
    ],
)
def test_broken_app_yaml_is_a_configuration_error(
    text: str,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "app.yaml"
    config.write_text(text)
    monkeypatch.setenv("HOLOSCAN_CONFIG_PATH", str(config))
    assert run(write(study(), tmp_path / "in"), tmp_path / "out") == 3
    message = capsys.readouterr().err
    for word in (*words, "app.yaml"):
        assert word in message
    assert_no_dicom(tmp_path / "out")


def test_a_failure_removes_the_results_of_an_earlier_run(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    (out / "dicom").mkdir(parents=True)
    old = series(ManufacturerModelName=NAME)[0]
    old.save_as(out / "dicom" / "segmentation.dcm", enforce_file_format=True)
    assert run(empty(tmp_path / "in"), out) == 2
    assert_no_dicom(out)


def test_the_process_ends_with_the_code_and_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "app", "-i", str(empty(tmp_path / "in"))),
            *("-o", str(tmp_path / "out"), "-m", str(MODELS)),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in done.stderr


def test_prior_of_another_patient_is_refused(tmp_path: Path, capsys) -> None:
    earlier = {"StudyDate": "20230101", "SeriesDate": "20230101", "AcquisitionDate": "20230101"}
    write_files(study(), tmp_path / "in", stem="current")
    write_files(study(PatientID="X-1", **earlier), tmp_path / "in", stem="prior")
    assert run(tmp_path / "in", tmp_path / "out") == 2
    assert "patient" in capsys.readouterr().err
    assert_no_dicom(tmp_path / "out")


def test_a_prior_that_is_forced_to_be_later_than_the_current_study_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = {"StudyDate": "20230101", "SeriesDate": "20230101", "AcquisitionDate": "20230101"}
    first, second = generate_uid(), generate_uid()
    write_files(study(study_uid=first, **earlier), tmp_path / "in", stem="first")
    write_files(study(study_uid=second), tmp_path / "in", stem="second")
    settings = yaml.safe_load((ROOT / "app.yaml").read_text(encoding="utf-8"))
    settings["settings"]["series_selector"] |= {
        "current_study_uid": str(first),
        "prior_study_uid": str(second),
    }
    config = tmp_path / "app.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.setenv("HOLOSCAN_CONFIG_PATH", str(config))
    assert run(tmp_path / "in", tmp_path / "out") == 2
    assert "not before the current study" in capsys.readouterr().err
    assert_no_dicom(tmp_path / "out")


def test_an_output_folder_that_is_a_file_is_refused_at_once(tmp_path: Path, capsys) -> None:
    (tmp_path / "out").write_text("not a folder")
    assert run(write(study(), tmp_path / "in"), tmp_path / "out") == 1
    assert "output folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "not a folder"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, mounted where the output goes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_with_an_empty_output_folder(
    small_disk: Path, patient: SyntheticPatient, tmp_path: Path
) -> None:
    write_patient(with_studies(patient, 1), tmp_path / "in", "siemens", distractors=False)
    done = run_app(tmp_path / "in", small_disk / "out")
    assert done.code == 1
    assert "no space left" in done.log
    assert_no_dicom(small_disk / "out")


def test_a_read_only_output_folder_is_refused_at_once(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = run_app(write(study(), tmp_path / "in"), small_disk / "out")
    assert done.code == 1
    assert "cannot be written" in done.log
    assert not (small_disk / "out").exists()
