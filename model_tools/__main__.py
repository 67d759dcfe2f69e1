"""Command line: ``python -m model_tools COMMAND …``, as import, fetch, quantise or evaluate."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import torch

from model_tools.build import add_build
from model_tools.change.command import add_change
from model_tools.evaluate.command import add_evaluate
from model_tools.evaluate.own_command import add_validation
from model_tools.fetch import add_fetch
from model_tools.importing.command import add_import
from model_tools.quantise.command import add_quantise
from operators.errors import UserError


def _member(text: str) -> tuple[Path, int]:
    """A model package and the number of its member, 0 where none is named.

    Raises
    ------
    argparse.ArgumentTypeError
        If the member is no number.
    """
    from model_tools.evaluate.members import named_member

    package, member = named_member(text) or (text, 0)
    if "#" in package:
        raise argparse.ArgumentTypeError(f"{text} is not of the form PACKAGE#MEMBER, as p#0")
    return Path(package), member


def _train(arguments: argparse.Namespace) -> None:
    from model_tools.train.device import choose_device
    from model_tools.train.recipe import Recipe
    from model_tools.train.trainer import train_forks, train_trunk

    begin = time.monotonic()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    recipe = Recipe(seed=arguments.seed)
    minutes, steps, fork_steps = arguments.minutes, arguments.steps, arguments.fork_steps
    if arguments.smoke:
        recipe = Recipe.smoke(arguments.seed)
        steps, fork_steps = steps or 6, 3
    if arguments.stage in ("all", "trunk"):
        complete = train_trunk(
            arguments.data, arguments.work, recipe, minutes, steps, device, arguments.start
        )
        if not complete:
            print("Stopped; the same command goes on from here.")
            return
    if arguments.stage in ("all", "forks"):
        # where the trunk ends with its steps, the minutes are those of the whole call
        left = None
        if minutes is not None and (arguments.stage == "forks" or steps is not None):
            left = max(0.0, minutes - (time.monotonic() - begin) / 60)
        folder = train_forks(
            arguments.data, arguments.work, arguments.folds, fork_steps, left, device
        )
        again = " with --stage forks" if arguments.stage == "all" and steps is None else ""
        print(folder if folder else f"Stopped; the same command{again} goes on.")
    if arguments.stage == "measure":
        from model_tools.train.measure import measure_all

        print(measure_all(arguments.data, arguments.work))


def _card(arguments: argparse.Namespace) -> None:
    from model_tools.train.card import model_card

    measures = json.loads(arguments.measures.read_text(encoding="utf-8"))
    print(model_card(measures, arguments.name, arguments.folds, arguments.drop_channel))


def _export(arguments: argparse.Namespace) -> None:
    from model_tools.export import export_package

    difference = export_package(
        arguments.source,
        arguments.output,
        drop=arguments.drop_channel,
        card=arguments.card.read_text(encoding="utf-8"),
        version=arguments.version,
        threshold=arguments.threshold,
        patch=arguments.patch,
        tile_step=arguments.tile_step,
    )
    print(json.dumps(difference))


def main() -> None:
    """Parse the command line and run the chosen tool."""
    parser = argparse.ArgumentParser(prog="python -m model_tools", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train the ensemble from open data")
    train.add_argument("--data", type=Path, required=True, help="the open_ms folder")
    train.add_argument("--work", type=Path, required=True, help="folder for everything written")
    train.add_argument(
        "--minutes",
        type=float,
        help="wall-clock limit of this call; without --steps of its trunk alone",
    )
    train.add_argument(
        "--start",
        type=_member,
        metavar="PACKAGE#MEMBER",
        help="begin the trunk with a model package's member (fold 0 has not seen case 26)",
    )
    train.add_argument("--steps", type=int, help="total steps of the trunk")
    train.add_argument(
        "--device",
        default="auto",
        help="where network and generator compute: cpu, cuda, cuda:N, or auto for a GPU that works",
    )
    train.add_argument("--folds", type=int, default=5)
    train.add_argument("--fork-steps", type=int, default=160, help="steps of each member")
    train.add_argument("--stage", choices=("all", "trunk", "forks", "measure"), default="all")
    train.add_argument("--seed", type=int, default=2026)
    train.add_argument("--threads", type=int, default=2)
    train.add_argument("--smoke", action="store_true", help="a tiny network for a few steps")
    train.set_defaults(run=_train)
    export = commands.add_parser("export", help="make a model package of a result folder")
    export.add_argument("source", type=Path, help="folder with plans.json and fold_0, fold_1, …")
    export.add_argument("-o", "--output", type=Path, required=True, help="package folder")
    export.add_argument("--drop-channel", help="remove an input channel, as t1")
    export.add_argument("--card", type=Path, required=True, help="text of MODEL_CARD.md")
    export.add_argument("--version", default="0.1.0")
    export.add_argument("--threshold", type=float, default=0.5)
    export.add_argument("--patch", type=int, help="tile edge at inference; default as trained")
    export.add_argument("--tile-step", type=float, default=0.5)
    export.set_defaults(run=_export)
    card = commands.add_parser("card", help="write the text of a MODEL_CARD.md from measures.json")
    card.add_argument("measures", type=Path, help="measures.json of train --stage measure")
    card.add_argument("--name", required=True, help="the package's name")
    card.add_argument("--folds", type=int, default=5)
    card.add_argument("--drop-channel", help="the removed channel, as t1")
    card.set_defaults(run=_card)
    add_import(commands)
    add_fetch(commands)
    add_evaluate(commands)
    add_validation(commands)
    add_build(commands)
    add_quantise(commands)
    add_change(commands)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        code = arguments.run(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
