"""What is evaluated: a model package, one member of it, or the classical comparator."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from model_tools.engines import PaddedEngine
from model_tools.evaluate.examination import Examination
from model_tools.evaluate.members import MEMBER, extract_member, named_member
from model_tools.train.atlas import Atlas, load_atlas
from model_tools.train.classical import GROW, SEED, lesion_growth
from operators.errors import ConfigurationError, InputError
from operators.geometry import resample_to
from operators.lesion_segmentation.engine import Engine, open_engine
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import (
    MODEL_FILE,
    ModelPackage,
    file_sha256,
    load_model_package,
)
from operators.lesion_segmentation.segmentation import segment_study, usable_roles
from operators.lesion_segmentation.settings import LesionSegmentationSettings

CLASSICAL = "classical"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_RULE = re.compile(rf"{CLASSICAL}(?::([0-9.]+),([0-9.]+))?\Z")


@dataclass(frozen=True)
class Candidate:
    """A model under test.

    Attributes
    ----------
    name
        Unique; safe as a folder name.
    folder
        Its package; None for the classical comparator.
    rule
        The comparator's seed and growth limits (`model_tools.train.classical`), else None.
    """

    name: str
    folder: Path | None
    rule: tuple[float, float] | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """The sequences it uses."""
        return ("flair",) if self.folder is None else load_model_package(self.folder).roles

    @property
    def title(self) -> str:
        """Name and version of the package, or the comparator's numbers."""
        if self.rule is not None:
            return f"lesion growth, seed {self.rule[0]:g}, grow {self.rule[1]:g} SD"
        assert self.folder is not None
        described = load_model_package(self.folder).description
        if described.source.startswith(MEMBER):
            return described.source
        return f"{described.name} {described.version}"

    @property
    def threshold(self) -> float | None:
        """Of its package; None for the comparator."""
        if self.folder is None:
            return None
        return load_model_package(self.folder).description.threshold

    @property
    def sha256(self) -> str:
        """The package's identity; of the comparator, a hash of its name and numbers."""
        if self.folder is not None:
            return load_model_package(self.folder).sha256
        return hashlib.sha256(f"{CLASSICAL} with N4 {self.rule}".encode()).hexdigest()

    @property
    def mark(self) -> str:
        """Changes with the model, and is cheap."""
        return self.sha256 if self.folder is None else file_sha256(self.folder / MODEL_FILE)


def read_candidate(text: str, members: Path) -> Candidate:
    """Read ``[NAME=]FOLDER``, ``[NAME=]FOLDER#N`` (one member) or ``[NAME=]classical[:SEED,GROW]``.

    Parameters
    ----------
    text
        As on the command line.
    members
        Where packages of single members are written.

    Raises
    ------
    ConfigurationError
        If there is no such package or member, or the name cannot be a folder's.
    """
    name, equals, value = text.partition("=")
    if not equals:
        name, value = "", text
    rule, member = _RULE.match(value), named_member(value)
    if rule:
        name = name or CLASSICAL
    elif member:
        name = name or f"{Path(member[0]).resolve().name}_{member[1]}"
    else:
        name = name or Path(value).resolve().name
    if not _NAME.match(name):
        raise ConfigurationError(
            f"model {name}",
            "Its name must be letters, digits, . _ or -.",
            "Name it with -m NAME=FOLDER.",
        )
    if rule:
        numbers = (float(rule[1]), float(rule[2])) if rule[1] else (SEED, GROW)
        if not all(math.isfinite(n) and n > 0 for n in numbers) or numbers[0] < numbers[1]:
            raise ConfigurationError(
                f"model {name}",
                "The seeds' limit must not be below that of growth.",
                "Give classical:SEED,GROW as classical:3.5,1.5.",
            )
        return Candidate(name, None, numbers)
    if member:
        folder = extract_member(Path(member[0]).resolve(), member[1], members / name)
    else:
        folder = Path(value).resolve()
        load_model_package(folder)
    return Candidate(name, folder)


@lru_cache(maxsize=1)
def _atlas() -> Atlas:
    """The maps, kept for the next case of this process."""
    return load_atlas()


@lru_cache(maxsize=6)
def _engine(folder: Path, sha256: str, network: Network, threads: int) -> Engine:
    """An engine, kept for the next case of this process; ``sha256`` so that a new one is seen."""
    return open_engine(
        load_model_package(folder), LesionSegmentationSettings(threads=threads), network=network
    )


@dataclass(frozen=True)
class Outline:
    """What a candidate shows on one case.

    Attributes
    ----------
    mask
        bool on the FLAIR's grid.
    probability
        float32 on the same grid; None for a rule, which has none.
    remark
        Such as which sequences were replaced by zeros; empty without one.
    """

    mask: np.ndarray
    probability: np.ndarray | None = None
    remark: str = ""


def outline(
    examination: Examination, candidate: Candidate, threads: int, *, fill_missing: bool = False
) -> Outline:
    """The candidate's lesions on one case.

    Parameters
    ----------
    examination
        The case.
    candidate
        The model.
    threads
        Of the engine.
    fill_missing
        Give a network zeros for a sequence that the case lacks, rather than refuse the case.

    Raises
    ------
    InputError
        If the case lacks a sequence, or shows no brain.
    """
    if candidate.rule is not None:
        return Outline(_grown(examination, candidate.rule))
    assert candidate.folder is not None
    package = load_model_package(candidate.folder)
    usable = usable_roles(examination.study)
    missing = [role for role in package.roles if role not in usable]
    if missing and not (fill_missing and set(package.roles) & usable):
        there = set(missing) <= set(examination.study.selected.series)
        raise InputError(
            examination.name,
            f"Its {', '.join(missing)} could not be aligned with the FLAIR."
            if there
            else f"It has no {', '.join(missing)}.",
            "This model cannot run on it; --fill-missing gives it zeros instead.",
        )
    settings = LesionSegmentationSettings(threads=threads)
    position = [number for number, role in enumerate(package.roles) if role in usable]
    described = package.description
    if missing:
        channels = tuple(described.channels[number] for number in position)
        described = described.model_copy(update={"channels": channels})

    def engine_of(_: ModelPackage, network: Network) -> Engine:
        engine = _engine(package.folder, package.sha256, network, threads)
        return PaddedEngine(engine, position, len(package.roles)) if missing else engine

    part = ModelPackage(package.folder, described, package.sha256)
    found, _ = segment_study(examination.study, part, engine_of, settings)
    remark = f"{', '.join(missing)} replaced by zeros" if missing else ""
    probability = np.asarray(found.probability.array)
    return Outline(np.asarray(probability > found.threshold), probability, remark)


def _grown(examination: Examination, rule: tuple[float, float]) -> np.ndarray:
    """Lesion growth at 1 mm in the study's own brain mask, back on the FLAIR's grid."""
    study = examination.study
    volume = study.selected.series["flair"].volume
    flat = examination.flat_flair
    grid, flair, inside = flat, flat.array, flat.array != 0
    white, grey = (
        resample_to(part, grid, study.template_to_flair).array for part in _atlas().tissues()
    )
    if not (inside & (grey > 0.8)).any():
        raise InputError(
            examination.name,
            "The template's grey matter does not lie in its brain.",
            "Check the brain mask and the orientation of the FLAIR.",
        )
    found = lesion_growth(flair, white, grey, *rule)
    return np.asarray(resample_to(grid.with_array(found.astype(np.float32)), volume).array > 0.5)
