"""The lock files agree with what is required, and are made from what pip reports."""

from __future__ import annotations

import re

import pytest

from container.lock import KEPT_BY_HAND, LOCKS, lock_lines, pins, without
from tests.conftest import ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("source", sorted(LOCKS))
def test_a_lock_holds_every_requirement_in_its_version(source: str) -> None:
    required, locked = pins(read(source)), pins(read(LOCKS[source]))
    if source in KEPT_BY_HAND:
        locked |= pins(read(KEPT_BY_HAND[source]))
    assert len(required) >= 2
    wrong = {name: version for name, version in required.items() if locked.get(name) != version}
    assert not wrong, f"run: make lock ({wrong})"
    constraints = pins(read("constraints.txt"))
    differing = {
        name: (version, constraints[name])
        for name, version in locked.items()
        if constraints.get(name, version) != version
    }
    assert not differing, f"run: make lock ({differing})"


@pytest.mark.parametrize("lock", sorted([*LOCKS.values(), *KEPT_BY_HAND.values()]))
def test_every_line_of_a_lock_has_a_hash(lock: str) -> None:
    lines = [line for line in read(lock).splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==\S+ --hash=sha256:[0-9a-f]{64}", line), line
    assert lines == sorted(lines)


def test_packages_kept_by_hand_are_not_asked_for() -> None:
    text = "# head\na==1.0  # why\nA-b[x]==2\nc==3\n"
    assert without(text, {"a", "a-b"}) == "# head\nc==3\n"


def test_gpu_requirements_add_every_gpu_engine() -> None:
    assert {"tensorrt-cu13", "tensorrt-rtx-cu13", "onnxruntime-gpu"} <= pins(
        read("requirements-gpu.txt")
    ).keys()


def entry(name: str, url: str, hashes: dict[str, str]) -> dict[str, object]:
    return {
        "metadata": {"name": name, "version": "1.0"},
        "download_info": {"url": url, "archive_info": {"hashes": hashes}},
    }


def test_lines_are_sorted_and_names_normalised() -> None:
    report = {
        "install": [
            entry("Zope.Interface", "x/z.whl", {"sha256": "b" * 64}),
            entry("a_b", "x/a.whl", {"sha256": "a" * 64}),
        ]
    }
    assert lock_lines(report) == [
        f"a-b==1.0 --hash=sha256:{'a' * 64}",
        f"zope-interface==1.0 --hash=sha256:{'b' * 64}",
    ]


@pytest.mark.parametrize(
    ("url", "hashes"), [("x/a.tar.gz", {"sha256": "a" * 64}), ("x/a.whl", {"md5": "a"})]
)
def test_what_is_no_wheel_with_a_hash_is_refused(url: str, hashes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not a wheel"):
        lock_lines({"install": [entry("a", url, hashes)]})
