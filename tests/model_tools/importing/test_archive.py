"""Zips are unpacked inside their folder only, and not beyond limits; the right folder is found."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from model_tools.importing import archive
from model_tools.importing.archive import choose_folder, opened, result_folders, unpack
from operators.errors import ConfigurationError

V2 = "Dataset001_X/nnUNetTrainer__nnUNetPlans__3d_fullres"


def _zip(path: Path, names: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        for name, content in names.items():
            stream.writestr(name, content)
    return path


def _unpacked(source: Path, target: Path) -> Path:
    target.mkdir()
    unpack(source, target)
    return target


def test_only_what_is_needed_is_unpacked(tmp_path: Path) -> None:
    source = _zip(
        tmp_path / "a.zip",
        {
            f"{V2}/plans.json": b"{}",
            f"{V2}/dataset.json": b"{}",
            f"{V2}/fold_0/checkpoint_final.pth": b"weights",
            f"{V2}/fold_0/progress.png": b"picture",
            f"{V2}/fold_0/validation/summary.json": b"{}",
            f"{V2}/postprocessing.pkl": b"code",
            "Task/plans.pkl": b"",
            "Task/fold_1/model_best.model": b"",
            "Task/fold_1/model_best.model.pkl": b"",
        },
    )
    target = _unpacked(source, tmp_path / "out")
    files = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert files == [
        f"{V2}/dataset.json",
        f"{V2}/fold_0/checkpoint_final.pth",
        f"{V2}/plans.json",
        "Task/fold_1/model_best.model",
        "Task/fold_1/model_best.model.pkl",
        "Task/plans.pkl",
    ]
    assert (target / V2 / "fold_0/checkpoint_final.pth").read_bytes() == b"weights"


@pytest.mark.parametrize(
    "name",
    [
        "../plans.json",
        "a/../../plans.json",
        "/tmp/plans.json",
        "C:\\plans.json",
        "a\\..\\..\\plans.json",
        "../notes.txt",
    ],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    source = _zip(tmp_path / "a.zip", {"plans.json": b"{}", name: b"bad"})
    with pytest.raises(ConfigurationError, match="leaves the folder"):
        _unpacked(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "out"]


def test_links_are_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("plans.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as stream:
        stream.writestr(entry, "/etc/passwd")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        _unpacked(tmp_path / "a.zip", tmp_path / "out")


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _zip(tmp_path / "a.zip", {"plans.json": bytes(2**20)})
    with pytest.raises(ConfigurationError, match="far more than weights"):
        _unpacked(source, tmp_path / "ratio")
    monkeypatch.setattr(archive, "LARGEST_RATIO", 10**6)
    monkeypatch.setattr(archive, "LARGEST_TOTAL", 2**19)
    with pytest.raises(ConfigurationError, match="too many files, or unpacks"):
        _unpacked(source, tmp_path / "size")
    monkeypatch.setattr(archive, "LARGEST_TOTAL", 2**30)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 0)
    with pytest.raises(ConfigurationError, match="too many files"):
        _unpacked(source, tmp_path / "count")
    for name in ("ratio", "size", "count"):
        assert not list((tmp_path / name).iterdir())


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _zip(tmp_path / "a.zip", {"plans.json": b"{}"})
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1}))
    with pytest.raises(ConfigurationError, match="more than the disk has free"):
        _unpacked(source, tmp_path / "out")


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    source = _zip(tmp_path / "a.zip", {"plans.json": b"0123456789" * 100})
    content = bytearray(source.read_bytes())
    content[45] ^= 0xFF
    source.write_bytes(content)
    with pytest.raises(ConfigurationError, match="damaged"):
        _unpacked(source, tmp_path / "out")
    (tmp_path / "b.zip").write_bytes(b"no zip")
    with (
        pytest.raises(ConfigurationError, match="neither a folder nor a zip"),
        opened(tmp_path / "b.zip", None, tmp_path),
    ):
        pass


def _folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / ("plans.pkl" if "Task" in name else "plans.json")).touch()
    return root


def test_the_folder_itself_or_one_below_is_found(tmp_path: Path) -> None:
    root = _folders(tmp_path, V2)
    assert choose_folder(root, root, None) == root / V2
    assert choose_folder(root / V2, root, None) == root / V2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"empty: it holds neither plans\.json"):
        choose_folder(tmp_path / "empty", tmp_path / "empty", None)


def test_one_of_several_must_be_named(tmp_path: Path) -> None:
    stem = "Dataset001_X/nnUNetTrainer__nnUNetPlans__"
    root = _folders(tmp_path, f"{stem}3d_lowres", f"{stem}3d_cascade_fullres", f"{stem}3d_fullres")
    assert len(result_folders(root)) == 3
    with pytest.raises(ConfigurationError, match=r"several trained models.*--configuration"):
        choose_folder(root, root, None)
    for name in ("3d_fullres", "3d_cascade_fullres"):
        assert choose_folder(root, root, name) == root / f"{stem}{name}"
    with pytest.raises(ConfigurationError, match="none of its trained models"):
        choose_folder(root, root, "2d")


def test_v1_archives_are_told_apart_by_their_path(tmp_path: Path) -> None:
    root = _folders(tmp_path, "3d_fullres/Task5_X/T__P", "3d_lowres/Task5_X/T__P")
    assert choose_folder(root, root, "3d_lowres") == root / "3d_lowres/Task5_X/T__P"


def test_what_was_unpacked_is_removed(tmp_path: Path) -> None:
    source = _zip(tmp_path / "a.zip", {f"{V2}/plans.json": b"{}"})
    (tmp_path / "work").mkdir()
    with opened(source, None, tmp_path / "work") as folder:
        assert (folder / "plans.json").is_file()
    assert not list((tmp_path / "work").iterdir())
