"""Networks are those of nnU-Net: built from its plans, compared with its own classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from model_tools.importing.generic_unet import GenericUNet, GenericUNetPlan
from model_tools.importing.networks import architecture_of, build_network
from operators.errors import ConfigurationError
from tests.model_tools.importing.builders import (
    architecture,
    old_architecture,
    v1_network,
    v1_plans,
)

KINDS = ("PlainConvUNet", "ResidualEncoderUNet")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [False, True], ids=["new plans", "old plans"])
def test_the_planned_network_is_nnunets_own(kind: str, old: bool) -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    content: dict[str, Any] = {"patch_size": [4, 8, 12]}
    content |= old_architecture(kind) if old else {"architecture": architecture(kind)}
    name, arguments = architecture_of(content, "folder")
    network = build_network(name, arguments, 2, 3, "folder")
    manager = ConfigurationManager(content)
    theirs = get_network_from_plans(
        # nnU-Net names a module for old plans that its library no longer has
        manager.network_arch_class_name.replace("residual_unet", "unet"),
        manager.network_arch_init_kwargs,
        manager.network_arch_init_kwargs_req_import,
        2,
        3,
        deep_supervision=False,
    ).eval()
    network.load_state_dict(theirs.state_dict())
    image = torch.randn((1, 2, 4, 8, 12), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert torch.equal(network(image), theirs(image))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network_class_name": "mednext.MedNeXt"}, r"mednext\.MedNeXt"),
        ({"conv_op": "torch.nn.modules.conv.Conv2d"}, "Conv2d"),
        ({"conv_op": None}, "conv_op"),
        ({"nonlin": "os.system"}, r"os\.system"),
        ({"norm_op": "evil.InstanceNorm3d"}, r"evil\.InstanceNorm3d"),
        ({"block": "x"}, "argument block"),
        ({"strides": [[1, 1, 1]]}, "cannot be built"),
        ({"n_conv_per_stage": [1]}, "cannot be built"),
    ],
)
def test_other_networks_are_refused(change: dict[str, Any], reason: str) -> None:
    part = architecture()
    for key, value in change.items():
        (part if key in part else part["arch_kwargs"])[key] = value
    with pytest.raises(ConfigurationError, match=reason):
        build_network(*architecture_of({"architecture": part}, "f"), 2, 2, "f")


def test_a_residual_encoder_with_batch_norm_is_refused() -> None:
    part = architecture("ResidualEncoderUNet")
    part["arch_kwargs"]["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm3d"
    with pytest.raises(ConfigurationError, match="batch norm"):
        build_network(*architecture_of({"architecture": part}, "f"), 2, 2, "f")


@pytest.mark.parametrize(
    ("strides", "kernels", "base", "blocks"),
    [
        ([[1, 2, 2], [2, 2, 1]], [[1, 3, 3], [3, 3, 3], [3, 1, 3]], 4, 2),
        ([[2, 2, 2]] * 2, [[3, 3, 3]] * 3, 161, 3),  # reaches v1's limit of 320 channels
    ],
)
def test_the_v1_network_is_nnunets_own(
    strides: list[list[int]], kernels: list[list[int]], base: int, blocks: int
) -> None:
    plans = v1_plans(labels=2) | {"base_num_features": base, "conv_per_stage": blocks}
    plans["plans_per_stage"][0] |= {"pool_op_kernel_sizes": strides, "conv_kernel_sizes": kernels}
    theirs = v1_network(plans, 5)
    network = GenericUNet(
        GenericUNetPlan(
            2,
            3,
            base,
            tuple((a, b, c) for a, b, c in strides),
            tuple((a, b, c) for a, b, c in kernels),
            blocks,
        )
    ).eval()
    assert list(network.state_dict()) == [
        *(name for name in network.state_dict() if name in theirs.state_dict())
    ]
    network.load_state_dict(theirs.state_dict())
    image = torch.from_numpy(
        np.random.default_rng(2).standard_normal((1, 2, 8, 12, 8)).astype(np.float32)
    )
    with torch.inference_mode():
        assert torch.equal(network(image), theirs(image))
