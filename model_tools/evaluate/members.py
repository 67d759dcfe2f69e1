"""One member of a shipped ensemble as a package of its own.

The exporter writes all members into one graph that ends in ``(m0 + m1 + …) / n``; a member is what
one of these sums takes in. So a member that has not seen a case can be scored on it without the
training folder.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import (
    CARD_FILE,
    NETWORK_FILE,
    file_sha256,
    load_model_package,
    write_model_description,
)

MEMBER = "member"
"""How the source of such a package begins."""
_NAMED = re.compile(r"(.+)#([0-9]+)\Z")


def named_member(text: str) -> tuple[str, int] | None:
    """Folder and number of ``FOLDER#N``; None for another text."""
    found = _NAMED.match(text)
    return (found[1], int(found[2])) if found else None


def member_outputs(model: ModelProto) -> list[str]:
    """The tensors that the members of an ensemble give, in order; none for another graph."""
    maker: dict[str, NodeProto] = {name: node for node in model.graph.node for name in node.output}
    last = maker.get(model.graph.output[0].name)
    if last is None or last.op_type != "Div":
        return []
    name, found = last.input[0], []
    while name in maker and maker[name].op_type == "Add":
        name, other = maker[name].input
        found.append(other)
    return [name, *reversed(found)]


def extract_member(package: Path, number: int, target: Path) -> Path:
    """Write one member as a package; one that is there already and fits is kept.

    Parameters
    ----------
    package
        A package made by ``python -m model_tools export``.
    number
        The member, from 0: nnU-Net's fold.
    target
        Folder to write.

    Returns
    -------
    Path
        ``target``.

    Raises
    ------
    ConfigurationError
        If the package is faulty, or its graph is not a mean of members.
    """
    whole = load_model_package(package)
    description = whole.description
    subject = f"model package {package.name}"
    if not 0 <= number < description.folds:
        raise ConfigurationError(
            subject, f"It has no member {number}.", f"Members are 0 to {description.folds - 1}."
        )
    source = f"{MEMBER} {number} of {description.name} {description.version} ({whole.sha256[:12]})"
    if (target / "model.json").is_file() and load_model_package(target).description.source == (
        source
    ):
        return target
    model = onnx.load(whole.network)
    outputs = member_outputs(model)
    if (
        len(description.networks) != 1
        or description.averaging != "logits"
        or len(outputs) != description.folds
    ):
        raise ConfigurationError(
            subject,
            "Its network is not a mean of members' logits, so that none can be taken out.",
            "Import or export a package from that fold alone.",
        )
    target.mkdir(parents=True, exist_ok=True)
    graph = model.graph
    wanted = outputs[number]
    keep: set[str] = {wanted}
    for node in reversed(graph.node):
        if keep & set(node.output):
            keep |= set(node.input)
    nodes = [node for node in graph.node if keep & set(node.output)]
    # the application's engines know the answer as "output"
    for node in nodes:
        for place, name in enumerate(node.output):
            if name == wanted:
                node.output[place] = graph.output[0].name
    part = onnx.helper.make_graph(
        nodes,
        graph.name,
        list(graph.input),
        list(graph.output),
        [tensor for tensor in graph.initializer if tensor.name in keep],
    )
    made = onnx.helper.make_model(part, opset_imports=list(model.opset_import))
    made.ir_version = model.ir_version
    onnx.checker.check_model(made)
    onnx.save(made, target / NETWORK_FILE)
    card = (
        f"# {target.name}\n\n{source[0].upper()}{source[1:]}. Research use only. Not a medical "
        "device.\n\n"
    )
    card += (package / CARD_FILE).read_text(encoding="utf-8").replace("# ", "## ", 1)
    (target / CARD_FILE).write_text(card, encoding="utf-8")
    write_model_description(
        target,
        description.model_copy(
            update={
                "schema_version": "1.1",
                "name": target.name,
                "folds": 1,
                "source": source,
                "int8": None,
                "files": {name: file_sha256(target / name) for name in (NETWORK_FILE, CARD_FILE)},
            }
        ),
    )
    load_model_package(target)
    return target
