"""The sub-command ``change`` of ``python -m model_tools``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

KINDS = ("real", "retest", "transplant", "realtransplant")


def add_change(commands: Any) -> None:
    """Add ``change run`` and ``change summary``."""
    change = commands.add_parser(
        "change", help="measure the comparison with planted change and test-retest trials"
    )
    steps = change.add_subparsers(required=True)
    run = steps.add_parser("run", help="run the trials; the same command goes on after a stop")
    run.add_argument("--data", type=Path, required=True, help="the open_ms folder")
    run.add_argument("--work", type=Path, required=True, help="folder for everything written")
    run.add_argument("--models", type=Path, default=Path("models"))
    run.add_argument("--settings", type=Path, default=Path("app.yaml"))
    run.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    run.add_argument("--scans", nargs="+", help="as 12_2; default all five")
    run.add_argument("--repeats", type=int, default=4, help="trials of each kind for each scan")
    run.add_argument("--jobs", type=int, default=1, help="processes")
    run.add_argument("--threads", type=int, default=1, help="threads of each process")
    run.set_defaults(run=_run)
    summary = steps.add_parser("summary", help="tables, change.json and the noise floor")
    summary.add_argument("--work", type=Path, required=True)
    summary.add_argument("--json", type=Path, default=Path("docs/evaluation/change.json"))
    summary.add_argument("--page", type=Path, default=Path("docs/evaluation.md"))
    summary.add_argument(
        "--noise-floor", type=Path, default=Path("operators/dicom_writer/noise_floor.json")
    )
    summary.set_defaults(run=_summary)


def _run(arguments: argparse.Namespace) -> None:
    from model_tools.change.generator.scans import SCANS
    from model_tools.change.run import all_trials, run_trials

    trials = all_trials(
        tuple(arguments.scans or SCANS), tuple(arguments.kinds), repeats=arguments.repeats
    )
    scores = run_trials(
        arguments.data,
        arguments.work,
        arguments.models,
        arguments.settings,
        trials,
        arguments.jobs,
        arguments.threads,
    )
    print(f"{len(scores)} trials in {arguments.work / 'scores'}")


def _summary(arguments: argparse.Namespace) -> None:
    from model_tools.change.summary import noise_floor, read_scores, summarise
    from model_tools.change.tables import write

    found = summarise(read_scores(arguments.work))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    floor = json.dumps(noise_floor(found)) + "\n"
    arguments.noise_floor.write_text(floor, encoding="utf-8")
    write(arguments.page, found)
    print(floor, end="")
