"""Downloads from a local server: broken, resumed, changed, refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from model_tools import fetch
from model_tools.__main__ import main
from model_tools.fetch import confirm, fetch_part, fetch_release
from model_tools.importing.trained import Choice
from model_tools.importing.v1 import read_v1
from model_tools.releases import RELEASES, Release
from operators.errors import ConfigurationError
from tests.model_tools.importing.builders import v1_plans, write_v1

CONTENT = bytes(range(256)) * 4000  # about four chunks


@dataclass
class Server:
    """What the server serves and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    ignore_range: bool = False
    etag: bool = True
    break_after: list[int | None] = field(default_factory=list)
    """For each coming request, bytes after which the connection breaks."""
    status: list[int] = field(default_factory=list)
    """For each coming request, a status to answer with instead (0: none)."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of each request."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Be quiet."""

        def do_GET(self) -> None:
            path, wanted = urlsplit(self.path).path, self.headers.get("Range")
            server.requests.append((path, wanted))
            status = server.status.pop(0) if server.status else 0
            content = server.files.get(path)
            if status or content is None:
                self.send_error(status or 404)
                return
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            start = 0
            unchanged = self.headers.get("If-Range") in (None, etag)
            if wanted and unchanged and not server.ignore_range:
                found = re.fullmatch(r"bytes=(\d+)-", wanted)
                assert found is not None
                start = int(found[1])
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            else:
                self.send_response(200)
            if server.etag:
                self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            limit = server.break_after.pop(0) if server.break_after else None
            self.wfile.write(content[start:][:limit])

    return Handler


