"""Checkpoints and plans are pickles, which can run any code when read: read them with allow-lists.

Two readers, both refusing every class and function that is not named here: torch's own
(``weights_only``) for the checkpoints, and a small unpickler for nnU-Net v1's ``.pkl`` files.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from operators.errors import ConfigurationError

LARGEST_PICKLE = 256 * 2**20
"""Bytes; a plans.pkl has a few thousand at most 10 MB even for thousands of cases."""

_NUMBERS = tuple(
    getattr(np.dtypes, f"{name}DType")
    for name in (
        *("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
        *("Float16", "Float32", "Float64"),
    )
)
_REBUILD: dict[str, Any] = {
    "scalar": np._core.multiarray.scalar,  # type: ignore[attr-defined]
    "_reconstruct": np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
}
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
"""Where numpy 1 and numpy 2 keep these functions."""

_PICKLE_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(module, name): value for module in _MODULES for name, value in _REBUILD.items()},
}
_TORCH_ALLOWED: list[Any] = [
    np.ndarray,
    np.dtype,
    *_NUMBERS,
    *((value, f"{module}.{name}") for module in _MODULES for name, value in _REBUILD.items()),
]


class _NotAllowed(pickle.UnpicklingError):
    """A class or function that is on no allow-list."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PICKLE_ALLOWED[module, name]
        except KeyError:
            raise _NotAllowed(f"{module}.{name}") from None


def _refused(path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"checkpoint {path.parent.name}/{path.name}",
        f"It asks for {what} while it is read, which could run code; it was not executed.",
        "Take the file from its publisher again; if it is genuine, save the weights alone.",
    )


def _damaged(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"checkpoint {path.parent.name}/{path.name}",
        f"It is damaged or no checkpoint of nnU-Net ({type(error).__name__}).",
        "Copy or download the file again.",
    )


def load_pickle(path: Path) -> Any:
    """Read a ``.pkl`` file of nnU-Net v1: containers, strings, numbers and numpy arrays.

    Raises
    ------
    ConfigurationError
        If the file asks for anything else, is damaged or too large. Nothing of it is run.
    """
    if path.stat().st_size > LARGEST_PICKLE:
        raise ConfigurationError(
            f"checkpoint {path.parent.name}/{path.name}",
            f"It has more than {LARGEST_PICKLE // 2**20} MiB.",
            "Give the plans.pkl or .model.pkl that nnU-Net v1 wrote.",
        )
    try:
        with path.open("rb") as stream:
            return _RestrictedUnpickler(stream).load()
    except _NotAllowed as error:
        raise _refused(path, str(error)) from None
    # what a damaged pickle raises, by pickle's documentation and by its opcodes
    except (
        *(AttributeError, EOFError, ImportError, IndexError, KeyError, MemoryError),
        *(OverflowError, RecursionError, TypeError, ValueError),
        pickle.UnpicklingError,
    ) as error:
        raise _damaged(path, error) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a ``.pth`` or ``.model`` file: tensors, containers, strings and numbers.

    Tensors stay on the disk until they are used, where the file's format allows it.

    Raises
    ------
    ConfigurationError
        If the file asks for anything else or is damaged. Nothing of it is run.
    """
    try:
        with torch.serialization.safe_globals(_TORCH_ALLOWED):
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|function|class) `?([\w.]+\.[\w.]+)", str(error))
        if found:
            raise _refused(path, found[1]) from None
        raise _damaged(path, error) from error
    except (
        *(AttributeError, EOFError, IndexError, KeyError, OSError, OverflowError),
        *(RecursionError, RuntimeError, TypeError, ValueError),
    ) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _damaged(path, TypeError())
    return content


def network_weights(path: Path, key: str) -> dict[str, torch.Tensor]:
    """The network's weights in a checkpoint, without the prefixes of wrappers.

    Parameters
    ----------
    path
        The checkpoint.
    key
        Where it keeps them: "network_weights" (v2) or "state_dict" (v1).

    Raises
    ------
    ConfigurationError
        See `load_checkpoint`; also if there are no weights, or a value is not finite.
    """
    weights = load_checkpoint(path).get(key)
    if not isinstance(weights, dict) or not weights:
        raise _damaged(path, KeyError(key))
    result: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise _damaged(path, TypeError())
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ConfigurationError(
                f"checkpoint {path.parent.name}/{path.name}",
                f"{name} holds values that are not finite.",
                "The training of this fold diverged: leave it out with --folds.",
            )
        for prefix in ("module.", "_orig_mod."):  # of parallel and of compiled networks
            name = name.removeprefix(prefix)
        result[name] = value
    return result
