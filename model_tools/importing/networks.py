"""nnU-Net v2's networks, built from plans.json; their classes come from nnU-Net's own library."""

from __future__ import annotations

from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from model_tools.importing.trained import unsupported

_CLASSES = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}
_OPERATORS: dict[str, dict[str, type[nn.Module]]] = {
    "conv_op": {"Conv3d": nn.Conv3d},
    "norm_op": {"InstanceNorm3d": nn.InstanceNorm3d, "BatchNorm3d": nn.BatchNorm3d},
    "dropout_op": {"Dropout3d": nn.Dropout3d},
    "nonlin": {
        "LeakyReLU": nn.LeakyReLU,
        "ReLU": nn.ReLU,
        "ELU": nn.ELU,
        "GELU": nn.GELU,
        "SiLU": nn.SiLU,
    },
}
_COMMON = {
    *("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder"),
    *("conv_bias", "norm_op_kwargs", "dropout_op_kwargs", "nonlin_kwargs", *_OPERATORS),
}
_KEYS = {
    "PlainConvUNet": _COMMON | {"n_conv_per_stage", "nonlin_first"},
    "ResidualEncoderUNet": _COMMON | {"n_blocks_per_stage", "bottleneck_channels", "stem_channels"},
}
BATCH_NORM = "torch.nn.modules.batchnorm.BatchNorm3d"
INSTANCE_NORM = "torch.nn.modules.instancenorm.InstanceNorm3d"
REMEDY = "Only PlainConvUNet and ResidualEncoderUNet in 3D, as nnU-Net plans them, are imported."


def architecture_of(configuration: dict[str, Any], folder: str) -> tuple[str, dict[str, Any]]:
    """The network's class and arguments in a configuration of plans.json.

    nnU-Net up to 2.2 wrote the architecture as single entries (``UNet_class_name``, …), later
    versions as one dictionary.

    Returns
    -------
    str
        "PlainConvUNet" or "ResidualEncoderUNet".
    dict
        Its keyword arguments, with operators as dotted names.

    Raises
    ------
    ConfigurationError
        If the class is another one or an entry is missing.
    """
    try:
        if "architecture" in configuration:
            part = configuration["architecture"]
            name, arguments = str(part["network_class_name"]), dict(part["arch_kwargs"])
        else:
            name, arguments = _old_architecture(configuration)
    except (KeyError, TypeError, ValueError) as error:
        raise unsupported(
            folder, f"its plan does not describe a network ({error!r}).", REMEDY
        ) from error
    short = name.rpartition(".")[2]
    if short not in _CLASSES:
        raise unsupported(folder, f"its network is {name}.", REMEDY)
    unknown = sorted(set(arguments) - _KEYS[short])
    if unknown:
        raise unsupported(folder, f"its network has the argument {', '.join(unknown)}.", REMEDY)
    return short, arguments


def _old_architecture(configuration: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = configuration["UNet_class_name"]
    per_stage = configuration["n_conv_per_stage_encoder"]
    stages = len(per_stage)
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return name, {
        "n_stages": stages,
        "features_per_stage": [min(base * 2**i, most) for i in range(stages)],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage": per_stage,
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": INSTANCE_NORM,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def build_network(
    name: str, arguments: dict[str, Any], channels: int, labels: int, folder: str
) -> nn.Module:
    """Build a network in evaluation mode, with one output and random weights.

    Parameters
    ----------
    name, arguments
        As `architecture_of` returns them.
    channels, labels
        Input and output channels.
    folder
        Name of the result folder, for messages.

    Raises
    ------
    ConfigurationError
        If an operator is unknown or the arguments do not fit together.
    """
    keywords = dict(arguments)
    for key, known in _OPERATORS.items():
        value = keywords.get(key)
        if value is None:
            if key in ("dropout_op", "norm_op", "nonlin"):
                continue
            raise unsupported(folder, f"its network states no {key}.", REMEDY)
        if not str(value).startswith("torch.nn.") or str(value).rpartition(".")[2] not in known:
            raise unsupported(folder, f"its network's {key} is {value}.", REMEDY)
        keywords[key] = known[str(value).rpartition(".")[2]]
    if name == "ResidualEncoderUNet" and keywords.get("norm_op") is nn.BatchNorm3d:
        raise unsupported(folder, "its network is a residual encoder with batch norm.", REMEDY)
    try:
        network = _CLASSES[name](
            input_channels=channels, num_classes=labels, deep_supervision=False, **keywords
        )
    except (AssertionError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise unsupported(
            folder, f"its plan's network cannot be built ({error}).", "Give nnU-Net's own plans."
        ) from error
    return network.eval()
