"""The U-Net of nnU-Net v1 (Isensee et al., Nature Methods 18, 203-211, 2021) for its weights.

Each resolution has convolution → instance norm → leaky ReLU blocks, downsampling is a stride,
upsampling a transposed convolution. The attribute names are those of v1's checkpoints, so that
their weights load by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

Size = tuple[int, int, int]
MOST_FEATURES = 320
"""v1's limit in 3D."""


@dataclass(frozen=True)
class GenericUNetPlan:
    """What a v1 plan says about its network.

    Attributes
    ----------
    channels, labels
        Input and output channels.
    base_features
        Channels at full resolution; doubled at each coarser one, up to 320.
    strides
        Downsampling before each resolution but the first.
    kernels
        Kernel at each resolution; one more than strides.
    blocks
        Convolutions at each resolution, in the encoder and in the decoder.
    """

    channels: int
    labels: int
    base_features: int
    strides: tuple[Size, ...]
    kernels: tuple[Size, ...]
    blocks: int = 2


class _Blocks(nn.Module):  # type: ignore[misc]
    """Convolution, instance norm and leaky ReLU, some times; the first one may have a stride."""

    def __init__(self, inputs: int, outputs: int, count: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                _block(outputs if i else inputs, outputs, kernel, (1, 1, 1) if i else stride)
                for i in range(count)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


def _block(inputs: int, outputs: int, kernel: Size, stride: Size) -> nn.Module:
    padding = tuple(size // 2 for size in kernel)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv3d(inputs, outputs, kernel, stride, padding),
            instnorm=nn.InstanceNorm3d(outputs, eps=1e-5, affine=True),
            lrelu=nn.LeakyReLU(1e-2),
        )
    )


def _split(inputs: int, outputs: int, count: int, kernel: Size, stride: Size) -> nn.Module:
    """All but the last block, and the last one: v1 numbers them apart."""
    return nn.Sequential(
        _Blocks(inputs, outputs, count - 1, kernel, stride),
        _Blocks(outputs, outputs, 1, kernel, (1, 1, 1)),
    )


class GenericUNet(nn.Module):  # type: ignore[misc]
    """v1's network: (n, channels, z, y, x) to logits (n, labels, z, y, x).

    Parameters
    ----------
    plan
        Its dimensions.
    """

    def __init__(self, plan: GenericUNetPlan) -> None:
        super().__init__()
        depth = len(plan.strides)
        features = [min(plan.base_features * 2**i, MOST_FEATURES) for i in range(depth + 1)]
        strides: Sequence[Size] = ((1, 1, 1), *plan.strides)
        inputs = [plan.channels, *features]
        self.conv_blocks_context = nn.ModuleList(
            [
                _Blocks(inputs[i], features[i], plan.blocks, plan.kernels[i], strides[i])
                for i in range(depth)
            ]
            + [_split(inputs[-2], features[-1], plan.blocks, plan.kernels[-1], strides[-1])]
        )
        self.conv_blocks_localization = nn.ModuleList()
        self.tu = nn.ModuleList()
        self.seg_outputs = nn.ModuleList()
        for level in reversed(range(depth)):
            here, size = features[level], plan.strides[level]
            self.tu.append(nn.ConvTranspose3d(features[level + 1], here, size, size, bias=False))
            # the decoder takes the kernel of the resolution below, as v1 does
            kernel = plan.kernels[level + 1]
            self.conv_blocks_localization.append(
                _split(2 * here, here, plan.blocks, kernel, (1, 1, 1))
            )
            self.seg_outputs.append(nn.Conv3d(here, plan.labels, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at full resolution."""
        skips = []
        for blocks in list(self.conv_blocks_context)[:-1]:
            x = blocks(x)
            skips.append(x)
        x = self.conv_blocks_context[-1](x)
        for up, blocks in zip(self.tu, self.conv_blocks_localization, strict=True):
            x = blocks(torch.cat((up(x), skips.pop()), dim=1))
        return self.seg_outputs[-1](x)
