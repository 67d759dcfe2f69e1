"""results.json: the result as numbers, for programs that read no DICOM.

The file follows ``results.schema.json`` (version 1.1, which adds to 1.0:
a reader of 1.0 finds everything where it was). It holds no patient name, identifier or date.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import Volume
from jsonschema import Draft202012Validator

from operators.dicom_writer.dissemination import NOT_EXAMINED, dissemination
from operators.errors import OutputError
from operators.messages import (
    AlignedStudies,
    EarlierStudy,
    FollowUp,
    Lesion,
    Registration,
    SelectedStudy,
    TimePoint,
    Totals,
)
from operators.version import NAME, VERSION

SCHEMA_VERSION = "1.1"
SCHEMA_FILE = "results.schema.json"

_ROLES = ("flair", "t2", "t1")
_ML = 4
_MM = 3
_SHARE = 4
_MATRIX = 8
_SECONDS = 3

_NUMBERS = re.compile(r"\[\n\s+((?:-?\d[\d.eE+-]*,?\s+)+)\]")


def build_results(follow_up: FollowUp, timing_s: Mapping[str, float]) -> dict[str, Any]:
    """The content of results.json.

    Parameters
    ----------
    follow_up
        The comparator's message.
    timing_s
        Seconds by stage, in the order of the stages.

    Returns
    -------
    dict
        Valid against the schema; keys in a fixed order and numbers rounded (millilitres and
        probabilities to 4 decimals, millimetres and degrees to 3, matrices to 8), so that two runs
        differ in ``timing_s`` only.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    aligned = follow_up.probabilities.aligned
    model = follow_up.probabilities.current.model
    prior = aligned.selected.prior if aligned.prior is None else aligned.prior.selected
    return {
        "schema_version": SCHEMA_VERSION,
        "software": {"name": NAME, "version": VERSION},
        "model": {
            "name": model.name,
            "version": model.version,
            "sha256": model.sha256,
            "engine": model.engine,
            "precision": model.precision,
        },
        "current": _study(aligned.selected.current),
        "prior": None if prior is None else _study(prior),
        "earlier": [_earlier(study) for study in aligned.earlier],
        "registration": _registrations(aligned),
        "lesions": [_lesion(lesion) for lesion in follow_up.lesions],
        "totals": _totals(follow_up.totals),
        "time_points": [_time_point(point) for point in follow_up.time_points],
        "dissemination": _dissemination(follow_up),
        "quality": [
            {"code": note.code, "severity": note.severity, "message": note.message}
            for note in follow_up.quality
        ],
        "timing_s": {name: _number(seconds, _SECONDS) for name, seconds in timing_s.items()},
    }


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Validate the results and write them as UTF-8 JSON.

    Raises
    ------
    OutputError
        If the results break the schema; nothing is written then.
    """
    check_results(results)
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda match: "[" + " ".join(match[1].split()) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")


def check_results(results: Mapping[str, Any]) -> None:
    """Check results against the schema.

    Raises
    ------
    OutputError
        Naming the first field that breaks it.
    """
    errors = sorted(_validator().iter_errors(results), key=lambda error: list(error.absolute_path))
    if errors:
        where = "/".join(map(str, errors[0].absolute_path)) or "the whole file"
        raise OutputError(
            "results.json",
            f"{where} breaks {SCHEMA_FILE} (rule {errors[0].validator!r}).",
            "This is a defect of the application; please report it.",
        )


def results_schema() -> dict[str, Any]:
    """The JSON Schema of results.json (draft 2020-12)."""
    file = resources.files(__package__).joinpath(SCHEMA_FILE)
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


@cache
def _validator() -> Draft202012Validator:
    schema = results_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _study(selected: SelectedStudy) -> dict[str, Any]:
    flair = selected.series["flair"].volume
    between_slices, between_rows, between_columns = flair.spacing
    return {
        "study_uid": selected.study.study_uid,
        "series": {
            role: {
                "series_uid": selected.series[role].series.series_uid,
                "reason": selected.series[role].reason,
            }
            for role in _ROLES
            if role in selected.series
        },
        "spacing_mm": _numbers((between_rows, between_columns, between_slices), _MM),
        "interval_days": selected.interval_days,
    }


def _earlier(study: EarlierStudy) -> dict[str, Any]:
    return {
        **_study(study.aligned.selected),
        "flair_to_current_flair": _registration(study.to_current),
    }


def _time_point(point: TimePoint) -> dict[str, Any]:
    return {
        "study_uid": point.study_uid,
        "interval_days": point.interval_days,
        "lesion_count": point.lesion_count,
        "lesion_volume_ml": _number(point.lesion_volume_ml, _ML),
        "lesion_volume_interval_ml": _numbers(point.lesion_volume_interval_ml, _ML),
    }


def _dissemination(follow_up: FollowUp) -> dict[str, Any]:
    found = dissemination(follow_up)
    return {
        "in_space": {**found.in_space, **dict.fromkeys(NOT_EXAMINED)},
        "in_time": [
            {
                "study_uid": one.study_uid,
                "interval_days": one.interval_days,
                "new_count": one.count,
            }
            for one in found.in_time
        ],
    }


def _registrations(aligned: AlignedStudies) -> dict[str, Any]:
    current, prior = aligned.current, aligned.prior
    found = {f"{role}_to_flair": current.to_flair[role] for role in _by_role(current.to_flair)}
    if aligned.prior_to_current is not None:
        found["prior_flair_to_flair"] = aligned.prior_to_current
        if prior is not None:
            centre = _centre_mm(current.brain_mask)
            for role in _by_role(prior.to_flair):
                found[f"prior_{role}_to_flair"] = _chained(
                    aligned.prior_to_current, prior.to_flair[role], centre
                )
    return {name: _registration(item) for name, item in found.items()}


def _by_role(registrations: Mapping[str, Registration]) -> list[str]:
    return sorted(registrations, key=_ROLES.index)


def _chained(first: Registration, second: Registration, centre_mm: np.ndarray) -> Registration:
    """Current FLAIR to prior FLAIR to another image of the prior, as one registration.

    Its similarity is that of the second step, and it is accepted when both steps are.
    """
    matrix = second.matrix_lps @ first.matrix_lps
    cosine = (np.trace(matrix[:3, :3]) - 1.0) / 2.0
    displacement = matrix[:3, :3] @ centre_mm + matrix[:3, 3] - centre_mm
    return Registration(
        matrix_lps=matrix,
        translation_mm=float(np.linalg.norm(displacement)),
        rotation_deg=float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))),
        similarity=second.similarity,
        accepted=first.accepted and second.accepted,
    )


def _centre_mm(mask: Volume) -> np.ndarray:
    indices = np.argwhere(mask.array)
    centre = indices.mean(axis=0) if len(indices) else (np.asarray(mask.spatial_shape) - 1) / 2.0
    position: np.ndarray = mask.affine[:3, :3] @ centre + mask.affine[:3, 3]
    return position


def _registration(registration: Registration) -> dict[str, Any]:
    return {
        "matrix_lps": [_numbers(row, _MATRIX) for row in registration.matrix_lps.tolist()],
        "translation_mm": _number(registration.translation_mm, _MM),
        "rotation_deg": _number(registration.rotation_deg, _MM),
        "similarity": _number(registration.similarity, _SHARE),
        "accepted": bool(registration.accepted),
    }


def _lesion(lesion: Lesion) -> dict[str, Any]:
    return {
        "tracking_uid": lesion.tracking_uid,
        "tracking_id": lesion.tracking_id,
        "segment_number": lesion.segment_number,
        "volume_ml": _number(lesion.volume_ml, _ML),
        "prior_volume_ml": _number_or_none(lesion.prior_volume_ml, _ML),
        "diameter_mm": _number(lesion.diameter_mm, _MM),
        "centroid_lps_mm": _numbers(lesion.centroid_lps_mm, _MM),
        "region": lesion.region,
        "change": lesion.change,
        "confidence": _number(lesion.confidence, _SHARE),
        "change_confidence": _number_or_none(lesion.change_confidence, _SHARE),
        "volume_interval_ml": _range(lesion.volume_interval_ml),
        "prior_volume_interval_ml": _range(lesion.prior_volume_interval_ml),
        "change_since_first": lesion.change_since_first,
        "lineage": list(lesion.lineage),
        "volumes_ml": [_number_or_none(volume, _ML) for volume in lesion.volumes_ml],
        "distance_to_ventricle_mm": _number_or_none(lesion.distance_to_ventricle_mm, _MM),
        "distance_to_cortex_mm": _number_or_none(lesion.distance_to_cortex_mm, _MM),
        "found_by": lesion.found_by,
    }


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "lesion_count": totals.lesion_count,
        "lesion_volume_ml": _number(totals.lesion_volume_ml, _ML),
        "prior_lesion_volume_ml": _number_or_none(totals.prior_lesion_volume_ml, _ML),
        "new_count": totals.new_count,
        "enlarging_count": totals.enlarging_count,
        "shrinking_count": totals.shrinking_count,
        "resolved_count": totals.resolved_count,
        "lesion_volume_interval_ml": _range(totals.lesion_volume_interval_ml),
        "prior_lesion_volume_interval_ml": _range(totals.prior_lesion_volume_interval_ml),
    }


def _number(value: float, decimals: int) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"results.json cannot hold the number {number}")
    return round(number, decimals) + 0.0


def _number_or_none(value: float | None, decimals: int) -> float | None:
    return None if value is None else _number(value, decimals)


def _range(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else _numbers(interval, _ML)


def _numbers(values: tuple[float, ...] | list[float], decimals: int) -> list[float]:
    return [_number(value, decimals) for value in values]
