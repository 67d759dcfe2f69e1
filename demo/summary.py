"""What a run found, in a few lines of text: ``python -m demo.summary OUT``."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from operators.errors import InputError
from operators.version import STATEMENT

WIDTH = 100
_ROLES = {"flair": "FLAIR", "t2": "T2", "t1": "T1"}
_REGIONS = {
    "periventricular": "periventricular",
    "juxtacortical": "juxtacortical",
    "infratentorial": "infratentorial",
    "deep_white_matter": "deep white matter",
    "unspecified": "unspecified",
}
_OBJECTS = (
    ("SEG", "Segmentation (SEG)"),
    ("SR", "Measurements (SR)"),
    ("OT", "Preview (Secondary Capture)"),
    ("DOC", "Report as DICOM (Encapsulated PDF)"),
)


def read_results(out: Path) -> dict[str, Any]:
    """Read results.json of an output folder.

    Raises
    ------
    InputError
        When there is none, or it is no JSON.
    """
    path = out / "results.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            str(path),
            "There is no readable results.json in the output folder.",
            "Run the application first.",
        ) from error
    return content


def find_objects(folder: Path) -> dict[str, list[Path]]:
    """The DICOM objects in a folder by modality.

    Files that are not DICOM are left out.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"])
        except InvalidDicomError:
            continue
        found.setdefault(str(header.get("Modality", "?")), []).append(path)
    return found


def summarise(results: Mapping[str, Any], out: Path, objects: Mapping[str, list[Path]]) -> str:
    """The summary as text of at most 100 columns (paths may be longer).

    Parameters
    ----------
    results
        Content of results.json.
    out
        The output folder, for the places of the files.
    objects
        From ``find_objects``.
    """
    parts = [
        _title(results),
        _series(results),
        _load(results),
        _table(results),
        _quality(results),
        _places(out, objects),
        STATEMENT,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _wrapped(text: str, indent: str, first: str | None = None) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent if first is None else first, subsequent_indent=indent
    )


def _title(results: Mapping[str, Any]) -> str:
    software, model = results["software"], results["model"]
    name = f"{software['name']} {software['version']}"
    engine = f"{model['engine']}, {model['precision']}"
    return f"{name}\n{'=' * len(name)}\nModel {model['name']} {model['version']} on {engine}"


def _series(results: Mapping[str, Any]) -> str:
    lines = ["Series used"]
    for title, study in (("Current study", results["current"]), ("Prior study", results["prior"])):
        if study is None:
            lines.append("  Prior study: none, this is a baseline")
            continue
        days = study["interval_days"]
        when = f", {abs(days)} days earlier" if days else ""
        spacing = " × ".join(f"{value:.2f}" for value in study["spacing_mm"])
        lines.append(f"  {title}{when} (FLAIR voxels {spacing} mm)")
        for role, label in _ROLES.items():
            series = study["series"].get(role)
            if series is None:
                lines.append(f"    {label:<6}none")
            else:
                lines.append(_wrapped(series["reason"], " " * 10, f"    {label:<6}"))
    return "\n".join(lines)


def _load(results: Mapping[str, Any]) -> str:
    totals = results["totals"]
    count = totals["lesion_count"]
    lesions = "1 lesion" if count == 1 else f"{count} lesions"
    lines = ["Lesion load", f"  now     {totals['lesion_volume_ml']:8.2f} ml in {lesions}"]
    before = totals["prior_lesion_volume_ml"]
    if before is not None:
        lines.append(f"  before  {before:8.2f} ml")
        change = totals["lesion_volume_ml"] - before
        share = f" ({100.0 * change / before:+.0f} %)" if before > 0.0 else ""
        lines.append(f"  change  {change:+8.2f} ml{share}")
        counts = ", ".join(
            f"{totals[f'{kind}_count']} {kind}"
            for kind in ("new", "enlarging", "shrinking", "resolved")
        )
        lines.append(f"  {counts}")
    return "\n".join(lines)


def _table(results: Mapping[str, Any]) -> str:
    lesions = results["lesions"]
    if not lesions:
        return "Lesions\n  none found"
    follow_up = results["totals"]["prior_lesion_volume_ml"] is not None
    head = f"  {'no.':>3}  {'region':<18}{'now ml':>9}"
    head += f"{'before ml':>11}{'change':>9}" if follow_up else ""
    head += f"{'mm':>7}  {'centroid L, P, S mm':<25}{'finding':<10}"
    lines = ["Lesions", head.rstrip(), "  " + "-" * (len(head.rstrip()) - 2)]
    for lesion in lesions:
        number = lesion["segment_number"]
        row = f"  {number if number is not None else '–':>3}  {_REGIONS[lesion['region']]:<18}"
        row += f"{lesion['volume_ml']:>9.3f}"
        if follow_up:
            before = lesion["prior_volume_ml"]
            row += f"{'–' if before is None else f'{before:.3f}':>11}"
            row += f"{_percent(lesion['volume_ml'], before):>9}"
        position = ", ".join(f"{value:6.1f}" for value in lesion["centroid_lps_mm"])
        row += f"{lesion['diameter_mm']:>7.1f}  {position:<25}{lesion['change']:<10}"
        lines.append(row.rstrip())
    return "\n".join(lines)


def _percent(now: float, before: float | None) -> str:
    if not before or now == 0.0:
        return "–"
    return f"{100.0 * (now / before - 1.0):+.0f} %"


def _quality(results: Mapping[str, Any]) -> str:
    notes = results["quality"]
    if not notes:
        return "Quality notes\n  none"
    return "\n".join(
        [
            "Quality notes",
            *(
                _wrapped(
                    f"{note['message']} [{note['code']}]", " " * 11, f"  {note['severity']:<9}"
                )
                for note in notes
            ),
        ]
    )


def _places(out: Path, objects: Mapping[str, list[Path]]) -> str:
    lines = ["Where it lies"]
    for modality, label in _OBJECTS:
        paths = objects.get(modality, [])
        if len(paths) == 1:
            place = str(paths[0])
        elif paths:
            place = f"{paths[0]} to {paths[-1].name}"
        else:
            place = "missing"
        lines.append(f"  {label:<36}{place}")
    for label, name in (("Report (PDF)", "report.pdf"), ("Numbers", "results.json")):
        path = out / name
        lines.append(f"  {label:<36}{path if path.exists() else 'missing'}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.summary", description="Summarise the result of a run."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder of the application")
    options = parser.parse_args(arguments)
    try:
        results = read_results(options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(summarise(results, options.out, find_objects(options.out / "dicom")), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
