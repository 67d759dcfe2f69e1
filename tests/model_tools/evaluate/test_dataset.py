"""Tables and BIDS folders, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_tools.evaluate.dataset import read_dataset
from operators.errors import ConfigurationError


def table(folder: Path, text: str, name: str = "cases.csv") -> Path:
    for file in ("a.nii.gz", "b.nii.gz", "mask.nii.gz"):
        (folder / file).touch()
    path = folder / name
    path.write_text(text)
    return path


def test_table(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "case,flair,t2,reference,scanner,aligned\n"
        "c1,a.nii.gz,b.nii.gz,mask.nii.gz,Aera,yes\nc2,a.nii.gz,,mask.nii.gz,,\n",
    )
    first, second = read_dataset(path)
    assert first.images == {"flair": tmp_path / "a.nii.gz", "t2": tmp_path / "b.nii.gz"}
    assert (first.scanner, first.aligned, second.aligned) == ("Aera", True, False)
    assert set(second.images) == {"flair"}


def test_tab_separated_table_with_a_role_of_its_own(tmp_path: Path) -> None:
    path = table(tmp_path, "case\tpsir\treference\nc\ta.nii.gz\tmask.nii.gz\n", "cases.tsv")
    assert set(read_dataset(path)[0].images) == {"psir"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flair,reference\n", "column case is missing"),
        ("case,flair\n", "column reference is missing"),
        ("case,reference\nc,mask.nii.gz\n", "No column holds images"),
        ("case,flair,reference\n", "holds no case"),
        ("case,flair,reference\nc,x.nii.gz,mask.nii.gz\n", "Line 2: flair is not there"),
        ("case,flair,reference\nc,,mask.nii.gz\n", "there is no image"),
        (
            "case,flair,reference,second_rater\nc,a.nii.gz,,mask.nii.gz\n",
            "second rater without a reference",
        ),
        ("case,flair,reference\n../c,a.nii.gz,mask.nii.gz\n", "must be letters"),
        (
            "case,flair,reference\nc,a.nii.gz,mask.nii.gz\nc,a.nii.gz,mask.nii.gz\n",
            "Line 3: case c stands twice",
        ),
        ("case,flair,reference\nc,a.nii.gz,mask.nii.gz,x\n", "Line 2 has more cells"),
        ("case,flair,reference,aligned\nc,a.nii.gz,mask.nii.gz,1\n", "aligned must be"),
    ],
)
def test_faulty_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_dataset(table(tmp_path, text))


def bids(folder: Path) -> Path:
    for name in (
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz",
        "sub-02/anat/sub-02_FLAIR.nii.gz",
        "derivatives/lesions/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_mask.nii.gz",
        "derivatives/lesions/sub-01/ses-2/anat/sub-01_ses-2_dseg.nii.gz",
        "derivatives/lesions/sub-02/anat/sub-02_dseg.nii.gz",
        "derivatives/brain/sub-02/anat/sub-02_desc-brain_mask.nii.gz",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "participants.tsv").write_text("participant_id\tscanner\nsub-02\tPrisma\n")
    return folder


def test_bids_folder(tmp_path: Path) -> None:
    one, two, three = read_dataset(bids(tmp_path))
    assert [one.name, two.name, three.name] == ["sub-01_ses-1", "sub-01_ses-2", "sub-02"]
    assert set(one.images) == {"flair", "t1"}
    assert one.reference.name == "sub-01_ses-1_label-lesion_mask.nii.gz"
    assert (three.brain is not None, three.scanner) == (True, "Prisma")


def test_bids_says_the_scanner_beside_the_image_or_in_its_table(tmp_path: Path) -> None:
    folder = bids(tmp_path)
    beside = folder / "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.json"
    beside.write_text(
        '{"Manufacturer": "Siemens", "ManufacturersModelName": "Aera",'
        ' "MagneticFieldStrength": 1.5}'
    )
    beside = folder / "sub-02/anat/sub-02_FLAIR.json"
    beside.write_text('{"ManufacturersModelName": "Skyra", "MagneticFieldStrength": 3}')
    (folder / "participants.tsv").write_text(
        "participant_id\tscanner\taligned\tgroup\nsub-01\tn/a\tyes\tn/a\nsub-02\tPrisma\tno\t2D\n"
    )
    rater = folder / "derivatives/rater2/sub-02/anat/sub-02_dseg.nii.gz"
    rater.parent.mkdir(parents=True)
    rater.touch()
    one, two, three = read_dataset(folder)
    assert (one.scanner, one.field_strength, one.aligned) == ("Siemens Aera", "1.5", True)
    assert (two.scanner, two.field_strength, two.aligned, two.group) == ("", "", True, "")
    assert (three.scanner, three.field_strength, three.aligned) == ("Prisma", "3", False)
    assert (three.second_rater, three.group, two.second_rater) == (rater, "2D", None)
    beside.write_text("{")
    with pytest.raises(ConfigurationError, match="no JSON"):
        read_dataset(folder)
    beside.unlink()
    (folder / "derivatives/lesions/sub-02/anat/sub-02_dseg.nii.gz").unlink()
    with pytest.raises(ConfigurationError, match="second rater without a reference"):
        read_dataset(folder)
    (folder / "participants.tsv").write_text("participant_id\taligned\nsub-01\t1\n")
    with pytest.raises(ConfigurationError, match="aligned must be"):
        read_dataset(folder)


def test_bids_session_without_a_mask_has_no_reference(tmp_path: Path) -> None:
    mask = next(bids(tmp_path).rglob("sub-02_dseg.nii.gz"))
    mask.with_name("sub-02_desc-two_dseg.nii.gz").touch()
    with pytest.raises(ConfigurationError, match="sub-02 has 2 lesion masks"):
        read_dataset(tmp_path)
    mask.with_name("sub-02_desc-two_dseg.nii.gz").unlink()
    mask.unlink()
    assert [case.reference is None for case in read_dataset(tmp_path)] == [False, False, True]


def test_case_without_a_reference_and_with_what_the_report_groups_by(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "case,flair,reference,ignore,group,seen_by\n"
        "c1,a.nii.gz,,,2D,\nc2,a.nii.gz,mask.nii.gz,b.nii.gz,3D,one; two\n",
    )
    first, second = read_dataset(path)
    assert (first.reference, first.ignore, first.seen_by) == (None, None, ())
    assert (second.ignore, second.group) == (tmp_path / "b.nii.gz", "3D")
    assert second.seen_by == ("one", "two")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        read_dataset(tmp_path / "x.csv")
    with pytest.raises(ConfigurationError, match="no sub-"):
        read_dataset(tmp_path)
