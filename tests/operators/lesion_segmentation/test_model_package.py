from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import (
    MODEL_FILE,
    NETWORK_FILE,
    ModelDescription,
    ModelPackage,
    choose_package,
    file_sha256,
    find_packages,
    load_model_package,
    write_model_description,
)
from tests.operators.lesion_segmentation.builders import random_network, write_package


def test_the_package_with_the_most_usable_roles_is_chosen(tmp_path: Path) -> None:
    write_package(tmp_path / "three")
    write_package(tmp_path / "two", ("flair", "t2"))
    packages = find_packages(tmp_path)

    assert [p.folder.name for p in packages] == ["three", "two"]
    assert choose_package(packages, {"flair", "t2", "t1"}).roles == ("flair", "t2", "t1")
    assert choose_package(packages, {"flair", "t2"}).roles == ("flair", "t2")
    with pytest.raises(ConfigurationError) as caught:
        choose_package(packages, {"flair", "t1"})
    assert "three needs flair, t2, t1" in str(caught.value)
    assert "series found (flair, t1)" in str(caught.value)


def test_two_equally_good_packages_are_ambiguous_until_one_is_named(tmp_path: Path) -> None:
    write_package(tmp_path / "a")
    write_package(tmp_path / "b")
    with pytest.raises(ConfigurationError, match=r"\(a, b\)"):
        choose_package(find_packages(tmp_path), {"flair", "t2", "t1"})
    assert [p.folder.name for p in find_packages(tmp_path, "b")] == ["b"]
    with pytest.raises(ConfigurationError, match="model package c"):
        find_packages(tmp_path, "c")


def test_the_folder_may_be_the_package(tmp_path: Path) -> None:
    write_package(tmp_path / "only")
    assert find_packages(tmp_path / "only")[0].folder.name == "only"


def test_a_folder_without_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no model package"):
        find_packages(tmp_path)


def test_the_identity_changes_with_network_and_description(tmp_path: Path) -> None:
    first = write_package(tmp_path / "a")
    same = write_package(tmp_path / "x" / "a")
    other = write_package(tmp_path / "y" / "a", threshold=0.4)
    assert first.sha256 == same.sha256 != other.sha256


def test_a_changed_network_is_refused(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "a").folder
    with (folder / NETWORK_FILE).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ConfigurationError, match=r"ensemble\.onnx is missing or differs"):
        load_model_package(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", {"background": 0, "tumour": 1}),  # target_labels still says lesion
        ("labels", {"background": 1, "lesion": 0}),
        ("mirror_axes", [3]),
        ("channels", [{"role": "t2", "normalisation": "zscore_in_mask"}]),  # no reference_role
        ("networks", [{"spacing_zyx_mm": [1, 0, 1], "patch_size_zyx": [16, 16, 16]}]),
        ("unknown", 1),
    ],
)
def test_a_description_that_breaks_a_rule_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    folder = write_package(tmp_path / "a").folder
    content = json.loads((folder / MODEL_FILE).read_text())
    content[key] = value
    (folder / MODEL_FILE).write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="model package a"):
        load_model_package(folder)


def test_the_files_of_a_cascade_are_all_checked(tmp_path: Path) -> None:
    folder = tmp_path / "cascade"
    folder.mkdir()
    onnx.save(random_network(2, seed=1), folder / "lowres.onnx")
    package = write_cascade(folder)
    low, full = package.description.networks
    assert package.network == package.network_file(full) == folder / NETWORK_FILE
    assert package.network_file(low) == folder / "lowres.onnx"
    assert package.network_sha256(low) != package.network_sha256(full)
    (folder / "lowres.onnx").write_bytes(b"other")
    with pytest.raises(ConfigurationError, match=r"lowres\.onnx is missing or differs"):
        load_model_package(folder)


def write_cascade(folder: Path) -> ModelPackage:
    content = json.loads(
        (write_package(folder / "single", ("flair", "t2")).folder / MODEL_FILE).read_text()
    )
    onnx.save(random_network(3, seed=2), folder / NETWORK_FILE)
    geometry = {"spacing_zyx_mm": [1, 1, 1], "patch_size_zyx": [16, 16, 16]}
    names = (NETWORK_FILE, "lowres.onnx")
    content |= {
        "preprocessing": "nnunet",
        "resampling": {},
        "networks": [{"file": "lowres.onnx", "stage": "lowres"} | geometry, geometry],
        "files": {name: file_sha256(folder / name) for name in names},
    }
    write_model_description(folder, ModelDescription.model_validate(content))
    return load_model_package(folder)
