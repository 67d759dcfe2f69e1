"""Everything that a follow-up is written as, in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from operators.dicom_writer.common import OutputContext, save
from operators.dicom_writer.encapsulated import write_encapsulated_pdf
from operators.dicom_writer.output_folder import (
    DICOM_FOLDER,
    REPORT_FILE,
    RESULTS_FILE,
    staged_output,
)
from operators.dicom_writer.preview import write_preview
from operators.dicom_writer.report import write_report
from operators.dicom_writer.results import build_results, write_results
from operators.dicom_writer.segmentation import build_segmentation
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.dicom_writer.structured_report import build_report
from operators.messages import FollowUp

STAGE = "dicom_writer"
SEGMENTATION_FILE = "segmentation.dcm"
MEASUREMENTS_FILE = "measurements.dcm"
ENCAPSULATED_FILE = "report.dcm"


@dataclass(frozen=True)
class WrittenOutputs:
    """Where the parts of a result lie.

    Parameters
    ----------
    segmentation, measurements, encapsulated_report
        SEG, SR and Encapsulated PDF.
    preview
        The Secondary Capture images in the order of the slices.
    report
        The PDF.
    results
        results.json.
    """

    segmentation: Path
    measurements: Path
    preview: tuple[Path, ...]
    encapsulated_report: Path
    report: Path
    results: Path


def write_outputs(
    folder: Path,
    follow_up: FollowUp,
    settings: DICOMWriterSettings,
    elapsed_s: Callable[[], float] | None = None,
) -> WrittenOutputs:
    """Write SEG, SR, preview, PDF, Encapsulated PDF and results.json; all of them or none.

    Parameters
    ----------
    folder
        The output folder; an earlier result in it is replaced as a whole.
    follow_up
        The result to write.
    settings
        The writer's settings.
    elapsed_s
        Seconds since the stage began, asked once before results.json is written, which is the last
        file; None leaves the stage out of ``timing_s``.

    Raises
    ------
    OutputError
        If the folder cannot be written, is full or holds foreign files; it then holds no result.
    """
    context = OutputContext(follow_up, settings)
    with staged_output(folder) as staging:
        dicom = staging / DICOM_FOLDER
        segmentation = build_segmentation(context)
        save(segmentation, dicom / SEGMENTATION_FILE)
        save(build_report(context, segmentation), dicom / MEASUREMENTS_FILE)
        preview = write_preview(dicom, context)
        write_report(staging / REPORT_FILE, context)
        write_encapsulated_pdf(dicom / ENCAPSULATED_FILE, staging / REPORT_FILE, context)
        timing_s = collect_timing(follow_up)
        if elapsed_s is not None:
            timing_s[STAGE] = elapsed_s()
        write_results(staging / RESULTS_FILE, build_results(follow_up, timing_s))
    return WrittenOutputs(
        segmentation=folder / DICOM_FOLDER / SEGMENTATION_FILE,
        measurements=folder / DICOM_FOLDER / MEASUREMENTS_FILE,
        preview=tuple(folder / path.relative_to(staging) for path in preview),
        encapsulated_report=folder / DICOM_FOLDER / ENCAPSULATED_FILE,
        report=folder / REPORT_FILE,
        results=folder / RESULTS_FILE,
    )


def collect_timing(follow_up: FollowUp) -> dict[str, float]:
    """The seconds of every stage up to this one, in the order in which the stages ran.

    A stage may pass on only its own seconds or also those of the stages before it.
    """
    probabilities = follow_up.probabilities
    aligned = probabilities.aligned
    timing_s: dict[str, float] = {}
    for message in (aligned.selected, aligned, probabilities, follow_up):
        timing_s.update(message.timing_s)
    return timing_s
