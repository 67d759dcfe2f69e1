"""Run the trials: each leaves its computed arrays and one JSON file, so that a run goes on.

Trials, by name: ``retest-SCAN-N`` (a scan against a made second examination of itself),
``transplant-SCAN-N`` (the same with planted change), ``real-SCAN`` (two real studies) and
``realtransplant-SCAN-N`` (new lesions planted into the later of two real studies). Registration and
segmentation run once per image; the comparison runs again whenever the comparator has changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np

import operators.longitudinal_comparator as comparator_package
from app.config import AppSettings, load_settings
from model_tools.change.chain import (
    Segmenter,
    align_alone,
    common_roles,
    follow_up,
    pair,
    relate,
    study_of,
)
from model_tools.change.generator.contrast import Contrast, contrasts_of_case, contrasts_of_scan
from model_tools.change.generator.plans import Planted, make_plan, trial_rng
from model_tools.change.generator.plant import Painted, partial_volume, plant
from model_tools.change.generator.retest import second_examination
from model_tools.change.generator.scans import (
    PAIRS,
    SCANS,
    Scan,
    change_mask,
    load_scan,
    read_images,
)
from model_tools.change.generator.shapes import Shape, load_shapes
from model_tools.change.score import (
    against_change_mask,
    counts,
    planted_outcomes,
    unplanted_changes,
)
from model_tools.change.store import (
    Arrays,
    load,
    pack_aligned,
    pack_images,
    pack_probability,
    pack_registration,
    save,
    unpack_aligned,
    unpack_images,
    unpack_probability,
    unpack_registration,
)
from model_tools.train.atlas import Atlas, load_atlas
from operators.messages import AlignedStudy, FollowUp, LesionProbability

log = logging.getLogger(__name__)
REPEATS = 4
"""Made second examinations of each of the five scans: 20 test-retest trials."""
REAL_REPEATS = 2
LEAST_MARK_MM3 = 10.0
"""Smaller marks of the data set's change mask are a few voxels of 1 mm."""
Images = Mapping[str, hd.Volume]


@dataclass(frozen=True)
class Trial:
    """One trial."""

    kind: str
    scan: str
    number: int = 0

    @property
    def name(self) -> str:
        """As it appears in file names."""
        tail = "" if self.kind == "real" else f"-{self.number}"
        return f"{self.kind}-{self.scan}{tail}"


def all_trials(
    scans: Sequence[str] = SCANS, kinds: Sequence[str] = (), repeats: int = REPEATS
) -> list[Trial]:
    """Every trial: real pairs first, then by pass, so that an interrupted run has some of each."""
    trials = [Trial("real", s) for s in scans if s in PAIRS]
    for low in range(0, repeats, 2):
        for scan in scans:
            for number in range(low, min(low + 2, repeats)):
                trials += [Trial("retest", scan, number), Trial("transplant", scan, number)]
    trials += [
        Trial("realtransplant", s, n) for n in range(REAL_REPEATS) for s in scans if s in PAIRS
    ]
    return [t for t in trials if not kinds or t.kind in kinds]


def comparator_hash() -> str:
    """Which comparator this is: a hash of its files."""
    digest = hashlib.sha256()
    folder = Path(comparator_package.__file__).parent
    for path in sorted(folder.iterdir()):
        if path.suffix in {".py", ".npz"}:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def networks_hash(models: Path) -> str:
    """Which networks these are: a hash of what the packages say of them, not of their cards."""
    digest = hashlib.sha256()
    for path in sorted(models.glob("*/model.json")):
        description = json.loads(path.read_text(encoding="utf-8"))
        description["files"].pop("MODEL_CARD.md", None)
        description.pop("version")
        digest.update(json.dumps(description, sort_keys=True).encode())
    return digest.hexdigest()[:12]


