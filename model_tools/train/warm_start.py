"""Begin a training with a member of a model package instead of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import load_model_package


def start_from(package: Path, member: int, network: nn.Module) -> str:
    """Copy a member's weights into a network in place.

    A package holds weights in fp16 and no heads of the coarser resolutions: these keep the values
    they have.

    Parameters
    ----------
    package
        A package made by ``python -m model_tools export``.
    member
        From 0: nnU-Net's fold.
    network
        With deep supervision, as `build_network` makes it.

    Returns
    -------
    str
        What the weights are, for the record: name, version, hash and member.

    Raises
    ------
    ConfigurationError
        If the package is faulty, has no such member, or is of another architecture.
    """
    whole = load_model_package(package)
    subject = f"model package {package.name}"
    prefix = f"members.{member}."
    found = {
        tensor.name.removeprefix(prefix).removesuffix("_fp16"): tensor
        for tensor in onnx.load(whole.network).graph.initializer
        if tensor.name.startswith(prefix)
    }
    if not found:
        raise ConfigurationError(
            subject,
            f"Its network has no weights of a member {member}.",
            "Take a package made by python -m model_tools export, and one of its members.",
        )
    state = network.state_dict()
    for name, tensor in found.items():
        values = torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))
        if name not in state or state[name].shape != values.shape:
            raise ConfigurationError(
                subject,
                f"{name} {tuple(values.shape)} does not fit the network to be trained.",
                "Start from a package of the same channels and features.",
            )
        state[name].copy_(values)
    description = whole.description
    return f"{description.name} {description.version} ({whole.sha256[:12]}), member {member}"
