"""From a folder to studies and series, by headers only."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from operators.dicom_loader.dates import acquisition_date, as_date
from operators.dicom_loader.duplicates import same_content
from operators.dicom_loader.frames import (
    ENHANCED_CLASSES,
    MR_CLASSES,
    Frame,
    StackFacts,
    classic_facts,
    classic_frame,
    enhanced_frames,
    instance_of,
)
from operators.dicom_loader.headers import (
    MEDIA_DIRECTORY_REASON,
    PARSE_ERRORS,
    Header,
    Unreadable,
    class_name,
    read_header,
)
from operators.dicom_loader.identity import Patient, identity_notes, patient_keys, patient_of
from operators.dicom_loader.media_directory import listed_instances
from operators.dicom_loader.series_checks import find_problems
from operators.dicom_loader.settings import DICOMLoaderSettings
from operators.dicom_loader.stacks import count_times, split_series, to_series
from operators.errors import InputError
from operators.messages import (
    InstanceRef,
    QualityNote,
    Series,
    SeriesProblem,
    Study,
    StudyCollection,
)

logger = logging.getLogger(__name__)

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_STRUCTURED_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_SECONDARY_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
_MAXIMUM_FILES_NAMED = 10
_DATE_MISMATCH_DAYS = 1


@dataclass(frozen=True)
class _FileFacts:
    """What files with the same series-level elements share."""

    patient: Patient
    study_uid: str
    acquired: date | None
    time: str | None
    stated_study_date: date | None
    series_number: int | None
    stack: StackFacts | None


@dataclass
class _StudyContents:
    """What is found for one study of one patient while the files are read."""

    patient: Patient
    facts: list[_FileFacts] = field(default_factory=list)
    derived_facts: list[_FileFacts] = field(default_factory=list)
    frames: dict[str, list[Frame]] = field(default_factory=lambda: defaultdict(list))
    segmentations: list[InstanceRef] = field(default_factory=list)
    structured_reports: list[InstanceRef] = field(default_factory=list)


class _Findings:
    """What the scan has found so far."""

    def __init__(self) -> None:
        self.studies: dict[tuple[str, Patient], _StudyContents] = {}
        self.skipped: Counter[str] = Counter()
        self.modalities: Counter[str] = Counter()
        self.damaged: list[tuple[str, str]] = []
        self.damaged_of_unknown_series: list[tuple[Path, str, str]] = []
        self.series_in_folder: dict[Path, set[str]] = defaultdict(set)
        self.file_problems: dict[str, list[SeriesProblem]] = defaultdict(list)
        self.duplicates = 0
        self.directories: list[Path] = []
        self.seen: set[str] = set()
        self.instances: dict[str, tuple[Path, str]] = {}
        self.known: dict[tuple[object, ...], _FileFacts] = {}


def list_files(folder: Path) -> Iterator[Path]:
    """Every regular file below a folder, in a stable order.

    Links are followed; a folder that was visited already, as in a loop of links, is not visited
    again. Sockets, pipes and links to nothing are left out.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        status = current.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            continue
        visited.add(identity)
        with os.scandir(current) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        folders = []
        for entry in ordered:
            if entry.is_file():
                yield Path(entry.path)
            elif entry.is_dir():
                folders.append(Path(entry.path))
        waiting.extend(reversed(folders))


