"""What a trial has computed, on disk: images, brain masks, transforms and probabilities as .npz.

Only numbers are stored; the messages are made anew, so that a change of their form does not make
the files useless.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np

from model_tools.change.chain import study_of
from operators.messages import AlignedStudy, LesionProbability, ModelIdentity, Registration

Arrays = dict[str, Any]


def save(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays so that the file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.rename(path)


def load(path: Path) -> Arrays:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def pack_images(volumes: Mapping[str, hd.Volume]) -> Arrays:
    """Images of whole numbers (as stored pixels are) by role."""
    result: Arrays = {}
    for role, volume in volumes.items():
        result[f"image_{role}"] = np.rint(volume.array).astype(np.uint16)
        result[f"affine_{role}"] = np.asarray(volume.affine)
    return result


def unpack_images(arrays: Arrays) -> dict[str, hd.Volume]:
    """The images that `pack_images` packed, float32."""
    return {
        name.removeprefix("image_"): hd.Volume(
            values.astype(np.float32),
            affine=arrays[name.replace("image_", "affine_")],
            coordinate_system="PATIENT",
        )
        for name, values in arrays.items()
        if name.startswith("image_")
    }


def pack_registration(name: str, found: Registration) -> Arrays:
    """A registration as one array of 20 numbers."""
    facts = [found.translation_mm, found.rotation_deg, found.similarity, float(found.accepted)]
    return {f"registration_{name}": np.r_[np.asarray(found.matrix_lps).ravel(), facts]}


def unpack_registration(name: str, arrays: Arrays) -> Registration:
    """What `pack_registration` packed."""
    values = arrays[f"registration_{name}"]
    return Registration(
        matrix_lps=values[:16].reshape(4, 4),
        translation_mm=float(values[16]),
        rotation_deg=float(values[17]),
        similarity=float(values[18]),
        accepted=bool(values[19]),
    )


def pack_aligned(study: AlignedStudy) -> Arrays:
    """What registration found in one study."""
    result: Arrays = {
        "brain": np.packbits(np.asarray(study.brain_mask.array, dtype=bool)),
        "template_to_flair": np.asarray(study.template_to_flair),
    }
    for role, found in study.to_flair.items():
        result.update(pack_registration(role, found))
    return result


def unpack_aligned(
    arrays: Arrays, volumes: Mapping[str, hd.Volume], when: int, *, current: bool
) -> AlignedStudy:
    """The study that `pack_aligned` packed, with these images; see `chain.study_of`."""
    selected = study_of(volumes, when, current=current)
    flair = selected.series["flair"].volume
    size = int(np.prod(flair.spatial_shape))
    brain = np.unpackbits(arrays["brain"])[:size].astype(bool).reshape(flair.spatial_shape)
    return AlignedStudy(
        selected=selected,
        to_flair={role: unpack_registration(role, arrays) for role in volumes if role != "flair"},
        brain_mask=flair.with_array(brain),
        template_to_flair=arrays["template_to_flair"],
    )


def pack_probability(found: LesionProbability) -> Arrays:
    """The network's answer in steps of 1/65535, and what gave it."""
    model = found.model
    return {
        "probability": np.rint(found.probability.array * 65535).astype(np.uint16),
        "threshold": np.float64(found.threshold),
        "model": np.array([model.name, model.version, model.sha256, model.engine, model.precision]),
    }


def unpack_probability(arrays: Arrays, study: AlignedStudy) -> LesionProbability:
    """What `pack_probability` packed, on the study's FLAIR grid."""
    name, version, sha256, engine, precision = (str(v) for v in arrays["model"])
    return LesionProbability(
        probability=study.brain_mask.with_array(
            arrays["probability"].astype(np.float32) / np.float32(65535)
        ),
        threshold=float(arrays["threshold"]),
        model=ModelIdentity(name, version, sha256, engine, precision),
    )
