"""``python -m model_tools validation make|page``: the project's own validation data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHIPPED = ("brain_ms_flair_t2_t1", "brain_ms_flair_t2")
"""Ensembles of which four of five members have seen case 26."""


def add_validation(commands: Any) -> None:
    """Add ``validation make`` and ``validation page``."""
    validation = commands.add_parser(
        "validation", help="make the project's own validation data set for evaluate"
    )
    steps = validation.add_subparsers(required=True)
    make = steps.add_parser("make", help="write images, masks and cases.csv")
    make.add_argument("--data", type=Path, required=True, help="the open_ms folder")
    make.add_argument("-o", "--output", type=Path, required=True)
    make.add_argument(
        "--seen-26", nargs="*", default=SHIPPED, help="models that were trained on case 26"
    )
    make.set_defaults(run=_make)
    page = steps.add_parser("page", help="write the tables of an evaluation of it into a page")
    page.add_argument("results", type=Path, help="output folder of evaluate")
    page.add_argument("--page", type=Path, default=Path("docs/evaluation/segmentation.md"))
    page.set_defaults(run=_page)


def _make(arguments: argparse.Namespace) -> None:
    from model_tools.evaluate.own_cases import make_own_cases

    print(make_own_cases(arguments.data, arguments.output, tuple(arguments.seen_26)))


def _page(arguments: argparse.Namespace) -> None:
    from model_tools.evaluate.own_page import place, rendered

    text = arguments.page.read_text(encoding="utf-8")
    arguments.page.write_text(place(text, rendered(arguments.results)), encoding="utf-8")
    print(arguments.page)