class Workshop:
    """Makes and runs trials.

    Parameters
    ----------
    data
        The open_ms folder.
    work
        Receives everything that is written.
    models
        Folder of the model packages.
    settings
        The application's settings file.
    threads
        Threads of registration and segmentation; None for every processor.
    """

    def __init__(
        self, data: Path, work: Path, models: Path, settings: Path, threads: int | None = None
    ) -> None:
        self.data, self.work = data, work
        self._models = models
        loaded = load_settings(settings)
        limit = {"threads": threads}
        self.settings: AppSettings = loaded.model_copy(
            update={
                "registration": loaded.registration.model_copy(update=limit),
                "lesion_segmentation": loaded.lesion_segmentation.model_copy(update=limit),
            }
        )
        self._made_with = {"comparator": comparator_hash(), "networks": networks_hash(models)}
        self._scan: Scan | None = None

    @cached_property
    def segmenter(self) -> Segmenter:
        """The networks, loaded on first use."""
        return Segmenter(self._models, self.settings.lesion_segmentation)

    @cached_property
    def _atlas(self) -> Atlas:
        return load_atlas()

    @cached_property
    def _shapes(self) -> tuple[Shape, ...]:
        return load_shapes(self.data)

    @cached_property
    def _case(self) -> tuple[Contrast, ...]:
        return contrasts_of_case(self.data, self._atlas)

    def _load(self, name: str) -> Scan:
        if self._scan is None or self._scan.name != name:
            self._scan = load_scan(self.data, self.work / "backgrounds", name, self._atlas)
        return self._scan

    # --- steps, each on disk ------------------------------------------------------------------

    def _aligned(self, stem: str, images: Images, when: int, *, current: bool) -> AlignedStudy:
        path = self.work / "aligned" / f"{stem}.npz"
        if not path.exists():
            study = study_of(images, when, current=current)
            save(path, pack_aligned(align_alone(study, self.settings.registration)))
        return unpack_aligned(load(path), images, when, current=current)

    def _registered(self, stem: str, current: AlignedStudy, prior: AlignedStudy) -> Arrays:
        path = self.work / "registered" / f"{stem}.npz"
        if not path.exists():
            found = relate(current, prior, self.settings.registration)
            save(path, pack_registration("prior", found))
        return load(path)

    def _probability(
        self, stem: str, study: AlignedStudy, roles: frozenset[str]
    ) -> LesionProbability:
        package, _ = self.segmenter.package_for(roles)
        description = package.description
        networks = "".join(package.network_sha256(one)[:8] for one in description.networks)
        path = self.work / "probability" / f"{stem}-{''.join(sorted(package.roles))}-{networks}.npz"
        if not path.exists():
            save(path, pack_probability(self.segmenter.segment(study, roles)))
        found = unpack_probability(load(path), study)
        # the same networks may have come in a package of another name or version
        model = dataclasses.replace(
            found.model,
            name=description.name,
            version=description.version,
            sha256=package.sha256,
        )
        return dataclasses.replace(found, model=model)

    def _retest_images(self, scan: str, number: int) -> tuple[Images, np.ndarray]:
        path = self.work / "images" / f"retest-{scan}-{number}.npz"
        if not path.exists():
            made = second_examination(self._load(scan), trial_rng(scan, "motion", number))
            save(path, {**pack_images(made.volumes), "motion": made.motion})
        arrays = load(path)
        return unpack_images(arrays), arrays["motion"]

    def _planted(self, trial: Trial) -> tuple[Images, Images | None, Arrays, list[dict[str, Any]]]:
        """Current images, prior images (None for a real prior), shares and truth of a trial."""
        path = self.work / "images" / f"{trial.name}.npz"
        meta = path.with_suffix(".json")
        if not (path.exists() and meta.exists()):
            scan = self._load(trial.scan)
            real = trial.kind == "realtransplant"
            plan = make_plan(
                scan,
                self._shapes,
                self._case,
                contrasts_of_scan(scan),
                trial_rng(trial.scan, trial.kind, trial.number),
                new_only=real,
            )
            now = planted_images(scan, [p.painted_now() for p in plan])
            arrays: Arrays = {f"now_{k}": v for k, v in pack_images(now).items()}
            if not real:
                before = [b for p in plan if (b := p.painted_before()) is not None]
                made = second_examination(
                    scan, trial_rng(trial.scan, "motion", trial.number), before
                )
                arrays |= {f"before_{k}": v for k, v in pack_images(made.volumes).items()}
                arrays["motion"] = made.motion
            for one in plan:
                box, share = partial_volume(one.now, scan.volumes["flair"], np.eye(4))
                arrays[f"share_{one.number}"] = share
                arrays[f"box_{one.number}"] = np.array([[s.start, s.stop] for s in box])
            meta.parent.mkdir(parents=True, exist_ok=True)
            meta.write_text(json.dumps([truth_of(p) for p in plan], indent=1) + "\n")
            save(path, arrays)
        arrays = load(path)
        parts = {
            when: unpack_images(
                {k.removeprefix(f"{when}_"): v for k, v in arrays.items() if k.startswith(when)}
            )
            for when in ("now", "before")
        }
        return parts["now"], parts["before"] or None, arrays, json.loads(meta.read_text())

    # --- trials -------------------------------------------------------------------------------

    def run(self, trial: Trial) -> dict[str, Any]:
        """Run one trial, or as much of it as is not yet done; returns its scores."""
        path = self.work / "scores" / f"{trial.name}.json"
        if path.exists():
            known: dict[str, Any] = json.loads(path.read_text())
            if self._made_with.items() <= known.items():
                return known
        started = time.process_time()
        scores = {
            "real": self._real,
            "retest": self._retest,
            "transplant": self._transplant,
            "realtransplant": self._real_transplant,
        }[trial.kind](trial)
        scores = {
            "trial": trial.name,
            "kind": trial.kind,
            "scan": trial.scan,
            **self._made_with,
            **scores,
            "cpu_s": round(time.process_time() - started, 1),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(scores, indent=1) + "\n")
        partial.rename(path)
        log.info("%s: %s, %.0f s", trial.name, scores["counts"], scores["cpu_s"])
        return scores

    def _compare(
        self,
        current: AlignedStudy,
        prior: AlignedStudy,
        arrays: Arrays,
        probabilities: tuple[LesionProbability, LesionProbability],
    ) -> FollowUp:
        aligned = pair(current, prior, unpack_registration("prior", arrays))
        return follow_up(aligned, *probabilities, self.settings.longitudinal_comparator)

    def _facts(self, result: FollowUp, arrays: Arrays, seconds: float) -> dict[str, Any]:
        model = result.probabilities.current.model
        prior = result.probabilities.prior
        found = unpack_registration("prior", arrays)
        return {
            "model": {"name": model.name, "version": model.version, "sha256": model.sha256},
            "registration_accepted": found.accepted,
            "counts": counts(result),
            "lesion_ml": round(result.totals.lesion_volume_ml, 3),
            "prior_lesion_ml": None
            if prior is None
            else round(result.totals.prior_lesion_volume_ml or 0.0, 3),
            "compare_cpu_s": round(seconds, 1),
        }

    def _retest(self, trial: Trial) -> dict[str, Any]:
        now, _ = read_images(self.data, trial.scan)
        before, motion = self._retest_images(trial.scan, trial.number)
        current = self._aligned(trial.scan, now, 2, current=True)
        prior = self._aligned(trial.name, before, 1, current=False)
        arrays = self._registered(trial.name, current, prior)
        roles = common_roles(current, prior)
        both = (
            self._probability(trial.scan, current, roles),
            self._probability(trial.name, prior, roles),
        )
        started = time.process_time()
        result = self._compare(current, prior, arrays, both)
        seconds = time.process_time() - started
        return {
            **self._facts(result, arrays, seconds),
            "registration_error_mm": registration_error(
                unpack_registration("prior", arrays).matrix_lps, motion, current.brain_mask
            ),
            "unplanted": unplanted_changes(result, {}),
        }

    def _transplant(self, trial: Trial) -> dict[str, Any]:
        now, before, made, truth = self._planted(trial)
        if before is None:
            raise AssertionError("a transplant has a made prior")
        retest = f"retest-{trial.scan}-{trial.number}"
        original, _ = read_images(self.data, trial.scan)
        plain, _ = self._retest_images(trial.scan, trial.number)
        # The planted lesions are too small to move brain mask and registration: taken from the
        # same images without them.
        self._aligned(trial.scan, original, 2, current=True)
        self._aligned(retest, plain, 1, current=False)
        current = self._aligned(trial.scan, now, 2, current=True)
        prior = self._aligned(retest, before, 1, current=False)
        arrays = self._registered(retest, current, prior)
        roles = common_roles(current, prior)
        both = (
            self._probability(f"{trial.name}-now", current, roles),
            self._probability(f"{trial.name}-before", prior, roles),
        )
        started = time.process_time()
        result = self._compare(current, prior, arrays, both)
        seconds = time.process_time() - started
        shares = dict(shares_of(made))
        return {
            **self._facts(result, arrays, seconds),
            "planted": planted_outcomes(result, truth, shares),
            "unplanted": unplanted_changes(result, shares),
        }

    def _real(self, trial: Trial) -> dict[str, Any]:
        return self._real_pair(trial, None)

    def _real_transplant(self, trial: Trial) -> dict[str, Any]:
        return self._real_pair(trial, self._planted(trial))

    def _real_pair(
        self,
        trial: Trial,
        planted: tuple[Images, Images | None, Arrays, list[dict[str, Any]]] | None,
    ) -> dict[str, Any]:
        earlier = PAIRS[trial.scan]
        original, _ = read_images(self.data, trial.scan)
        before, _ = read_images(self.data, earlier)
        current = self._aligned(trial.scan, original, 2, current=True)
        prior = self._aligned(earlier, before, 1, current=False)
        arrays = self._registered(f"real-{trial.scan}", current, prior)
        stem = trial.scan
        shares: dict[int, Any] = {}
        if planted is not None:
            stem = f"{trial.name}-now"
            current = self._aligned(trial.scan, planted[0], 2, current=True)
            shares = dict(shares_of(planted[2]))
        roles = common_roles(current, prior)
        both = (
            self._probability(stem, current, roles),
            self._probability(earlier, prior, roles),
        )
        started = time.process_time()
        result = self._compare(current, prior, arrays, both)
        seconds = time.process_time() - started
        mask = change_mask(self.data, trial.scan, current.selected.series["flair"].volume)
        scores = {**self._facts(result, arrays, seconds), "unplanted": []}
        scores["unplanted"] = unplanted_changes(result, shares, mask)
        if planted is not None:
            scores["planted"] = planted_outcomes(result, planted[3], shares)
        else:
            scores["marked"] = against_change_mask(result, mask, LEAST_MARK_MM3)
        return scores


