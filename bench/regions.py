"""Regions of the lesions of the 28 consensus masks in MNI space, as a table.

Usage: ``python -m bench.regions ../shared/data/open_ms``.

There are no images of most of these patients, so that the atlas stands for all of them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.atlas import load_atlas
from operators.longitudinal_comparator.patient_anatomy import template_anatomy
from operators.longitudinal_comparator.regions import body_points, place_of
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings

LEAST_VOXELS = 3
LEAST_EXTENT = 3
"""Voxels of 1 mm along the longest axis."""
LARGER = 5
"""Likewise, of the lesions that are counted a second time."""


def read_volume(path: Path) -> hd.Volume:
    """A NIfTI image as a volume in LPS."""
    image: Any = nibabel.load(path)
    return hd.Volume(
        np.asarray(image.dataobj, dtype=np.float32),
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine,
        coordinate_system="PATIENT",
    )


def mask_lesions(mask: hd.Volume) -> list[np.ndarray]:
    """Voxel indices (n, 3) of each lesion of a mask that is large enough to count."""
    labels, _ = ndimage.label(mask.array > 0, np.ones((3, 3, 3)))
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        indices = np.argwhere(labels[box] == number) + [part.start for part in box]
        if len(indices) >= LEAST_VOXELS and np.ptp(indices, axis=0).max() >= LEAST_EXTENT - 1:
            found.append(indices)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    (folder,) = sys.argv[1:] if arguments is None else arguments
    template, settings = template_anatomy(load_atlas()), LongitudinalComparatorSettings()
    count: Counter[str] = Counter()
    larger: Counter[str] = Counter()
    volume: Counter[str] = Counter()
    patients: Counter[str] = Counter()
    for patient in sorted((Path(folder) / "cross_sectional" / "MNI").glob("patient*")):
        mask = read_volume(next(patient.glob("GOLD_STANDARD*")))
        seen = set()
        for indices in mask_lesions(mask):
            points = body_points(indices @ mask.affine[:3, :3].T + mask.affine[:3, 3], mask.affine)
            region = place_of(points, template, settings).region
            count[region] += 1
            larger[region] += bool(np.ptp(indices, axis=0).max() >= LARGER - 1)
            volume[region] += len(indices) * mask.voxel_volume / 1000
            seen.add(region)
        patients.update(seen)
    print("| region | lesions | share | of 5 mm and more | share | ml | share | patients |")
    print("|---|---|---|---|---|---|---|---|")
    for region in ("periventricular", "juxtacortical", "infratentorial", "deep_white_matter"):
        print(
            f"| {region.replace('_', ' ')} | {count[region]} "
            f"| {100 * count[region] / count.total():.1f} % | {larger[region]} "
            f"| {100 * larger[region] / larger.total():.1f} % | {volume[region]:.1f} "
            f"| {100 * volume[region] / sum(volume.values()):.1f} % | {patients[region]} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
