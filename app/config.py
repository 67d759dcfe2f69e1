"""app.yaml as validated, typed settings."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from operators.dicom_loader.settings import DICOMLoaderSettings
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.errors import ConfigurationError
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.registration.settings import RegistrationSettings
from operators.series_selector.settings import SeriesSelectorSettings
from operators.settings import Settings

SECTION = "settings"


class AppSettings(Settings):
    """The section ``settings`` of app.yaml: one sub-section per stage."""

    dicom_loader: DICOMLoaderSettings = Field(default_factory=DICOMLoaderSettings)
    series_selector: SeriesSelectorSettings
    registration: RegistrationSettings = Field(default_factory=RegistrationSettings)
    lesion_segmentation: LesionSegmentationSettings = Field(
        default_factory=LesionSegmentationSettings
    )
    longitudinal_comparator: LongitudinalComparatorSettings = Field(
        default_factory=LongitudinalComparatorSettings
    )
    dicom_writer: DICOMWriterSettings = Field(default_factory=DICOMWriterSettings)


def load_settings(path: Path) -> AppSettings:
    """Read and validate app.yaml.

    Parameters
    ----------
    path
        The file. Besides ``settings`` it holds the sections ``application`` and ``resources``
        that the MONAI Deploy packager reads.

    Raises
    ------
    ConfigurationError
        If the file is not YAML, has no section ``settings`` or a value in it is not valid.
    """
    remedy = "Correct it; docs/configuration.md describes every setting."
    subject = f"settings file {path.name}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise ConfigurationError(subject, f"It is not readable as YAML{where}.", remedy) from error
    if not isinstance(content, dict) or not isinstance(content.get(SECTION), dict):
        raise ConfigurationError(subject, f"It has no section {SECTION!r}.", remedy)
    try:
        return AppSettings.model_validate(content[SECTION])
    except ValidationError as error:
        detail = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise ConfigurationError(subject, f"Not valid: {detail}.", remedy) from error
