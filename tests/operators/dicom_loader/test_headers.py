"""Reading one file's header in every encoding, and telling damaged files from other files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.multival import MultiValue
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from operators.dicom_loader.headers import Header, Unreadable, read_header
from tests.operators.dicom_loader.builders import make_classic_series, make_enhanced, write_files


def _one() -> Dataset:
    dataset = make_classic_series(slope=2.5)[2]
    inner = Dataset()
    inner.CodeValue = "1"
    nested = Dataset()
    nested.ConceptCodeSequence = [inner]
    dataset.ProcedureCodeSequence = [nested, inner]
    return dataset


def _check(header: Header | Unreadable, dataset: Dataset) -> None:
    assert isinstance(header, Header)
    assert not header.truncated
    assert header.text("SOPInstanceUID") == dataset.SOPInstanceUID
    assert header.text("SeriesInstanceUID") == dataset.SeriesInstanceUID
    position = [float(value) for value in dataset.ImagePositionPatient]
    assert header.numbers("ImagePositionPatient") == pytest.approx(position, abs=1e-9)
    assert header.binary("Rows", "US") == dataset.Rows
    assert header.number("RescaleSlope") == 2.5
    assert header.decoded("PatientName") == "Sørensen^Åse"


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_every_encoding_is_read(tmp_path: Path, syntax: str) -> None:
    dataset = _one()
    bare = Dataset()
    bare.update(dataset)
    bare.file_meta = dataset.file_meta
    bare.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "image"
    dcmwrite(path, bare, enforce_file_format=True)
    _check(read_header(path), dataset)


@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_of_undefined_length_are_skipped(tmp_path: Path, undefined: bool) -> None:
    dataset = _one()
    for element in (dataset["ProcedureCodeSequence"],):
        element.is_undefined_length = undefined
        for item in element.value:
            item.is_undefined_length_sequence_item = undefined
    path = write_files([dataset], tmp_path)[0]
    assert (b"\xff\xff\xff\xff" in path.read_bytes()) == undefined
    _check(read_header(path), dataset)


@pytest.mark.parametrize("implicit", [False, True])
def test_file_without_preamble_and_meta(tmp_path: Path, implicit: bool) -> None:
    dataset = _one()
    bare = Dataset()
    bare.update(dataset)
    path = tmp_path / "bare.ima"
    bare.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"
    _check(read_header(path), dataset)


def test_file_without_meta_but_with_preamble(tmp_path: Path) -> None:
    dataset = _one()
    bare = Dataset()
    bare.update(dataset)
    bare.save_as(tmp_path / "bare", implicit_vr=True, little_endian=True)
    path = tmp_path / "image"
    path.write_bytes(b"\0" * 128 + b"DICM" + (tmp_path / "bare").read_bytes())
    _check(read_header(path), dataset)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"This is a text file named .dcm\n" * 20, "not DICOM"),
        (b"\x08\x00", "not DICOM"),
        (b"\x08\x00" + b"\xff" * 400, "not DICOM"),
        (b"%PDF-1.7\n" + b"x" * 300, "not DICOM"),
    ],
)
def test_other_files_are_not_dicom(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    found = read_header(path)
    assert isinstance(found, Unreadable)
    assert found.reason == reason
    assert not found.damaged


def test_prefix_without_content_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"\0" * 128 + b"DICM")
    found = read_header(path)
    assert isinstance(found, Unreadable)
    assert found.damaged


def test_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_files([_one()], tmp_path)[0]

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    found = read_header(path)
    assert isinstance(found, Unreadable)
    assert found.damaged
    assert "PermissionError" in found.reason


def test_truncation_is_seen_at_every_length(tmp_path: Path) -> None:
    dataset = _one()
    whole = write_files([dataset], tmp_path)[0].read_bytes()
    path = tmp_path / "short"
    named = 0
    for length in range(140, len(whole), 7):
        path.write_bytes(whole[:length])
        found = read_header(path)
        if isinstance(found, Unreadable):
            assert found.damaged
            named += found.series_uid == dataset.SeriesInstanceUID
        else:
            in_pixels = length >= len(whole) - len(dataset.PixelData) - 12
            assert found.truncated or not in_pixels
    assert named > 10


def test_large_headers_are_read_beyond_the_first_block(tmp_path: Path) -> None:
    dataset = _one()
    block = dataset.private_block(0x0019, "LARGE", create=True)
    block.add_new(0x10, "OB", b"\1" * 700_000)
    _check(read_header(write_files([dataset], tmp_path)[0]), dataset)


def test_irregular_value_representation_is_left_to_pydicom(tmp_path: Path) -> None:
    dataset = _one()
    path = write_files([dataset], tmp_path)[0]
    data = path.read_bytes()
    at = data.index(b"\x08\x00\x70\x00LO")
    path.write_bytes(data[: at + 4] + b"ZZ" + data[at + 6 :])
    _check(read_header(path), dataset)


def test_values_agree_with_pydicom_on_real_headers(shared_data: Path) -> None:
    keywords = ("SOPInstanceUID", "EchoTime", "ImagePositionPatient", "ImageType", "PixelSpacing")
    paths = sorted(shared_data.rglob("*.dcm"))
    assert len(paths) > 80
    for path in paths:
        header = read_header(path)
        assert isinstance(header, Header), path
        assert not header.truncated
        dataset = dcmread(path, stop_before_pixels=True)
        for keyword in keywords:
            value = dataset.get(keyword)
            values = value if isinstance(value, MultiValue) else [value]
            expected = () if value in (None, "") else tuple(str(v) for v in values)
            assert header.texts(keyword) == expected, (path, keyword)
        assert header.binary("Rows", "US") == dataset.get("Rows")


def test_truncated_enhanced_image(tmp_path: Path) -> None:
    path = write_files([make_enhanced()], tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    found = read_header(path)
    assert isinstance(found, Unreadable)
    assert found.reason == "truncated"
    assert found.series_uid is not None
