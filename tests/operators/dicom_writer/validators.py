"""DICOM's external validators, and the messages of theirs that are known and explained."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

DCIODVFY_ALLOWED: tuple[tuple[str, str], ...] = ()
"""(regular expression, reason); no error of dciodvfy is allowed for any output."""

PIXELMED_ALLOWED: tuple[tuple[str, str], ...] = (
    (
        r"Code \(24590-2,LN,\"Brain MRI\"\) not found in context group 100$",
        "CID 100 is extensible (PS3.16) and has no code for a plain MRI of the brain.",
    ),
    (
        r"^Error: Template 1411 VolumetricROIMeasurements/.*\[Row (5|7|10)\].*"
        r": Missing conditional content item$",
        "The validator chooses one template for all groups of Imaging Measurements together: as "
        "soon as one group has a segment it holds the groups after TID 1501 (totals and resolved "
        "lesions, which have no region) to TID 1411, and never checks TID 1501.",
    ),
    (
        r"^Error: Template 1419 ROIMeasurements/.*\[Row 5\] NUM \*: .*/NUM "
        r"\((126073,DCM,\"Time Point Order\"|"
        r"128740,DCM,\"Longitudinal Temporal Offset from Event\")\)"
        r": Incorrect relationship - expected CONTAINS - found HAS OBS CONTEXT$",
        "The validator does not know that TID 1411 and 1501 include TID 1502 (Time Point Context), "
        "whose numbers are observation context, and takes them for measurements of TID 1419.",
    ),
)
"""(regular expression, reason) for the SR validator."""

PIXELMED_JARS = (Path("/usr/share/java/pixelmed.jar"),)

_QUICK_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_UNLIMITED_XPATH = (
    "-Djdk.xml.xpathExprGrpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathTotalOpLimit=0",
)
"""The validator's style sheet is larger than Java's limits for untrusted ones."""


def run(*command: str | Path) -> str:
    """The output of a command, standard output and error together, in whatever character set."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=300,
    )
    return done.stdout.decode("latin-1")


def errors_of(output: str, allowed: Iterable[tuple[str, str]] = ()) -> list[str]:
    """The error lines of a validator that no allow-list entry explains."""
    lines = [line.strip() for line in output.splitlines() if line.startswith("Error")]
    return [line for line in lines if not any(re.search(rule, line) for rule, _ in allowed)]


def object_errors(tool: str, path: Path) -> list[str]:
    """Errors of ``dciodvfy -new`` for one object, which it must have recognised."""
    output = run(tool, "-new", path)
    errors = errors_of(output, DCIODVFY_ALLOWED)
    if not output.strip() or "not found" in output.lower():
        errors.append(f"dciodvfy did not recognise {path.name}: {output[:200]}")
    return errors


def entity_errors(tool: str, paths: Sequence[Path]) -> list[str]:
    """Errors of ``dcentvfy`` over objects that must agree on patient, study, series and so on."""
    return errors_of(run(tool, *paths))


def report_errors(java: str, jar: Path, path: Path) -> tuple[list[str], str]:
    """Unexplained errors of PixelMed's SR validator, and everything it said."""
    output = run(
        java,
        *_QUICK_START,
        *_UNLIMITED_XPATH,
        "-cp",
        jar,
        "com.pixelmed.validate.DicomSRValidator",
        path,
    )
    return errors_of(output, PIXELMED_ALLOWED), output
