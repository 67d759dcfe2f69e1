"""Scanning folders as they come: nested, mixed, duplicated, damaged, of several patients."""

from __future__ import annotations

import logging
import os
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.fileset import FileSet
from pydicom.uid import JPEG2000Lossless, generate_uid

from operators.dicom_loader.scan import scan_folder
from operators.errors import InputError
from operators.messages import StudyCollection
from tests.operators.dicom_loader.builders import (
    Grid,
    make_classic_series,
    make_enhanced,
    write_files,
)

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
CT = "1.2.840.10008.5.1.4.1.1.2"


def all_series(collection: StudyCollection) -> list:
    return [series for study in collection.studies for series in study.series]


def note_codes(collection: StudyCollection) -> list[str]:
    return [note.code for note in collection.quality]


# --- what is in a folder ----------------------------------------------------------------------


def test_nested_folders_other_files_and_any_extension(tmp_path: Path) -> None:
    datasets = make_classic_series()
    write_files(datasets[:3], tmp_path / "a" / "b" / "c", stem="IM")
    for index, path in enumerate(write_files(datasets[3:], tmp_path / "Ärzte øst", stem="x")):
        path.rename(path.with_suffix([".dcm", ".IMA", ".txt", ".1"][index]))
    (tmp_path / "a" / "report.dcm").write_text("A text file named .dcm\n" * 50)
    (tmp_path / "a" / "empty").touch()
    collection = scan_folder(tmp_path)
    (series,) = all_series(collection)
    assert len(series.instances) == 7
    assert series.problems == ()
    assert collection.skipped == {"not DICOM": 1, "empty file": 1}


def make_media(folder: Path) -> Path:
    """Two series with their DICOMDIR."""
    first, second = make_classic_series(), make_classic_series(SeriesNumber=5)
    file_set = FileSet()
    for path in write_files([*first, *second], folder / "source"):
        file_set.add(path)
    file_set.write(folder / "media")
    return folder / "media"


def test_dicomdir_is_left_aside_and_its_files_are_found(tmp_path: Path) -> None:
    media = make_media(tmp_path)
    assert (media / "DICOMDIR").is_file()
    collection = scan_folder(media)
    assert [len(series.instances) for series in all_series(collection)] == [7, 7]
    assert [series.problems for series in all_series(collection)] == [(), ()]
    assert collection.skipped == {"DICOMDIR": 1}


def test_end_slice_that_the_dicomdir_lists_is_missed(tmp_path: Path) -> None:
    media = make_media(tmp_path)
    last = max(
        (path for path in media.rglob("*") if path.is_file() and path.name != "DICOMDIR"),
        key=lambda path: (dcmread(path).SeriesNumber, dcmread(path).InstanceNumber),
    )
    last.unlink()
    found = {one.attributes.series_number: one for one in all_series(scan_folder(media))}
    assert found[4].problems == ()
    (problem,) = found[5].problems
    assert (problem.code, problem.fatal) == ("missing_slices", True)
    assert "1 of 7 images" in problem.message


def test_whole_series_that_is_absent_is_no_defect(tmp_path: Path) -> None:
    media = make_media(tmp_path)
    for path in media.rglob("*"):
        if path.is_file() and path.name != "DICOMDIR" and dcmread(path).SeriesNumber == 5:
            path.unlink()
    (series,) = all_series(scan_folder(media))
    assert series.problems == ()


