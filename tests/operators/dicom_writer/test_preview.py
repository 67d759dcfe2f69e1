"""The preview series: a PACS can scroll it, and what it shows lies where the patient has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage
from scipy import ndimage

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.common import OutputContext
from operators.dicom_writer.preview import HEADER_PX, PICTURE_PX, write_preview
from operators.dicom_writer.rendering import build_scene
from operators.dicom_writer.report import write_report
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.messages import FollowUp, Lesion, Totals
from tests.operators.dicom_writer.validators import entity_errors, object_errors
from tests.operators.followup_example import CENTRE, LESIONS, make_follow_up

CREATED = datetime(2024, 6, 13, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    follow_up: FollowUp
    paths: list[Path]
    images: list[Dataset]
    source: list[Path]


def _case(folder: Path, **options: bool) -> Case:
    follow_up = make_follow_up(folder, **options)
    context = OutputContext(follow_up, created=CREATED, seed="test")
    paths = write_preview(folder / "dicom", context)
    source = sorted((folder / "source" / "current").rglob("*.dcm"))
    return Case(follow_up, paths, [dcmread(path) for path in paths], source)


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return _case(tmp_path_factory.mktemp("classic"))


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return _case(tmp_path_factory.mktemp("enhanced"), enhanced=True)


def _position(image: Dataset, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """LPS millimetres of pixels, by the image's own attributes (PS3.3 C.7.6.2.1.1); (n, 3)."""
    origin = np.array(image.ImagePositionPatient, dtype=float)
    along_row = np.array(image.ImageOrientationPatient[:3], dtype=float)
    along_column = np.array(image.ImageOrientationPatient[3:], dtype=float)
    between_rows, between_columns = (float(value) for value in image.PixelSpacing)
    return (
        origin
        + columns[:, None] * along_row * between_columns
        + rows[:, None] * along_column * between_rows
    )