def planted_images(scan: Scan, lesions: Sequence[Painted]) -> dict[str, hd.Volume]:
    """The scan's images with lesions."""
    return {
        role: plant(
            volume,
            role,
            lesions,
            scan.tissue.grid.with_array(scan.tissue.white[role]),
            np.asarray(scan.flair_to[role]),
            np.asarray(np.linalg.inv(scan.flair_to[role]), dtype=float),
        )
        for role, volume in scan.volumes.items()
    }


def truth_of(planted: Planted) -> dict[str, Any]:
    """The truth of one planted lesion, for JSON."""
    return {
        "number": planted.number,
        "kind": planted.kind,
        "diameter_mm": round(planted.diameter_mm, 2),
        "volume_mm3": round(planted.volume_mm3, 1),
        "prior_volume_mm3": round(planted.prior_volume_mm3, 1),
        "contrast": round(planted.contrast.ratio["flair"] - 1, 3),
        "place": planted.region,
        "centre_lps_mm": [round(v, 1) for v in planted.centre_lps_mm],
        "shape": planted.shape.source,
        "contrast_of": planted.contrast.source,
    }


def shares_of(arrays: Arrays) -> Iterator[tuple[int, Any]]:
    """The voxels of each planted lesion, as `planted_outcomes` takes them."""
    for name, share in arrays.items():
        if name.startswith("share_"):
            number = int(name.removeprefix("share_"))
            yield number, (tuple(slice(int(a), int(b)) for a, b in arrays[f"box_{number}"]), share)


