"""The MONAI Deploy application: which stage feeds which."""

from __future__ import annotations

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application

from app.arguments import Arguments
from app.config import AppSettings
from operators.dicom_loader.operator import DICOMLoaderOperator
from operators.dicom_writer.operator import DICOMWriterOperator
from operators.lesion_segmentation.operator import LesionSegmentationOperator
from operators.longitudinal_comparator.operator import LongitudinalComparatorOperator
from operators.registration.operator import RegistrationOperator
from operators.series_selector.operator import SeriesSelectorOperator


class MSLesionFollowUp(Application):  # type: ignore[misc]
    """A follow-up MRI goes in as DICOM and comes back as DICOM.

    Parameters
    ----------
    arguments
        Folders to read from and write to.
    settings
        The validated app.yaml.
    """

    def __init__(self, arguments: Arguments, settings: AppSettings) -> None:
        self._arguments = arguments
        self._settings = settings
        super().__init__([])

    def compose(self) -> None:
        """Connect the stages in the order in which data flows."""
        settings = self._settings
        loader = DICOMLoaderOperator(
            self,
            CountCondition(self, 1),
            input_folder=self._arguments.input_folder,
            settings=settings.dicom_loader,
            name="dicom_loader",
        )
        selector = SeriesSelectorOperator(
            self, settings=settings.series_selector, name="series_selector"
        )
        registration = RegistrationOperator(
            self, settings=settings.registration, name="registration"
        )
        segmentation = LesionSegmentationOperator(
            self,
            models_folder=self._arguments.models_folder,
            settings=settings.lesion_segmentation,
            work_folder=self._arguments.workdir,
            name="lesion_segmentation",
        )
        comparator = LongitudinalComparatorOperator(
            self, settings=settings.longitudinal_comparator, name="longitudinal_comparator"
        )
        writer = DICOMWriterOperator(
            self,
            output_folder=self._arguments.output_folder,
            settings=settings.dicom_writer,
            name="dicom_writer",
        )
        self.add_flow(loader, selector, {("study_collection", "study_collection")})
        self.add_flow(selector, registration, {("selected_studies", "selected_studies")})
        self.add_flow(registration, segmentation, {("aligned_studies", "aligned_studies")})
        self.add_flow(segmentation, comparator, {("lesion_probabilities", "lesion_probabilities")})
        self.add_flow(comparator, writer, {("follow_up", "follow_up")})
