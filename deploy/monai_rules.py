"""What MONAI Deploy's gateway and Workflow Manager accept, as checks before anything is sent.

The rules are those of the services' own code: Informatics Gateway 0.5, ``ValidationExtensions``
(AE titles, hosts, ports, grouping); Workflow Manager 0.2, ``WorkflowValidator`` (workflow, tasks,
artifacts, destinations), ``ValidationConstants`` (task types), and the required arguments of its
Docker and Argo plug-ins.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

GROUPING = ("0010,0020", "0020,000D", "0020,000E")
TASK_TYPES = (
    "argo",
    "aide_clinical_review",
    "router",
    "export",
    "docker",
    "email",
    "remote_app_execution",
)
DOCKER_ARGUMENTS = (
    "server_url",
    "entrypoint",
    "command",
    "container_image",
    "temp_storage_container_path",
)
ARGO_ARGUMENTS = ("workflow_template_name", "priority", "cpu", "memory", "gpu_required")
_AE_TITLE = re.compile(r"^[a-zA-Z0-9_\-]{1,15}$")
_HOST = re.compile(
    r"^([A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?)*$"
)
_TASK_ID = re.compile(r"^[a-zA-Z0-9\-_]+$")
_CONTEXT = re.compile(
    r"^\{\{ context\.(input\.dicom|executions\.([\w-]+)\.(output_dir|artifacts\.([\w-]+))) \}\}$"
)

Json = Mapping[str, Any]


def gateway_errors(config: Json) -> list[str]:
    """What the gateway would refuse in a configuration of ``ae``, ``source`` and ``destination``.

    Parameters
    ----------
    config
        Lists of entities by kind.

    Returns
    -------
    list of str
        One line for each fault; empty when everything is accepted.
    """
    errors = [f"unknown kind {kind}" for kind in config if kind not in ENTITIES]
    for kind in ENTITIES:
        entities: Sequence[Json] = config.get(kind, [])
        for key in ("name", "aeTitle") if kind == "ae" else ("name",):
            counts = Counter(str(entity.get(key)) for entity in entities)
            errors += [f"{kind}: {key} {one} twice" for one, count in counts.items() if count > 1]
        for entity in entities:
            name = f"{kind} {entity.get('name')}"
            if not str(entity.get("name") or "").strip():
                errors.append(f"{kind}: an entity has no name")
            errors += [f"{name}: unknown field {key}" for key in set(entity) - ENTITIES[kind]]
            if not _AE_TITLE.match(str(entity.get("aeTitle", ""))):
                errors.append(f"{name}: aeTitle must be 1 to 15 letters, digits, - or _")
            if kind == "ae":
                if entity.get("grouping", GROUPING[1]) not in GROUPING:
                    errors.append(f"{name}: grouping must be one of {', '.join(GROUPING)}")
                if not (isinstance(entity.get("timeout", 5), int) and entity.get("timeout", 5) > 0):
                    errors.append(f"{name}: timeout must be whole seconds above 0")
            elif not _HOST.match(str(entity.get("hostIp", ""))):
                errors.append(f"{name}: hostIp is no host name or address")
            if kind == "destination" and not 0 < int(entity.get("port", 0)) <= 65535:
                errors.append(f"{name}: port must be 1 to 65535")
    return errors


ENTITIES: dict[str, frozenset[str]] = {
    "ae": frozenset(
        {
            "name",
            "aeTitle",
            "grouping",
            "timeout",
            "workflows",
            "ignoredSopClasses",
            "allowedSopClasses",
            "pluginAssemblies",
        }
    ),
    "source": frozenset({"name", "aeTitle", "hostIp"}),
    "destination": frozenset({"name", "aeTitle", "hostIp", "port"}),
}


def workflow_errors(workflow: Json, sources: Sequence[str] | None = None) -> list[str]:
    """What the Workflow Manager would refuse in a clinical workflow.

    Parameters
    ----------
    workflow
        The definition.
    sources
        Names of the gateway's sources, which ``data_origins`` must be among; None to leave that.

    Returns
    -------
    list of str
        One line for each fault.
    """
    errors = [f"missing {key}" for key in ("name", "version") if not str(workflow.get(key) or "")]
    gateway: Json = workflow.get("informatics_gateway") or {}
    if not 0 < len(str(gateway.get("ae_title") or "")) <= 15:
        errors.append("informatics_gateway: ae_title must have 1 to 15 characters")
    for origin in gateway.get("data_origins") or []:
        if sources is not None and origin not in sources:
            errors.append(f"data origin {origin} is no source of the gateway")
    tasks: Sequence[Json] = workflow.get("tasks") or []
    if not tasks:
        return [*errors, "no tasks"]
    errors += _graph_errors(tasks)
    for task in tasks:
        errors += [
            f"task {task.get('id')}: {fault}" for fault in _task_errors(task, tasks, gateway)
        ]
    return errors


def _graph_errors(tasks: Sequence[Json]) -> list[str]:
    ids = [str(task.get("id")) for task in tasks]
    errors = [
        f"task id {one} has other than letters, digits, - and _"
        for one in ids
        if not _TASK_ID.match(one)
    ]
    errors += [f"task id {one} twice" for one, count in Counter(ids).items() if count > 1]
    targets = [
        str(target.get("name")) for task in tasks for target in task.get("task_destinations") or []
    ]
    errors += [f"task destination {one} is no task" for one in targets if one not in ids]
    errors += [f"several tasks lead to {one}" for one, n in Counter(targets).items() if n > 1]
    errors += [f"no task leads to {one}" for one in ids[1:] if one not in targets]
    if ids[0] in targets:
        errors.append("a task leads back to the first one")
    return errors


def _task_errors(task: Json, tasks: Sequence[Json], gateway: Json) -> list[str]:
    kind, arguments = str(task.get("type", "")).lower(), task.get("args") or {}
    if kind not in TASK_TYPES:
        return [f"type must be one of {', '.join(TASK_TYPES)}"]
    if kind == "router":
        return []
    errors = _artifact_errors(task, tasks)
    if kind == "export":
        names = [target.get("name") for target in task.get("export_destinations") or []]
        known = gateway.get("export_destinations") or []
        if not names:
            errors.append("no export destination")
        errors += [
            f"{one} is not among the gateway's destinations" for one in names if one not in known
        ]
        errors += [f"destination {one} twice" for one, n in Counter(names).items() if n > 1]
    if kind == "docker":
        errors += [f"missing argument {key}" for key in DOCKER_ARGUMENTS if key not in arguments]
        artifacts = task.get("artifacts") or {}
        for artifact in [*(artifacts.get("input") or []), *(artifacts.get("output") or [])]:
            if artifact.get("name") not in arguments:
                errors.append(f"no argument gives the path of artifact {artifact.get('name')}")
    if kind == "argo":
        if "workflow_template_name" not in arguments:
            errors.append("missing argument workflow_template_name")
        errors += [f"unknown argument {key}" for key in arguments if key not in ARGO_ARGUMENTS]
        if str(arguments.get("priority", "standard")).lower() not in ("high", "standard", "low"):
            errors.append("priority must be high, standard or low")
        if not re.fullmatch(r"[1-9]\d*", str(arguments.get("cpu", "1"))):
            errors.append("cpu must be a whole number above 0")
        if str(arguments.get("gpu_required", "false")).lower() not in ("true", "false"):
            errors.append("gpu_required must be true or false")
    errors += [
        f"argument {key} must be a text"
        for key, value in arguments.items()
        if not isinstance(value, str)
    ]
    return errors


def _artifact_errors(task: Json, tasks: Sequence[Json]) -> list[str]:
    artifacts: Json = task.get("artifacts") or {}
    inputs, outputs = artifacts.get("input") or [], artifacts.get("output") or []
    errors = [] if inputs else ["no input artifacts"]
    counts = Counter(str(artifact.get("name")) for artifact in outputs)
    errors += [f"output {one} twice" for one, count in counts.items() if count > 1]
    by_id = {str(one.get("id")): one for one in tasks}
    for artifact in inputs:
        if not artifact.get("name") or not artifact.get("value"):
            errors.append("an input artifact has no name or no value")
            continue
        found = _CONTEXT.match(str(artifact["value"]))
        if not found:
            errors.append(f"input {artifact['name']}: {artifact['value']} is no artifact")
        elif found[4]:
            made = (by_id.get(found[2], {}).get("artifacts") or {}).get("output") or []
            if found[4] not in [one.get("name") for one in made]:
                errors.append(f"input {artifact['name']}: no task makes it")
    return errors