def _coloured(image: Dataset, change: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that are nearly in a change's colour, in the pane of the
    current study."""
    pixels = image.pixel_array.astype(int)
    near = np.abs(pixels - CHANGE_COLOURS[change]).max(axis=2) < 70  # type: ignore[index]
    near[:HEADER_PX] = False
    near[HEADER_PX + PICTURE_PX :] = False
    near[:, : image.Columns - PICTURE_PX] = False
    return np.nonzero(near)


def _panes(image: Dataset) -> list[np.ndarray]:
    """The pictures beside each other, without header and legend."""
    pixels = image.pixel_array[HEADER_PX : HEADER_PX + PICTURE_PX]
    return [pixels[:, left : left + PICTURE_PX] for left in range(0, pixels.shape[1], PICTURE_PX)]


def test_one_image_for_each_slice_with_brain_in_order(classic: Case) -> None:
    brain = classic.follow_up.probabilities.aligned.current.brain_mask.array
    assert len(classic.images) == brain.any(axis=(1, 2)).sum()
    numbers = [int(image.InstanceNumber) for image in classic.images]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len({image.SeriesInstanceUID for image in classic.images}) == 1
    assert len({image.SOPInstanceUID for image in classic.images}) == len(numbers)
    heights = [float(image.ImagePositionPatient[2]) for image in classic.images]
    assert heights == sorted(heights), "from feet to head"


def test_images_are_plain_rgb_secondary_captures(classic: Case) -> None:
    for image in classic.images:
        assert image.SOPClassUID == SecondaryCaptureImageStorage
        assert image.file_meta.TransferSyntaxUID == RLELossless
        assert image.PhotometricInterpretation == "RGB"
        assert (image.Columns, image.BitsAllocated) == (2 * PICTURE_PX, 8)
        assert image.BurnedInAnnotation == "NO"
        assert image.BodyPartExamined == "BRAIN"
        assert image.pixel_array.shape == (image.Rows, image.Columns, 3)
    assert len({image.Rows for image in classic.images}) == 1


@pytest.mark.parametrize("name", ["classic", "enhanced"])
def test_contours_lie_at_the_lesions_millimetres(name: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(name)
    scene = build_scene(case.follow_up)
    labels = case.follow_up.labels
    flair = case.follow_up.probabilities.aligned.current.selected.series["flair"]
    checked = set()
    for image, shown in zip(case.images, scene.shown_slices, strict=True):
        reference = image.SourceImageSequence[0]
        if "ReferencedFrameNumber" in reference:
            assert flair.series.frame_numbers is not None
            index = flair.series.frame_numbers.index(int(reference.ReferencedFrameNumber))
        else:
            uids = [header.SOPInstanceUID for header in flair.headers]
            index = uids.index(reference.ReferencedSOPInstanceUID)
        normal = labels.direction[:, 0]
        plane = labels.affine @ (index, 0, 0, 1)
        corner = np.array(image.ImagePositionPatient, dtype=float)
        assert abs((corner - plane[:3]) @ normal) < 1e-3, "the picture lies in its source's plane"
        for number, planted in enumerate(LESIONS[:7], start=1):
            lesion = case.follow_up.lesions[number - 1]
            inside = np.argwhere(labels.array[index] == number)
            # in its largest slice the lesion's number stands beside it in the same colour
            if len(inside) < 4 or scene.largest_slice(lesion) == shown or len(planted.now) > 1:
                continue
            if planted.change not in ("stable", "shrinking"):
                continue
            points = np.column_stack([np.full(len(inside), index), inside])
            points = points @ labels.affine[:3, :3].T + labels.affine[:3, 3]
            rows, columns = _coloured(image, planted.change)
            found = _position(image, rows, columns)
            found = found[np.linalg.norm(found - lesion.centroid_lps_mm, axis=1) < 25.0]
            assert len(found) > 20
            middle = (found.min(axis=0) + found.max(axis=0)) / 2.0
            expected = (points.min(axis=0) + points.max(axis=0)) / 2.0
            assert np.linalg.norm(middle - expected) < 0.7
            centre = CENTRE + np.array(planted.now[0][0])
            distance = np.linalg.norm(found - centre, axis=1)
            assert np.abs(distance - planted.now[0][1]).max() < 2.0, "within a voxel of the ball"
            checked.add(number)
    assert len(checked) == 2


def test_pixels_are_square_in_millimetres(classic: Case) -> None:
    source = classic.follow_up.probabilities.aligned.current.selected.series["flair"]
    assert source.headers[0].PixelSpacing[0] != source.headers[0].PixelSpacing[1]
    for image in classic.images:
        assert image.PixelSpacing[0] == image.PixelSpacing[1]
    middle = classic.images[len(classic.images) // 2]
    grey = _panes(middle)[-1][:, :-30, 0]
    # the analytic head's skull is black, so the brain is the bright part around the middle
    parts, _ = ndimage.label(grey > 70)
    brain = parts == parts[PICTURE_PX // 3, PICTURE_PX // 2 + 40]
    rows = np.flatnonzero(brain.any(axis=1))
    columns = np.flatnonzero(brain.any(axis=0))
    ratio = np.ptp(rows) / np.ptp(columns)
    assert ratio == pytest.approx(72.0 / 58.0, rel=0.05), "the brain's true length to width"


def test_slices_refer_to_their_source_and_its_frame_of_reference(
    classic: Case, enhanced: Case
) -> None:
    for case in (classic, enhanced):
        flair = case.follow_up.probabilities.aligned.current.selected.series["flair"]
        known = {header.SOPInstanceUID for header in flair.headers}
        used = set()
        for image in case.images:
            reference = image.SourceImageSequence[0]
            assert reference.ReferencedSOPInstanceUID in known
            used.add((reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")))
            assert image.FrameOfReferenceUID == flair.headers[0].FrameOfReferenceUID
            assert image.PatientOrientation == ["L", "P"]
        assert len(used) == len(case.images)


def test_new_lesions_are_marked_in_every_slice_they_are_in(classic: Case) -> None:
    scene = build_scene(classic.follow_up)
    for image, index in zip(classic.images, scene.shown_slices, strict=True):
        outlines = [one for one in scene.outlines(index) if one.lesion.change == "new"]
        rows, columns = _coloured(image, "new")
        # the bar at the right edge shows every slice with a new lesion
        rows = rows[columns < image.Columns - 16]
        # an arrow alone has more pixels than this; other slices have none
        assert (len(rows) > 100) == bool(outlines)


def test_both_panes_show_the_same_place(classic: Case) -> None:
    """The stable lesion of both studies lies at the same pixel of both panes."""
    lesion = classic.follow_up.lesions[0]
    assert lesion.change == "stable"
    scene = build_scene(classic.follow_up)
    index = scene.largest_slice(lesion)
    assert index is not None
    image = classic.images[index - scene.shown_slices.start]
    prior, current = (pane.astype(int) for pane in _panes(image))
    grid = np.indices((PICTURE_PX, PICTURE_PX)).reshape(2, -1)
    left = image.Columns - PICTURE_PX
    places = _position(image, grid[0] + HEADER_PX, grid[1] + left)
    near = np.linalg.norm(places - lesion.centroid_lps_mm, axis=1) < 12.0
    middles = []
    for pane in (prior, current):
        bright = (pane.min(axis=2) > 200).ravel() & near
        assert bright.sum() > 100
        middles.append(places[bright].mean(axis=0))
    assert np.linalg.norm(middles[0] - middles[1]) < 1.0
    assert np.linalg.norm(middles[1] - lesion.centroid_lps_mm) < 2.5


def test_the_prior_pane_has_rings_where_lesions_are_new_and_nothing_else(classic: Case) -> None:
    scene = build_scene(classic.follow_up)
    for image, index in zip(classic.images, scene.shown_slices, strict=True):
        prior = _panes(image)[0].astype(int)
        coloured = (prior.max(axis=2) - prior.min(axis=2)) > 90
        new = [one.lesion for one in scene.outlines(index) if one.lesion.change == "new"]
        assert bool(coloured.any()) == bool(new)
        rows, columns = np.nonzero(coloured)
        left = image.Columns - PICTURE_PX
        places = _position(image, rows + HEADER_PX, columns + left)
        for lesion in new:
            offset = places - lesion.centroid_lps_mm
            offset -= np.outer(offset @ scene.flair.direction[:, 0], scene.flair.direction[:, 0])
            around = np.linalg.norm(offset, axis=1)
            assert around.min() > 3.0, "the place itself is left free"
            assert around.max() < 15.0


def test_danish_preview_differs_in_its_words_only(classic: Case, tmp_path: Path) -> None:
    settings = DICOMWriterSettings(language="da")
    context = OutputContext(classic.follow_up, settings, created=CREATED, seed="test")
    paths = write_preview(tmp_path, context)
    english, danish = classic.images[5], dcmread(paths[5])
    assert danish.pixel_array.shape == english.pixel_array.shape
    differ = (danish.pixel_array != english.pixel_array).any(axis=2)
    assert differ[:HEADER_PX].any()
    assert differ[HEADER_PX + PICTURE_PX :].any()
    assert differ.mean() < 0.03


def test_a_resolved_lesion_is_shown_dashed_where_it_was(classic: Case) -> None:
    lesion = classic.follow_up.lesions[-1]
    scene = build_scene(classic.follow_up)
    index = scene.largest_slice(lesion)
    assert index is not None
    image = classic.images[index - scene.shown_slices.start]
    rows, columns = _coloured(image, "resolved")
    found = _position(image, rows, columns)
    offset = np.linalg.norm(found - lesion.centroid_lps_mm, axis=1)
    on_contour = (offset > 3.0) & (offset < 9.0)
    assert on_contour.sum() > 20


@pytest.mark.parametrize("options", [{"prior": False}, {"empty": True}])
def test_baseline_and_no_lesion_give_valid_series(
    tmp_path: Path, options: dict[str, bool], need_tool: Callable[[str], str]
) -> None:
    case = _case(tmp_path, **options)
    assert len(case.images) > 15
    panes = 2 if "empty" in options else 1
    assert case.images[0].Columns == panes * PICTURE_PX
    assert not object_errors(need_tool("dciodvfy"), case.paths[7])
    rows, _ = _coloured(case.images[10], "baseline")
    assert bool(len(rows)) == ("prior" in options)


@pytest.mark.parametrize("name", ["classic", "enhanced"])
def test_validators_find_no_error(
    name: str, request: pytest.FixtureRequest, need_tool: Callable[[str], str]
) -> None:
    case: Case = request.getfixturevalue(name)
    dciodvfy, dcentvfy = need_tool("dciodvfy"), need_tool("dcentvfy")
    for path in (case.paths[0], case.paths[len(case.paths) // 2], case.paths[-1]):
        assert not object_errors(dciodvfy, path)
    assert not entity_errors(dcentvfy, [*case.paths, *case.source])


def test_two_runs_with_the_same_seed_give_the_same_files(classic: Case, tmp_path: Path) -> None:
    context = OutputContext(classic.follow_up, created=CREATED, seed="test")
    again = write_preview(tmp_path, context)
    for first, second in zip(classic.paths, again, strict=True):
        assert first.read_bytes() == second.read_bytes()


def _large(follow_up: FollowUp, shape: tuple[int, int, int], count: int) -> FollowUp:
    """A FLAIR of clinical size with many lesions, the prior on the same grid."""
    spacing = (2.9, 0.7, 0.72)
    generator = np.random.default_rng(3)
    image = hd.Volume.from_components(
        generator.normal(400.0, 40.0, shape).astype(np.float32),
        spacing=spacing,
        coordinate_system="PATIENT",
        position=(-110.0, -120.0, -80.0),
        direction=np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    )
    middle = (np.array(shape) - 1) / 2.0

    def ball(centre: np.ndarray, semi_axes: tuple[float, float, float]) -> np.ndarray:
        axes = [
            ((np.arange(n) - c) * step / half) ** 2
            for n, c, step, half in zip(shape, centre, spacing, semi_axes, strict=True)
        ]
        inside: np.ndarray = axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 1.0
        return inside

    brain = ball(middle, (65.0, 80.0, 65.0))
    labels = np.zeros(shape, dtype=np.uint16)
    lesions: list[Lesion] = []
    for number in range(1, count + 1):
        centre = middle + generator.uniform(-0.5, 0.5, 3) * (80.0, 100.0, 80.0) / spacing
        radius = generator.uniform(2.5, 7.0)
        labels[ball(centre, (radius,) * 3) & (labels == 0)] = number
        change = ("new", "enlarging", "stable", "shrinking")[number % 4]
        lesions.append(
            replace(
                follow_up.lesions[0],
                tracking_uid=f"2.25.{number}",
                tracking_id=f"MS lesion {number}",
                segment_number=number,
                volume_ml=float((labels == number).sum() * np.prod(spacing) / 1000.0),
                change=change,  # type: ignore[arg-type]
                prior_volume_ml=0.0 if change == "new" else 0.1,
            )
        )
    headers = []
    aligned = follow_up.probabilities.aligned
    flair = aligned.selected.current.series["flair"]
    for number in range(shape[0]):
        header = Dataset()
        header.update(flair.headers[0])
        header.InstanceNumber = number + 1
        header.SOPInstanceUID = f"2.25.77.{number + 1}"
        headers.append(header)

    def on_new_grid(study):  # type: ignore[no-untyped-def]
        series = replace(study.selected.series["flair"], volume=image, headers=tuple(headers))
        selected = replace(study.selected, series={**study.selected.series, "flair": series})
        return replace(study, selected=selected, brain_mask=image.with_array(brain))

    assert aligned.prior is not None
    current, prior = on_new_grid(aligned.current), on_new_grid(aligned.prior)
    aligned = replace(
        aligned,
        selected=replace(aligned.selected, current=current.selected, prior=prior.selected),
        current=current,
        prior=prior,
    )
    total = float(sum(lesion.volume_ml for lesion in lesions))
    return replace(
        follow_up,
        probabilities=replace(follow_up.probabilities, aligned=aligned),
        lesions=tuple(lesions),
        labels=image.with_array(labels),
        prior_labels=image.with_array(labels),
        totals=Totals(count, total, total, count // 4, count // 4, count // 4, 0),
    )


def test_preview_and_report_of_a_large_study_are_quick(classic: Case, tmp_path: Path) -> None:
    follow_up = _large(classic.follow_up, (60, 320, 320), 30)
    context = OutputContext(follow_up, created=CREATED, seed="large")
    start = time.process_time()
    paths = write_preview(tmp_path / "dicom", context)
    write_report(tmp_path / "report.pdf", context)
    seconds = time.process_time() - start
    assert 40 <= len(paths) <= 60
    assert seconds < 30.0, f"{seconds:.1f} s of processor time"
