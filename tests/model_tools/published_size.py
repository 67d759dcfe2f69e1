"""Build engines for an ensemble of the published size; a program of its own, to see its memory.

``python -m tests.model_tools.published_size FOLDER`` writes ``FOLDER/published`` (a model package
with random weights) and ``FOLDER/engines``, and prints the table of what was built.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from model_tools.build import SHIPPED_TARGETS, build_engines, table
from model_tools.export import Ensemble, export_onnx
from model_tools.train.network import architecture, build_network
from operators.lesion_segmentation.model_package import NETWORK_FILE
from tests.operators.lesion_segmentation.builders import write_package

PATCH = (128, 128, 128)
FOLDS = 5
PARAMETERS = 150_000_000
"""Of the five folds together, at least."""


def build(folder: Path) -> str:
    """nnU-Net's default size: base 32, six stages, patch 128³, five folds."""
    arguments = architecture((32, 64, 128, 256, 320, 320)) | {"n_conv_per_stage_decoder": [2] * 5}
    torch.manual_seed(1)
    members: list[torch.nn.Module] = [build_network(arguments, 3, 2).eval() for _ in range(FOLDS)]
    if sum(p.numel() for member in members for p in member.parameters()) < PARAMETERS:
        raise AssertionError("the network is smaller than the published one")
    package = write_package(folder / "published", patch=PATCH)
    export_onnx(Ensemble(members).eval(), 3, PATCH, package.folder / NETWORK_FILE)
    # the hash of the tiny network that the package was written with is not this one's
    package.description.files[NETWORK_FILE] = "0" * 64
    return table(build_engines(package, SHIPPED_TARGETS, folder / "engines"))


if __name__ == "__main__":
    sys.stdout.write(build(Path(sys.argv[1])) + "\n")
