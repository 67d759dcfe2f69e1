"""The whole command on small cases: a table with DICOM and NIfTI, and a BIDS folder."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dask.distributed import LocalCluster

from demo.wrap import TimePoint, WrappedPatient, wrap_patient
from model_tools.__main__ import main
from model_tools.evaluate.runner import workers_for
from operators.errors import ConfigurationError
from tests.conftest import ROOT

MODELS = ROOT / "models"
# oblique, anisotropic, non-cubic
SPACING = (1.1, 1.0, 2.5)
DIRECTION = (0.98, -0.199, 0.0, 0.199, 0.98, 0.0, 0.0, 0.0, 1.0)


def write(array: np.ndarray, path: Path) -> Path:
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing(SPACING)
    image.SetDirection(DIRECTION)
    image.SetOrigin((-40.0, -35.0, 10.0))
    sitk.WriteImage(image, str(path))
    return path


def make_case(folder: Path, seed: int) -> None:
    """A ball of white matter with bright lesions, 0 outside it, FLAIR, T2 and T1 on one grid."""
    rng = np.random.default_rng(seed)
    shape = (26, 64, 60)
    where = np.indices(shape).astype(float)
    centre = (np.array(shape) - 1) / 2
    size = np.array((SPACING[2], SPACING[1], SPACING[0]))
    distance = np.sqrt((((where.T - centre) * size) ** 2).sum(-1)).T
    brain = distance < 27
    lesions = np.zeros(shape, bool)
    for _ in range(4):
        place = centre + rng.uniform(-14, 14, 3) / size
        lesions |= rng.uniform(3.5, 6) > np.sqrt((((where.T - place) * size) ** 2).sum(-1)).T
    for role, (normal, lesion) in {"flair": (100, 190), "t2": (100, 200), "t1": (100, 60)}.items():
        values = np.where(lesions, lesion, normal) + rng.normal(0, 3, shape)
        write(np.where(brain, values, 0), folder / f"{seed}_{role}.nii.gz")
    write(lesions & brain, folder / f"{seed}_mask.nii.gz")


def as_dicom(path: Path, role: str, folder: Path) -> str:
    """A series of whole numbers, as scanners write them; its folder's name."""
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(path.with_suffix(".whole.nii")))
    source = {role: path.with_suffix(".whole.nii")}
    wrap_patient([TimePoint(source)], WrappedPatient("case1"), folder / f"dicom_{role}")
    return f"dicom_{role}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    lines = ["case,flair,t2,t1,reference,second_rater,scanner,aligned,seen_by"]
    for seed in (1, 2, 3):
        make_case(folder, seed)
        flair, t2 = f"{seed}_flair.nii.gz", f"{seed}_t2.nii.gz"
        if seed == 2:
            flair, t2 = (
                as_dicom(folder / f"2_{role}.nii.gz", role, folder) for role in ("flair", "t2")
            )
        t1 = "" if seed == 3 else f"{seed}_t1.nii.gz"
        rater = f"{seed}_mask.nii.gz" if seed == 1 else ""
        lines.append(
            f"c{seed},{flair},{t2},{t1},{seed}_mask.nii.gz,{rater},"
            f"{'A' if seed < 3 else 'B'},yes,{'member' if seed == 3 else ''}"
        )
    lines.append("c4,1_flair.nii.gz,1_t2.nii.gz,,,,,yes,")
    path = folder / "cases.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def evaluate(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["model_tools", "evaluate", *map(str, arguments)])
    main()


