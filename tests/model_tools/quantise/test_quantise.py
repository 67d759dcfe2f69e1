"""A network is quantised, tried on studies held out, kept or refused, and run as int8."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
import SimpleITK as sitk  # noqa: N813
from onnx import TensorProto, helper, numpy_helper

import model_tools.__main__ as command_line
from app.config import load_settings
from model_tools.quantise.command import table
from model_tools.quantise.network import quantised
from model_tools.quantise.package import Limits, quantise_package
from model_tools.quantise.studies import TrialStudy, read_studies
from model_tools.quantise.trial import Recorder
from operators.errors import ConfigurationError, InputError
from operators.geometry import to_sitk
from operators.lesion_segmentation.engine import open_engine
from operators.lesion_segmentation.engine_cache import EngineCache
from operators.lesion_segmentation.model_package import (
    MODEL_FILE,
    ModelPackage,
    load_model_package,
)
from operators.lesion_segmentation.network_source import network_source
from operators.lesion_segmentation.segmentation import segment_study
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.messages import AlignedStudy, Registration, SelectedStudy
from operators.registration.settings import RegistrationSettings
from tests.conftest import ROOT
from tests.e2e import small_study
from tests.operators.lesion_segmentation.builders import (
    channel_network,
    empty_volume,
    paint,
    write_package,
)

PATCH = (24, 16, 20)
SETTINGS = load_settings(ROOT / "app.yaml")
INT8 = LesionSegmentationSettings(precision="int8", threads=1)
FP32 = LesionSegmentationSettings(precision="fp32", threads=1)
MADE = ("ensemble.int8.xml", "ensemble.int8.bin")


def _network() -> onnx.ModelProto:
    """Bright spheres are lesions: two convolutions, an instance norm, and a head for each of two
    members whose answers are averaged."""
    random = np.random.default_rng(5)
    first = random.normal(0, 0.05, (8, 2, 3, 3, 3))
    first[0] = 0
    first[0, 0] = 1 / 27
    second = random.normal(0, 0.05, (8, 8, 3, 3, 3))
    second[0] = 0
    second[0, 0, 1, 1, 1] = 1
    weights = {"w0": first, "w1": second, "scale": np.ones(8), "shift": np.zeros(8)}
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a0"], pads=[1] * 6),
        helper.make_node("LeakyRelu", ["a0"], ["c0"], alpha=0.01),
        helper.make_node("Conv", ["c0", "w1"], ["a1"], pads=[1] * 6),
        helper.make_node("InstanceNormalization", ["a1", "scale", "shift"], ["b1"], epsilon=1e-5),
        helper.make_node("LeakyRelu", ["b1"], ["c1"], alpha=0.01),
    ]
    for member in (0, 1):
        head = np.zeros((2, 8, 1, 1, 1))
        head[1, 0] = 10 + member
        weights |= {f"h{member}": head, f"o{member}": np.array([20.0, 0])}
        nodes.append(
            helper.make_node("Conv", ["c1", f"h{member}", f"o{member}"], [f"member{member}"])
        )
    weights["two"] = np.array(2.0)
    nodes += [
        helper.make_node("Add", ["member0", "member1"], ["sum"]),
        helper.make_node("Div", ["sum", "two"], ["output"]),
    ]
    space = ["z", "y", "x"]
    graph = helper.make_graph(
        nodes,
        "spheres",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 2, *space])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 2, *space])],
        [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _package(folder: Path, **changes: Any) -> ModelPackage:
    return write_package(folder, ("flair", "t2"), _network(), patch=PATCH, **changes)


def _case(folder: Path, name: str, seed: int, lesions: int = 3) -> None:
    """A case as nnU-Net keeps it: oblique, anisotropic, 0 outside the brain."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    centres = random.uniform(-9, 9, (lesions, 3))
    grid = empty_volume((34, 40, 14), (1.3, 0.9, 3.1), (7, -4, 5), (3, -11, 20))
    noise = random.normal(0, 2, grid.spatial_shape)

    def head(points: np.ndarray) -> np.ndarray:
        points = points - [3, -11, 20]
        values = 100 + 0.2 * points[..., 2]
        for centre in centres:
            distance = np.linalg.norm(points - centre, axis=-1)
            values = values + 150 * np.clip(5 - distance, 0, 1)
        return np.where((points / [17, 15, 19]) ** 2 @ [1, 1, 1] <= 1, values, 0.0)

    for channel in (0, 1):
        volume = paint(grid, head)
        values = np.where(volume.array > 0, volume.array + noise * (1 + channel), 0)
        image = to_sitk(volume.with_array(values.astype(np.float32)))
        sitk.WriteImage(image, str(folder / f"{name}_{channel:04d}.nii.gz"))


