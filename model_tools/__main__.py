"""Command line: ``python -m model_tools train|export …``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch


def _train(arguments: argparse.Namespace) -> None:
    from model_tools.train.trainer import Recipe, train_trunk

    torch.set_num_threads(arguments.threads)
    train_trunk(
        arguments.data,
        arguments.work,
        Recipe(seed=arguments.seed),
        arguments.minutes,
        arguments.steps,
    )


def main() -> None:
    """Parse the command line and run the chosen tool."""
    parser = argparse.ArgumentParser(prog="python -m model_tools", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train the ensemble from open data")
    train.add_argument("--data", type=Path, required=True, help="the open_ms folder")
    train.add_argument("--work", type=Path, required=True, help="folder for everything written")
    train.add_argument("--minutes", type=float, help="wall-clock limit of this call")
    train.add_argument("--steps", type=int, help="total steps of the trunk")
    train.add_argument("--seed", type=int, default=2026)
    train.add_argument("--threads", type=int, default=2)
    train.set_defaults(run=_train)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    arguments.run(arguments)


if __name__ == "__main__":
    main()
