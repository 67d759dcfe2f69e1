"""FLAIR slices with lesion contours as RGB pictures, for the preview and the report.

Pictures show the acquired plane in the radiological convention: axial with the patient's right on
the left and anterior on top, sagittal with anterior on the left, coronal with the patient's right
on the left. Their pixels are square whatever the spacing of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import contourpy
import matplotlib
import numpy as np
from highdicom import Volume
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import affine_transform, find_objects

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.geometry import resample_to
from operators.messages import Change, FollowUp, Lesion

RGB = tuple[int, int, int]

BY_IMPORTANCE: tuple[Change, ...] = (
    "new",
    "enlarging",
    "resolved",
    "shrinking",
    "merged",
    "split",
    "stable",
    "baseline",
)
"""The kinds of change in the order in which a reader wants to see them."""

DASHED: frozenset[Change] = frozenset({"resolved"})
"""Drawn with a dashed line: the lesion is not there any more."""

_DISPLAY_ORIENTATIONS = {"H": "HPL", "F": "HPL", "L": "LFP", "R": "LFP", "A": "PFL", "P": "PFL"}
_SUPERSAMPLING = 4
_DASH_PX = (5.0, 4.0)


@dataclass(frozen=True)
class Field:
    """A square cut-out of a slice plane, as square pixels.

    Parameters
    ----------
    top_mm, left_mm
        Centre of the first pixel, in millimetres from the centre of the slice's first voxel, down
        the rows and along the columns.
    pixel_mm
        Size of a pixel.
    size
        Pixels along each side.
    """

    top_mm: float
    left_mm: float
    pixel_mm: float
    size: int

    def pixels_of(self, indices: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
        """Voxel indices (row, column), (n, 2), to pixels (y, x); centres lie on integers."""
        millimetres = indices * np.asarray(spacing) - (self.top_mm, self.left_mm)
        pixels: np.ndarray = millimetres / self.pixel_mm
        return pixels


@dataclass(frozen=True)
class Outline:
    """The closed outline of a lesion in one slice."""

    lesion: Lesion
    lines: tuple[np.ndarray, ...]
    """Each float64 (n, 2): voxel indices (row, column)."""


@dataclass(frozen=True)
class Scene:
    """Everything that pictures show, on the current FLAIR's grid in display orientation.

    All arrays have the axes slice, row, column; slices run from feet to head (axial), from right to
    left (sagittal) or from front to back (coronal).
    """

    flair: Volume
    brain: np.ndarray
    """bool."""
    labels: np.ndarray
    """Segment numbers of present lesions."""
    prior_flair: Volume | None
    """The prior FLAIR on the current grid; None when nothing was compared."""
    prior_labels: np.ndarray | None
    """1 + the index in the follow-up's lesions."""
    window: tuple[float, float]
    prior_window: tuple[float, float] | None
    lesions: tuple[Lesion, ...]
    source_slices: tuple[int, ...]
    """For each slice the index of the same slice in the current FLAIR's own volume."""

    @property
    def in_plane_spacing(self) -> tuple[float, float]:
        """Millimetres between rows and between columns."""
        return float(self.flair.spacing[1]), float(self.flair.spacing[2])

    @cached_property
    def shown_slices(self) -> range:
        """The slices from the first to the last that hold brain or lesion."""
        shown = self.brain.any(axis=(1, 2)) | (self.labels > 0).any(axis=(1, 2))
        if self.prior_labels is not None:
            shown |= (self.prior_labels > 0).any(axis=(1, 2))
        indices = np.flatnonzero(shown)
        if not len(indices):
            return range(self.flair.spatial_shape[0])
        return range(int(indices[0]), int(indices[-1]) + 1)

    @cached_property
    def _boxes(self) -> tuple[tuple[Lesion, tuple[slice, slice, slice], np.ndarray], ...]:
        """Per lesion its bounding box and its mask there; resolved ones where they were."""
        found = []
        now = _bounding_boxes(self.labels)
        then = {} if self.prior_labels is None else _bounding_boxes(self.prior_labels)
        for index, lesion in enumerate(self.lesions):
            if lesion.segment_number is not None:
                labels, boxes, value = self.labels, now, lesion.segment_number
            elif self.prior_labels is not None:
                labels, boxes, value = self.prior_labels, then, index + 1
            else:
                continue
            if value in boxes:
                found.append((lesion, boxes[value], labels[boxes[value]] == value))
        return tuple(found)

    def outlines(self, slice_index: int) -> list[Outline]:
        """The outlines in one slice: least important change first, so that others lie on top."""
        found = []
        for lesion, box, mask in self._boxes:
            if box[0].start <= slice_index < box[0].stop:
                plane = mask[slice_index - box[0].start]
                if plane.any():
                    offset = np.array([box[1].start, box[2].start], dtype=float)
                    lines = tuple(line + offset for line in mask_outlines(plane))
                    found.append(Outline(lesion, lines))
        found.sort(key=lambda item: BY_IMPORTANCE.index(item.lesion.change), reverse=True)
        return found

    def prior_outlines(self, slice_index: int) -> list[Outline]:
        """The outlines of the prior lesions in one slice."""
        if self.prior_labels is None:
            return []
        plane = self.prior_labels[slice_index]
        return [
            Outline(lesion, tuple(mask_outlines(plane == index + 1)))
            for index, lesion in enumerate(self.lesions)
            if (plane == index + 1).any()
        ]

    def largest_slice(self, lesion: Lesion) -> int | None:
        """The slice in which the lesion is largest (for a resolved one: was); None if nowhere."""
        for other, box, mask in self._boxes:
            if other is lesion:
                return int(box[0].start) + int(mask.sum(axis=(1, 2)).argmax())
        return None

    def centre_in_plane(self, lesion: Lesion) -> tuple[float, float]:
        """Row and column of the lesion's centre, as voxel indices in its largest slice."""
        for other, box, mask in self._boxes:
            if other is lesion:
                plane = mask[int(mask.sum(axis=(1, 2)).argmax())]
                row, column = np.argwhere(plane).mean(axis=0)
                return float(row) + box[1].start, float(column) + box[2].start
        raise ValueError(f"{lesion.tracking_id} has no voxels in the label volumes")

    def brain_field(self, size: int, margin_mm: float) -> Field:
        """A square around the brain in all slices, ``size`` pixels wide."""
        mask = self.brain if self.brain.any() else np.ones_like(self.brain)
        spacing = np.asarray(self.in_plane_spacing)
        rows = np.flatnonzero(mask.any(axis=(0, 2)))[[0, -1]]
        columns = np.flatnonzero(mask.any(axis=(0, 1)))[[0, -1]]
        extent = (np.array([np.ptp(rows), np.ptp(columns)]) + 1) * spacing
        side = float(extent.max()) + 2.0 * margin_mm
        return self.field_around((rows.mean(), columns.mean()), side, size)

    def field_around(self, centre: tuple[float, float], side_mm: float, size: int) -> Field:
        """A square of ``side_mm`` around a voxel index (row, column)."""
        pixel = side_mm / size
        middle = np.asarray(centre, dtype=float) * self.in_plane_spacing
        top, left = middle - pixel * (size - 1) / 2.0
        return Field(float(top), float(left), pixel, size)

    def position_of(self, slice_index: int, field: Field, row: float, column: float) -> np.ndarray:
        """LPS millimetres of a pixel of a picture; (3,)."""
        rows, columns = self.in_plane_spacing
        index = (
            slice_index,
            (field.top_mm + row * field.pixel_mm) / rows,
            (field.left_mm + column * field.pixel_mm) / columns,
        )
        position: np.ndarray = self.flair.affine[:3, :3] @ index + self.flair.affine[:3, 3]
        return position

    def side_letters(self) -> tuple[str, str, str, str]:
        """Anatomical direction of the left, right, upper and lower edge, as R, L, A, P, H or F."""
        down = _direction(self.flair.direction[:, 1])
        right = _direction(self.flair.direction[:, 2])
        return _OPPOSITE[right], right, _OPPOSITE[down], down

    def picture(self, slice_index: int, field: Field, *, prior: bool = False) -> Image.Image:
        """A slice as an RGB picture of the field; black where there is no image.

        Parameters
        ----------
        slice_index
            Slice of this scene.
        field
            What to show.
        prior
            The prior FLAIR at the same place instead of the current one.
        """
        volume, window = self.flair, self.window
        if prior:
            if self.prior_flair is None or self.prior_window is None:
                raise ValueError("this scene has no prior image")
            volume, window = self.prior_flair, self.prior_window
        rows, columns = self.in_plane_spacing
        low, high = window
        step = field.pixel_mm
        picture = affine_transform(
            volume.array[slice_index].astype(np.float32, copy=False),
            (step / rows, step / columns),
            offset=(field.top_mm / rows, field.left_mm / columns),
            output_shape=(field.size, field.size),
            order=3,
            mode="constant",
            cval=low,
        )
        grey = np.clip((picture - low) * (255.0 / (high - low)), 0.0, 255.0)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")


