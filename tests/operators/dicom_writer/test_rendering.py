"""Pictures: the right voxel at the right millimetre, in every plane and with any spacing."""

from __future__ import annotations

from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from PIL import Image

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.rendering import (
    brain_window,
    build_scene,
    draw_outline,
    lesion_names,
    mask_outlines,
    place_callouts,
)
from operators.messages import FollowUp
from tests.operators.followup_example import CENTRE, LESIONS, make_follow_up


@pytest.fixture(scope="module")
def follow_up(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("follow_up"))


def _replaced(follow_up: FollowUp, axes: tuple[int, int, int], flips: list[int]) -> FollowUp:
    """The same patient with the current FLAIR acquired in another plane or direction."""

    def turned(volume: hd.Volume) -> hd.Volume:
        permuted = volume.permute_spatial_axes(axes)
        return permuted.flip_spatial(flips) if flips else permuted

    aligned = follow_up.probabilities.aligned
    flair = aligned.current.selected.series["flair"]
    flair = replace(flair, volume=turned(flair.volume))
    selected = replace(
        aligned.current.selected, series={**aligned.current.selected.series, "flair": flair}
    )
    current = replace(
        aligned.current, selected=selected, brain_mask=turned(aligned.current.brain_mask)
    )
    aligned = replace(
        aligned, current=current, selected=replace(aligned.selected, current=selected)
    )
    assert follow_up.prior_labels is not None
    return replace(
        follow_up,
        probabilities=replace(follow_up.probabilities, aligned=aligned),
        labels=turned(follow_up.labels),
        prior_labels=turned(follow_up.prior_labels),
    )


PLANES = [
    pytest.param((0, 1, 2), [], ("R", "L", "A", "P"), id="axial"),
    pytest.param((0, 1, 2), [0, 2], ("R", "L", "A", "P"), id="axial, head first, mirrored"),
    pytest.param((2, 0, 1), [], ("A", "P", "H", "F"), id="sagittal"),
    pytest.param((2, 1, 0), [1], ("A", "P", "H", "F"), id="sagittal, turned"),
    pytest.param((1, 0, 2), [], ("R", "L", "H", "F"), id="coronal"),
]


@pytest.mark.parametrize(("axes", "flips", "letters"), PLANES)
def test_the_acquired_plane_is_shown_in_the_radiological_convention(
    follow_up: FollowUp,
    axes: tuple[int, int, int],
    flips: list[int],
    letters: tuple[str, str, str, str],
) -> None:
    turned = _replaced(follow_up, axes, flips)
    scene = build_scene(turned)
    assert scene.side_letters() == letters
    source = turned.probabilities.aligned.current.selected.series["flair"].volume
    assert scene.flair.spatial_shape[0] == source.spatial_shape[0]
    for shown in (0, scene.flair.spatial_shape[0] - 1):
        index = scene.source_slices[shown]
        assert np.sort(scene.flair.array[shown].ravel()) == pytest.approx(
            np.sort(source.array[index].ravel())
        )


