"""The model package: a folder ``models/<name>`` with model.json, ensemble.onnx and MODEL_CARD.md.

The network sees an array (channels, z, y, x) whose spatial axes run inferior to superior (z),
anterior to posterior (y) and right to left (x) (LPS, slowest axis first), resampled to
``spacing_zyx_mm``; each channel is normalised with the statistics of the whole brain and is 0
outside the brain mask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from operators.errors import ConfigurationError

MODEL_FILE = "model.json"
NETWORK_FILE = "ensemble.onnx"
CARD_FILE = "MODEL_CARD.md"
SCHEMA_VERSION = "1.0"

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Channel(_Strict):
    """One input channel, in the network's order."""

    role: str
    """The series role that fills the channel, as "flair", "t2" or "t1"."""
    normalisation: Literal["zscore_in_mask"]
    """(x - mean) / standard deviation over the brain mask, as nnU-Net's ZScoreNormalization with
    ``use_mask_for_norm``."""


class ModelDescription(_Strict):
    """The content of model.json."""

    schema_version: Literal["1.0"]
    name: str
    version: str
    body_site: str
    channels: tuple[Channel, ...]
    labels: dict[str, int]
    """Label name to value (output channel): "background" is 0 and "lesion" 1."""
    spacing_zyx_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    patch_size_zyx: tuple[PositiveInt, PositiveInt, PositiveInt]
    folds: PositiveInt
    averaging: Literal["logits", "softmax"]
    """What the network's output is the mean of, over folds (and mirrors)."""
    mirror_axes: tuple[int, ...] = ()
    """Spatial axes (0 = z) mirrored inside the graph; empty for none."""
    tile_step: Annotated[float, Field(gt=0, le=1)] = 0.5
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    source: str
    licence: str
    files: dict[str, str]
    """File name to sha256, for every file of the package but model.json."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelDescription:
        if self.labels != {"background": 0, "lesion": 1}:
            raise ValueError('labels must be {"background": 0, "lesion": 1}')
        roles = [channel.role for channel in self.channels]
        if "flair" not in roles or len(set(roles)) != len(roles):
            raise ValueError("channels must hold flair, and each role once")
        if len(set(self.mirror_axes)) != len(self.mirror_axes) or not set(self.mirror_axes) <= {
            0,
            1,
            2,
        }:
            raise ValueError("mirror_axes must be different axes out of 0, 1 and 2")
        return self


class ModelPackage:
    """A checked model package on disk.

    Attributes
    ----------
    folder
        The package's folder.
    description
        The validated model.json.
    sha256
        Hash of model.json and of the network together: the identity of the model.
    """

    def __init__(self, folder: Path, description: ModelDescription, sha256: str) -> None:
        self.folder = folder
        self.description = description
        self.sha256 = sha256

    @property
    def network(self) -> Path:
        """The ONNX file: input ``image`` (n, channels, z, y, x) float32, output ``output``
        (n, labels, z, y, x) float32, batch size free."""
        return self.folder / NETWORK_FILE

    @property
    def roles(self) -> tuple[str, ...]:
        """Series roles in channel order."""
        return tuple(channel.role for channel in self.description.channels)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, as lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_model_package(folder: Path) -> ModelPackage:
    """Read and check a model package, including the hash of every file.

    Raises
    ------
    ConfigurationError
        If a file is missing, damaged or not what model.json says.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ConfigurationError(
            f"model package {folder.name}",
            f"{MODEL_FILE} is missing.",
            "Give a folder made by model_tools with -m.",
        )
    try:
        description = ModelDescription.model_validate_json(path.read_bytes())
    except ValidationError as error:
        detail = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise ConfigurationError(
            f"model package {folder.name}",
            f"{MODEL_FILE} is not valid ({detail}).",
            "Make the package again with model_tools.",
        ) from error
    if NETWORK_FILE not in description.files:
        raise ConfigurationError(
            f"model package {folder.name}",
            f"{MODEL_FILE} lists no {NETWORK_FILE}.",
            "Make the package again with model_tools.",
        )
    for name, expected in description.files.items():
        file = folder / name
        if not file.is_file() or file_sha256(file) != expected:
            raise ConfigurationError(
                f"model package {folder.name}",
                f"{name} is missing or differs from the hash in {MODEL_FILE}.",
                "Copy the package again, or make it again with model_tools.",
            )
    identity = hashlib.sha256(path.read_bytes())
    identity.update(description.files[NETWORK_FILE].encode())
    return ModelPackage(folder, description, identity.hexdigest())


def find_packages(models_folder: Path, name: str | None = None) -> tuple[ModelPackage, ...]:
    """Every model package below a folder, by name; the folder itself may be the one package.

    Parameters
    ----------
    models_folder
        The folder.
    name
        Folder name of the only package wanted; None for all.

    Raises
    ------
    ConfigurationError
        If there is none, or if one of them is damaged.
    """
    if (models_folder / MODEL_FILE).is_file():
        return (load_model_package(models_folder),)
    if name is not None:
        return (load_model_package(models_folder / name),)
    folders = sorted(path.parent for path in models_folder.glob(f"*/{MODEL_FILE}"))
    if not folders:
        raise ConfigurationError(
            f"models folder {models_folder.name}",
            f"It holds no model package (a folder with {MODEL_FILE}).",
            "Give the folder with the model packages, or one of them, with -m.",
        )
    return tuple(load_model_package(folder) for folder in folders)


def choose_package(
    packages: Sequence[ModelPackage], available_roles: Collection[str]
) -> ModelPackage:
    """The package that makes use of the most of the available series.

    Parameters
    ----------
    packages
        As ``find_packages`` returns them.
    available_roles
        Roles of the series at hand, such as ``{"flair", "t2", "t1"}``.

    Raises
    ------
    ConfigurationError
        If every package needs a series that is not there, or if two packages fit equally well.
    """
    fitting = [package for package in packages if set(package.roles) <= set(available_roles)]
    if not fitting:
        needs = "; ".join(f"{p.folder.name} needs {', '.join(p.roles)}" for p in packages)
        raise ConfigurationError(
            "model package",
            f"No package fits the series found ({', '.join(sorted(available_roles))}): {needs}.",
            "Add the missing series to the input, or give a model package for these series with "
            "-m.",
        )
    most = max(len(package.roles) for package in fitting)
    best = [package for package in fitting if len(package.roles) == most]
    if len(best) > 1:
        names = ", ".join(package.folder.name for package in best)
        raise ConfigurationError(
            "model package",
            f"Several packages fit the series equally well ({names}).",
            "Name one as lesion_segmentation.package in app.yaml, or give its folder with -m.",
        )
    return best[0]


def write_model_description(folder: Path, description: ModelDescription) -> None:
    """Write model.json."""
    text = json.dumps(description.model_dump(mode="json"), indent=2)
    (folder / MODEL_FILE).write_text(text + "\n", encoding="utf-8")
