"""The pool of training volumes on disk, and the patches cut from it.

Which volumes a step may use, and which patch it cuts, depends only on the seed and the step: the
generator process may run ahead of the trainer, never behind (the trainer waits if it must).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model_tools.train.generate import Sample


@dataclass(frozen=True)
class Schedule:
    """The sliding window of volumes over the steps.

    Attributes
    ----------
    first
        Volumes at step 0.
    steps_per_volume
        A volume is added every so many steps.
    window
        Only the newest so many are used; older ones may be deleted.
    """

    first: int = 30
    steps_per_volume: int = 60
    window: int = 160

    def span(self, step: int) -> tuple[int, int]:
        """First and one past the last volume index in use at a step."""
        stop = self.first + step // self.steps_per_volume
        return max(0, stop - self.window), stop


def stem(index: int) -> str:
    """File stem of a volume."""
    return f"v{index:05d}"


def run_generator(
    folder: Path,
    make: Callable[[int], Sample],
    schedule: Schedule,
    current_step: Callable[[], int],
    parent: int,
    ahead: int = 8,
    idle: Callable[[], bool] | None = None,
) -> None:
    """Fill the pool until the parent process ends; never more than ``ahead`` volumes early.

    Parameters
    ----------
    idle
        Called when the pool is ahead; returns whether it found something to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = 0
    while os.getppid() == parent:
        low, stop = schedule.span(current_step())
        if index < low:
            index = low
        for old in folder.glob("v*.image.npy"):
            if int(old.name[1:6]) < low - 4:
                for suffix in ("image.npy", "label.npy", "points.npz"):
                    (folder / f"{old.name[:6]}.{suffix}").unlink(missing_ok=True)
        if index >= stop + ahead:
            if idle is None or not idle():
                time.sleep(2)
            continue
        if not (folder / f"{stem(index)}.image.npy").exists():
            make(index).save(folder, stem(index))
        index += 1


@dataclass
class Volume:
    """A memory-mapped volume of the pool."""

    image: NDArray[np.float16]
    label: NDArray[np.uint8]
    points: dict[str, NDArray[np.int16]]


class Pool:
    """Reads patches from the pool's volumes.

    Parameters
    ----------
    folder
        Where the generator writes them.
    check
        Called every half second while a volume is waited for; raises to end the wait.
    """

    def __init__(self, folder: Path, check: Callable[[], None] | None = None) -> None:
        self.folder = folder
        self._check = check
        self._open: dict[int, Volume] = {}
        self.waited_s = 0.0

    def volume(self, index: int) -> Volume:
        """A volume; waits until the generator has written it."""
        if index not in self._open:
            path = self.folder / f"{stem(index)}.image.npy"
            while not path.exists():
                if self._check is not None:
                    self._check()
                time.sleep(0.5)
                self.waited_s += 0.5
            with np.load(self.folder / f"{stem(index)}.points.npz") as data:
                points = {n: data[n] for n in data.files if n not in ("kind", "name")}
            self._open[index] = Volume(
                np.load(path, mmap_mode="r"),
                np.load(self.folder / f"{stem(index)}.label.npy", mmap_mode="r"),
                points,
            )
        return self._open[index]

    def forget(self, low: int) -> None:
        """Close volumes that have left the window."""
        for index in [i for i in self._open if i < low]:
            del self._open[index]


def choose_centre(
    points: dict[str, NDArray[np.int16]], rng: np.random.Generator
) -> NDArray[np.int64]:
    """A patch centre: a third brain at random, a third lesions by size, a third by volume."""
    lesions = [n for n in ("small", "medium", "large") if len(points[n])]
    draw = rng.random()
    if draw < 0.3 or not lesions:
        kind = "brain"
    elif draw < 0.7 or not len(points["volume"]):
        kind = lesions[rng.integers(len(lesions))]
    else:
        kind = "volume"
    pool = points[kind]
    return np.asarray(pool[rng.integers(len(pool))], dtype=np.int64)


def cut(
    volume: Volume, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cut one patch around a chosen, jittered centre: (3, n, n, n) float32 and its label."""
    shape = np.array(volume.label.shape)
    centre = choose_centre(volume.points, rng) + rng.integers(-size // 3, size // 3 + 1, 3)
    start = np.clip(centre - size // 2, np.minimum(0, shape - size), np.maximum(0, shape - size))
    image = np.zeros((3, size, size, size), np.float32)
    label = np.zeros((size, size, size), np.uint8)
    low, high = np.maximum(start, 0), np.minimum(start + size, shape)
    source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    target = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    image[(slice(None), *target)] = volume.image[(slice(None), *source)]
    label[target] = volume.label[source]
    return image, label


def augment(
    image: NDArray[np.float32],
    label: NDArray[np.uint8],
    rng: np.random.Generator,
    drop_t1: float = 0.4,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cheap changes per patch: left-right flip, scale, shift, power, noise, missing T1."""
    if rng.random() < 0.5:
        image, label = image[..., ::-1], label[..., ::-1]
    image = image.copy()
    for channel in range(3):
        x = image[channel]
        inside = x != 0
        if not inside.any():
            continue
        if rng.random() < 0.5:
            x = x * float(np.exp(rng.normal(0, 0.12))) + float(rng.normal(0, 0.1))
        if rng.random() < 0.3:
            power = float(np.exp(rng.normal(0, 0.1)))
            x = np.sign(x) * np.abs(x) ** power
        if rng.random() < 0.3:
            x = x + float(rng.uniform(0, 0.2)) * rng.standard_normal(x.shape, dtype=np.float32)
        image[channel] = np.where(inside, x, 0)
    if rng.random() < drop_t1:
        image[2] = 0
    return image, np.ascontiguousarray(label)


def batch(
    pool: Pool,
    schedule: Schedule,
    seed: int,
    step: int,
    size: int,
    count: int = 2,
    extra: tuple[Volume, ...] = (),
    extra_share: float = 0.0,
    window: tuple[int, int] | None = None,
    fold: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patches of one step, a function of the seed and the step alone.

    Parameters
    ----------
    extra, extra_share
        Volumes outside the pool (a real case) and the probability that a patch comes from them.
    window
        First and one past the last volume in use, instead of the schedule's.
    fold
        Leave out every fifth volume of the pool, starting with this one.

    Returns
    -------
    tuple
        (count, 3, n, n, n) float32 and (count, n, n, n) uint8.
    """
    images, labels = [], []
    low, stop = schedule.span(step) if window is None else window
    pool.forget(low)
    usable = [i for i in range(low, stop) if fold is None or i % 5 != fold]
    for item in range(count):
        rng = np.random.default_rng([seed, step, item])
        if extra and rng.random() < extra_share:
            volume = extra[rng.integers(len(extra))]
        else:
            volume = pool.volume(usable[rng.integers(len(usable))])
        image, label = augment(*cut(volume, size, rng), rng)
        images.append(torch.from_numpy(np.ascontiguousarray(image)))
        labels.append(torch.from_numpy(label))
    return torch.stack(images), torch.stack(labels)