def build_scene(follow_up: FollowUp) -> Scene:
    """Gather images and labels on the current FLAIR's grid, in display orientation."""
    aligned = follow_up.probabilities.aligned
    flair = aligned.current.selected.series["flair"].volume
    brain = aligned.current.brain_mask
    plane = _DISPLAY_ORIENTATIONS[flair.get_closest_patient_orientation()[0].value]
    count = flair.spatial_shape[0]
    order = flair.with_array(
        np.broadcast_to(np.arange(count)[:, None, None], flair.spatial_shape).copy()
    )
    prior_flair = prior_labels = prior_window = None
    if (
        aligned.comparable
        and aligned.prior is not None
        and aligned.prior_to_current is not None
        and follow_up.prior_labels is not None
    ):
        prior = aligned.prior.selected.series["flair"].volume
        prior_window = brain_window(prior.array, aligned.prior.brain_mask.array > 0)
        resampled = resample_to(
            prior, flair, aligned.prior_to_current.matrix_lps, outside=prior_window[0]
        )
        prior_flair = resampled.to_patient_orientation(plane)
        prior_labels = follow_up.prior_labels.to_patient_orientation(plane).array
    return Scene(
        flair=flair.to_patient_orientation(plane),
        brain=brain.to_patient_orientation(plane).array > 0,
        labels=follow_up.labels.to_patient_orientation(plane).array,
        prior_flair=prior_flair,
        prior_labels=prior_labels,
        window=brain_window(flair.array, brain.array > 0),
        prior_window=prior_window,
        lesions=follow_up.lesions,
        source_slices=tuple(
            int(index) for index in order.to_patient_orientation(plane).array[:, 0, 0]
        ),
    )


