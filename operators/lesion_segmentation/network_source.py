"""One network of a model package, as an engine needs it: file, hash and shapes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import ModelPackage

INPUT, OUTPUT = "image", "output"
_BATCH_VOXELS = 128**3
_LARGEST_BATCH = 8


class EngineUnavailableError(Exception):
    """An engine cannot be used on this machine or for this network; the text says why."""


@dataclass(frozen=True)
class NetworkShape:
    """Input and output of a network."""

    channels: int
    labels: int
    patch: tuple[int, int, int]
    """Voxels along the network's (z, y, x)."""

    @property
    def batch(self) -> int:
        """Patches that a GPU takes at a time: enough to fill it, few enough for 4 GB."""
        z, y, x = self.patch
        return max(1, min(_LARGEST_BATCH, _BATCH_VOXELS // (z * y * x)))

    def input(self, batch: int) -> tuple[int, int, int, int, int]:
        """Shape of the input (n, channels, z, y, x)."""
        return (batch, self.channels, *self.patch)

    def output(self, batch: int) -> tuple[int, int, int, int, int]:
        """Shape of the output (n, labels, z, y, x)."""
        return (batch, self.labels, *self.patch)


@dataclass(frozen=True)
class NetworkSource:
    """A network and where it comes from."""

    package: str
    """Folder name of the model package."""
    title: str
    """Name and version of the model."""
    file: Path
    sha256: str
    """Of the network's file; of all its files together where its weights lie in further ones."""
    shape: NetworkShape
    files: tuple[Path, ...]
    """``file`` and what belongs to it."""


def network_source(
    package: ModelPackage, network: Network | None = None, *, int8: bool = False
) -> NetworkSource:
    """Describe a network of a package.

    Parameters
    ----------
    package
        A checked package.
    network
        One of its networks; None for the one that gives the answer.
    int8
        Its quantised form (an OpenVINO model) instead of the ONNX file.

    Raises
    ------
    ConfigurationError
        If the package holds no int8 network.
    """
    description = package.description
    network = network or description.networks[-1]
    name, beginning = network.file, network.file
    if int8:
        name = _int8_file(package, network)
        beginning = name.removesuffix("xml")
    own = {n: h for n, h in sorted(description.files.items()) if n.startswith(beginning)}
    digest = own[name]
    if len(own) > 1:
        digest = hashlib.sha256("".join(f"{n}{h}" for n, h in own.items()).encode()).hexdigest()
    return NetworkSource(
        package=package.folder.name,
        title=f"{description.name} {description.version}",
        file=package.folder / name,
        sha256=digest,
        shape=NetworkShape(
            channels=description.input_channels(network),
            labels=len(description.labels),
            patch=network.patch_size_zyx,
        ),
        files=tuple(package.folder / name for name in own),
    )


def _int8_file(package: ModelPackage, network: Network) -> str:
    trial = package.description.int8
    if trial is not None and trial.passed:
        return trial.files[package.description.networks.index(network)]
    if trial is None:
        rule = "It holds no int8 network, which precision int8 needs."
        remedy = (
            'Set lesion_segmentation.precision to "auto" in app.yaml, or make the network with '
            "python -m model_tools quantise (docs/engines.md)."
        )
    else:
        worst = min(study.dice for study in trial.studies)
        rule = (
            f"Its int8 network was tried and refused (Dice against fp32 {worst:.4f}, at least "
            f"{trial.minimum_dice:g} needed; {trial.speed_up:.2f} times faster, at least "
            f"{trial.minimum_speed_up:g} needed)."
        )
        remedy = 'Set lesion_segmentation.precision to "auto" in app.yaml.'
    raise ConfigurationError(f"model package {package.folder.name}", rule, remedy)
