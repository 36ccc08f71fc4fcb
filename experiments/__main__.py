"""``python -m experiments run | status | check | table | verdicts | ledger | rankings | pages | figure | …``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments import _commands, figures, pages, tables, tidy
from experiments.runner import WORK
from experiments.suites import SUITES
from pruning_lib.companion.records import CHECKOUT, SHIPPED

MOST_SEEDS = 1000  # that a range may name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.action(options)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; of a run, the same command goes on.\n")
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("--records", type=Path, default=CHECKOUT, help="folder of the records")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of locks and checkpoints")
    actions = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "suites:\n" + "\n".join(f"  {it.name}: {it.title}. {it.question}" for it in SUITES.values())
    lines = argparse.RawDescriptionHelpFormatter
    for name, (action, text) in _commands.COMMANDS.items():
        command = actions.add_parser(name, help=text, description=text, epilog=about, formatter_class=lines)
        few = "?" if name in _commands.OF_ALL else "+" if name in _commands.OF_SOME else None
        if name not in _commands.OF_NONE:
            command.add_argument("suite", metavar="SUITE", choices=list(SUITES), nargs=few, help="one of those below")
        command.set_defaults(action=action)
        _add_options(command, name)
    return parser


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    if name == "run":
        command.add_argument("--method", help="only runs of this method")
        command.add_argument("--recipe", help="only runs of this recipe: prune, natural, control, loop")
        command.add_argument("--seeds", type=_seeds, help="only these: 0-4 or 0,2")
        command.add_argument("--device", type=_device, default="cpu", help="where to compute, such as cuda")
    if name == "figure":
        command.add_argument("--out", type=Path, required=True, help="image to write")
        kinds = (_commands.FRONT, *tidy.KINDS)
        command.add_argument("--kind", choices=kinds, default=kinds[0], help=f"{kinds[0]}: a panel a family of methods")
        command.add_argument(
            "--against", choices=list(figures.AXES), default="macs", help="the front's horizontal axis"
        )
        command.add_argument("--methods", type=_names, default=tidy.MAIN, help="of the other kinds: rni,slimming,…")
    if name == "latency":
        command.add_argument("--rounds", type=int, default=15, help="how often each network has its turn")
        command.add_argument("--engine", choices=list(tables.ENGINES), default="torch", help="what computes")
    if name == "pages":
        command.add_argument("--out", type=Path, default=pages.FOLDER, help="folder to write to")
    if name in ("summary", "latency"):
        command.add_argument("--out", type=Path, default=SHIPPED, help="folder to write to")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _seeds(text: str) -> set[int]:
    first, dash, last = text.partition("-")
    try:
        seeds = range(int(first), int(last) + 1) if dash else [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' names no seeds; give a range such as 0-4, or some such as 0,2"
        ) from None
    if len(seeds) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"'{text}' names {len(seeds):,} seeds; give {MOST_SEEDS:,} at most")
    return set(seeds)


def _device(text: str) -> str:
    try:
        return str(torch.empty(0, device=text).device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition(". ")[0]
        raise argparse.ArgumentTypeError(f"torch cannot use '{text}' here ({said}); leave it out for the CPU") from None


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `table | head` ends without a traceback
    torch.set_num_threads(1)
    sys.exit(main())
