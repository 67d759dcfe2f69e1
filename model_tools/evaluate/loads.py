"""Classes of cases by the volume of their reference."""

from __future__ import annotations

from collections.abc import Iterable

LOADS_ML = (5.0, 15.0)


def load_class(reference_ml: float) -> str:
    """Load class of a case by its reference volume."""
    low, high = LOADS_ML
    if reference_ml < low:
        return f"under {low:g} ml"
    return f"{low:g}-{high:g} ml" if reference_ml < high else f"{high:g} ml and more"


LOADS = tuple(load_class(ml) for ml in (0.0, *LOADS_ML))
"""From low to high."""


def ordered(labels: Iterable[str]) -> list[str]:
    """Classes of load from low to high, everything else by name."""
    return sorted(labels, key=lambda one: (LOADS.index(one) if one in LOADS else -1, one))
