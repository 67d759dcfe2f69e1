"""Whether two runs of the application on one patient gave the same result.

Two runs differ in what is new in every run: times of day, the UIDs of the objects made, seconds
used. Everything else is compared. Numbers with decimals may differ by ``RELATIVE`` and
``ABSOLUTE``, masks by ``MASK_SHARE``: SimpleITK adds up in an order that varies between runs, which
moves a transform by less than 0.001 mm and with it a voxel at a lesion's border. Whole numbers
(counts, segment numbers) and names must be equal.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom

RELATIVE, ABSOLUTE = 0.01, 0.002
MASK_SHARE = 0.005
"""Largest share of the lesion voxels that may differ."""
PICTURE_SHARE = 0.005
"""Largest share of a preview's pixels that may differ."""
NEW_IN_EVERY_RUN = frozenset({"timing_s"})
_UID = re.compile(r"\b2\.25\.\d{10,}|\b1\.2\.826\.0\.1\.3680043\.8\.498\.\d{10,}")
_NUMBER = re.compile(r"(?<![\w.])[+-−]?\d+(?:[.,]\d+)?")
_TIMES = frozenset({"DA", "TM", "DT"})
_PIXELS = frozenset({"PixelData", "EncapsulatedDocument", "EncapsulatedDocumentLength"})