@dataclass(frozen=True)
class Callout:
    """Where a lesion can be pointed at without covering another one."""

    outline: Outline
    edge: np.ndarray
    """(y, x) pixel just outside the outline."""
    outwards: np.ndarray
    """(y, x) of unit length, from the lesion to the free side."""


def place_callouts(scene: Scene, field: Field, outlines: Sequence[Outline]) -> list[Callout]:
    """For each outline the direction in which the fewest others lie, outer side preferred."""
    corners = [
        np.concatenate([field.pixels_of(line, scene.in_plane_spacing) for line in outline.lines])
        for outline in outlines
    ]
    angles = np.arange(16) * (2.0 * np.pi / 16)
    directions = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    reach = np.array([8.0, 18.0, 28.0])
    callouts = []
    for number, outline in enumerate(outlines):
        line = corners[number]
        centre = (line.min(axis=0) + line.max(axis=0)) / 2.0
        edges = centre + directions * ((line - centre) @ directions.T).max(axis=0)[:, None]
        outer = directions @ (centre - (field.size - 1) / 2.0) / field.size
        others = [line for index, line in enumerate(corners) if index != number]
        covered = np.zeros(len(directions))
        if others:
            points = np.concatenate(others)
            spots = edges[:, None] + directions[:, None] * reach[:, None]
            distance = np.linalg.norm(spots[:, :, None] - points, axis=-1)
            covered = (distance < 9.0).any(axis=2).sum(axis=1)
        best = int((covered - outer).argmin())
        callouts.append(Callout(outline, edges[best] + 4.0 * directions[best], directions[best]))
    return callouts