@pytest.mark.parametrize(("axes", "flips", "letters"), PLANES)
def test_a_picture_shows_the_intensity_of_its_own_millimetres(
    follow_up: FollowUp,
    axes: tuple[int, int, int],
    flips: list[int],
    letters: tuple[str, str, str, str],
) -> None:
    scene = build_scene(_replaced(follow_up, axes, flips))
    shape = scene.flair.spatial_shape
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    points = grid @ scene.flair.affine[:3, :3].T + scene.flair.affine[:3, 3]
    slope = np.array([0.7, -1.1, 0.4])
    ramp = replace(scene, flair=scene.flair.with_array((points @ slope).astype(np.float32)))
    index = ramp.shown_slices[len(ramp.shown_slices) // 2]
    field = ramp.brain_field(256, -10.0)
    for row, column in ((60, 70), (128, 128), (190, 80), (100, 200)):
        expected = float(ramp.position_of(index, field, row, column) @ slope)
        # a tenth of a millimetre in any direction is about one grey level
        narrow = replace(ramp, window=(expected - 10.0, expected + 10.0))
        grey = np.asarray(narrow.picture(index, field))[row, column, 0]
        assert float(grey) == pytest.approx(127.5, abs=1.0), letters


def test_pixels_are_square_although_voxels_are_not(follow_up: FollowUp) -> None:
    scene = build_scene(follow_up)
    assert scene.in_plane_spacing[0] != pytest.approx(scene.in_plane_spacing[1])
    lesion = scene.lesions[1]
    index = scene.largest_slice(lesion)
    assert index is not None
    field = scene.field_around(scene.centre_in_plane(lesion), 50.0, 500)
    outline = next(one for one in scene.outlines(index) if one.lesion is lesion)
    pixels = np.concatenate(
        [field.pixels_of(line, scene.in_plane_spacing) for line in outline.lines]
    )
    height, width = np.ptp(pixels, axis=0) * field.pixel_mm
    diameter = 2 * LESIONS[1].now[0][1]
    assert height == pytest.approx(diameter, abs=2.1)
    assert width == pytest.approx(diameter, abs=1.8)


def test_the_prior_is_shown_at_the_same_place(follow_up: FollowUp) -> None:
    scene = build_scene(follow_up)
    assert scene.prior_flair is not None
    assert scene.prior_labels is not None
    resolved = scene.lesions[-1]
    assert resolved.change == "resolved"
    index = scene.largest_slice(resolved)
    assert index is not None
    field = scene.field_around(scene.centre_in_plane(resolved), 40.0, 200)
    before = np.asarray(scene.picture(index, field, prior=True))[..., 0]
    now = np.asarray(scene.picture(index, field))[..., 0]
    assert before[95:105, 95:105].mean() > 200
    assert now[95:105, 95:105].mean() < 170
    assert any(one.lesion is resolved for one in scene.outlines(index))
    position = scene.position_of(index, field, 99.5, 99.5)
    offset = position - (CENTRE + np.array(LESIONS[-1].before[0][0]))
    through_plane = offset @ scene.flair.direction[:, 0]
    in_plane = offset - through_plane * scene.flair.direction[:, 0]
    assert np.linalg.norm(in_plane) < 1.5


def test_only_slices_with_brain_or_lesion_are_shown(follow_up: FollowUp) -> None:
    scene = build_scene(follow_up)
    shown = scene.shown_slices
    assert shown.start > 0
    assert shown.stop <= scene.flair.spatial_shape[0]
    for index in range(scene.flair.spatial_shape[0]):
        assert scene.brain[index].any() == (index in shown)


def test_without_comparison_nothing_of_the_prior_is_shown(follow_up: FollowUp) -> None:
    registration = follow_up.probabilities.aligned.prior_to_current
    assert registration is not None
    aligned = replace(
        follow_up.probabilities.aligned, prior_to_current=replace(registration, accepted=False)
    )
    refused = replace(
        follow_up,
        probabilities=replace(follow_up.probabilities, aligned=aligned),
        prior_labels=None,
    )
    scene = build_scene(refused)
    assert scene.prior_flair is None
    with pytest.raises(ValueError, match="no prior"):
        scene.picture(5, scene.brain_field(64, 0.0), prior=True)


def test_outlines_run_half_way_between_inside_and_outside() -> None:
    mask = np.zeros((7, 9), dtype=bool)
    mask[2:5, 3:7] = True
    (line,) = mask_outlines(mask)
    assert line.min(axis=0).tolist() == [1.5, 2.5]
    assert line.max(axis=0).tolist() == [4.5, 6.5]
    assert line[0].tolist() == line[-1].tolist()
    whole = mask_outlines(np.ones((2, 3), dtype=bool))
    assert whole[0].min() == -0.5


def test_a_hole_has_an_outline_of_its_own() -> None:
    mask = np.ones((7, 7), dtype=bool)
    mask[3, 3] = False
    assert len(mask_outlines(mask)) == 2


def test_a_dashed_contour_has_gaps_and_a_solid_one_has_none() -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    line = 50.0 + 30.0 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    for change, complete in (("new", True), ("resolved", False)):
        picture = Image.new("RGB", (100, 100), (90, 90, 90))
        draw_outline(picture, line, change)  # type: ignore[arg-type]
        colour = np.array(CHANGE_COLOURS[change])  # type: ignore[index]
        pixels = np.asarray(picture).astype(int)
        on_circle = pixels[np.rint(line[:, 0]).astype(int), np.rint(line[:, 1]).astype(int)]
        near = np.abs(on_circle - colour).max(axis=1) < 120
        assert near.all() == complete
        assert near.mean() > 0.3


def test_a_contour_across_the_border_does_not_fail() -> None:
    picture = Image.new("RGB", (60, 60))
    line = np.array([[-20.0, -20.0], [-20.0, 30.0], [30.0, 30.0], [30.0, -20.0], [-20.0, -20.0]])
    draw_outline(picture, line, "new")
    assert np.asarray(picture)[30, 10].any()
    draw_outline(picture, line - 500.0, "new")


def test_callouts_keep_clear_of_other_lesions(follow_up: FollowUp) -> None:
    scene = build_scene(follow_up)
    field = scene.brain_field(576, 14.0)
    for index in scene.shown_slices:
        outlines = scene.outlines(index)
        for callout in place_callouts(scene, field, outlines):
            spot = callout.edge + 15.0 * callout.outwards
            for other in outlines:
                for line in other.lines:
                    pixels = field.pixels_of(line, scene.in_plane_spacing)
                    assert np.linalg.norm(pixels - spot, axis=1).min() > 8.0


def test_names_are_segment_numbers_and_r_for_resolved(follow_up: FollowUp) -> None:
    names = lesion_names(follow_up.lesions)
    assert [names[lesion.tracking_uid] for lesion in follow_up.lesions] == [
        "1", "2", "3", "4", "5", "6", "7", "r1",
    ]  # fmt: skip


def test_a_constant_image_still_has_a_window() -> None:
    low, high = brain_window(np.full((3, 4, 5), 7.0), np.ones((3, 4, 5), dtype=bool))
    assert high > low