def registration_error(found: np.ndarray, truth: np.ndarray, brain: hd.Volume) -> dict[str, float]:
    """Distance in mm over the brain between where two transforms send a point."""
    index = np.argwhere(brain.array)[::11]
    points = np.asarray(brain.affine) @ np.c_[index, np.ones(len(index))].T
    apart = np.linalg.norm(((found - truth) @ points)[:3], axis=0)
    return {"mean": round(float(apart.mean()), 3), "max": round(float(apart.max()), 3)}


def run_trials(
    data: Path,
    work: Path,
    models: Path,
    settings: Path,
    trials: Sequence[Trial],
    jobs: int = 1,
    threads: int | None = 1,
) -> list[dict[str, Any]]:
    """Run trials, those of one scan in one process.

    Parameters
    ----------
    data, work, models, settings, threads
        As for `Workshop`.
    trials
        What to run.
    jobs
        Number of processes.

    Returns
    -------
    list of dict
        Their scores, in the order of ``trials``.
    """
    if jobs == 1:
        workshop = Workshop(data, work, models, settings, threads)
        return [workshop.run(trial) for trial in trials]
    by_scan: dict[str, list[Trial]] = {}
    for trial in trials:
        by_scan.setdefault(trial.scan, []).append(trial)
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [
            pool.submit(run_trials, data, work, models, settings, some, 1, threads)
            for some in by_scan.values()
        ]
        found = {s["trial"]: s for future in futures for s in future.result()}
    return [found[trial.name] for trial in trials]
