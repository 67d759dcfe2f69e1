"""A data set to evaluate on: a table of cases, or a BIDS folder."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.errors import ConfigurationError

ATTRIBUTES = ("scanner", "field_strength", "group")
MASKS = ("reference", "second_rater", "brain", "ignore")
_BIDS = {"FLAIR": "flair", "T2w": "t2", "T1w": "t1", "PD": "pd", "PDw": "pd"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_SECOND = re.compile(r"rater-?2|second", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One examination, with its reference where there is one.

    Attributes
    ----------
    name
        Unique; safe as a file name.
    images
        Role to a NIfTI file or a folder of one DICOM series.
    reference
        NIfTI mask or DICOM SEG (above 0 is lesion) on the FLAIR's grid, or any other; None where
        there is none: then the case is shown, and not scored.
    second_rater
        The same of another rater, or None.
    brain
        NIfTI brain mask; None has the application find the brain.
    ignore
        Mask of what counts nowhere, such as lesions that the reference leaves out; or None.
    scanner, field_strength, group
        As the table says; empty where it does not. The report groups by them.
    aligned
        Whether the images lie on each other already, so that nothing is registered.
    seen_by
        Names of the models that were trained on this case: they are not run on it.
    """

    name: str
    images: dict[str, Path]
    reference: Path | None
    second_rater: Path | None = None
    brain: Path | None = None
    ignore: Path | None = None
    scanner: str = ""
    field_strength: str = ""
    group: str = ""
    aligned: bool = False
    seen_by: tuple[str, ...] = ()


def _fault(path: Path, rule: str, remedy: str = "Correct the data set.") -> ConfigurationError:
    return ConfigurationError(path.name, rule, remedy)


def read_table(path: Path) -> tuple[Case, ...]:
    """Read a CSV or TSV table; paths in it are relative to the table.

    Columns: ``case``, ``reference`` (which may be empty); optional ``second_rater``, ``brain``,
    ``ignore``, ``scanner``, ``field_strength``, ``group``, ``aligned`` (yes or no), ``seen_by``
    (names of models, with semicolons between them); every other column is a role with its images.

    Raises
    ------
    ConfigurationError
        If a column is missing, a case stands twice or a file is not there.
    """
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
        columns = [name.strip() for name in reader.fieldnames or ()]
        rows = []
        for row in reader:
            if None in row:
                raise _fault(path, f"Line {reader.line_num} has more cells than the first one.")
            rows.append({key.strip(): (value or "").strip() for key, value in row.items()})
    for needed in ("case", "reference"):
        if needed not in columns:
            raise _fault(path, f"The column {needed} is missing.")
    roles = [c for c in columns if c not in ("case", "aligned", "seen_by", *MASKS, *ATTRIBUTES)]
    if not roles:
        raise _fault(path, "No column holds images, such as flair.")
    cases: dict[str, Case] = {}
    for number, row in enumerate(rows, start=2):
        name = row["case"]
        if not name or _UNSAFE.search(name):
            raise _fault(path, f"Line {number}: the case must be letters, digits, . _ or -.")
        if name in cases:
            raise _fault(path, f"Line {number}: case {name} stands twice.")
        if row.get("aligned", "") not in ("", "yes", "no"):
            raise _fault(path, f"Line {number}: aligned must be yes or no.")
        files = {key: path.parent / row[key] for key in (*roles, *MASKS) if row.get(key)}
        for key, file in files.items():
            if not file.exists():
                raise _fault(path, f"Line {number}: {key} is not there ({row[key]}).")
        images = {role: files[role] for role in roles if role in files}
        if not images:
            raise _fault(path, f"Line {number}: there is no image.")
        if "second_rater" in files and "reference" not in files:
            raise _fault(path, f"Line {number}: a second rater without a reference.")
        cases[name] = Case(
            name=name,
            images=images,
            reference=files.get("reference"),
            second_rater=files.get("second_rater"),
            brain=files.get("brain"),
            ignore=files.get("ignore"),
            scanner=row.get("scanner", ""),
            field_strength=row.get("field_strength", ""),
            group=row.get("group", ""),
            aligned=row.get("aligned") == "yes",
            seen_by=tuple(part.strip() for part in row.get("seen_by", "").split(";") if part),
        )
    if not cases:
        raise _fault(path, "It holds no case.")
    return tuple(cases.values())


