"""What decides a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from model_tools.train.backgrounds import STUDIES
from model_tools.train.generate import FULL_SHAPE
from model_tools.train.pool import Schedule


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, kept beside its checkpoint.

    Attributes
    ----------
    patch, batch_size
        Patch edge in voxels (1 mm) and patches per step.
    early_patch, early_steps
        The trunk's first steps use smaller patches, which cost less than half.
    wide_patch, wide_every
        After them every so many steps take one patch as wide as the tiles of inference: instance
        norm sees other statistics in it, above all where lesions are wide.
    rate, warm_up
        AdamW's learning rate and the steps of its linear start; then constant in the trunk.
    studies, volume_shape
        Real backgrounds to use (none: synthetic volumes alone, and no validation), and the field
        of view of synthetic volumes.
    average
        Decay of the exponential moving average of the weights, which is what is validated and
        exported.
    start
        What the first weights were taken from; empty for random ones.
    """

    seed: int = 2026
    features: tuple[int, ...] = (16, 32, 64, 128, 128)
    patch: int = 64
    early_patch: int = 48
    early_steps: int = 3000
    wide_patch: int = 96
    wide_every: int = 3
    batch_size: int = 2
    rate: float = 1e-3
    warm_up: int = 100
    average: float = 0.997
    schedule: Schedule = field(default_factory=Schedule)
    log_every: int = 20
    validate_every: int = 400
    checkpoint_seconds: float = 120.0
    studies: tuple[str, ...] = tuple(STUDIES)
    volume_shape: tuple[int, int, int] = FULL_SHAPE
    start: str = ""

    def patches_at(self, step: int) -> tuple[int, int]:
        """Edge and number of the patches of a step of the trunk."""
        if step < self.early_steps:
            return self.early_patch, self.batch_size
        if step % self.wide_every == self.wide_every - 1:
            return self.wide_patch, 1
        return self.patch, self.batch_size

    @classmethod
    def smoke(cls, seed: int) -> Recipe:
        """A tiny network and few volumes: shows that everything fits together, learns nothing."""
        return cls(
            seed=seed,
            features=(4, 8, 8),
            patch=32,
            early_patch=32,
            early_steps=0,
            wide_patch=48,
            warm_up=2,
            schedule=Schedule(first=2, steps_per_volume=100, window=2),
            log_every=2,
            validate_every=1000,
            studies=(),
            volume_shape=(64, 72, 68),
        )
