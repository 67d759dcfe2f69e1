"""The shipped definitions keep the services' rules, and the rules find what breaks them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from deploy.monai_rules import gateway_errors, workflow_errors
from tests.conftest import ROOT

GATEWAY = json.loads((ROOT / "deploy/informatics-gateway/config.json").read_text())
WORKFLOWS = {
    name: json.loads((ROOT / f"deploy/workflow-manager/{name}.json").read_text())
    for name in ("docker", "argo")
}
TEMPLATE, *REST = yaml.safe_load_all(
    (ROOT / "deploy/workflow-manager/argo-template.yaml").read_text()
)
SOURCES = [entity["name"] for entity in GATEWAY["source"]]


def test_shipped_gateway_configuration_is_accepted() -> None:
    assert gateway_errors(GATEWAY) == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_shipped_workflows_are_accepted(name: str) -> None:
    assert workflow_errors(WORKFLOWS[name], SOURCES) == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_fits_the_gateway_and_exports_dicom_only(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["informatics_gateway"]["ae_title"] in [e["aeTitle"] for e in GATEWAY["ae"]]
    known = {entity["name"] for entity in GATEWAY["destination"]}
    assert set(workflow["informatics_gateway"]["export_destinations"]) <= known
    tasks = {task["id"]: task for task in workflow["tasks"]}
    (exported,) = tasks["export"]["artifacts"]["input"]
    assert exported["value"] == "{{ context.executions.lesions.artifacts.dicom }}"
    # without DICOM the task fails, though the Docker plug-in takes any exit code for success
    assert {"name": "dicom", "mandatory": True} in tasks["lesions"]["artifacts"]["output"]


def test_docker_task_keeps_documents_out_of_the_exported_folder() -> None:
    arguments = WORKFLOWS["docker"]["tasks"][1]["args"]
    assert "," not in arguments["command"], "the plug-in splits the command at commas"
    assert arguments["entrypoint"].split(",") == ["/bin/sh", "-c"]
    copies = arguments["command"].split(" && ")
    assert copies[1].endswith(f"out/dicom/. {arguments['dicom']}/")
    assert arguments["documents"] in copies[2]


def test_argo_template_has_what_the_workflow_names() -> None:
    task = WORKFLOWS["argo"]["tasks"][1]
    assert TEMPLATE["metadata"]["name"] == task["args"]["workflow_template_name"]
    (template,) = TEMPLATE["spec"]["templates"]
    assert TEMPLATE["spec"]["entrypoint"] == template["name"]
    for way in ("input", "output"):
        made = {artifact["name"] for artifact in template[f"{way}s"]["artifacts"]}
        assert made == {artifact["name"] for artifact in task["artifacts"][way]}
    outputs = {one["name"]: one for one in template["outputs"]["artifacts"]}
    assert outputs["dicom"]["path"].endswith("/dicom")
    assert "optional" not in outputs["dicom"]
    mounted = {one["name"] for one in template["container"]["volumeMounts"]}
    assert mounted == {one["name"] for one in TEMPLATE["spec"]["volumes"]}
    places = {one["kind"]: one["metadata"]["name"] for one in REST}
    reference = TEMPLATE["spec"]["synchronization"]["semaphore"]["configMapKeyRef"]
    assert reference["name"] == places["ConfigMap"]
    assert template["container"]["securityContext"]["readOnlyRootFilesystem"] is True


def broken_gateway(change: Callable[[Any], object]) -> list[str]:
    config = copy.deepcopy(GATEWAY)
    change(config)
    return gateway_errors(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["ae"][0].update(aeTitle="A" * 16), "aeTitle must be"),
        (lambda c: c["ae"][0].update(aeTitle="MS LESION"), "aeTitle must be"),
        (lambda c: c["ae"][0].update(grouping="0008,0060"), "grouping must be"),
        (lambda c: c["ae"][0].update(timeout=0), "timeout must be"),
        (lambda c: c["ae"][1].update(name="ms-lesion"), "twice"),
        (lambda c: c["ae"][1].update(aeTitle="MSLESION"), "aeTitle MSLESION twice"),
        (lambda c: c["source"][0].update(hostIp="pacs..local"), "hostIp"),
        (lambda c: c["source"][0].update(port=104), "unknown field port"),
        (lambda c: c["destination"][0].update(port=0), "port must be"),
        (lambda c: c.update(sources=[]), "unknown kind"),
    ],
)
def test_faulty_gateway_configuration_is_found(
    change: Callable[[Any], object], message: str
) -> None:
    assert any(message in line for line in broken_gateway(change))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("docker", lambda w: w.update(name=""), "missing name"),
        ("docker", lambda w: w.update(tasks=[]), "no tasks"),
        ("docker", lambda w: w["informatics_gateway"].update(ae_title="A" * 16), "ae_title"),
        ("docker", lambda w: w["informatics_gateway"].update(data_origins=["x"]), "no source"),
        ("docker", lambda w: w["tasks"][1].update(id="a b"), "other than letters"),
        ("docker", lambda w: w["tasks"][1].update(type="map"), "type must be"),
        ("docker", lambda w: w["tasks"][1].update(task_destinations=[]), "no task leads to export"),
        (
            "docker",
            lambda w: w["tasks"][2].update(task_destinations=[{"name": "lesions"}]),
            "several tasks lead to lesions",
        ),
        ("docker", lambda w: w["tasks"][1]["args"].pop("entrypoint"), "missing argument entry"),
        ("docker", lambda w: w["tasks"][1]["args"].pop("dicom"), "path of artifact dicom"),
        ("docker", lambda w: w["tasks"][1]["artifacts"].update(input=[]), "no input artifacts"),
        (
            "docker",
            lambda w: w["tasks"][1]["artifacts"]["output"].append({"name": "dicom"}),
            "output dicom twice",
        ),
        (
            "docker",
            lambda w: w["tasks"][2]["artifacts"]["input"][0].update(value="{{context.input}}"),
            "is no artifact",
        ),
        (
            "docker",
            lambda w: w["tasks"][2]["artifacts"]["input"][0].update(
                value="{{ context.executions.lesions.artifacts.seg }}"
            ),
            "no task makes it",
        ),
        (
            "docker",
            lambda w: w["tasks"][2].update(export_destinations=[{"name": "archive"}]),
            "not among",
        ),
        ("argo", lambda w: w["tasks"][1]["args"].update(cpu="1.5"), "cpu must be"),
        ("argo", lambda w: w["tasks"][1]["args"].update(server_url="x"), "unknown argument"),
        ("argo", lambda w: w["tasks"][1]["args"].update(priority="urgent"), "priority must be"),
        ("argo", lambda w: w["tasks"][1]["args"].update(gpu_required="1"), "gpu_required must be"),
    ],
)
def test_faulty_workflow_is_found(name: str, change: Callable[[Any], object], message: str) -> None:
    workflow = copy.deepcopy(WORKFLOWS[name])
    change(workflow)
    errors = workflow_errors(workflow, SOURCES)
    assert any(message in line for line in errors), errors
