"""Points in patient space."""

from __future__ import annotations

import numpy as np


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Send points (n, 3) through a 4×4 matrix."""
    matrix = np.asarray(matrix, dtype=float)
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])
