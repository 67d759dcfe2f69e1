"""``python -m model_tools evaluate DATASET -m MODEL… -o OUT``."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from operators.errors import ConfigurationError
from operators.version import NAME, VERSION

NOT_ACCEPTED = 4
"""Exit code where the first model does not keep a limit."""


def _named(text: str) -> tuple[str, str]:
    """NAME=VALUE.

    Raises
    ------
    argparse.ArgumentTypeError
        If there is no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=VALUE")
    return name, value


def add_evaluate(commands: Any) -> None:
    """Add the sub-command to the parser's sub-commands."""
    parser = commands.add_parser("evaluate", help="score models on a data set; acceptance report")
    parser.add_argument("dataset", type=Path, help="a table (csv, tsv) or a BIDS folder")
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        required=True,
        help="a package's FOLDER, FOLDER#N for its member N, or classical[:SEED,GROW]; with a name "
        "as NAME=…; repeatable, the others are compared with the first",
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limits", type=Path, help="the site's limits (YAML)")
    parser.add_argument("--jobs", type=int, help="cases at once; default one for each processor")
    parser.add_argument("--memory-gb", type=float, help="limit of all cases together")
    parser.add_argument("--scheduler", help="address of a Dask scheduler, to use a cluster")
    parser.add_argument(
        "--fill-missing",
        action="store_true",
        help="give a network zeros for a sequence that a case lacks, rather than refuse the case",
    )
    parser.add_argument(
        "--pictures", type=int, default=40, help="cases that the report shows, at most"
    )
    parser.add_argument(
        "--left-out",
        action="append",
        default=[],
        type=_named,
        help="SCANNER=NAME: this model was trained without that scanner; repeatable",
    )
    parser.add_argument(
        "--training-cases",
        action="append",
        default=[],
        type=_named,
        help="NAME=N: this model was trained on N cases; repeatable",
    )
    parser.set_defaults(run=evaluate)


def _count(text: str) -> int:
    """A number of training cases."""
    if not text.isdigit():
        raise ConfigurationError("--training-cases", f"{text} is no number.", "Write NAME=20.")
    return int(text)


def _not_processed(model: dict[str, Any]) -> str:
    return f", {len(model['failures'])} not processed" if model["failures"] else ""


def evaluate(arguments: argparse.Namespace) -> int:
    """Run the evaluation and write cases.csv, summary.json, report.html and report.pdf.

    Returns
    -------
    int
        `NOT_ACCEPTED` where limits are given and the first model does not keep them all, else 0.

    Raises
    ------
    ConfigurationError
        If the data set, a model or the limits are at fault.
    """
    from model_tools.evaluate.candidates import read_candidate
    from model_tools.evaluate.dataset import read_dataset
    from model_tools.evaluate.documents import write_html, write_pdf
    from model_tools.evaluate.limits import read_limits
    from model_tools.evaluate.pictures import case_pictures
    from model_tools.evaluate.report import content
    from model_tools.evaluate.runner import run
    from model_tools.evaluate.store import REFERENCE, SECOND_RATER, Store
    from model_tools.evaluate.summary import finite, summarise_all, write_cases

    # the progress lines should not drown in what the workers say to each other
    logging.getLogger("distributed").setLevel(logging.WARNING)
    cases = read_dataset(arguments.dataset)
    limits = read_limits(arguments.limits) if arguments.limits else ()
    output = arguments.output.resolve()
    models = [read_candidate(text, output / "members") for text in arguments.model]
    names = [one.name for one in models]
    if len(set(names)) != len(names) or {SECOND_RATER, REFERENCE} & set(names):
        raise ConfigurationError(
            "models",
            f"Two have the same name, or one is named {SECOND_RATER} or {REFERENCE}.",
            "Name them with -m NAME=FOLDER.",
        )
    named = [("--left-out", model) for _, model in arguments.left_out]
    named += [("--training-cases", model) for model, _ in arguments.training_cases]
    for option, model in named:
        if model not in names:
            raise ConfigurationError(option, f"{model} is no model.", "Name one given with -m.")
    for scanner, _ in arguments.left_out:
        if scanner not in {case.scanner for case in cases}:
            raise ConfigurationError(
                "--left-out", f"No case has the scanner {scanner}.", "Name one of the data set."
            )
    training_sizes = {name: _count(count) for name, count in arguments.training_cases}
    store = Store(output)
    run(
        cases,
        models,
        output,
        jobs=arguments.jobs,
        memory_gb=arguments.memory_gb,
        scheduler=arguments.scheduler,
        fill_missing=arguments.fill_missing,
        show=lambda line: print(line, file=sys.stderr),
    )
    if any(case.second_rater for case in cases):
        names.append(SECOND_RATER)
    answers = store.answers(names, [case.name for case in cases])
    summary = summarise_all(
        answers,
        names,
        limits,
        left_out=dict(arguments.left_out),
        training_sizes=training_sizes,
        roles={one.name: one.roles for one in models},
    )
    summary["made"] = {
        "Data set": f"{arguments.dataset.resolve().name}, {len(cases)} cases, "
        f"{sum(case.reference is not None for case in cases)} with a reference",
        "Limits of the site": arguments.limits.name if arguments.limits else "none",
        "Made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Program": f"{NAME} {VERSION}; OpenVINO {version('openvino')}, "
        f"PyTorch {version('torch')}, Python {platform.python_version()}",
    }
    for one in models:
        summary["models"][one.name]["package"] = one.title
        summary["models"][one.name]["threshold"] = one.threshold
    write_cases(answers, output / "cases.csv")
    text = json.dumps(finite(summary), indent=1, allow_nan=False)
    (output / "summary.json").write_text(text + "\n", encoding="utf-8")
    sections = content(summary, answers)
    sections += case_pictures(cases, answers, store, names, arguments.pictures)
    title = f"Evaluation on {len(cases)} cases"
    write_html(sections, title, output / "report.html")
    write_pdf(sections, title, output / "report.pdf")
    for name in names:
        model = summary["models"][name]
        dice, f1 = (model["metrics"][metric]["mean"] for metric in ("dice", "f1"))
        verdict = "" if not model["limits"] else " PASS" if model["passed"] else " FAIL"
        alone = len(model["without_reference"])
        print(
            f"{name}: {model['cases']} cases, Dice {dice:.3f}, F1 {f1:.3f}{verdict}"
            f"{f', {alone} without a reference' if alone else ''}"
            f"{_not_processed(model)}"
        )
    print(output / "report.html")
    accepted = not limits or summary["models"][names[0]]["passed"]
    return 0 if accepted else NOT_ACCEPTED
