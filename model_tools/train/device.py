"""Where training runs: the processor, or a GPU by the same code."""

from __future__ import annotations

import torch
from numpy.typing import NDArray

from operators.errors import ConfigurationError

CPU = torch.device("cpu")


def choose_device(name: str) -> torch.device:
    """The device to train and to make volumes on, after it has been tried.

    Parameters
    ----------
    name
        ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` for a GPU where one works.

    Raises
    ------
    ConfigurationError
        If a GPU is asked for and none computes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    try:
        device = torch.device("cuda" if name == "auto" else name)
        # being listed is not enough: a kernel has to run
        if float(torch.ones(8, device=device).sum()) != 8:
            raise RuntimeError("a sum of ones is wrong")
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"--device {name}",
            "This PyTorch cannot compute there.",
            "Take --device cpu, or install PyTorch for the GPU's CUDA version.",
        ) from error
    return device


def make_repeatable(device: torch.device) -> None:
    """Have a GPU repeat its results: fixed algorithms, and no shortened factors in float32."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False


def onto(device: torch.device, array: NDArray) -> torch.Tensor:  # type: ignore[type-arg]
    """An array as a tensor there; on the processor it shares the array's memory."""
    return torch.from_numpy(array).to(device)