def scan_folder(
    folder: Path,
    settings: DICOMLoaderSettings | None = None,
    *,
    today: date | None = None,
) -> StudyCollection:
    """Find the MR studies, series and derived objects in a folder, without reading pixels.

    Parameters
    ----------
    folder
        Any folder: nested, with or without DICOMDIR, with other files in it.
    settings
        Limits of plausible geometry; the defaults when None.
    today
        The date that acquisition dates must not lie after; the computer's when None.

    Returns
    -------
    StudyCollection
        Studies ordered by date and time. Two entries with the same study UID mean that the study
        holds images of two patients.

    Raises
    ------
    InputError
        If the folder is missing, empty, without DICOM or without MR images, or if an acquisition
        date lies in the future.
    """
    settings = settings or DICOMLoaderSettings()
    if not folder.is_dir():
        raise InputError(
            f"input folder {folder}",
            "It does not exist or is not a folder.",
            "Give the folder with the DICOM files with -i.",
        )
    findings = _Findings()
    count = 0
    for path in list_files(folder):
        count += 1
        _take(findings, path, folder)
    if not any(contents.frames for contents in findings.studies.values()):
        raise _nothing_usable(folder, count, findings)
    _check_dates(findings, today or datetime.now().date(), settings)
    _place_unknown_damage(findings)
    notes = _compare_with_directories(findings)
    keys = patient_keys([contents.patient for contents in findings.studies.values()])
    quality = [*_quality(findings), *notes, *identity_notes(keys)]
    studies = [
        _study(study_uid, key, contents, findings, settings)
        for (study_uid, key), contents in _merged(findings, keys).items()
    ]
    studies.sort(key=lambda s: (s.acquired or date.min, s.acquired_time or "", s.study_uid))
    logger.info(
        "%d files: %d studies, %d stacks of images, %d files left aside",
        count,
        len(studies),
        sum(len(study.series) for study in studies),
        sum(findings.skipped.values()),
    )
    return StudyCollection(tuple(studies), dict(findings.skipped), tuple(quality))


def _merged(findings: _Findings, keys: dict[Patient, str]) -> dict[tuple[str, str], _StudyContents]:
    """The contents by study and patient key: one patient may be spelled differently in a study."""
    merged: dict[tuple[str, str], _StudyContents] = {}
    for (study_uid, patient), contents in findings.studies.items():
        whole = merged.setdefault((study_uid, keys[patient]), contents)
        if whole is not contents:
            whole.facts += contents.facts
            whole.derived_facts += contents.derived_facts
            whole.segmentations += contents.segmentations
            whole.structured_reports += contents.structured_reports
            for series_uid, frames in contents.frames.items():
                whole.frames[series_uid].extend(frames)
    return merged


def _nothing_usable(folder: Path, count: int, findings: _Findings) -> InputError:
    subject = f"input folder {folder}"
    remedy = "Give a folder that holds the brain MR series of the patient as DICOM files."
    if count == 0:
        return InputError(subject, "It holds no files.", remedy)
    if findings.damaged and not findings.modalities:
        return InputError(
            subject,
            f"None of its {count} files is readable DICOM. Damaged: {_named(findings.damaged)}.",
            "Export or copy the files again.",
        )
    if not findings.modalities:
        return InputError(subject, f"None of its {count} files is DICOM.", remedy)
    found = ", ".join(f"{number} {name}" for name, number in findings.modalities.most_common())
    damaged = f" Damaged: {_named(findings.damaged)}." if findings.damaged else ""
    return InputError(subject, f"It holds no MR images, only: {found}.{damaged}", remedy)


def _named(damaged: Sequence[tuple[str, str]]) -> str:
    names = [f"{name} ({reason})" for name, reason in damaged[:_MAXIMUM_FILES_NAMED]]
    rest = len(damaged) - len(names)
    return ", ".join(names) + (f" and {rest} more" if rest else "")


