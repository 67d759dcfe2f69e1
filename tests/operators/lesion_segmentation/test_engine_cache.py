from __future__ import annotations

import json
import logging
import resource
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from operators.lesion_segmentation.engine_cache import EngineCache, EngineKey, cache_folder

KEY = EngineKey("ab" * 32, "openvino", "2026.4.1", "bf16", "a processor", {"patch": "96x96x96"})
BLOB = bytes(range(256)) * 40


def _files(folder: Path, key: EngineKey = KEY) -> tuple[Path, Path]:
    manifest = folder / f"{key.name}.json"
    return manifest, folder / json.loads(manifest.read_text())["file"]


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    assert cache.get(KEY) is None
    assert cache.put(KEY, memoryview(BLOB))
    assert cache.get(KEY) == BLOB
    # another process, later
    assert EngineCache(tmp_path / "engines").get(KEY) == BLOB


@pytest.mark.parametrize(
    "change",
    [
        {"network_sha256": "cd" * 32},
        {"engine": "tensorrt"},
        {"version": "2026.4.2"},
        {"precision": "fp32"},
        {"device": "another processor"},
        {"options": {"patch": "128x128x128"}},
        {"options": {"patch": "96x96x96", "batch": 2}},
    ],
)
def test_another_content_has_another_entry(tmp_path: Path, change: dict[str, object]) -> None:
    cache = EngineCache(tmp_path)
    cache.put(KEY, BLOB)
    other = replace(KEY, **change)
    assert other.name != KEY.name
    assert cache.get(other) is None
    # an entry renamed to the other's name is foreign
    manifest, _ = _files(tmp_path)
    manifest.rename(tmp_path / f"{other.name}.json")
    assert cache.get(other) is None


def _truncate(manifest: Path, file: Path) -> None:
    file.write_bytes(BLOB[:-1])


def _flip(manifest: Path, file: Path) -> None:
    file.write_bytes(b"\x01" + BLOB[1:])


def _remove(manifest: Path, file: Path) -> None:
    file.unlink()


def _garble(manifest: Path, file: Path) -> None:
    manifest.write_bytes(manifest.read_bytes()[:-20])


def _not_json(manifest: Path, file: Path) -> None:
    manifest.write_bytes(b"\xff\xfe engine")


def _list(manifest: Path, file: Path) -> None:
    manifest.write_text("[1, 2]")


def _elsewhere(manifest: Path, file: Path) -> None:
    content = json.loads(manifest.read_text())
    content["file"] = "../" + file.name
    file.rename(file.parent.parent / file.name)
    manifest.write_text(json.dumps(content))


def _folder(manifest: Path, file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "truncated"),
        (_flip, "engine file is damaged"),
        (_remove, "missing"),
        (_garble, "manifest is damaged"),
        (_not_json, "manifest is damaged"),
        (_list, "manifest is damaged"),
        (_elsewhere, "not its own"),
        (_folder, "missing"),
    ],
)
def test_a_damaged_entry_is_reported_not_used_and_replaced(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path, Path], None],
    reason: str,
) -> None:
    folder = tmp_path / "engines"
    cache = EngineCache(folder)
    cache.put(KEY, BLOB)
    damage(*_files(folder))
    assert cache.get(KEY) is None
    assert reason in caplog.text
    if damage is not _folder:
        assert cache.put(KEY, BLOB)
        assert cache.get(KEY) == BLOB


def test_a_replaced_engine_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.put(KEY, BLOB)
    cache.put(KEY, BLOB[::-1])
    assert cache.get(KEY) == BLOB[::-1]
    assert len(list(tmp_path.glob("*.engine"))) == 1
    assert sorted(p.name for p in tmp_path.glob(".*")) == [".lock"]
    cache.discard(KEY)
    assert cache.get(KEY) is None


def test_a_prebuilt_folder_is_read_and_never_written(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    EngineCache(shipped).put(KEY, BLOB)
    before = {p.name: p.read_bytes() for p in shipped.iterdir()}
    cache = EngineCache(own, (shipped,))
    assert cache.get(KEY) == BLOB
    cache.discard(KEY)
    cache.put(KEY, BLOB[::-1])
    # the own folder comes first
    assert cache.get(KEY) == BLOB[::-1]
    assert {p.name: p.read_bytes() for p in shipped.iterdir()} == before
    # a damaged own entry gives way to the shipped one
    _flip(*_files(own))
    assert cache.get(KEY) == BLOB


def test_without_a_folder_nothing_is_kept() -> None:
    cache = EngineCache(None)
    assert not cache.put(KEY, BLOB)
    assert cache.get(KEY) is None
    cache.discard(KEY)


def test_a_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("no folder")
    cache = EngineCache(occupied / "engines")
    with caplog.at_level(logging.WARNING):
        assert not cache.put(KEY, BLOB)
    assert "cannot write to the cache folder" in caplog.text
    assert cache.get(KEY) is None


def test_a_full_disk_leaves_no_half_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file may grow beyond 64 kB: the system call fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        written = cache.put(KEY, bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not written
    assert "cannot write to the cache folder" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_concurrent_writers_never_show_a_mixture(tmp_path: Path) -> None:
    blobs = [bytes([number]) * 200_000 for number in range(4)]
    EngineCache(tmp_path).put(KEY, blobs[0])
    seen: list[bytes | None] = []

    def work(number: int) -> None:
        cache = EngineCache(tmp_path)
        for _ in range(10):
            assert cache.put(KEY, blobs[number])
            seen.append(cache.get(KEY))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(blobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    # an entry that is replaced while it is read may be missed, never mixed
    assert set(seen) <= {*blobs, None}
    assert EngineCache(tmp_path).get(KEY) in blobs
    assert len(list(tmp_path.glob("*.engine"))) == 1


def test_the_default_folder_is_in_the_work_folder_or_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(tmp_path) == tmp_path / "engines"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ms-lesion-followup" / "engines"
