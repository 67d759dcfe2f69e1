"""Planted lesions have the volume, the place and the intensity that the truth says."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model_tools.change.generator import contrast as contrast_module
from model_tools.change.generator.contrast import Contrast
from model_tools.change.generator.plans import make_plan, trial_rng
from model_tools.change.generator.plant import Painted, partial_volume, plant, share_map
from model_tools.change.generator.retest import (
    centre_of,
    noise_level,
    random_rigid,
    second_examination,
)
from model_tools.change.generator.shapes import ball_diameter, ball_volume, occupancy
from tests.model_tools.change.scenes import WHITE, blob, oblique, small_scan, volume

GENERATOR = Path(contrast_module.__file__).parent
HIDDEN = ("operators.longitudinal_comparator", "operators.lesion_segmentation")


def gravity(weight: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of gravity in LPS millimetres."""
    index = np.argwhere(weight > 0)
    values = weight[tuple(index.T)]
    middle = (index * values[:, None]).sum(0) / values.sum()
    return (affine @ [*middle, 1.0])[:3]


def test_no_module_of_the_generator_names_the_comparator() -> None:
    files = sorted(GENERATOR.glob("*.py"))
    assert len(files) >= 7
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            assert not [n for n in names if n.startswith(HIDDEN)], file.name


def test_importing_the_generator_does_not_load_the_comparator() -> None:
    modules = [f"model_tools.change.generator.{p.stem}" for p in sorted(GENERATOR.glob("*.py"))]
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    root = GENERATOR.parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    loaded = json.loads(out.stdout.splitlines()[-1])
    assert "model_tools.change.generator.plans" in loaded
    assert not [name for name in loaded if name.startswith(HIDDEN)]


@pytest.mark.parametrize("diameter", [3.0, 5.0, 8.0, 12.0])
def test_a_shape_gets_exactly_the_volume_and_the_place(diameter: float) -> None:
    centre = np.array([3.3, -41.7, 18.2])
    made = occupancy(blob(), ball_volume(diameter), centre)
    assert made.array.min() >= 0 and made.array.max() <= 1
    found = float(made.array.sum()) * np.prod(made.spacing)
    assert found == pytest.approx(ball_volume(diameter), rel=0.01)
    np.testing.assert_allclose(gravity(made.array, made.affine), centre, atol=0.01)
    assert ball_diameter(ball_volume(diameter)) == pytest.approx(diameter)


@pytest.mark.parametrize("role", ["flair", "t2", "t1"])
@pytest.mark.parametrize(("diameter", "apart_mm"), [(4.0, 0.4), (8.0, 0.1), (12.0, 0.1)])
def test_partial_volume_keeps_volume_and_place_on_oblique_thick_slices(
    role: str, diameter: float, apart_mm: float
) -> None:
    """To 1 % of the volume and 0.1 mm; two slices tell the place of a 4 mm lesion to 0.4 mm."""
    scan = small_scan()
    centre = centre_of(scan.volumes["flair"]) + np.array([3.1, -4.4, 2.2])
    made = occupancy(blob(), ball_volume(diameter), centre)
    image, to_role = scan.volumes[role], scan.flair_to[role]
    shares = share_map([made], image, to_role)
    assert shares.max() <= 1 + 1e-6
    found = float(shares.sum()) * np.prod(image.spacing)
    assert found == pytest.approx(ball_volume(diameter), rel=0.01)
    back = np.linalg.inv(to_role) @ [*gravity(shares, np.asarray(image.affine)), 1.0]
    np.testing.assert_allclose(back[:3], centre, atol=apart_mm)