def _take(findings: _Findings, path: Path, folder: Path) -> None:
    """Read one file's header and sort it into the findings."""
    header = read_header(path)
    name = str(path.relative_to(folder))
    if isinstance(header, Unreadable):
        _set_aside(findings, path, name, header)
        if header.reason == MEDIA_DIRECTORY_REASON:
            findings.directories.append(path)
        return
    findings.seen.add(header.text("SOPInstanceUID") or "")
    sop_class = header.text("SOPClassUID") or ""
    modality = header.text("Modality") or ""
    derived = sop_class in (SEGMENTATION, LABEL_MAP_SEGMENTATION)
    report = sop_class.startswith(_STRUCTURED_REPORTS)
    image = sop_class in MR_CLASSES or (
        modality == "MR" and sop_class.startswith(_SECONDARY_CAPTURES)
    )
    findings.modalities[modality or class_name(sop_class)] += 1
    if not (derived or report or image):
        reason = f"modality {modality}" if modality not in ("", "MR") else class_name(sop_class)
        findings.skipped[reason] += 1
        return
    series_uid = header.text("SeriesInstanceUID") or ""
    if not series_uid or header.text("StudyInstanceUID") is None:
        why = Unreadable("damaged (no Study or Series Instance UID)", damaged=True)
        _set_aside(findings, path, name, why)
        return
    instance = instance_of(header)
    earlier = findings.instances.get(instance.sop_instance_uid)
    if earlier is not None:
        _take_duplicate(findings, header, earlier, name)
        return
    findings.instances[instance.sop_instance_uid] = (path, series_uid)
    try:
        facts = _facts_of(findings, header, image)
        frames = _frames_of(header, facts) if image else []
    except PARSE_ERRORS as error:
        reason = f"damaged ({type(error).__name__})"
        _set_aside(findings, path, name, Unreadable(reason, True, series_uid))
        return
    contents = findings.studies.setdefault(
        (facts.study_uid, facts.patient), _StudyContents(facts.patient)
    )
    if derived or report:
        (contents.segmentations if derived else contents.structured_reports).append(instance)
        contents.derived_facts.append(facts)
    else:
        if not contents.facts or contents.facts[-1] is not facts:
            contents.facts.append(facts)
        contents.frames[series_uid].extend(frames)
        findings.series_in_folder[path.parent].add(series_uid)
        if header.truncated:
            _report_damage(findings, path, name, Unreadable("truncated", True, series_uid))


def _set_aside(findings: _Findings, path: Path, name: str, why: Unreadable) -> None:
    findings.skipped[why.reason] += 1
    if why.damaged:
        _report_damage(findings, path, name, why)


def _report_damage(findings: _Findings, path: Path, name: str, why: Unreadable) -> None:
    findings.damaged.append((name, why.reason))
    if why.series_uid:
        findings.file_problems[why.series_uid].append(_unreadable_file(name, why.reason))
    else:
        findings.damaged_of_unknown_series.append((path.parent, name, why.reason))


def _unreadable_file(name: str, reason: str) -> SeriesProblem:
    return SeriesProblem("unreadable_file", f"The file {name} is {reason}.", fatal=True)


def _place_unknown_damage(findings: _Findings) -> None:
    """A damaged file in a folder with images of one series alone counts as a slice of it.

    Its place in the series is unknown, so that the gap that it leaves may not show.
    """
    for folder, name, reason in findings.damaged_of_unknown_series:
        present = findings.series_in_folder.get(folder, set())
        if len(present) == 1:
            findings.file_problems[next(iter(present))].append(_unreadable_file(name, reason))


def _compare_with_directories(findings: _Findings) -> list[QualityNote]:
    """Find series of which some, but not all, files that a DICOMDIR lists are there."""
    notes = []
    for path in findings.directories:
        try:
            listed = listed_instances(path)
        except PARSE_ERRORS:
            notes.append(
                QualityNote("dicomdir_unreadable", "info", "A DICOMDIR is damaged and not used.")
            )
            continue
        for series_uid, instances in listed.items():
            absent = len(instances - findings.seen)
            if 0 < absent < len(instances):
                findings.file_problems[series_uid].append(
                    SeriesProblem(
                        "missing_slices",
                        f"{absent} of {len(instances)} images that the DICOMDIR lists for the "
                        "series are not there.",
                        fatal=True,
                    )
                )
    return notes


def _facts_of(findings: _Findings, header: Header, image: bool) -> _FileFacts:
    key = header.series_key()
    known = findings.known.get(key)
    if known is not None:
        return known
    classic = image and header.text("SOPClassUID") not in ENHANCED_CLASSES
    number = header.number("SeriesNumber")
    facts = _FileFacts(
        patient=patient_of(header),
        study_uid=header.text("StudyInstanceUID") or "",
        acquired=acquisition_date(header),
        time=header.text("StudyTime") or header.text("AcquisitionTime"),
        stated_study_date=as_date(header.text("StudyDate")),
        series_number=None if number is None else round(number),
        stack=classic_facts(header) if classic else None,
    )
    findings.known[key] = facts
    return facts


