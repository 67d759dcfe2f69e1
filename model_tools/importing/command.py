"""The sub-command ``import``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

_TALKATIVE = ("onnxscript", "onnx_ir", "torch.onnx")


def _run(arguments: argparse.Namespace) -> None:
    import torch

    from model_tools.importing.options import ImportOptions
    from model_tools.importing.package import import_package
    from model_tools.importing.trained import Choice

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    options = ImportOptions(
        choice=Choice(
            checkpoint=arguments.checkpoint,
            folds=tuple(arguments.folds) if arguments.folds else None,
            configuration=arguments.configuration,
            previous_stage=arguments.previous_stage,
            trust_trainer=arguments.trust_trainer,
            label_names=tuple(arguments.labels) if arguments.labels else None,
        ),
        roles=tuple(arguments.roles) if arguments.roles else None,
        reference_role=arguments.reference,
        target_labels=tuple(arguments.target) if arguments.target else None,
        orientation=arguments.orientation,
        threshold=arguments.threshold,
        mirror=arguments.mirror,
        half_weights=arguments.half_weights,
        brain_only=arguments.brain_only,
        body_site=arguments.body_site,
        version=arguments.version,
        source=arguments.source_text,
        licence=arguments.licence,
        replace=arguments.replace,
    )
    package = import_package(arguments.source, arguments.output, options)
    found = package.description
    print(f"{package.folder}: {found.folds} fold(s), channels {', '.join(package.roles)}")
    if not options.orientation:
        print(
            f"Orientation {found.orientation} "
            "(of the arrays the network was trained on; --orientation if it was another)."
        )
    if options.mirror and not found.mirror_axes:
        print("Without mirroring: the training allowed none.")
    elif not found.mirror_axes:
        print("Without mirroring; --mirror adds it as nnU-Net does, at several times the cost.")
    print(f"Licence: {found.licence}. Validate the model locally before relying on it.")


def add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the parser of ``python -m model_tools``."""
    command = commands.add_parser(
        "import", help="make a model package of a folder or zip of nnU-Net v1 or v2"
    )
    add = command.add_argument
    add("source", type=Path, help="result folder, a folder above it, or an exported zip")
    add("-o", "--output", type=Path, required=True, help="package folder, as models/NAME")
    add("--roles", nargs="+", help="series role of each channel, in order, as flair t2 t1")
    add("--reference", help="role whose grid the answer is on (default: flair, or the first)")
    add("--target", nargs="+", help="labels that are the lesions, where there are several")
    add("--labels", nargs="+", help="names of the labels 1, 2, … (nnU-Net v1 keeps none)")
    add("--orientation", help="direction of the training arrays' axes x, y, z (default LPS)")
    add("--threshold", type=float, help="lesion probability (default 0.5; argmax with more labels)")
    add("--checkpoint", choices=("final", "best"), default="final")
    add("--folds", nargs="+", help="as 0 1 2, or all (default: every numbered fold)")
    add("--configuration", help="as 3d_fullres, where the folder or zip holds several")
    add("--previous-stage", type=Path, help="first stage of a cascade (default: beside it)")
    add("--mirror", action=argparse.BooleanOptionalAction, default=False)
    add("--half-weights", action="store_true", help="store the weights as fp16")
    add(
        "--brain-only",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the training images were 0 outside the brain (default)",
    )
    add("--trust-trainer", action="store_true", help="a custom trainer changed only the training")
    add("--body-site", default="brain")
    add("--version", default="1.0.0", help="of the package")
    add("--source-text", metavar="TEXT", help="where the model comes from, for model.json")
    add("--licence", help="licence of the weights (default: as stated in the folder)")
    add("--replace", action="store_true", help="replace an existing package")
    add("--threads", type=int, help="threads of torch")
    command.set_defaults(run=_run)