def test_a_voxel_is_filled_by_what_lies_in_it() -> None:
    """A slab-like thick voxel against the sum of the small cubes inside its box."""
    image = volume((13, 12, 9), (2.0, 2.5, 4.0), np.eye(3), np.zeros(3), 0.0)
    made = occupancy(blob(), 400.0, np.array([0.4, -0.3, 0.8]))
    box, share = partial_volume(made, image, np.eye(4))
    whole = np.zeros(image.spatial_shape)
    whole[box] = share
    index = np.argwhere(made.array > 0)
    points = index * 0.5 + np.asarray(made.affine)[:3, 3]
    to_index = np.linalg.inv(np.asarray(image.affine))
    voxel = np.rint(points @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
    counted = np.zeros(image.spatial_shape)
    np.add.at(counted, tuple(voxel.T), made.array[tuple(index.T)] * 0.125 / 20.0)
    np.testing.assert_allclose(whole, counted, atol=0.1)


def test_a_lesion_outside_the_image_changes_nothing() -> None:
    scan = small_scan()
    far = occupancy(blob(), 200.0, centre_of(scan.volumes["flair"]) + np.array([500.0, 0, 0]))
    assert share_map([far], scan.volumes["flair"]).sum() == 0


def test_planting_adds_contrast_where_the_lesion_is_and_nothing_elsewhere() -> None:
    scan = small_scan()
    centre = centre_of(scan.volumes["flair"]) + np.array([-5.0, 6.0, 1.0])
    made = occupancy(blob(), ball_volume(10.0), centre)
    ratio = {"flair": 1.5, "t2": 1.8, "t1": 0.7}
    for role, image in scan.volumes.items():
        white = scan.tissue.grid.with_array(scan.tissue.white[role])
        to_role = scan.flair_to[role]
        result = plant(image, role, [Painted(made, ratio)], white, to_role, np.linalg.inv(to_role))
        shares = share_map([made], image, to_role)
        expected = WHITE[role] * (1 + shares * (ratio[role] - 1))
        np.testing.assert_allclose(result.array, expected, rtol=1e-4)
        assert (result.array[shares == 0] == WHITE[role]).all()
        assert abs(result.array / WHITE[role] - 1).max() == pytest.approx(
            abs(ratio[role] - 1), rel=0.1
        )
        assert (image.array == WHITE[role]).all(), "the original is left alone"


def _plan(number: int = 0, **kwargs: bool):  # type: ignore[no-untyped-def]
    contrast = Contrast("test/1", {"flair": 1.45, "t2": 1.6, "t1": 0.8})
    return make_plan(
        small_scan(), (blob(),), (contrast,), (), trial_rng("small", "plan", number), **kwargs
    )


def test_a_plan_is_the_same_every_time_and_its_lesions_stay_apart() -> None:
    first, again, other = _plan(), _plan(), _plan(1)
    assert [p.centre_lps_mm for p in first] == [p.centre_lps_mm for p in again]
    assert [p.centre_lps_mm for p in first] != [p.centre_lps_mm for p in other]
    assert {p.kind for p in first} >= {"new", "enlarging"}
    for one in first:
        assert (one.before is None) == (one.kind == "new")
        assert float(one.now.array.sum()) * 0.125 == pytest.approx(one.volume_mm3, rel=0.01)
        for two in first:
            if one.number < two.number:
                apart = np.linalg.norm(np.subtract(one.centre_lps_mm, two.centre_lps_mm))
                assert apart > (one.diameter_mm + two.diameter_mm) / 2 + 7.9
    assert {p.kind for p in _plan(new_only=True)} == {"new"}


def test_the_second_examination_moves_the_head_and_shows_only_earlier_lesions() -> None:
    """The prior has the enlarging lesion at its earlier size, and nothing where the new one is."""
    scan = small_scan()
    plan = _plan()
    grown = next(p for p in plan if p.kind == "enlarging")
    new = next(p for p in plan if p.kind == "new")
    before = [b for p in plan if (b := p.painted_before()) is not None]
    bare = second_examination(scan, trial_rng("small", "motion", 0))
    made = second_examination(scan, trial_rng("small", "motion", 0), before)
    np.testing.assert_array_equal(bare.motion, made.motion)
    centre = centre_of(scan.volumes["flair"])
    assert np.linalg.norm((made.motion @ [*centre, 1.0])[:3] - centre) > 2.0
    for role in scan.volumes:
        to_role = made.motion @ scan.flair_to[role]
        image = made.volumes[role]
        assert not np.allclose(image.affine, scan.volumes[role].affine, atol=0.5)
        grown_share = share_map([grown.before], image, to_role)
        new_share = share_map([new.now], image, to_role)
        others = [p.before for p in plan if p.before is not None]
        assert (share_map(others, image, to_role)[new_share > 0] == 0).all()
        difference = made.volumes[role].array - bare.volumes[role].array
        assert (difference[new_share > 0] == 0).all(), "nothing at the new lesion's place"
        added = float(difference[grown_share > 0].sum()) * np.prod(image.spacing)
        # gain and bias stay within a third
        expected = grown.prior_volume_mm3 * WHITE[role] * (grown.contrast.ratio[role] - 1)
        assert 0.6 < added / expected < 1.5
    found = made.flair_to["t2"] @ made.motion
    np.testing.assert_allclose(found, made.motion @ scan.flair_to["t2"], atol=1e-9)


def test_noise_is_measured_and_added_at_the_scans_own_level() -> None:
    rng = np.random.default_rng(5)
    image = volume((60, 70, 20), (0.7, 0.8, 3.0), oblique((3.0, 4.0, 5.0)), np.zeros(3), 300.0)
    ramp = np.linspace(0, 60, 60, dtype=np.float32)[:, None, None]
    noisy = image.with_array(
        image.array + ramp + rng.normal(0, 12.0, image.array.shape).astype(np.float32)
    )
    inside = np.zeros(image.array.shape, bool)
    inside[6:-6, 6:-6] = True
    assert noise_level(noisy, inside) == pytest.approx(12.0, rel=0.05)


def test_random_rigid_is_rigid_and_within_its_bounds() -> None:
    centre = np.array([10.0, 20.0, -30.0])
    for seed in range(20):
        matrix = random_rigid(np.random.default_rng(seed), centre, 10.0, 15.0)
        turn = matrix[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
        shift = np.linalg.norm((matrix @ [*centre, 1.0])[:3] - centre)
        assert 1.9 < angle <= 10.0 + 1e-6
        assert 2.9 < shift <= 15.0 + 1e-6
