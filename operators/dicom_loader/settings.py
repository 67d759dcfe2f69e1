"""Settings of the DICOM loader."""

from __future__ import annotations

from pydantic import Field

from operators.settings import Settings


class DICOMLoaderSettings(Settings):
    """Limits beyond which a series' geometry or date is a defect."""

    minimum_spacing_mm: float = Field(default=0.1, gt=0)
    """Smallest plausible distance between voxels, in every direction."""
    maximum_spacing_mm: float = Field(default=20.0, gt=0)
    """Largest plausible distance between voxels, in every direction."""
    slice_spacing_tolerance: float = Field(default=0.03, gt=0, lt=0.5)
    """Largest deviation of one slice distance from the mean, as a fraction of the mean."""
    orientation_tolerance_deg: float = Field(default=0.2, gt=0, lt=5)
    """Slices whose row and column directions differ by less belong to one stack."""
    shear_tolerance_pixels: float = Field(default=0.5, gt=0)
    """Largest shift of a slice within its plane against the first one, in pixels."""
    localizer_maximum_slices: int = Field(default=20, gt=0)
    """A series of several orientations is a localizer when no stack has more slices than this."""
    future_tolerance_days: int = Field(default=1, ge=0)
    """Days by which an acquisition date may lie ahead of this computer's date (time zones)."""