def test_damaged_dicomdir_is_not_needed(tmp_path: Path) -> None:
    media = make_media(tmp_path)
    data = (media / "DICOMDIR").read_bytes()
    (media / "DICOMDIR").write_bytes(data[: len(data) // 2])
    collection = scan_folder(media)
    assert len(all_series(collection)) == 2
    assert note_codes(collection) == ["dicomdir_unreadable"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    write_files(make_classic_series(), tmp_path / "elsewhere")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "series").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(folder)
    (folder / "nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(folder / "pipe")
    (series,) = all_series(scan_folder(folder))
    assert len(series.instances) == 7


def test_other_modalities_are_counted(tmp_path: Path) -> None:
    write_files(make_classic_series(), tmp_path / "mr")
    write_files(make_classic_series(SOPClassUID=CT, Modality="CT"), tmp_path / "ct")
    write_files(make_classic_series(SOPClassUID="1.2.840.10008.5.1.4.1.1.66")[:2], tmp_path / "raw")
    collection = scan_folder(tmp_path)
    assert collection.skipped == {"modality CT": 7, "Raw Data Storage": 2}
    assert len(all_series(collection)) == 1


def test_several_studies_are_ordered_by_date_and_time(tmp_path: Path) -> None:
    for name, day, time in (
        ("b", "20240312", "10"),
        ("a", "20240312", "09"),
        ("c", "20210101", "12"),
    ):
        write_files(
            make_classic_series(
                StudyDate=day, AcquisitionDate=day, StudyTime=f"{time}0000", StudyID=name
            ),
            tmp_path / name,
        )
    studies = scan_folder(tmp_path).studies
    assert [study.acquired for study in studies] == [
        date(2021, 1, 1),
        date(2024, 3, 12),
        date(2024, 3, 12),
    ]
    assert [study.acquired_time for study in studies] == ["120000", "090000", "100000"]


def test_segmentations_and_reports_are_listed_in_their_study(tmp_path: Path) -> None:
    images = make_classic_series()
    write_files(images, tmp_path / "mr")
    for sop_class, modality in ((SEG, "SEG"), (COMPREHENSIVE_3D_SR, "SR")):
        derived = make_classic_series(
            study_uid=images[0].StudyInstanceUID, SOPClassUID=sop_class, Modality=modality
        )[:1]
        write_files(derived, tmp_path / modality)
    (study,) = scan_folder(tmp_path).studies
    assert [instance.sop_class_uid for instance in study.segmentations] == [SEG]
    assert [i.sop_class_uid for i in study.structured_reports] == [COMPREHENSIVE_3D_SR]
    assert len(study.series) == 1


def test_study_that_holds_only_a_segmentation_is_dated(tmp_path: Path) -> None:
    write_files(make_classic_series(), tmp_path / "mr")
    derived = make_classic_series(
        SOPClassUID=SEG, Modality="SEG", StudyDate="20220101", ContentDate="20250101"
    )[:1]
    write_files(derived, tmp_path / "seg")
    old, new = scan_folder(tmp_path).studies
    assert old.series == ()
    assert old.acquired == date(2022, 1, 1)
    assert len(new.series) == 1


# --- nothing to process -----------------------------------------------------------------------


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist or is not a folder"):
        scan_folder(tmp_path / "gone")


def test_file_instead_of_folder(tmp_path: Path) -> None:
    (path,) = write_files(make_classic_series()[:1], tmp_path)
    with pytest.raises(InputError, match="does not exist or is not a folder"):
        scan_folder(path)


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no files"):
        scan_folder(tmp_path)


def test_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "image.dcm").write_text("text\n" * 100)
    with pytest.raises(InputError, match="None of its 1 files is DICOM"):
        scan_folder(tmp_path)


def test_computed_tomography_only(tmp_path: Path) -> None:
    write_files(make_classic_series(SOPClassUID=CT, Modality="CT"), tmp_path)
    with pytest.raises(InputError, match="no MR images, only: 7 CT"):
        scan_folder(tmp_path)


def test_segmentation_only(tmp_path: Path) -> None:
    write_files(make_classic_series(SOPClassUID=SEG, Modality="SEG")[:1], tmp_path)
    with pytest.raises(InputError, match="no MR images, only: 1 SEG"):
        scan_folder(tmp_path)


def test_damaged_files_only(tmp_path: Path) -> None:
    for path in write_files(make_classic_series(), tmp_path):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"im_0001 \(truncated\)"):
        scan_folder(tmp_path)


# --- damaged files ----------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.99, 0.8])
def test_truncated_file_makes_its_series_unusable(tmp_path: Path, keep: float) -> None:
    paths = write_files(make_classic_series(), tmp_path)
    data = paths[6].read_bytes()
    paths[6].write_bytes(data[: int(len(data) * keep)])
    collection = scan_folder(tmp_path)
    (series,) = all_series(collection)
    problem = next(p for p in series.problems if p.code == "unreadable_file")
    assert problem.fatal
    assert "im_0007 is truncated" in problem.message
    assert note_codes(collection) == ["unreadable_files"]


def test_damaged_file_beside_one_series_is_taken_for_a_slice_of_it(tmp_path: Path) -> None:
    paths = write_files(make_classic_series(), tmp_path)
    paths[6].write_bytes(paths[6].read_bytes()[:400])
    collection = scan_folder(tmp_path)
    assert note_codes(collection) == ["unreadable_files"]
    assert "im_0007 (truncated)" in collection.quality[0].message
    assert collection.skipped == {"truncated": 1}
    assert [p.code for p in all_series(collection)[0].problems] == ["unreadable_file"]


def test_damaged_file_among_several_series_is_reported(tmp_path: Path) -> None:
    paths = write_files([*make_classic_series(), *make_classic_series()], tmp_path)
    paths[6].write_bytes(paths[6].read_bytes()[:400])
    collection = scan_folder(tmp_path)
    assert "im_0007 (truncated)" in collection.quality[0].message
    assert [series.problems for series in all_series(collection)] == [(), ()]


def test_file_without_permission_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(make_classic_series(), tmp_path)
    open_file = Path.open

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "im_0003":
            raise PermissionError(13, "Permission denied")
        return open_file(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    collection = scan_folder(tmp_path)
    assert "im_0003 (cannot be opened (PermissionError))" in collection.quality[0].message
    codes = [problem.code for problem in all_series(collection)[0].problems]
    assert codes == ["missing_slices", "unreadable_file"]


def test_image_without_series_uid_is_reported(tmp_path: Path) -> None:
    datasets = make_classic_series()
    del datasets[0].SeriesInstanceUID
    write_files(datasets, tmp_path)
    collection = scan_folder(tmp_path)
    assert note_codes(collection) == ["unreadable_files"]
    assert len(all_series(collection)[0].instances) == 6


# --- duplicates -------------------------------------------------------------------------------


def test_identical_duplicates_are_used_once(tmp_path: Path) -> None:
    write_files(make_classic_series(), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    collection = scan_folder(tmp_path)
    (series,) = all_series(collection)
    assert len(series.instances) == 7
    assert series.problems == ()
    assert collection.skipped == {"duplicate": 7}
    assert note_codes(collection) == ["duplicate_files"]


def test_copy_that_differs_in_other_attributes_is_a_duplicate(tmp_path: Path) -> None:
    datasets = make_classic_series()
    write_files(datasets, tmp_path / "one")
    datasets[2].InstitutionName = "Elsewhere"
    write_files(datasets[2:3], tmp_path / "two")
    assert scan_folder(tmp_path).skipped == {"duplicate": 1}


def test_compressed_copy_is_a_duplicate(tmp_path: Path) -> None:
    write_files(make_classic_series(Grid(shape=(3, 48, 40))), tmp_path / "one")
    copy = dcmread(tmp_path / "one" / "im_0002")
    copy.compress(JPEG2000Lossless, generate_instance_uid=False)
    write_files([copy], tmp_path / "two")
    assert scan_folder(tmp_path).skipped == {"duplicate": 1}


def test_undecodable_copy_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    write_files(make_classic_series(Grid(shape=(3, 48, 40))), tmp_path / "one")
    copy = dcmread(tmp_path / "one" / "im_0002")
    copy.compress(JPEG2000Lossless, generate_instance_uid=False)
    copy.PixelData = copy.PixelData[:40] + bytes(len(copy.PixelData) - 40)
    write_files([copy], tmp_path / "two")
    collection = scan_folder(tmp_path)
    assert collection.skipped == {"duplicate with other content": 1}


@pytest.mark.parametrize("change", ["pixels", "position"])
def test_same_uid_with_other_content_is_a_problem(tmp_path: Path, change: str) -> None:
    datasets = make_classic_series()
    write_files(datasets, tmp_path / "one")
    if change == "pixels":
        datasets[2].PixelData = datasets[3].PixelData
    else:
        datasets[2].ImagePositionPatient = datasets[3].ImagePositionPatient
    write_files(datasets[2:3], tmp_path / "two", stem="other")
    collection = scan_folder(tmp_path)
    (series,) = all_series(collection)
    (problem,) = series.problems
    assert (problem.code, problem.fatal) == ("conflicting_duplicates", True)
    assert "im_0003" in problem.message
    assert "other_0001" in problem.message


# --- patients ---------------------------------------------------------------------------------


def two_studies(folder: Path, first: dict, second: dict) -> tuple[str, str]:
    write_files(
        make_classic_series(StudyDate="20200101", AcquisitionDate="20200101", **first), folder / "1"
    )
    write_files(make_classic_series(**second), folder / "2")
    one, two = scan_folder(folder).studies
    return one.patient_key, two.patient_key


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"PatientName": "Soerensen^Aase"}, {}),
        ({"PatientBirthDate": ""}, {}),
        ({"IssuerOfPatientID": "HOSPITAL"}, {}),
        ({"PatientID": " P-0815 "}, {}),
        ({"PatientID": "", "PatientName": "A^B"}, {"PatientID": "", "PatientName": "A B"}),
    ],
)
def test_same_patient(tmp_path: Path, first: dict, second: dict) -> None:
    one, two = two_studies(tmp_path, first, second)
    assert one == two


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"PatientID": "P-0816"}, {}),
        ({"PatientBirthDate": "19800102"}, {}),
        ({"IssuerOfPatientID": "A"}, {"IssuerOfPatientID": "B"}),
        ({"PatientID": "", "PatientName": "A^B"}, {"PatientID": "", "PatientName": "C^D"}),
        ({"PatientID": ""}, {}),
    ],
)
def test_two_patients(tmp_path: Path, first: dict, second: dict) -> None:
    one, two = two_studies(tmp_path, first, second)
    assert one != two