def lesion_names(lesions: Sequence[Lesion]) -> dict[str, str]:
    """Short names by tracking UID: the segment number, and r1, r2, … for resolved lesions."""
    names, resolved = {}, 0
    for lesion in lesions:
        if lesion.segment_number is None:
            resolved += 1
            names[lesion.tracking_uid] = f"r{resolved}"
        else:
            names[lesion.tracking_uid] = str(lesion.segment_number)
    return names


def brain_window(image: np.ndarray, brain: np.ndarray) -> tuple[float, float]:
    """The grey window: from below the brain's darkest tissue to its brightest percent.

    Parameters
    ----------
    image
        Intensities.
    brain
        bool, of the same shape; the whole image counts when it is empty.
    """
    values = image[brain] if brain.any() else image.ravel()
    low, middle, high = np.percentile(values, (0.5, 50.0, 99.7))
    high = max(high, middle + 0.6 * (middle - low))
    if high <= low:
        high = low + 1.0
    return float(low), float(high)


def mask_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines of a 2D mask at the half-way line between voxel centres inside and outside.

    Returns
    -------
    list of numpy.ndarray
        Each (n, 2): row and column as voxel indices, first point repeated at the end.
    """
    padded = np.pad(mask.astype(float), 1)
    lines = contourpy.contour_generator(z=padded).lines(0.5)
    return [np.asarray(line)[:, ::-1] - 1.0 for line in lines]


def draw_outline(
    picture: Image.Image,
    line: np.ndarray,
    change: Change,
    width: float = 1.3,
) -> None:
    """Draw a polyline with smooth edges onto an RGB picture, in place.

    Parameters
    ----------
    picture
        RGB.
    line
        (n, 2) pixel coordinates (y, x), centres on integers.
    change
        Sets colour and dashes.
    width
        Pixels.
    """
    low = np.maximum(np.floor(line.min(axis=0)).astype(int) - 3, 0)
    high = np.minimum(np.ceil(line.max(axis=0)).astype(int) + 4, picture.size[::-1])
    if (high <= low).any():
        return
    scale = _SUPERSAMPLING
    height, breadth = (int(value) for value in high - low)
    layers = [(CHANGE_COLOURS[change], width, change in DASHED)]
    if change in DASHED:
        layers.insert(0, ((0, 0, 0), width + 0.7, False))
    for colour, thickness, dashed in layers:
        mask = Image.new("L", (breadth * scale, height * scale))
        pen = ImageDraw.Draw(mask)
        for part in _dashes(line) if dashed else (line,):
            points = [(x, y) for y, x in (part - low + 0.5) * scale]
            pen.line(points, fill=255, width=round(thickness * scale), joint="curve")
        mask = mask.resize((breadth, height), Image.Resampling.BOX)
        picture.paste(colour, (int(low[1]), int(low[0])), mask)


def draw_arrow(
    picture: Image.Image, tip: np.ndarray, direction: np.ndarray, colour: RGB, length: float = 22.0
) -> None:
    """Draw an arrow onto an RGB picture, in place.

    Parameters
    ----------
    picture
        RGB.
    tip
        (y, x) of its point.
    direction
        (y, x) of unit length, in which the arrow points.
    colour
        Colour; the rim is black.
    length
        Pixels.
    """
    side = np.array([-direction[1], direction[0]])
    head, shaft = 0.5 * length, 0.09 * length
    neck = tip - direction * head
    tail = tip - direction * length
    shape = np.array(
        [
            tip,
            neck + side * 0.3 * length,
            neck + side * shaft,
            tail + side * shaft,
            tail - side * shaft,
            neck - side * shaft,
            neck - side * 0.3 * length,
            tip,
        ]
    )
    low = np.floor(shape.min(axis=0)).astype(int) - 2
    height, breadth = np.ceil(shape.max(axis=0)).astype(int) + 3 - low
    scale = _SUPERSAMPLING
    corners = [(x, y) for y, x in (shape - low + 0.5) * scale]
    for fill, rim in (((0, 0, 0), 2 * scale), (colour, 0)):
        mask = Image.new("L", (int(breadth) * scale, int(height) * scale))
        ImageDraw.Draw(mask).polygon(corners, fill=255, outline=255, width=max(rim, 1))
        if rim:
            ImageDraw.Draw(mask).line(corners, fill=255, width=rim, joint="curve")
        mask = mask.resize((int(breadth), int(height)), Image.Resampling.BOX)
        picture.paste(fill, (int(low[1]), int(low[0])), mask)


def draw_ring(
    picture: Image.Image, middle: np.ndarray, radius: float, colour: RGB, width: float = 2.0
) -> None:
    """Draw a circle with smooth edges and a dark rim onto an RGB picture, in place.

    Parameters
    ----------
    picture
        RGB.
    middle
        (y, x) of its centre.
    radius, width
        Pixels.
    colour
        Colour; the rim is black.
    """
    scale = _SUPERSAMPLING
    low = np.floor(middle - radius).astype(int) - 4
    side = int(np.ceil(2.0 * radius)) + 9
    y, x = (middle - low + 0.5) * scale
    for fill, thickness in (((0, 0, 0), width + 1.6), (colour, width)):
        mask = Image.new("L", (side * scale, side * scale))
        reach = (radius + thickness / 2.0) * scale
        box = (x - reach, y - reach, x + reach, y + reach)
        ImageDraw.Draw(mask).ellipse(box, outline=255, width=round(thickness * scale))
        mask = mask.resize((side, side), Image.Resampling.BOX)
        picture.paste(fill, (int(low[1]), int(low[0])), mask)


@cache
def font_folder() -> Path:
    """The folder of the DejaVu fonts, which cover Latin, Greek and Cyrillic."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font for pictures, ``size`` in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    # The other layout engine is there or not with a system library, and sets the same text wider.
    return ImageFont.truetype(str(font_folder() / name), size, layout_engine=ImageFont.Layout.BASIC)


