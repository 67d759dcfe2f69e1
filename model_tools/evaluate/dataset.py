"""A data set to evaluate on: a table of cases, or a BIDS folder."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from operators.errors import ConfigurationError

ATTRIBUTES = ("scanner", "field_strength", "group")
MASKS = ("reference", "second_rater", "brain", "ignore")
_BIDS = {"FLAIR": "flair", "T2w": "t2", "T1w": "t1", "PD": "pd", "PDw": "pd"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


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


def read_bids(folder: Path) -> tuple[Case, ...]:
    """Read a BIDS folder: images in ``sub-*/[ses-*/]anat``, masks in ``derivatives``.

    A mask is a file ``*_dseg.nii.gz`` or ``*_mask.nii.gz`` below ``derivatives`` with the same
    ``sub-`` and ``ses-``; one whose name or derivative folder holds "brain" is the brain mask. A
    session without a lesion mask has no reference. ``scanner``, ``field_strength`` and ``group``
    may stand in ``participants.tsv``.

    Raises
    ------
    ConfigurationError
        If a session has several masks or two images of one role; or if there is no session.
    """
    participants = folder / "participants.tsv"
    known: dict[str, dict[str, str]] = {}
    if participants.is_file():
        with participants.open(newline="", encoding="utf-8-sig") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                known[row.get("participant_id", "")] = row
    cases = []
    for anatomy in sorted([*folder.glob("sub-*/anat"), *folder.glob("sub-*/ses-*/anat")]):
        parts = anatomy.relative_to(folder).parts[:-1]
        name = "_".join(parts)
        images: dict[str, Path] = {}
        for file in sorted(anatomy.glob("*.nii*")):
            role = _BIDS.get(file.name.split(".")[0].rsplit("_", 1)[-1])
            if role is None:
                continue
            if role in images:
                raise _fault(anatomy, f"{name} has two images for {role}.")
            images[role] = file
        masks = [
            file
            for file in sorted((folder / "derivatives").rglob("*.nii*"))
            if set(parts) <= set(re.split(r"[_/]", str(file.relative_to(folder))))
            and re.search(r"_(dseg|mask)\.nii(\.gz)?$", file.name)
        ]
        brains = [m for m in masks if "brain" in str(m.relative_to(folder)).lower()]
        references = [m for m in masks if m not in brains]
        if not images:
            continue
        if len(references) > 1 or len(brains) > 1:
            raise _fault(
                folder,
                f"{name} has {len(references)} lesion masks and {len(brains)} brain masks below "
                "derivatives.",
                "Leave at most one of each, or give a table.",
            )
        row = known.get(parts[0], {})
        cases.append(
            Case(
                name=name,
                images=images,
                reference=references[0] if references else None,
                brain=brains[0] if brains else None,
                scanner=row.get("scanner") or "",
                field_strength=row.get("field_strength") or "",
                group=row.get("group") or "",
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