def test_evaluation_of_models_side_by_side(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text(
        "dice: {min: 0.3}\nfalse_positives: {max: 100}\nby_load: {under 5 ml: {f1: {min: 0.3}}}\n"
    )
    # a whole ensemble, and single members where one network proves as much
    arguments = [
        table,
        *("-m", f"full={MODELS / 'brain_ms_flair_t2_t1'}"),
        *("-m", f"two={MODELS / 'brain_ms_flair_t2'}#2"),
        *("-m", f"member={MODELS / 'brain_ms_flair_t2'}#0", "-m", "classical"),
        *("-o", tmp_path / "out", "--limits", limits, "--left-out", "A=two"),
        *("--training-cases", "full=20", "--training-cases", "two=10"),
    ]
    evaluate(monkeypatch, *arguments, "--jobs", 1)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    names = ("full", "two", "member", "classical", "second_rater")
    full, two, member, classical, rater = (summary["models"][name] for name in names)
    counts = [summary["models"][name]["cases"] for name in names]
    assert counts == [2, 3, 2, 3, 1]
    assert "It has no t1" in full["failures"]["c3"]
    assert (member["seen"], member["failures"]) == (["c3"], {})
    assert rater["metrics"]["dice"]["mean"] == 1
    # bright balls in plain white matter: any network that works at all finds most of them
    assert two["metrics"]["dice"]["mean"] > 0.3
    assert two["passed"] is True
    own = two["by_threshold"][f"{two['threshold']:g}"]
    assert own["dice"] == pytest.approx(two["metrics"]["dice"]["mean"])
    assert own["f1"] == pytest.approx(two["metrics"]["f1"]["mean"])
    assert classical["by_threshold"] == rater["by_threshold"] == {}
    assert classical["roles"] == ["flair"]
    assert full["package"].startswith("brain_ms_flair_t2_t1 ")
    assert two["package"].startswith("member 2 of brain_ms_flair_t2 ")
    assert summary["made"]["Data set"] == "cases.csv, 4 cases, 3 with a reference"
    assert {one["scanner"] for one in summary["left_out"]} == {"A"}
    assert {(one["first"], one["second"]) for one in summary["without_t1"]} == {
        ("full", "two"),
        ("full", "member"),
    }
    regions = two["by_region"]
    assert sum(part["lesions"] for part in regions.values()) == sum(
        part["lesions"] for part in two["by_size"].values()
    )
    alone = two["without_reference"]["c4"]
    assert alone["lesions"] > 0
    assert alone["ml"] > 0
    with (tmp_path / "out/cases.csv").open() as stream:
        rows = {(row["case"], row["model"]): row for row in csv.DictReader(stream)}
    assert rows["c4", "two"]["dice"] == ""
    assert float(rows["c4", "two"]["shown_ml"]) == pytest.approx(alone["ml"], rel=1e-4)
    assert "recall_periventricular" in rows["c1", "two"]
    # the DICOM case is as good as the others
    assert float(rows["c2", "two"]["dice"]) > 0.3
    assert (tmp_path / "out/report.pdf").read_bytes().startswith(b"%PDF")
    page = (tmp_path / "out/report.html").read_text()
    assert "PASS" in page
    assert (
        page.count("data:image/png") == 6
    )  # volumes, thresholds, load, scanner, left out, training
    assert page.count("data:image/jpeg") == 4  # a picture of each case
    for title in ("Lesions by region", "Without the T1", "Cases without a reference"):
        assert f"<h2>{title}</h2>" in page
    said = capsys.readouterr()
    assert "two: 3 cases" in said.out
    assert "1 without a reference" in said.out
    assert "4/4 c4, two:" in said.err

    # a second run does nothing again, whatever the way the work is spread
    answer = tmp_path / "out/answers/two/c1.json"
    before = answer.stat().st_mtime_ns
    (tmp_path / "out/answers/two/c2.json").write_text("{ broken")
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        # stricter limits are known to the shell, and the report is there all the same
        limits.write_text("dice: {min: 0.999}\n")
        with pytest.raises(SystemExit) as stop:
            evaluate(
                monkeypatch, *arguments, "--scheduler", cluster.scheduler_address, "--pictures", 1
            )
    assert stop.value.code == 4
    assert "full: 2 cases" in capsys.readouterr().out
    assert answer.stat().st_mtime_ns == before
    again = json.loads((tmp_path / "out/summary.json").read_text())["models"]["two"]
    # the case that was made anew had another number of threads, which may move a voxel
    for metric in ("dice", "f1"):
        assert again["metrics"][metric]["mean"] == pytest.approx(
            two["metrics"][metric]["mean"], abs=0.01
        )
    assert again["cases"] == 3
    assert (tmp_path / "out/report.html").read_text().count("data:image/jpeg") == 1


def test_a_bids_folder_in_processes_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sessions at once, one without the T1, which is replaced by zeros as asked for."""
    folder = tmp_path / "bids"
    for name, seed in (("sub-01/ses-1", 3), ("sub-01/ses-2", 4)):
        stem = name.replace("/", "_")
        anatomy, derived = folder / name / "anat", folder / "derivatives/manual" / name / "anat"
        anatomy.mkdir(parents=True)
        derived.mkdir(parents=True)
        make_case(tmp_path, seed)
        for role, suffix in (("flair", "FLAIR"), ("t2", "T2w"), ("t1", "T1w")):
            if (role, seed) != ("t1", 4):
                (tmp_path / f"{seed}_{role}.nii.gz").rename(anatomy / f"{stem}_{suffix}.nii.gz")
        (tmp_path / f"{seed}_mask.nii.gz").rename(derived / f"{stem}_dseg.nii.gz")
        (anatomy / f"{stem}_FLAIR.json").write_text('{"MagneticFieldStrength": 3}')
    (folder / "participants.tsv").write_text("participant_id\taligned\nsub-01\tyes\n")
    arguments = [
        folder,
        *("-m", f"full={MODELS / 'brain_ms_flair_t2_t1'}#0", "-o", tmp_path / "out"),
        *("--jobs", 2, "--memory-gb", 5, "--fill-missing", "--pictures", 0),
    ]
    evaluate(monkeypatch, *arguments)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    full = summary["models"]["full"]
    assert (full["cases"], full["failures"]) == (2, {})
    assert full["metrics"]["dice"]["mean"] > 0.3
    assert full["by_field_strength"]["3"]["dice"]["cases"] == 2
    told = json.loads((tmp_path / "out/answers/full/sub-01_ses-2.json").read_text())
    assert told["remark"] == "t1 replaced by zeros"
    said = capsys.readouterr().err
    assert "2/2 sub-01_ses-" in said


def test_faulty_arguments(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = MODELS / "brain_ms_flair_t2"
    for arguments, message in (
        ((table, "-m", model, "-m", model, "-o", tmp_path), "same name"),
        ((table, "-m", f"reference={model}", "-o", tmp_path), "same name"),
        ((table, "-m", f"../x={model}", "-o", tmp_path), "must be letters"),
        ((table, "-m", "classical:1,2", "-o", tmp_path), "must not be below"),
        ((table, "-m", f"{model}#7", "-o", tmp_path), "no member 7"),
        ((table, "-m", model, "-o", tmp_path, "--left-out", "A=x"), "x is no model"),
        (
            (table, "-m", f"m={model}", "-o", tmp_path, "--left-out", "Z=m"),
            "No case has the scanner Z",
        ),
        (
            (table, "-m", f"m={model}", "-o", tmp_path, "--training-cases", "m=many"),
            "many is no number",
        ),
        ((table, "-m", tmp_path, "-o", tmp_path), "model.json is missing"),
        ((tmp_path / "x.csv", "-m", model, "-o", tmp_path), "no such file"),
    ):
        with pytest.raises(SystemExit) as stop:
            evaluate(monkeypatch, *arguments)
        assert stop.value.code == ConfigurationError.exit_code
        assert message in capsys.readouterr().err


def test_memory_limits_the_cases_at_once() -> None:
    assert workers_for(6.0, 8) <= 2
    assert workers_for(0.5, None) == 1
    assert workers_for(1000.0, 1) == 1
