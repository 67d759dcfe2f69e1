"""Checkpoints are read with allow-lists: what would run code is refused, and does not run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_tools.importing.pickles import load_checkpoint, load_pickle, network_weights
from model_tools.importing.trained import Choice
from model_tools.importing.v1 import read_v1
from model_tools.importing.v2 import read_v2
from operators.errors import ConfigurationError
from tests.model_tools.importing.builders import Malicious, write_v1, write_v2


def _pickled(content: Any, path: Path) -> None:
    with path.open("wb") as stream:
        pickle.dump(content, stream)


def _zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def _legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


KINDS = [
    ("checkpoint_final.pth", _zipped, load_checkpoint),
    ("checkpoint_best.pth", _legacy, load_checkpoint),
    ("model_best.model", _zipped, load_checkpoint),
    ("model_final_checkpoint.model", _legacy, load_checkpoint),
    ("model_best.model.pkl", _pickled, load_pickle),
    ("plans.pkl", _pickled, load_pickle),
]


@pytest.mark.parametrize(("name", "write", "load"), KINDS, ids=[kind[0] for kind in KINDS])
def test_code_in_any_kind_of_file_is_refused_and_not_run(
    tmp_path: Path,
    name: str,
    write: Callable[[Any, Path], None],
    load: Callable[[Path], Any],
) -> None:
    mark = tmp_path / "owned"
    path = tmp_path / name
    write({"epoch": 1, "hidden": [Malicious(mark)]}, path)
    with pytest.raises(ConfigurationError, match=r"posix\.mkdir") as caught:
        load(path)
    assert name in str(caught.value)
    assert "not executed" in str(caught.value)
    assert not mark.exists()
    # the same bytes do run where they are trusted: the test would notice
    if write is _pickled:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_whole_folder_with_a_malicious_file_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    bad = {"hidden": Malicious(mark)}
    with pytest.raises(ConfigurationError, match="run code"):
        read_v2(write_v2(tmp_path / "v2", extra=bad), Choice())
    model = read_v1(write_v1(tmp_path / "v1", extra=bad), Choice())
    with pytest.raises(ConfigurationError, match="run code"):
        model.stages[0].load(model.stages[0].checkpoints[0])
    for number, name in enumerate(("plans.pkl", "fold_0/model_final_checkpoint.model.pkl")):
        folder = write_v1(tmp_path / f"v1_{number}")
        content = pickle.loads((folder / name).read_bytes()) | bad
        _pickled(content, folder / name)
        with pytest.raises(ConfigurationError, match="run code"):
            read_v1(folder, Choice())
    assert not mark.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"c__builtin__\nexec\n.",
        b"ctorch.storage\n_load_from_bytes\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"ccollections\nOrderedDict.__init__.__globals__\n.",
        b"\x80\x04\x8c\x0bcollections\x8c\x0dabc.Container\x93.",
    ],
)
def test_names_beside_the_allow_list_are_refused(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "plans.pkl"
    path.write_bytes(stream)
    with pytest.raises(ConfigurationError, match="could run code"):
        load_pickle(path)


def test_an_array_of_objects_cannot_smuggle_code_in(tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    _pickled({"sizes": np.array([Malicious(mark)], dtype=object)}, tmp_path / "plans.pkl")
    with pytest.raises(ConfigurationError, match="could run code"):
        load_pickle(tmp_path / "plans.pkl")
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04", b"(lp0\n", b"PK\x03\x04broken"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plans.pkl").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"plans\.pkl: It is damaged"):
        load_pickle(tmp_path / "plans.pkl")
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"a\.pth: It is damaged"):
        load_checkpoint(tmp_path / "a.pth")


def test_a_truncated_checkpoint_is_damaged(tmp_path: Path) -> None:
    for write in (_zipped, _legacy):
        write({"network_weights": {"a": torch.ones(500)}}, tmp_path / "a.pth")
        whole = (tmp_path / "a.pth").read_bytes()
        (tmp_path / "a.pth").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ConfigurationError, match="damaged"):
            load_checkpoint(tmp_path / "a.pth")


def test_what_nnunet_keeps_in_its_pickles_is_read(tmp_path: Path) -> None:
    content = {
        "sizes": [(1, 2, 3)],
        "spacing": np.array([1.0, 2.0]),
        "mean": np.float64(3.5),
        "count": np.int64(4),
        "classes": {1, 2},
    }
    _pickled(content, tmp_path / "plans.pkl")
    found = load_pickle(tmp_path / "plans.pkl")
    np.testing.assert_array_equal(found.pop("spacing"), content.pop("spacing"))
    assert found == content


def test_weights_lose_the_prefixes_of_wrappers(tmp_path: Path) -> None:
    weights = {"module._orig_mod.a": torch.ones(2), "b": torch.zeros(1)}
    for write in (_zipped, _legacy):
        write({"state_dict": weights}, tmp_path / "a.model")
        assert list(network_weights(tmp_path / "a.model", "state_dict")) == ["a", "b"]


def test_weights_that_are_missing_or_not_finite_are_refused(tmp_path: Path) -> None:
    _zipped({"state_dict": {"a": torch.tensor([1.0, float("nan")])}}, tmp_path / "a.model")
    with pytest.raises(ConfigurationError, match="not finite"):
        network_weights(tmp_path / "a.model", "state_dict")
    with pytest.raises(ConfigurationError, match="no checkpoint of nnU-Net"):
        network_weights(tmp_path / "a.model", "network_weights")
