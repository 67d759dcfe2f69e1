from __future__ import annotations

import json
from pathlib import Path

import pytest

from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import (
    MODEL_FILE,
    NETWORK_FILE,
    choose_package,
    find_packages,
    load_model_package,
)
from tests.operators.lesion_segmentation.builders import write_package


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
        ("labels", {"background": 0, "tumour": 1}),
        ("labels", {"background": 1, "lesion": 0}),
        ("mirror_axes", [3]),
        ("channels", [{"role": "t2", "normalisation": "zscore_in_mask"}]),
        ("spacing_zyx_mm", [1, 0, 1]),
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