def test_two_patients_in_one_study(tmp_path: Path) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    datasets = [
        *make_classic_series(**uids)[:4],
        *make_classic_series(**uids, PatientID="P-0816")[4:],
    ]
    write_files(datasets, tmp_path)
    one, two = scan_folder(tmp_path).studies
    assert one.study_uid == two.study_uid
    assert one.patient_key != two.patient_key


def test_one_patient_spelled_in_two_ways_in_one_study(tmp_path: Path) -> None:
    images = make_classic_series()
    for dataset in images[4:]:
        dataset.PatientName = "SORENSEN^Åse"
    write_files(images, tmp_path / "mr")
    segmentation = make_classic_series(
        study_uid=images[0].StudyInstanceUID,
        SOPClassUID=SEG,
        Modality="SEG",
        PatientSex="",
        PatientBirthDate="",
    )[:1]
    write_files(segmentation, tmp_path / "seg")
    (study,) = scan_folder(tmp_path).studies
    assert len(study.series[0].instances) == 7
    assert len(study.segmentations) == 1


def test_missing_identifier_is_noted(tmp_path: Path) -> None:
    write_files(make_classic_series(PatientID=""), tmp_path)
    assert note_codes(scan_folder(tmp_path)) == ["patient_identifier_missing"]


@pytest.mark.parametrize(
    ("attributes", "doubt"),
    [
        ({"PatientSex": "M"}, True),
        ({"PatientName": "Jensen^Karen"}, True),
        ({"PatientName": "Jensen^Åse"}, False),
        ({"PatientName": "ÅSE SØRENSEN"}, False),
        ({"PatientName": ""}, False),
        ({"PatientSex": "O"}, False),
    ],
)
def test_doubt_about_one_identifier_for_two_people(
    tmp_path: Path, attributes: dict, doubt: bool
) -> None:
    write_files(make_classic_series(), tmp_path / "1")
    write_files(make_classic_series(**attributes), tmp_path / "2")
    collection = scan_folder(tmp_path)
    assert note_codes(collection) == (["patient_attributes_differ"] if doubt else [])
    assert len({study.patient_key for study in collection.studies}) == 1