def _participants(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of participants.tsv by participant; empty without the file."""
    path = folder / "participants.tsv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = [
            {key: (value or "").strip() for key, value in row.items() if key}
            for row in csv.DictReader(stream, delimiter="\t")
        ]
    for row in rows:
        if row.get("aligned", "") not in ("", "n/a", "yes", "no"):
            raise _fault(path, "aligned must be yes or no.")
    return {
        row.get("participant_id", ""): {k: v for k, v in row.items() if v != "n/a"} for row in rows
    }


def _sidecar(image: Path) -> Mapping[str, Any]:
    """What the JSON file beside a BIDS image says; empty without one."""
    path = image.with_name(f"{image.name.split('.')[0]}.json")
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _fault(path, f"It is no JSON ({error}).") from error
    return found if isinstance(found, dict) else {}


def _scanner(row: Mapping[str, str], image: Path) -> tuple[str, str]:
    """Scanner and field strength: as participants.tsv says, else as the image's JSON file does."""
    beside = _sidecar(image)
    maker = (beside.get("Manufacturer"), beside.get("ManufacturersModelName"))
    field = beside.get("MagneticFieldStrength")
    return (
        row.get("scanner") or " ".join(str(part) for part in maker if part),
        row.get("field_strength") or (f"{field:g}" if isinstance(field, int | float) else ""),
    )


def _bids_images(anatomy: Path, name: str) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for file in sorted(anatomy.glob("*.nii*")):
        role = _BIDS.get(file.name.split(".")[0].rsplit("_", 1)[-1])
        if role is None:
            continue
        if role in images:
            raise _fault(anatomy, f"{name} has two images for {role}.")
        images[role] = file
    return images


def _bids_masks(folder: Path, parts: tuple[str, ...], name: str) -> dict[str, Path]:
    """Masks of a session by what they are: see `read_bids`."""
    found: dict[str, list[Path]] = {"reference": [], "second_rater": [], "brain": []}
    for file in sorted((folder / "derivatives").rglob("*.nii*")):
        path = file.relative_to(folder)
        if not set(parts) <= set(re.split(r"[_/]", str(path))):
            continue
        if not re.search(r"_(dseg|mask)\.nii(\.gz)?$", file.name):
            continue
        if "brain" in str(path).lower():
            found["brain"].append(file)
        elif _SECOND.search(str(path)):
            found["second_rater"].append(file)
        else:
            found["reference"].append(file)
    if max(len(files) for files in found.values()) > 1:
        raise _fault(
            folder,
            f"{name} has {len(found['reference'])} lesion masks, {len(found['second_rater'])} of a "
            f"second rater and {len(found['brain'])} brain masks below derivatives.",
            "Leave at most one of each, or give a table.",
        )
    if found["second_rater"] and not found["reference"]:
        raise _fault(folder, f"{name} has a second rater without a reference.")
    return {key: files[0] for key, files in found.items() if files}


def read_bids(folder: Path) -> tuple[Case, ...]:
    """Read a BIDS folder: images in ``sub-*/[ses-*/]anat``, masks in ``derivatives``.

    A mask is a file ``*_dseg.nii.gz`` or ``*_mask.nii.gz`` below ``derivatives`` with the same
    ``sub-`` and ``ses-``; one whose name or derivative folder holds "brain" is the brain mask, one
    with "rater2", "rater-2" or "second" another rater's. A session without a lesion mask has no
    reference. ``scanner``, ``field_strength``, ``group`` and ``aligned`` may stand in
    ``participants.tsv``; scanner and field strength are else those of the FLAIR's JSON file.

    Raises
    ------
    ConfigurationError
        If a session has several masks or two images of one role; or if there is no session.
    """
    known = _participants(folder)
    cases = []
    for anatomy in sorted([*folder.glob("sub-*/anat"), *folder.glob("sub-*/ses-*/anat")]):
        parts = anatomy.relative_to(folder).parts[:-1]
        name = "_".join(parts)
        images = _bids_images(anatomy, name)
        if not images:
            continue
        masks = _bids_masks(folder, parts, name)
        row = known.get(parts[0], {})
        scanner, strength = _scanner(row, images.get("flair", next(iter(images.values()))))
        cases.append(
            Case(
                name=name,
                images=images,
                reference=masks.get("reference"),
                second_rater=masks.get("second_rater"),
                brain=masks.get("brain"),
                scanner=scanner,
                field_strength=strength,
                group=row.get("group", ""),
                aligned=row.get("aligned") == "yes",
            )
        )
    if not cases:
        raise _fault(folder, "It holds no sub-*/anat folder with images.")
    return tuple(cases)


def read_dataset(path: Path) -> tuple[Case, ...]:
    """Read a table or a BIDS folder.

    Raises
    ------
    ConfigurationError
        If it is neither, or faulty.
    """
    if path.is_dir():
        return read_bids(path)
    if not path.is_file():
        raise _fault(path, "There is no such file.", "Give a table or a BIDS folder.")
    return read_table(path)
