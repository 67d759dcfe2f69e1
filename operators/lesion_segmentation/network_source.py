"""One network of a model package, as an engine needs it: file, hash and shapes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

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


def network_source(package: ModelPackage, network: Network | None = None) -> NetworkSource:
    """Describe a network of a package.

    Parameters
    ----------
    package
        A checked package.
    network
        One of its networks; None for the one that gives the answer.
    """
    description = package.description
    network = network or description.networks[-1]
    own = {n: h for n, h in sorted(description.files.items()) if n.startswith(network.file)}
    digest = own[network.file]
    if len(own) > 1:
        digest = hashlib.sha256("".join(f"{n}{h}" for n, h in own.items()).encode()).hexdigest()
    return NetworkSource(
        package=package.folder.name,
        title=f"{description.name} {description.version}",
        file=package.folder / network.file,
        sha256=digest,
        shape=NetworkShape(
            channels=description.input_channels(network),
            labels=len(description.labels),
            patch=network.patch_size_zyx,
        ),
    )
