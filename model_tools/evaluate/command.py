"""``python -m model_tools evaluate DATASET -m MODEL… -o OUT``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from operators.errors import ConfigurationError


def _named(text: str) -> tuple[str, str]:
    """NAME=VALUE, or VALUE with the last part of its path as the name."""
    name, equals, value = text.partition("=")
    return (name, value) if equals else (Path(text).resolve().name, text)


def add_evaluate(commands: Any) -> None:
    """Add the sub-command to the parser's sub-commands."""
    parser = commands.add_parser("evaluate", help="score models on a data set; acceptance report")
    parser.add_argument("dataset", type=Path, help="a table (csv, tsv) or a BIDS folder")
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        required=True,
        type=_named,
        help="folder of a model package, or NAME=FOLDER; repeatable, the first is compared with",
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limits", type=Path, help="the site's limits (YAML)")
    parser.add_argument("--jobs", type=int, help="cases at once; default one for each processor")
    parser.add_argument("--memory-gb", type=float, help="limit of all cases together")
    parser.add_argument("--scheduler", help="address of a Dask scheduler, to use a cluster")
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


def evaluate(arguments: argparse.Namespace) -> None:
    """Run the evaluation and write cases.csv, summary.json, report.html and report.pdf.

    Raises
    ------
    ConfigurationError
        If the data set, a model or the limits are at fault.
    """
    from model_tools.evaluate.dataset import read_dataset
    from model_tools.evaluate.report import content, write_html, write_pdf
    from model_tools.evaluate.runner import SECOND_RATER, read_answers, run
    from model_tools.evaluate.summary import finite, read_limits, summarise_all, write_cases
    from operators.lesion_segmentation.model_package import load_model_package

    cases = read_dataset(arguments.dataset)
    limits = read_limits(arguments.limits) if arguments.limits else ()
    models = [(name, Path(folder).resolve()) for name, folder in arguments.model]
    names = [name for name, _ in models]
    if len(set(names)) != len(names) or SECOND_RATER in names:
        raise ConfigurationError(
            "models", "Two have the same name.", "Name them with -m NAME=FOLDER."
        )
    for _, folder in models:
        load_model_package(folder)
    named = [("--left-out", model) for _, model in arguments.left_out]
    named += [("--training-cases", model) for model, _ in arguments.training_cases]
    for option, model in named:
        if model not in names:
            raise ConfigurationError(option, f"{model} is no model.", "Name one given with -m.")
    output = arguments.output.resolve()
    run(
        cases,
        models,
        output / "answers",
        jobs=arguments.jobs,
        memory_gb=arguments.memory_gb,
        scheduler=arguments.scheduler,
        show=lambda line: print(line, file=sys.stderr),
    )
    wanted = {case.name for case in cases}
    if any(case.second_rater for case in cases):
        names.append(SECOND_RATER)
    answers = [a for a in read_answers(output / "answers", names) if a["case"] in wanted]
    summary = summarise_all(
        answers,
        names,
        limits,
        left_out=dict(arguments.left_out),
        training_sizes={name: int(count) for name, count in arguments.training_cases},
    )
    write_cases(answers, output / "cases.csv")
    text = json.dumps(finite(summary), indent=1, allow_nan=False)
    (output / "summary.json").write_text(text + "\n", encoding="utf-8")
    sections = content(summary, answers)
    title = f"Evaluation on {len(cases)} cases"
    write_html(sections, title, output / "report.html")
    write_pdf(sections, title, output / "report.pdf")
    for name in names:
        model = summary["models"][name]
        dice, f1 = (model["metrics"][metric]["mean"] for metric in ("dice", "f1"))
        verdict = "" if not model["limits"] else " PASS" if model["passed"] else " FAIL"
        print(f"{name}: {model['cases']} cases, Dice {dice:.3f}, F1 {f1:.3f}{verdict}")
    print(output / "report.html")