def _studies(tmp_path: Path, package: ModelPackage) -> tuple[list[TrialStudy], list[TrialStudy]]:
    _case(tmp_path / "calibrate", "one", 1)
    _case(tmp_path / "calibrate", "two", 2)
    _case(tmp_path / "validate", "three", 3)
    first, second = (
        list(read_studies(tmp_path / part, package.description, SETTINGS))
        for part in ("calibrate", "validate")
    )
    return first, second


def _twice_as_fast(engine: Any, tile: np.ndarray) -> float:
    return 1.0 if engine.precision == "int8" else 2.0


def _quantised(tmp_path: Path) -> tuple[ModelPackage, list[TrialStudy]]:
    package = _package(tmp_path / "p")
    calibration, held_out = _studies(tmp_path, package)
    return quantise_package(package, calibration, held_out, seconds=_twice_as_fast), held_out


def test_an_int8_network_runs_through_the_application_s_inference(tmp_path: Path) -> None:
    before = _package(tmp_path / "before")
    package, held_out = _quantised(tmp_path)
    trial = package.description.int8
    assert trial is not None
    assert trial.passed
    assert trial.files == MADE[:1]
    assert set(MADE) <= set(package.description.files)
    assert json.loads((package.folder / MODEL_FILE).read_text())["schema_version"] == "1.2"
    assert trial.speed_up == 2.0
    assert trial.calibrated_on == "2 studies, 16 tiles"
    assert [s.study for s in trial.studies] == ["0.9 × 1.3 × 3.1 mm"]
    assert 0 < trial.studies[0].mean_difference < 0.01
    assert trial.studies[0].dice >= 0.99

    engine = open_engine(package, INT8)
    assert engine.precision == "int8"
    assert engine.name.startswith("OpenVINO")
    exact = open_engine(package, FP32)
    study = held_out[0].study
    found, _ = segment_study(study, package, lambda *_: engine, INT8)
    expected, _ = segment_study(study, package, lambda *_: exact, FP32)
    assert found.model.precision == "int8"
    mask, truth = found.probability.array > 0.5, expected.probability.array > 0.5
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) == trial.studies[0].dice
    difference = np.abs(found.probability.array - expected.probability.array)
    # it is another network than the fp32 one, whose file is as it was
    assert difference.max() > 1e-4
    assert package.network.read_bytes() == before.network.read_bytes()
    assert package.sha256 != before.sha256


def test_first_layer_normalisation_heads_and_mean_stay_in_fp32(tmp_path: Path) -> None:
    package, _ = _quantised(tmp_path)
    model = ov.Core().read_model(package.folder / MADE[0])
    quantised = [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]
    users = {
        port.get_node().get_type_name()
        for node in quantised
        for port in node.output(0).get_target_inputs()
    }
    assert users == {"Convolution"}
    assert len(quantised) == 1
    given = quantised[0].input_value(0).get_node()
    assert given.get_friendly_name() == "c0"
    convolutions = [n for n in model.get_ops() if n.get_type_name() == "Convolution"]
    assert len(convolutions) == 4
    in_int8 = [n for n in convolutions if n.input_value(0).get_node() in quantised]
    assert [n.get_friendly_name() for n in in_int8] == ["a1"]


