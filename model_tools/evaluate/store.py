"""What an evaluation keeps on disk, so that it goes on where it was stopped.

``prepared/CASE.npz`` (registration), ``answers/MODEL/CASE.json`` (scores) and
``masks/MODEL/CASE.nii.gz`` (outlines on the FLAIR's grid, and ``masks/reference``). The first two
carry a fingerprint of what they were made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813

from model_tools.evaluate.dataset import Case
from operators.geometry import from_sitk, to_sitk
from operators.messages import AlignedStudy, Registration, SelectedStudy

SCORING = 3
"""Counts up when the scores or the registration change, so that old answers are made anew."""
REFERENCE = "reference"
SECOND_RATER = "second_rater"


@dataclass(frozen=True)
class Store:
    """The folder of an evaluation."""

    folder: Path

    def answer(self, model: str, case: str) -> Path:
        """The scores of a case and model."""
        return self.folder / "answers" / model / f"{case}.json"

    def mask(self, model: str, case: str) -> Path:
        """The outline of a case and model."""
        return self.folder / "masks" / model / f"{case}.nii.gz"

    def prepared(self, case: str) -> Path:
        """The registration of a case."""
        return self.folder / "prepared" / f"{case}.npz"

    def answered(self, model: str, case: str, mark: str) -> bool:
        """Whether a valid answer for this very input is there."""
        try:
            answer = json.loads(self.answer(model, case).read_text(encoding="utf-8"))
            return bool(
                answer["fingerprint"] == mark
                and (answer["failure"] or self.mask(model, case).is_file())
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write_answer(self, model: str, case: str, content: dict[str, Any]) -> None:
        """Write an answer at one stroke."""
        path = self.answer(model, case)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    def write_mask(self, model: str, case: str, mask: hd.Volume) -> None:
        """Write an outline at one stroke, uint8."""
        path = self.mask(model, case)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{case}.partial.nii.gz")
        sitk.WriteImage(to_sitk(mask, np.uint8), str(partial), True)
        partial.replace(path)

    def read_mask(self, model: str, case: str) -> hd.Volume:
        """Read what `write_mask` wrote."""
        return from_sitk(sitk.ReadImage(str(self.mask(model, case)), sitk.sitkUInt8))

    def answers(self, models: Sequence[str], cases: Sequence[str]) -> list[dict[str, Any]]:
        """Every answer there is, by model and case."""
        paths = [self.answer(model, case) for model in models for case in sorted(cases)]
        return [json.loads(p.read_text(encoding="utf-8")) for p in paths if p.is_file()]

    def write_prepared(self, case: str, mark: str, study: AlignedStudy) -> None:
        """Keep a registration."""
        path = self.prepared(case)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        roles = sorted(study.to_flair)
        found = [study.to_flair[role] for role in roles]
        with partial.open("wb") as stream:
            np.savez(
                stream,
                mark=mark,
                roles=np.array(roles, dtype=str),
                matrices=np.array([one.matrix_lps for one in found]).reshape(-1, 4, 4),
                measures=np.array(
                    [(one.translation_mm, one.rotation_deg, one.similarity) for one in found]
                ).reshape(-1, 3),
                accepted=np.array([one.accepted for one in found], dtype=bool),
                brain=np.packbits(study.brain_mask.array.astype(bool)),
                shape=study.brain_mask.spatial_shape,
                affine=study.brain_mask.affine,
                template=study.template_to_flair,
            )
        partial.replace(path)

    def read_prepared(self, case: str, mark: str, selected: SelectedStudy) -> AlignedStudy | None:
        """A registration that was kept for these very images, or None.

        Parameters
        ----------
        case, mark
            As they were written.
        selected
            Goes into the result.
        """
        try:
            with np.load(self.prepared(case), allow_pickle=False) as data:
                if str(data["mark"]) != mark:
                    return None
                shape = tuple(int(n) for n in data["shape"])
                brain = np.unpackbits(data["brain"], count=int(np.prod(shape))).reshape(shape)
                flair = selected.series["flair"].volume
                return AlignedStudy(
                    selected=selected,
                    to_flair={
                        str(role): Registration(
                            matrix, float(shift), float(turn), float(likeness), bool(accepted)
                        )
                        for role, matrix, (shift, turn, likeness), accepted in zip(
                            data["roles"],
                            data["matrices"],
                            data["measures"],
                            data["accepted"],
                            strict=True,
                        )
                    },
                    brain_mask=flair.with_array(brain.astype(bool)),
                    template_to_flair=data["template"],
                )
        except (OSError, ValueError, KeyError):
            return None


def files_of(paths: Sequence[Path | None]) -> list[Any]:
    """Name, size and time of change of every file, as a fingerprint's content."""
    content: list[Any] = []
    for path in paths:
        if path is None:
            content.append(None)
            continue
        parts = sorted(path.rglob("*")) if path.is_dir() else [path]
        content += [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    return content


def prepared_mark(case: Case) -> str:
    """Changes with what a registration depends on."""
    roles = sorted(case.images)
    content = [SCORING, case.aligned, roles]
    content += files_of([*(case.images[role] for role in roles), case.brain])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def fingerprint(case: Case, model: str, *, fill_missing: bool) -> str:
    """Changes with the case's files and the model, so that an old answer is not taken for new.

    Parameters
    ----------
    case
        The case.
    model
        The model's mark; empty for the second rater.
    fill_missing
        Whether the model may run on zeros.
    """
    masks = files_of([case.reference, case.second_rater, case.ignore])
    content = [prepared_mark(case), masks, model, fill_missing, case.seen_by]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