def _frames_of(header: Header, facts: _FileFacts) -> list[Frame]:
    if facts.stack is None:
        return enhanced_frames(header)
    return [classic_frame(header, facts.stack)]


# --- duplicates -------------------------------------------------------------------------------


def _take_duplicate(
    findings: _Findings, header: Header, earlier: tuple[Path, str], name: str
) -> None:
    """A second file with a known SOP Instance UID: dropped if it says the same, else a problem."""
    path, series_uid = earlier
    if same_content(path, header.path):
        findings.duplicates += 1
        findings.skipped["duplicate"] += 1
        return
    findings.skipped["duplicate with other content"] += 1
    for uid in {series_uid, header.text("SeriesInstanceUID") or ""}:
        findings.file_problems[uid].append(
            SeriesProblem(
                "conflicting_duplicates",
                f"The files {path.name} and {name} have the same SOP Instance UID but different "
                "content.",
                fatal=True,
            )
        )


# --- dates ------------------------------------------------------------------------------------


def _acquired(contents: _StudyContents) -> date | None:
    """The day on which the study began: the earliest acquisition of its images.

    Objects derived from images count by their study's date, and only where there are no images.
    """
    dates = [facts.acquired for facts in contents.facts if facts.acquired is not None]
    if not dates:
        derived = contents.derived_facts
        dates = [facts.stated_study_date for facts in derived if facts.stated_study_date]
    return min(dates) if dates else None


def _check_dates(findings: _Findings, today: date, settings: DICOMLoaderSettings) -> None:
    limit = today + timedelta(days=settings.future_tolerance_days)
    for contents in findings.studies.values():
        for facts in contents.facts:
            if facts.acquired is not None and facts.acquired > limit:
                raise InputError(
                    f"series {facts.series_number} of study {facts.study_uid}",
                    "Its acquisition date lies in the future (rule future_date).",
                    "Correct the date in the images, or this computer's clock, and run again.",
                )


# --- the message ------------------------------------------------------------------------------


def _study(
    study_uid: str,
    patient_key: str,
    contents: _StudyContents,
    findings: _Findings,
    settings: DICOMLoaderSettings,
) -> Study:
    series: list[Series] = []
    for series_uid, frames in contents.frames.items():
        stacks = split_series(frames, settings)
        find_problems(stacks, settings)
        for stack, count in zip(stacks, count_times(stacks), strict=True):
            stack.problems += findings.file_problems.get(series_uid, [])
            series.append(to_series(stack, count))
    series.sort(key=lambda s: (s.attributes.series_number or 0, s.series_uid))
    acquired = _acquired(contents)
    times = [facts.time for facts in contents.facts or contents.derived_facts if facts.time]
    return Study(
        study_uid=study_uid,
        patient_key=patient_key,
        acquired=acquired,
        acquired_time=min(times) if times else None,
        series=tuple(series),
        segmentations=tuple(contents.segmentations),
        structured_reports=tuple(contents.structured_reports),
    )


def _quality(findings: _Findings) -> list[QualityNote]:
    notes = []
    if findings.duplicates:
        notes.append(
            QualityNote(
                "duplicate_files",
                "info",
                f"{findings.duplicates} files repeat an image that is there already; "
                "each image is used once.",
            )
        )
    if findings.damaged:
        notes.append(
            QualityNote(
                "unreadable_files",
                "warning",
                f"{len(findings.damaged)} files are damaged: {_named(findings.damaged)}.",
            )
        )
    for contents in findings.studies.values():
        first = _acquired(contents)
        for facts in contents.facts:
            stated = facts.stated_study_date
            if first and stated and abs((first - stated).days) > _DATE_MISMATCH_DAYS:
                notes.append(
                    QualityNote(
                        "study_date_mismatch",
                        "warning",
                        f"The study date of study {facts.study_uid} differs from its images' "
                        f"acquisition date by {abs((first - stated).days)} days; the acquisition "
                        "date is used.",
                    )
                )
                break
    return notes