def test_a_network_without_inner_layers_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p", ("flair", "t2"), channel_network(2, [1, 0]))
    tile = np.zeros((1, 2, *package.description.patch_size_zyx), np.float32)
    with pytest.raises(ConfigurationError, match="no layer that can be quantised"):
        quantised(network_source(package), [tile])


def test_int8_is_an_order_and_never_chosen_otherwise(tmp_path: Path) -> None:
    package, _ = _quantised(tmp_path)
    assert open_engine(package, LesionSegmentationSettings()).precision != "int8"
    with pytest.raises(ConfigurationError, match="int8 networks run in OpenVINO only"):
        open_engine(package, LesionSegmentationSettings(engine="onnxruntime", precision="int8"))
    bare = _package(tmp_path / "bare")
    with pytest.raises(ConfigurationError, match="holds no int8 network") as caught:
        open_engine(bare, INT8)
    assert caught.value.subject == "model package bare"
    assert "model_tools quantise" in caught.value.remedy


def test_the_cache_keeps_int8_and_other_networks_apart(tmp_path: Path) -> None:
    package, _ = _quantised(tmp_path)
    cache = EngineCache(tmp_path / "engines")
    batch = np.random.default_rng(1).normal(size=(1, 2, *PATCH)).astype(np.float32)
    for _ in range(2):
        int8 = open_engine(package, INT8, cache=cache).run(batch)
        exact = open_engine(package, FP32, cache=cache).run(batch)
        assert not np.array_equal(int8, exact)
    names = sorted(path.name for path in (tmp_path / "engines").glob("*.json"))
    assert [name.split("-")[1] for name in names] == ["fp32", "int8"]