def test_no_patient_data_in_messages_logs_or_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_files(make_classic_series(), tmp_path)
    paths[0].write_bytes(paths[0].read_bytes()[:900])
    write_files(make_classic_series(AcquisitionDate="20240401"), tmp_path / "other")
    with caplog.at_level(logging.DEBUG):
        collection = scan_folder(tmp_path)
    texts = [record.getMessage() for record in caplog.records if "operators" in record.name]
    texts += [note.message for note in collection.quality]
    texts += [study.patient_key for study in collection.studies]
    texts += [repr(p) for series in all_series(collection) for p in series.problems]
    assert any("files" in text for text in texts)
    for secret in ("Sørensen", "Åse", "P-0815", "19800101", "20240312", "2024-03"):
        assert not any(secret in text for text in texts)


# --- dates ------------------------------------------------------------------------------------


def test_future_date_is_refused(tmp_path: Path) -> None:
    write_files(make_classic_series(), tmp_path)
    with pytest.raises(InputError, match="future") as caught:
        scan_folder(tmp_path, today=date(2024, 3, 10))
    assert "series 4" in str(caught.value)
    assert "2024" not in caught.value.rule
    assert len(scan_folder(tmp_path, today=date(2024, 3, 11)).studies) == 1


def test_future_date_of_an_enhanced_image_is_refused(tmp_path: Path) -> None:
    write_files([make_enhanced(AcquisitionDateTime="20990101120000")], tmp_path)
    with pytest.raises(InputError, match="future"):
        scan_folder(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"AcquisitionDate": "20240311"}, date(2024, 3, 11)),
        ({"AcquisitionDate": ""}, date(2024, 3, 12)),
        ({"AcquisitionDate": None, "StudyDate": "", "SeriesDate": "20240310"}, date(2024, 3, 10)),
        ({"AcquisitionDate": "unknown"}, date(2024, 3, 12)),
        (
            {"AcquisitionDate": "", "StudyDate": "", "SeriesDate": "", "ContentDate": ""},
            None,
        ),
    ],
)
def test_date_comes_from_the_closest_statement(
    tmp_path: Path, attributes: dict, expected: date | None
) -> None:
    write_files(make_classic_series(**attributes), tmp_path)
    assert scan_folder(tmp_path).studies[0].acquired == expected


def test_study_date_far_from_the_acquisition_is_noted(tmp_path: Path) -> None:
    write_files(make_classic_series(StudyDate="20240201"), tmp_path)
    collection = scan_folder(tmp_path)
    assert note_codes(collection) == ["study_date_mismatch"]
    assert collection.studies[0].acquired == date(2024, 3, 12)


# --- pixels stay unread -----------------------------------------------------------------------


def test_pixels_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files([*make_classic_series(), make_enhanced()], tmp_path)

    def refuse(self: Dataset) -> np.ndarray:
        raise AssertionError("pixels were decoded during the scan")

    monkeypatch.setattr(Dataset, "pixel_array", property(refuse))
    assert len(all_series(scan_folder(tmp_path))) == 2