def draw_text(
    picture: Image.Image,
    position: tuple[float, float],
    text: str,
    *,
    size: int = 13,
    colour: RGB = (255, 255, 255),
    bold: bool = False,
    anchor: str = "la",
) -> None:
    """Write text with a dark rim onto an RGB picture, in place; ``position`` is (x, y)."""
    ImageDraw.Draw(picture).text(
        position,
        text,
        font=font(size, bold=bold),
        fill=colour,
        anchor=anchor,
        stroke_width=1,
        stroke_fill=(0, 0, 0),
    )


_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "H": "F", "F": "H"}


def _direction(vector: np.ndarray) -> str:
    axis = int(np.abs(vector).argmax())
    return ("LPH" if vector[axis] > 0 else "RAF")[axis]


def _bounding_boxes(labels: np.ndarray) -> dict[int, tuple[slice, slice, slice]]:
    return {
        value + 1: box
        for value, box in enumerate(find_objects(labels.astype(np.int32)))
        if box is not None
    }


def _dashes(line: np.ndarray) -> Iterator[np.ndarray]:
    """The visible parts of a dashed polyline, resampled to about half a pixel."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    dash, gap = _DASH_PX
    count = max(round(along[-1] / (dash + gap)), 3)
    period = along[-1] / count
    for number in range(count):
        start = number * period
        at = np.linspace(start, start + period * dash / (dash + gap), 12)
        yield np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], axis=1)