@pytest.fixture(autouse=True)
def _directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy between the test and its server."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a free port of this machine."""
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as http:
        state.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def _fetch(server: Server, part: Path) -> bytes:
    fetch_part(f"{server.url}/a", part, timeout_s=10, pause_s=0)
    return part.read_bytes()


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.break_after = [300_000, 200_000, None]
    assert _fetch(server, tmp_path / "a.part") == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_run_goes_on_where_the_first_gave_up(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.break_after = [300_000] + [0] * fetch.ATTEMPTS
    with pytest.raises(ConfigurationError, match="goes on from here"):
        _fetch(server, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:300_000]
    server.requests.clear()
    assert _fetch(server, tmp_path / "a.part") == CONTENT
    assert server.requests == [("/a", "bytes=300000-")]
    assert _fetch(server, tmp_path / "a.part") == CONTENT  # complete: nothing is asked
    assert len(server.requests) == 1


def test_a_server_without_ranges_sends_it_again(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.ignore_range = True
    server.break_after = [300_000, None]
    assert _fetch(server, tmp_path / "a.part") == CONTENT
    assert len(server.requests) == 2


def test_a_server_that_never_gets_further_is_given_up(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.ignore_range = True
    server.break_after = [300_000] * 50
    with pytest.raises(ConfigurationError, match="ended early"):
        _fetch(server, tmp_path / "a.part")
    assert len(server.requests) == fetch.ATTEMPTS + 1


@pytest.mark.parametrize("etag", [True, False])
def test_a_file_that_changed_on_the_server_is_not_mixed(
    server: Server, tmp_path: Path, etag: bool
) -> None:
    server.files["/a"] = CONTENT
    server.etag = etag
    server.break_after = [300_000] + [0] * fetch.ATTEMPTS
    with pytest.raises(ConfigurationError):
        _fetch(server, tmp_path / "a.part")
    changed = CONTENT[::-1] if etag else CONTENT[::-1] + b"longer"
    server.files["/a"] = changed
    assert _fetch(server, tmp_path / "a.part") == changed


def test_what_does_not_fit_the_servers_file_is_dropped(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    (tmp_path / "a.part").write_bytes(bytes(len(CONTENT) + 5))
    note = {"total": len(CONTENT) + 9, "validator": None}
    (tmp_path / "a.part.json").write_text(json.dumps(note))
    assert _fetch(server, tmp_path / "a.part") == CONTENT  # after 416
    (tmp_path / "a.part").write_bytes(b"x")
    (tmp_path / "a.part.json").write_text("{")
    assert _fetch(server, tmp_path / "a.part") == CONTENT


def test_refusals_are_told_and_busy_servers_asked_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"answers 404 \(Not Found\)"):
        _fetch(server, tmp_path / "a.part")
    assert len(server.requests) == 1
    server.files["/a"] = CONTENT
    server.status = [503, 429]
    assert _fetch(server, tmp_path / "a.part") == CONTENT
    server.status = [500] * fetch.ATTEMPTS
    with pytest.raises(ConfigurationError, match="answers 500"):
        _fetch(server, tmp_path / "b.part")


def test_an_unreachable_server_is_named(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        port = http.server_port
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        fetch_part(f"http://127.0.0.1:{port}/a", tmp_path / "a.part", timeout_s=5, pause_s=0)


def test_a_full_disk_is_foreseen(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a"] = CONTENT
    usage = type("Usage", (), {"free": len(CONTENT) - 1})
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigurationError, match="more than the disk has free"):
        _fetch(server, tmp_path / "a.part")


@pytest.fixture
def release(server: Server, tmp_path: Path) -> Release:
    """A release on the server whose files are a tiny v1 ensemble."""
    release = RELEASES["aims-flair-t2"]
    source = write_v1(
        tmp_path / "published", folds=(0, 1, 2, 3, 4), plans=v1_plans(("a", "b")), flat=True
    )
    for name in release.files:
        server.files[f"/{release.record}/files/{name}"] = (source / name).read_bytes()
    return release


def test_a_release_is_fetched_recorded_and_importable(
    server: Server,
    release: Release,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "aims"
    command = ["model_tools", "fetch", release.name, "-o", str(folder), "--base-url", server.url]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 3
    assert "--i-have-permission" in capsys.readouterr().err
    assert not server.requests
    assert not folder.exists()

    monkeypatch.setattr(sys, "argv", [*command, "--i-have-permission"])
    main()
    output = capsys.readouterr()
    assert "NO LICENCE" in output.err
    assert f"import {folder}" in output.out
    assert sorted(p.name for p in folder.iterdir()) == sorted([*release.files, "source.json"])
    record = json.loads((folder / "source.json").read_text())
    assert record["licence"] == "not stated by the publisher"
    assert record["roles"] == ["flair", "t2"]
    for name in release.files:
        content = server.files[f"/{release.record}/files/{name}"]
        assert (folder / name).read_bytes() == content
        assert record["files"][name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert record["files"][name]["bytes"] == len(content)
    model = read_v1(folder, Choice())
    assert model.stages[0].folds == ("0", "1", "2", "3", "4")

    server.requests.clear()
    main()  # everything is there
    assert not server.requests


def test_a_file_that_changed_after_the_download_is_refused(
    server: Server, release: Release, tmp_path: Path
) -> None:
    folder = tmp_path / "aims"
    fetch_release(release, folder, base_url=server.url, pause_s=0)
    (folder / "plans.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ConfigurationError, match=r"file plans\.pkl: it is not the one recorded"):
        fetch_release(release, folder, base_url=server.url, pause_s=0)
    (folder / "plans.pkl").unlink()
    server.requests.clear()
    fetch_release(release, folder, base_url=server.url, pause_s=0)
    assert server.requests == [(f"/{release.record}/files/plans.pkl", None)]
    with pytest.raises(ConfigurationError, match="it holds aims-flair-t2, not"):
        fetch_release(RELEASES["aims-flair-t2-t1"], folder, base_url=server.url, pause_s=0)


def test_an_interrupted_release_keeps_what_it_has(
    server: Server, release: Release, tmp_path: Path
) -> None:
    folder = tmp_path / "aims"
    missing = f"/{release.record}/files/1.model"
    content = server.files.pop(missing)
    with pytest.raises(ConfigurationError, match=r"download of 1\.model: the server answers 404"):
        fetch_release(release, folder, base_url=server.url, pause_s=0)
    there = {p.name for p in folder.iterdir()}
    assert there == {"plans.pkl", "0.model", "0.model.pkl", "source.json"}
    server.files[missing] = content
    server.requests.clear()
    fetch_release(release, folder, base_url=server.url, pause_s=0)
    assert server.requests[0] == (missing, None)
    assert len(server.requests) == len(release.files) - 3


def test_on_a_terminal_the_user_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    release = RELEASES["aims-flair-t2-t1-tl"]
    confirm(release, False, lambda _: "yes")
    with pytest.raises(ConfigurationError, match="no licence"):
        confirm(release, False, lambda _: "y")
    assert "Zenodo record 8307667" in capsys.readouterr().err


def test_the_addresses_are_the_publishers() -> None:
    release = RELEASES["aims-flair-t2-t1"]
    assert release.url(fetch.BASE_URL, "0.model") == (
        "https://zenodo.org/records/8307627/files/0.model?download=1"
    )
    assert len(release.files) == 11
