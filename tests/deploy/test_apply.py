"""The set-up script against a server that behaves as the services' REST interfaces."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from deploy.apply import main
from tests.conftest import ROOT

CONFIG = ROOT / "deploy/informatics-gateway/config.json"
WORKFLOW = ROOT / "deploy/workflow-manager/argo.json"


class Services:
    """Gateway and Workflow Manager in memory: 409 for a second POST, 404 for an unknown PUT."""

    def __init__(self) -> None:
        self.entities: dict[str, dict[str, Any]] = {"ae": {}, "source": {}, "destination": {}}
        self.workflows: dict[str, Any] = {}
        self.calls: list[str] = []
        self.down: set[str] = set()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.calls.append(f"{method} {path}")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "workflows":
            return self.workflow(method, parts, body)
        kind = self.entities[parts[1]]
        if parts[2:3] == ["cecho"]:
            return (502, {"title": "no answer"}) if parts[3] in self.down else (200, None)
        if method == "GET":
            return 200, list(kind.values())
        name = body["name"] if body else parts[2]
        if method == "POST" and name in kind:
            return 409, {"title": "exists"}
        if method != "POST" and name not in kind:
            return 404, {"title": "not found"}
        return 201 if method == "POST" else 200, self.change(method, kind, name, body)

    @staticmethod
    def change(method: str, kind: dict[str, Any], name: str, body: Any) -> Any:
        if method == "DELETE":
            return kind.pop(name)
        kind[name] = {**kind.get(name, {}), **body, "createdBy": "test"}
        return kind[name]

    def workflow(self, method: str, parts: list[str], body: Any) -> tuple[int, Any]:
        if method == "GET":
            data = [{"workflow_id": i, "workflow": w} for i, w in self.workflows.items()]
            return 200, {"data": data, "totalPages": 1}
        if method == "POST":
            self.workflows[f"id {len(self.workflows)}"] = body
            return 201, {}
        self.workflows[parts[1]] = body["workflow"]
        return 201, {}


@pytest.fixture
def services() -> Iterator[tuple[Services, str]]:
    state = Services()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = state.answer(self.command, self.path, body)
            content = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


Run = tuple[Services, str]


def test_gateway_is_set_up_and_a_second_run_changes_nothing(
    services: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    state, url = services
    assert main(["gateway", "--echo", url, str(CONFIG)]) == 0
    assert "ae ms-lesion: created" in capsys.readouterr().out
    wanted = json.loads(CONFIG.read_text())
    for kind, entities in wanted.items():
        for entity in entities:
            assert entity.items() <= state.entities[kind][entity["name"]].items()
    state.calls.clear()
    assert main(["gateway", url, str(CONFIG)]) == 0
    assert {call.split()[0] for call in state.calls} == {"GET"}


def test_gateway_is_updated(services: Run, tmp_path: Path) -> None:
    state, url = services
    assert main(["gateway", url, str(CONFIG)]) == 0
    config = json.loads(CONFIG.read_text())
    config["ae"][0]["timeout"] = 600
    config["ae"][1]["aeTitle"] = "MSPRIORS"
    config["destination"][0]["port"] = 11112
    changed = tmp_path / "config.json"
    changed.write_text(json.dumps(config))
    assert main(["gateway", url, str(changed)]) == 0
    assert state.entities["ae"]["ms-lesion"]["timeout"] == 600
    assert state.entities["ae"]["ms-lesion-followup"]["aeTitle"] == "MSPRIORS"
    assert state.entities["destination"]["pacs"]["port"] == 11112


def test_silent_destination_is_an_error(services: Run, capsys: pytest.CaptureFixture[str]) -> None:
    state, url = services
    state.down.add("pacs")
    assert main(["gateway", "--echo", url, str(CONFIG)]) == 1
    assert "status 502" in capsys.readouterr().err


def test_faulty_file_sends_nothing(
    services: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, url = services
    path = tmp_path / "bad.json"
    path.write_text(CONFIG.read_text().replace('"MSLESION"', '"MS LESION"'))
    assert main(["gateway", url, str(path)]) == 3
    assert "aeTitle must be" in capsys.readouterr().err
    path.write_text("{")
    assert main(["workflow", url, str(path)]) == 3
    assert state.calls == []


def test_workflow_is_registered_and_then_updated(services: Run) -> None:
    state, url = services
    assert main(["workflow", url, str(WORKFLOW)]) == 0
    assert main(["workflow", url, str(WORKFLOW)]) == 0
    assert list(state.workflows.values()) == [json.loads(WORKFLOW.read_text())]
    assert "PUT /workflows/id%200" in state.calls


def test_service_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", "http://127.0.0.1:9", str(CONFIG)]) == 1
    assert "does not answer" in capsys.readouterr().err
    assert main(["gateway", "file:///etc/passwd", str(CONFIG)]) == 3
