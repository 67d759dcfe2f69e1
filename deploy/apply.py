"""python -m deploy.apply {gateway,workflow}: set up MONAI Deploy's services over their REST
interfaces. Checked first, and safe to run again: what is there is updated.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from deploy.monai_rules import ENTITIES, gateway_errors, workflow_errors
from operators.errors import ConfigurationError, OutputError, UserError

TIMEOUT_S = 30.0


class Service:
    """A REST service that speaks JSON.

    Parameters
    ----------
    url
        Its address, as http://gateway:5000.
    """

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigurationError(url, "It is no http address.", "Give http://host:port.")
        self.url = url.rstrip("/")

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request; the status and the decoded answer, whatever the status.

        Raises
        ------
        OutputError
            If the service cannot be reached.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return answer.status, _decode(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _decode(error.read())
        except OSError as error:
            raise OutputError(
                self.url, f"It does not answer ({error}).", "Start the service, or correct the URL."
            ) from error

    def must(self, method: str, path: str, body: object = None) -> Any:
        """Send a request that has to succeed."""
        status, answer = self.call(method, path, body)
        if status >= 300:
            raise OutputError(
                f"{method} {self.url}{path}",
                f"It was refused with status {status}: {json.dumps(answer)[:300]}.",
                "Correct the definition and run the command again.",
            )
        return answer


def _decode(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return content.decode(errors="replace")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    ConfigurationError
        If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            path.name, f"It cannot be read as JSON ({error}).", "Give another file."
        ) from error


def refuse(path: Path, errors: Sequence[str]) -> None:
    """Stop if there are faults."""
    if errors:
        raise ConfigurationError(
            path.name, "; ".join(errors) + ".", "Correct the file; nothing was sent."
        )


def apply_gateway(service: Service, path: Path, *, echo: bool) -> list[str]:
    """Create or update every entity of a gateway configuration.

    Parameters
    ----------
    service
        The gateway.
    path
        Lists of ``ae``, ``source`` and ``destination``.
    echo
        Also have the gateway send a C-ECHO to every destination.

    Returns
    -------
    list of str
        What was done, a line each.
    """
    config = read_json(path)
    refuse(path, gateway_errors(config))
    done = []
    for kind in ENTITIES:
        there = {one["name"]: one for one in service.must("GET", f"/config/{kind}") or []}
        for entity in config.get(kind, []):
            before = there.get(entity["name"])
            if before is None:
                service.must("POST", f"/config/{kind}", entity)
                done.append(f"{kind} {entity['name']}: created")
            elif kind == "ae" and before.get("aeTitle") != entity["aeTitle"]:
                # an SCP's AE title cannot be updated
                service.must("DELETE", f"/config/{kind}/{quote(entity['name'])}")
                service.must("POST", f"/config/{kind}", entity)
                done.append(f"{kind} {entity['name']}: replaced")
            elif all(before.get(key) == value for key, value in entity.items()):
                done.append(f"{kind} {entity['name']}: unchanged")
            else:
                service.must("PUT", f"/config/{kind}", entity)
                done.append(f"{kind} {entity['name']}: updated")
    if echo:
        for entity in config.get("destination", []):
            service.must("GET", f"/config/destination/cecho/{quote(entity['name'])}")
            done.append(f"destination {entity['name']}: answers C-ECHO")
    return done


def apply_workflow(service: Service, path: Path) -> list[str]:
    """Register a clinical workflow, or a new revision of it."""
    workflow = read_json(path)
    refuse(path, workflow_errors(workflow))
    answer = service.must("GET", "/workflows") or {}
    revisions = answer.get("data", []) if isinstance(answer, dict) else answer
    for revision in revisions:
        if (revision.get("workflow") or {}).get("name") == workflow["name"]:
            identity = quote(str(revision["workflow_id"]))
            body = {"original_workflow_name": workflow["name"], "workflow": workflow}
            service.must("PUT", f"/workflows/{identity}", body)
            return [f"workflow {workflow['name']}: updated"]
    service.must("POST", "/workflows", workflow)
    return [f"workflow {workflow['name']}: created"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 1 refused or out of reach, 3 a fault in the file."""
    parser = argparse.ArgumentParser(prog="python -m deploy.apply", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gateway = commands.add_parser("gateway", help="AE titles, sources and destinations")
    gateway.add_argument("--echo", action="store_true", help="C-ECHO to every destination after")
    workflow = commands.add_parser("workflow", help="a clinical workflow")
    for one in (gateway, workflow):
        one.add_argument("url", help="address of the service, as http://localhost:5000")
        one.add_argument("file", type=Path)
    arguments = parser.parse_args(argv)
    try:
        service = Service(arguments.url)
        if arguments.command == "gateway":
            lines = apply_gateway(service, arguments.file, echo=arguments.echo)
        else:
            lines = apply_workflow(service, arguments.file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
