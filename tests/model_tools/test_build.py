"""Engines for other GPUs, built here without one: the shipped ensemble and a published-size one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorrt_rtx
import torch

from model_tools.__main__ import main
from model_tools.build import SHIPPED_TARGETS, build_engines
from model_tools.importing.generic_unet import GenericUNet, GenericUNetPlan
from model_tools.importing.graph import ensemble_graph, export_member
from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine_cache import EngineCache
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import NETWORK_FILE, load_model_package
from operators.lesion_segmentation.network_source import (
    NetworkShape,
    NetworkSource,
    network_source,
)
from operators.lesion_segmentation.tensorrt_build import (
    GpuPrecision,
    build_engine,
    prepare_network,
)
from operators.lesion_segmentation.tensorrt_engine import engine_key
from tests.conftest import ROOT
from tests.model_tools.published_size import PARAMETERS
from tests.operators.lesion_segmentation.builders import random_network, write_package

SHIPPED = ROOT / "models" / "brain_ms_flair_t2_t1"
MEMORY_LIMIT_KB = 8_000_000


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Write to the terminal, past the capture of output, so that it stands in CI's log."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")

    def write(text: str) -> None:
        if reporter is not None:
            reporter.ensure_newline()
            for line in text.splitlines():
                reporter.write_line(line)

    return write


def _run(*arguments: object) -> None:
    sys.argv = ["model_tools", *map(str, arguments)]
    main()


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_the_shipped_ensemble_is_built_for_every_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], report: Callable[[str], None]
) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in SHIPPED.iterdir()}
    targets = [word for target in SHIPPED_TARGETS for word in ("--target", target)]
    _run("build", SHIPPED, *targets, "-o", tmp_path / "engines")
    printed = capsys.readouterr().out
    report(f"\nTensorRT for RTX {tensorrt_rtx.__version__}, {SHIPPED.name}:\n{printed}")
    source = network_source(load_model_package(SHIPPED))
    cache = EngineCache(None, (tmp_path / "engines",))
    blobs = {}
    for target in SHIPPED_TARGETS:
        key = engine_key(source, "tensorrt_rtx", tensorrt_rtx.__version__, "fp16", target)
        blob = cache.get(key)
        assert blob is not None
        assert blob[1:4] == b"trt"
        assert target in printed
        blobs[target] = blob
    assert len(set(blobs.values())) == len(SHIPPED_TARGETS)
    # weights in fp16, as in the package; in fp32 it would be twice that
    weights = source.file.stat().st_size
    assert all(weights < len(blob) < 1.5 * weights for blob in blobs.values())
    assert {p.name: p.stat().st_mtime_ns for p in SHIPPED.iterdir()} == before
    # a second call finds them
    _run("build", SHIPPED, "--target", "SM120", "-o", tmp_path / "engines")
    assert "there" in capsys.readouterr().out


def test_a_published_size_ensemble_is_built_for_every_target(
    tmp_path: Path, report: Callable[[str], None]
) -> None:
    command = [sys.executable, "-m", "tests.model_tools.published_size", str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    printed = (tmp_path / "log").read_text()
    assert process.returncode == 0, printed
    lines = [line for line in printed.splitlines() if line.startswith(("network ", NETWORK_FILE))]
    report(
        f"\nTensorRT for RTX {tensorrt_rtx.__version__}, five folds of base 32, patch 128³:\n"
        + "\n".join(lines)
        + f"\npeak memory {usage.ru_maxrss / 1e6:.1f} GB, processor {usage.ru_utime:.0f} s, both "
        "with the export"
    )
    assert len(lines) == 1 + len(SHIPPED_TARGETS)
    assert usage.ru_maxrss < MEMORY_LIMIT_KB
    weights = (tmp_path / "published" / NETWORK_FILE).stat().st_size
    assert weights > 2 * PARAMETERS
    found = {}
    for manifest in (tmp_path / "engines").glob("*.json"):
        content = json.loads(manifest.read_text())
        assert content["key"]["options"]["batch"] == 1
        found[content["key"]["device"]] = content["bytes"]
        file = tmp_path / "engines" / content["file"]
        assert file.stat().st_size == content["bytes"]
        file.unlink()
    assert sorted(found) == sorted(SHIPPED_TARGETS)
    assert all(weights < nbytes < 1.1 * weights for nbytes in found.values())


def test_both_networks_of_a_cascade_are_built(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p", ("flair", "t2"), random_network(3))
    onnx.save(random_network(2, seed=1), package.folder / "lowres.onnx")
    lowres = Network(
        file="lowres.onnx", stage="lowres", spacing_zyx_mm=(2, 2, 2), patch_size_zyx=(16, 12, 8)
    )
    networks = (lowres, package.description.networks[0])
    files = package.description.files | {"lowres.onnx": "1" * 64}
    package.description = package.description.model_copy(
        update={"networks": networks, "files": files}
    )
    built = build_engines(package, ("sm86",), tmp_path / "engines", precision="bf16")
    assert [(b.network, b.target, b.precision) for b in built] == [
        ("lowres.onnx", "sm86", "bf16"),
        (NETWORK_FILE, "sm86", "bf16"),
    ]
    assert len(list((tmp_path / "engines").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("--target", "sm90"),
            r"--target: sm90 is not among the targets of TensorRT for RTX .*sm89",
        ),
        (("--target", "rtx4090"), "rtx4090 is not among"),
        (("-o", "INSIDE"), "A model package is read-only"),
        (("-o", "OCCUPIED"), "output folder file: An engine cannot be written"),
    ],
)
def test_what_cannot_be_built_is_an_error(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, str],
    reason: str,
) -> None:
    package = write_package(tmp_path / "p")
    (tmp_path / "file").write_text("no folder")
    places = {"INSIDE": package.folder / "engines", "OCCUPIED": tmp_path / "file"}
    option, value = arguments
    more = ("--target", "sm89") if option == "-o" else ("-o", tmp_path / "engines")
    with pytest.raises(SystemExit) as stopped:
        _run("build", package.folder, option, places.get(value, value), *more)
    assert stopped.value.code == 3
    assert re.search(reason, capsys.readouterr().err)
    assert sorted(p.name for p in package.folder.iterdir()) == [NETWORK_FILE, "model.json"]


def test_a_network_that_differs_from_its_description_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p", ("flair", "t2"), random_network(3))
    with pytest.raises(ConfigurationError, match="has the tensors"):
        build_engines(package, ("sm89",), tmp_path / "engines")


def _residual() -> torch.nn.Module:
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    return ResidualEncoderUNet(
        input_channels=2,
        n_stages=3,
        features_per_stage=[4, 8, 8],
        conv_op=torch.nn.Conv3d,
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        n_blocks_per_stage=[1, 1, 1],
        num_classes=3,
        n_conv_per_stage_decoder=[1, 1],
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    ).eval()


def _version_1() -> torch.nn.Module:
    plan = GenericUNetPlan(
        channels=2,
        labels=3,
        base_features=4,
        strides=((1, 2, 2), (2, 2, 2)),
        kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    )
    return GenericUNet(plan).eval()


@pytest.mark.parametrize(
    ("network", "averaging", "mirror_axes"),
    [(_residual, "logits", (0, 2)), (_version_1, "softmax", (0, 1, 2))],
)
def test_imported_networks_can_be_built_with_their_mirrors(
    tmp_path: Path,
    network: Callable[[], torch.nn.Module],
    averaging: Literal["logits", "softmax"],
    mirror_axes: tuple[int, ...],
) -> None:
    patch = (8, 16, 24)
    torch.manual_seed(3)
    folds = [network().state_dict() for _ in range(2)]
    model = ensemble_graph(export_member(network(), 2, patch), folds, averaging, mirror_axes)
    file = tmp_path / NETWORK_FILE
    onnx.save(model, file)
    source = NetworkSource("p", "p 1", file, "0" * 64, NetworkShape(2, 3, patch), (file,))
    precisions: tuple[GpuPrecision, ...] = ("fp32", "bf16", "fp16")
    prepared = {precision: prepare_network(file, precision) for precision in precisions}
    for content in prepared.values():
        assert build_engine(tensorrt_rtx, source, content, "sm120")[1:4] == b"trt"
    image = np.random.default_rng(3).normal(size=(1, 2, *patch)).astype(np.float32)
    exact, half = (
        onnxruntime.InferenceSession(content).run(None, {"image": image})[0]
        for content in (str(file), prepared["fp16"])
    )
    assert 0 < np.abs(exact - half).max() < 5e-3 * np.ptp(exact)
