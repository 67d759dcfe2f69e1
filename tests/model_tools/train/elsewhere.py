"""A device that this machine does not have, for tests: its tensors lie on the processor."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE = torch.device("lazy")
"""A type of device that every build knows by name, has a guard for and has no tensors on."""
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class There(torch.Tensor):
    """A tensor that says it lies on `DEVICE`, and keeps its values on the processor."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        return run(operation, args, kwargs or {})


def run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation as a GPU would: refuse operands that lie on two devices."""
    tensors = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, torch.Tensor)]
    there = [v for v in tensors if isinstance(v, There)]
    if operation not in _COPIES and there:
        # as on a GPU, a single number may come from the processor
        strangers = [v for v in tensors if not isinstance(v, There) and v.ndim]
        if strangers:
            raise RuntimeError(f"{operation}: operands on the processor and elsewhere")
    wanted = kwargs.get("device")
    target = DEVICE if wanted is None and there else wanted
    if operation is torch.ops.aten.copy_.default:
        target = DEVICE if isinstance(args[0], There) else None
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map_only(There, lambda v: v.here, (args, kwargs))
    result = operation(*args, **kwargs)
    if target is None or torch.device(target).type != DEVICE.type:
        return result
    values, shape = tree_flatten(result)
    known = {id(v.here): v for v in there}
    moved = [
        (known[id(v)] if id(v) in known else There(v)) if isinstance(v, torch.Tensor) else v
        for v in values
    ]
    return tree_unflatten(moved, shape)


class Elsewhere(TorchDispatchMode):
    """Within it, tensors can be made on and moved to `DEVICE`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        values = tree_flatten((args, kwargs))[0]
        self.count += any(isinstance(value, There) for value in values)
        return run(operation, args, kwargs)
