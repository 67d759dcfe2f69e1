"""What the user decides about an import."""

from __future__ import annotations

from dataclasses import dataclass, field

from model_tools.importing.trained import Choice


@dataclass(frozen=True)
class ImportOptions:
    """What the user decides; None where it follows from nnU-Net's files.

    Attributes
    ----------
    choice
        Which part of the folder.
    roles
        Series role of each channel, in order.
    target_labels
        Labels whose union is the answer.
    orientation
        Direction of the training arrays' axes x, y, z, as "LPS" or "RAS".
    threshold
        Probability from which a voxel belongs to the target; None: 0.5 with one foreground label,
        else the most probable label.
    mirror
        Mirror inside the graph, along every axis that the training allows.
    half_weights
        Store the weights as fp16 (half the size; the arithmetic stays fp32).
    brain_only
        Whether the training images were 0 outside the brain (skull stripped).
    replace
        Replace an existing package.
    """

    choice: Choice = field(default_factory=Choice)
    roles: tuple[str, ...] | None = None
    reference_role: str | None = None
    target_labels: tuple[str, ...] | None = None
    orientation: str | None = None
    threshold: float | None = None
    mirror: bool = False
    half_weights: bool = False
    brain_only: bool = True
    body_site: str = "brain"
    version: str = "1.0.0"
    source: str | None = None
    licence: str | None = None
    replace: bool = False