@pytest.mark.parametrize("name", MADE)
def test_a_damaged_int8_file_is_refused(tmp_path: Path, name: str) -> None:
    package, _ = _quantised(tmp_path)
    content = bytearray((package.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (package.folder / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{name} is missing or differs"):
        load_model_package(package.folder)
    (package.folder / name).unlink()
    with pytest.raises(ConfigurationError, match=f"{name} is missing or differs"):
        load_model_package(package.folder)


@pytest.mark.parametrize("short_of", ["dice", "speed"])
def test_what_does_not_reach_the_limits_is_recorded_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_of: str
) -> None:
    package, held_out = _quantised(tmp_path)
    calibration, _ = _studies(tmp_path, package)
    limits = Limits(speed_up=2.5)
    if short_of == "dice":
        limits = Limits()
        # ranges a hundredth of what they should be: nearly every value is cut off
        monkeypatch.setattr(
            "model_tools.quantise.package.quantised",
            lambda source, tiles: quantised(source, [tile / 100 for tile in tiles]),
        )
    refused = quantise_package(
        package, calibration, held_out, limits=limits, seconds=_twice_as_fast
    )
    trial = refused.description.int8
    assert trial is not None
    assert not trial.passed
    assert trial.files == ()
    assert (trial.studies[0].dice < 0.9) == (short_of == "dice")
    # the earlier int8 network is gone with its trial
    assert not [name for name in MADE if (package.folder / name).exists()]
    assert set(refused.description.files) == {"ensemble.onnx"}
    assert "refused" in table(trial)
    with pytest.raises(ConfigurationError, match=r"was tried and refused \(Dice") as caught:
        open_engine(refused, INT8)
    assert '"auto"' in caught.value.remedy
    assert open_engine(refused, FP32).precision == "fp32"


def test_what_is_wrong_with_the_studies_is_said(tmp_path: Path) -> None:
    package = _package(tmp_path / "p")
    calibration, held_out = _studies(tmp_path, package)
    with pytest.raises(ConfigurationError, match="no study to calibrate or none to validate"):
        quantise_package(package, [], held_out)
    with pytest.raises(ConfigurationError, match="1 of its studies are also among"):
        quantise_package(package, calibration, [*held_out, calibration[1]])
    with pytest.raises(ConfigurationError, match="given twice"):
        quantise_package(package, calibration, [*held_out, *held_out])
    _case(tmp_path / "healthy", "four", 4, lesions=0)
    healthy = read_studies(tmp_path / "healthy", package.description, SETTINGS)
    strict = _package(tmp_path / "strict", threshold=0.999999)
    with pytest.raises(ConfigurationError, match="finds no lesion"):
        quantise_package(strict, calibration, healthy, seconds=_twice_as_fast)
    for folder in (package.folder, strict.folder):
        assert load_model_package(folder).description.int8 is None


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    description = _package(tmp_path / "p").description

    def refused(folder: Path, match: str) -> None:
        with pytest.raises(InputError, match=match):
            read_studies(folder, description, SETTINGS)

    refused(tmp_path / "absent", "not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty")
    _case(tmp_path / "one_channel", "a", 1)
    (tmp_path / "one_channel" / "a_0001.nii.gz").unlink()
    refused(tmp_path / "one_channel", r"channels 0000; the package takes 2 \(flair, t2\)")
    _case(tmp_path / "broken", "a", 1)
    (tmp_path / "broken" / "a_0001.nii.gz").write_bytes(b"no image")
    refused(tmp_path / "broken", "cannot be read")
    _case(tmp_path / "other_grid", "a", 1)
    path = tmp_path / "other_grid" / "a_0001.nii.gz"
    image = sitk.ReadImage(str(path))
    image.SetOrigin([value + 2 for value in image.GetOrigin()])
    sitk.WriteImage(image, str(path))
    refused(tmp_path / "other_grid", "another grid")
    _case(tmp_path / "heads", "a", 1)
    for path in (tmp_path / "heads").iterdir():
        sitk.WriteImage(sitk.ReadImage(str(path)) + 1000, str(path))
    refused(tmp_path / "heads", "not 0 outside the brain")


def test_dicom_goes_through_the_application_s_own_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def aligned(study: SelectedStudy, settings: RegistrationSettings) -> AlignedStudy:
        # without the search for brain and motion, which takes its time
        assert settings == SETTINGS.registration
        same = Registration(np.eye(4), 0.0, 0.0, 1.2, accepted=True)
        flair = study.series["flair"].volume
        brain = flair.with_array(flair.array > 200)
        others = dict.fromkeys(set(study.series) - {"flair"}, same)
        return AlignedStudy(study, others, brain, np.eye(4))

    monkeypatch.setattr("model_tools.quantise.studies.align_alone", aligned)
    folder = small_study.write(small_study.study(), tmp_path / "dicom")
    two, three = (
        _package(tmp_path / "two").description,
        write_package(tmp_path / "three").description,
    )
    (found,) = read_studies(folder, two, SETTINGS)
    assert found.title == "1.7 × 1.9 × 3.3 mm"
    assert set(found.study.selected.series) == {"flair", "t2"}
    again = small_study.write(small_study.study(), tmp_path / "again")
    assert read_studies(again, two, SETTINGS)[0].fingerprint == found.fingerprint
    with pytest.raises(InputError, match=r"no study with the series .* \(flair, t2, t1\)"):
        read_studies(folder, three, SETTINGS)


def test_an_error_of_the_command_is_one_line_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = _package(tmp_path / "p")
    _studies(tmp_path, package)
    arguments = ["quantise", str(package.folder), "--calibrate", str(tmp_path / "calibrate")]
    arguments += ["--validate", str(tmp_path / "calibrate")]
    monkeypatch.setattr(sys, "argv", ["model_tools", *arguments])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 3
    assert capsys.readouterr().err.startswith("--validate: 2 of its studies are also among")


def test_tiles_are_kept_with_the_same_chance() -> None:
    class Echo:
        name = precision = "none"

        def run(self, batch: np.ndarray) -> np.ndarray:
            return batch

    recorder = Recorder(Echo(), 5)
    for number in range(400):
        recorder.run(np.full((1, 1, 1, 1, 1), number, np.float32))
    kept = sorted(float(tile.max()) for tile in recorder.tiles)
    assert len(set(kept)) == 5
    assert kept[0] < 250
    assert kept[-1] > 150
