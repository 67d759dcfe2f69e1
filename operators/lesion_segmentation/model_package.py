"""The model package: a folder ``models/<name>`` with model.json, the network and MODEL_CARD.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import ValidationError

from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_description import (
    INT8_SCHEMA_VERSION,
    NETWORK_FILE,
    SCHEMA_VERSION,
    Channel,
    Int8,
    Int8Study,
    Intensity,
    ModelDescription,
    Network,
    Resampling,
)

__all__ = [
    "CARD_FILE",
    "INT8_SCHEMA_VERSION",
    "MODEL_FILE",
    "NETWORK_FILE",
    "SCHEMA_VERSION",
    "Channel",
    "Int8",
    "Int8Study",
    "Intensity",
    "ModelDescription",
    "ModelPackage",
    "Network",
    "Resampling",
    "choose_package",
    "file_sha256",
    "find_packages",
    "load_model_package",
    "write_model_description",
]

MODEL_FILE = "model.json"
CARD_FILE = "MODEL_CARD.md"


class ModelPackage:
    """A checked model package on disk.

    Attributes
    ----------
    folder
        The package's folder.
    description
        The validated model.json.
    sha256
        Hash of model.json and of the networks together: the identity of the model.
    """

    def __init__(self, folder: Path, description: ModelDescription, sha256: str) -> None:
        self.folder = folder
        self.description = description
        self.sha256 = sha256

    @property
    def network(self) -> Path:
        """The ONNX file of the network that gives the answer; see ``Network`` for its ports."""
        return self.network_file(self.description.networks[-1])

    def network_file(self, network: Network) -> Path:
        """The ONNX file of one of the description's networks."""
        return self.folder / network.file

    def network_sha256(self, network: Network) -> str:
        """The sha256 of a network's ONNX file."""
        return self.description.files[network.file]

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
    for name, expected in description.files.items():
        file = folder / name
        if not file.is_file() or file_sha256(file) != expected:
            raise ConfigurationError(
                f"model package {folder.name}",
                f"{name} is missing or differs from the hash in {MODEL_FILE}.",
                "Copy the package again, or make it again with model_tools.",
            )
    identity = hashlib.sha256(path.read_bytes())
    for network in description.networks:
        identity.update(description.files[network.file].encode())
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
    content = description.model_dump(mode="json")
    if description.int8 is None:
        del content["int8"]  # earlier versions of the application do not know it
    text = json.dumps(content, indent=2)
    (folder / MODEL_FILE).write_text(text + "\n", encoding="utf-8")