def differences(first: Path, second: Path) -> list[str]:
    """Compare two output folders and name every difference; empty if there is none.

    Parameters
    ----------
    first, second
        Folders with ``results.json``, ``report.pdf`` and ``dicom/``.
    """
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (first, second)
    ]
    found = [f"only in one: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        compare = _BY_ENDING.get(Path(name).suffix, _compare_bytes)
        found += [f"{name}: {text}" for text in compare(first / name, second / name)]
    return found


def compare_values(first: Any, second: Any, where: str = "") -> Iterator[str]:
    """Compare two JSON values and name every difference by its place.

    Whole numbers must be equal, others within ``RELATIVE`` and ``ABSOLUTE``.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() ^ second.keys()):
            yield f"{where}.{key}: only in one"
        for key in sorted((first.keys() & second.keys()) - NEW_IN_EVERY_RUN):
            yield from compare_values(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list) and isinstance(second, list):
        if len(first) != len(second):
            yield f"{where}: {len(first)} and {len(second)} entries"
        for index, (one, other) in enumerate(zip(first, second, strict=False)):
            yield from compare_values(one, other, f"{where}[{index}]")
    elif isinstance(first, str) and isinstance(second, str):
        if not same_text(first, second):
            yield f"{where}: {first[:80]!r} and {second[:80]!r}"
    elif isinstance(first, float) and isinstance(second, float | int):
        if not np.isclose(first, second, rtol=RELATIVE, atol=ABSOLUTE):
            yield f"{where}: {first} and {second}"
    elif first != second:
        yield f"{where}: {first!r} and {second!r}"


def same_text(first: str, second: str) -> bool:
    """Whether two texts are the same but for UIDs and the last digit of their numbers.

    Numbers with decimals may differ by ``RELATIVE`` or by one in the last decimal, percentages by
    one.
    """
    first, second = (" ".join(_UID.sub("UID", text).split()) for text in (first, second))
    if first == second:
        return True
    if _NUMBER.sub("#", first) != _NUMBER.sub("#", second):
        return False
    pairs = zip(_NUMBER.finditer(first), _NUMBER.finditer(second), strict=True)
    return all(_close(one, other, first) for one, other in pairs)


def _close(one: re.Match[str], other: re.Match[str], text: str) -> bool:
    if one[0] == other[0]:
        return True
    left, right = (float(m[0].replace(",", ".").replace("−", "-")) for m in (one, other))
    decimals = len(re.split("[.,]", one[0])[1]) if re.search("[.,]", one[0]) else 0
    percentage = text[one.end() : one.end() + 2].strip().startswith("%")
    if not decimals and not percentage:
        return False
    step = 1.01 * 10.0**-decimals
    return bool(np.isclose(left, right, rtol=RELATIVE, atol=step))


def _compare_json(first: Path, second: Path) -> Iterator[str]:
    values = [json.loads(path.read_text(encoding="utf-8")) for path in (first, second)]
    yield from compare_values(values[0], values[1])


def _compare_bytes(first: Path, second: Path) -> Iterator[str]:
    if first.read_bytes() != second.read_bytes():
        yield "different content"


_MADE = re.compile(r"\b\d{4}-\d{2}-\d{2} \d{2}:\d{2}\b")
"""When the report was made: the only time of day in it."""


def _pdf_text(content: bytes) -> str:
    run = subprocess.run(
        ["pdftotext", "-layout", "-", "-"], input=content, capture_output=True, check=True
    )
    return _MADE.sub("DATE TIME", run.stdout.decode())


def _compare_pdf(first: Path, second: Path) -> Iterator[str]:
    yield from _compare_pdf_text(first.read_bytes(), second.read_bytes())


def _compare_pdf_text(first: bytes, second: bytes) -> Iterator[str]:
    lines = [_pdf_text(content).splitlines() for content in (first, second)]
    if len(lines[0]) != len(lines[1]):
        yield f"{len(lines[0])} and {len(lines[1])} lines of text"
    for one, other in zip(*lines, strict=False):
        if not same_text(one, other):
            yield f"{one.strip()!r} and {other.strip()!r}"


def _compare_dicom(first: Path, second: Path) -> Iterator[str]:
    datasets = [pydicom.dcmread(path) for path in (first, second)]
    yield from _compare_headers(datasets[0], datasets[1], "")
    if "EncapsulatedDocument" in datasets[0]:
        yield from _compare_pdf_text(*(bytes(d.EncapsulatedDocument) for d in datasets))
    elif datasets[0].get("Modality") == "SEG":
        yield from _compare_masks(first, second)
    elif "PixelData" in datasets[0]:
        one, other = (dataset.pixel_array for dataset in datasets)
        if one.shape != other.shape:
            yield f"pictures of {one.shape} and {other.shape}"
        else:
            share = float((one != other).mean())
            if share > PICTURE_SHARE:
                yield f"{100 * share:.2f} % of the pixels differ"


def _compare_masks(first: Path, second: Path) -> Iterator[str]:
    segs = [hd.seg.segread(path) for path in (first, second)]
    one, other = (seg.get_volume(combine_segments=True, relabel=False) for seg in segs)
    # The volumes reach only as far as the lesions do, so that their origins may differ.
    step = np.linalg.inv(one.affine) @ other.affine
    if not np.allclose(step[:3, :3], np.eye(3), atol=1e-4):
        yield "masks on different grids"
        return
    voxels = _labelled(one, np.zeros(3, dtype=int))
    different = len(voxels ^ _labelled(other, np.rint(step[:3, 3]).astype(int)))
    if different > MASK_SHARE * max(1, len(voxels)):
        yield f"{different} of {len(voxels)} lesion voxels differ"


def _labelled(volume: hd.Volume, offset: np.ndarray[Any, Any]) -> set[tuple[int, ...]]:
    """Every lesion voxel as index on the common grid and segment number."""
    array = np.asarray(volume.array)
    indices = np.argwhere(array > 0)
    labels = array[tuple(indices.T)][:, None]
    return set(map(tuple, np.hstack([indices + offset, labels]).tolist()))


def _compare_headers(first: pydicom.Dataset, second: pydicom.Dataset, where: str) -> Iterator[str]:
    keys = [{e.tag for e in dataset} for dataset in (first, second)]
    for tag in sorted(keys[0] ^ keys[1]):
        yield f"{where}{tag}: only in one"
    # Frames may be one more or fewer where a mask ends; the masks themselves are compared.
    frames = {"PerFrameFunctionalGroupsSequence", "NumberOfFrames", "DimensionIndexValues"}
    for tag in sorted(keys[0] & keys[1]):
        one, other = first[tag], second[tag]
        name = one.keyword or str(tag)
        if one.VR in _TIMES or one.VR == "UI" or name in _PIXELS or name in frames:
            continue
        if one.VR == "SQ":
            if len(one.value) != len(other.value):
                yield f"{where}{name}: {len(one.value)} and {len(other.value)} items"
            for index, items in enumerate(zip(one.value, other.value, strict=False)):
                yield from _compare_headers(*items, f"{where}{name}[{index}].")
        else:
            yield from compare_values(_plain(one.value), _plain(other.value), f"{where}{name}")


def _plain(value: Any) -> Any:
    """An element's value as JSON-like values: floats where it has decimals, else integers, text."""
    if isinstance(value, pydicom.multival.MultiValue):
        return [_plain(item) for item in value]
    if isinstance(value, float) or type(value).__name__ == "DSdecimal":
        return float(value)
    if isinstance(value, int) or value is None:
        return value
    return value if isinstance(value, bytes) else str(value)


_BY_ENDING = {".json": _compare_json, ".pdf": _compare_pdf, ".dcm": _compare_dicom}
