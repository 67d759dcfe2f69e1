"""Members taken out of the shipped ensemble."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_tools.evaluate.members import extract_member, member_outputs
from model_tools.export import openvino_logits
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import load_model_package
from tests.conftest import ROOT

PACKAGE = ROOT / "models/brain_ms_flair_t2"


def test_the_members_mean_is_the_ensemble(tmp_path: Path) -> None:
    whole = load_model_package(PACKAGE)
    patch = whole.description.patch_size_zyx
    image = np.random.default_rng(4).standard_normal((1, len(whole.roles), *patch))
    image = image.astype(np.float32)
    parts = []
    for number in range(whole.description.folds):
        folder = extract_member(PACKAGE, number, tmp_path / f"m{number}")
        part = load_model_package(folder)
        assert (part.description.folds, part.roles) == (1, whole.roles)
        assert part.description.threshold == whole.description.threshold
        parts.append(openvino_logits(part.network, image, "f32"))
    assert np.abs(parts[0] - parts[1]).max() > 0.01, "members differ"
    expected = openvino_logits(whole.network, image, "f32")
    assert np.allclose(np.mean(parts, axis=0), expected, atol=1e-3)


def test_a_member_that_is_there_is_kept_until_the_package_changes(tmp_path: Path) -> None:
    folder = extract_member(PACKAGE, 1, tmp_path / "one")
    before = (folder / "ensemble.onnx").stat().st_mtime_ns
    extract_member(PACKAGE, 1, folder)
    assert (folder / "ensemble.onnx").stat().st_mtime_ns == before
    first = load_model_package(folder).sha256
    extract_member(PACKAGE, 2, folder)
    assert load_model_package(folder).sha256 != first


def test_what_has_no_members_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no member 9"):
        extract_member(PACKAGE, 9, tmp_path / "x")
    one = extract_member(PACKAGE, 0, tmp_path / "one")
    assert member_outputs(onnx.load(one / "ensemble.onnx")) == []
    with pytest.raises(ConfigurationError, match="not a mean of members"):
        extract_member(one, 0, tmp_path / "y")
