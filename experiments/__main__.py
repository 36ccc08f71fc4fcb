"""``python -m experiments run | status | check | table | verdicts | figure | latency | summary``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments import latency, report
from experiments.runner import WORK, Runner
from experiments.suites import SUITES
from pruning_lib.companion.records import CHECKOUT, SHIPPED, load, measured, read, summarize, summary_text, write_text
from pruning_lib.companion.verdicts import MARGINS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.action(options)
    except (FileNotFoundError, ValueError) as error:
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
    about = "suites:\n" + "\n".join(f"  {suite.name}: {suite.about}" for suite in SUITES.values())
    lines = argparse.RawDescriptionHelpFormatter
    for action, text in (
        (_run, "do the runs that have no record"),
        (_status, "how far a suite is"),
        (_check, "whether records are whole and agree with their suite"),
        (_table, "a table in Markdown"),
        (_verdicts, "what holds of each method, by the rule of the book"),
        (_figure, "test error against multiply-adds, units or time"),
        (_latency, "time the networks that were found, all in turn; the machine should do nothing else"),
        (_summary, "write the summary that ships with the package"),
    ):
        name = action.__name__.strip("_")
        command = actions.add_parser(name, help=text, description=text, epilog=about, formatter_class=lines)
        few = "?" if action in (_status, _check) else None
        command.add_argument("suite", metavar="SUITE", choices=list(SUITES), nargs=few, help="one of those below")
        command.set_defaults(action=action)
        if action is _run:
            command.add_argument("--method", help="only runs of this method")
            command.add_argument("--recipe", help="only runs of this recipe: prune, control, loop")
            command.add_argument("--seeds", type=_seeds, help="only these: 0-4 or 0,2")
            command.add_argument("--device", type=_device, default="cpu", help="where to compute, such as cuda")
        if action is _figure:
            command.add_argument("--out", type=Path, required=True, help="image to write")
            command.add_argument("--against", choices=list(report.AXES), default="macs", help="the horizontal axis")
        if action is _latency:
            command.add_argument("--rounds", type=int, default=15, help="how often each network has its turn")
        if action in (_summary, _latency):
            command.add_argument("--out", type=Path, default=SHIPPED, help="folder to write to")
    return parser


def _seeds(text: str) -> set[int]:
    first, dash, last = text.partition("-")
    try:
        return set(range(int(first), int(last) + 1)) if dash else {int(part) for part in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' names no seeds; give a range such as 0-4, or some such as 0,2"
        ) from None


def _device(text: str) -> str:
    try:
        return str(torch.empty(0, device=text).device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition(". ")[0]
        raise argparse.ArgumentTypeError(f"torch cannot use '{text}' here ({said}); leave it out for the CPU") from None


def _runner(options: argparse.Namespace, suite: str) -> Runner:
    return Runner(SUITES[suite], options.records, options.work)


def _run(options: argparse.Namespace) -> int:
    runner = Runner(SUITES[options.suite], options.records, options.work, options.device)
    names = [
        name
        for name, config in runner.configs.items()
        if options.method in (None, config["method"])
        and options.recipe in (None, config["recipe"])
        and (options.seeds is None or config["seed"] in options.seeds)
    ]
    if not names:
        methods = ", ".join(dict.fromkeys(config["method"] for config in runner.configs.values()))
        sys.stderr.write(f"{options.suite} has no such run; its methods are {methods}.\n")
        return 1
    failed = runner.run(names)
    left = runner.left(names)
    sys.stderr.write(f"{options.suite}: {len(names) - len(left)} of {len(names)} runs have their record.\n")
    return int(bool(failed or left))


def _chosen(options: argparse.Namespace) -> list[Runner]:
    return [_runner(options, suite) for suite in ([options.suite] if options.suite else SUITES)]


def _status(options: argparse.Namespace) -> int:
    for runner in _chosen(options):
        print(f"{runner.suite.name}: {runner.progress()}")
        for name in runner.running():
            print(f"  running {name}")
    return 0


def _check(options: argparse.Namespace) -> int:
    if not options.records.is_dir():
        raise FileNotFoundError(f"There is no folder {options.records}; --records names that of the records.")
    faults = [fault for runner in _chosen(options) for fault in runner.faults()]
    strangers = (
        [] if options.suite else sorted({path.parent.name for path in options.records.glob("*/*.json")} - SUITES.keys())
    )
    faults += [f"{options.records / name} belongs to no suite; delete it." for name in strangers]
    for fault in faults:
        print(fault)
    if not faults:
        count = sum(len(runner.configs) - len(runner.left()) for runner in _chosen(options))
        print(f"{count} records agree with their suites.")
    return int(bool(faults))


def _table(options: argparse.Namespace) -> int:
    print(report.table(load(options.suite, folder=options.records), _times(options.suite)))
    return 0


def _verdicts(options: argparse.Namespace) -> int:
    if options.suite not in MARGINS:
        raise ValueError(
            f"There is no margin for {options.suite}, so nothing is judged; there is one for {', '.join(MARGINS)}."
        )
    print(report.ruling(load(options.suite, folder=options.records), MARGINS[options.suite]))
    return 0


def _figure(options: argparse.Namespace) -> int:
    rows = load(options.suite, folder=options.records)
    report.figure(rows, options.against, _times(options.suite)).savefig(options.out, bbox_inches="tight")
    return 0


def _latency(options: argparse.Namespace) -> int:
    found = latency.measured(read(options.suite, options.records), options.rounds)
    latency.write(options.suite, found, options.out)
    return 0


def _times(suite: str) -> dict[str, float]:
    """Return the share of the time that each architecture of a suite needs; empty if nobody measured."""
    try:
        return {name: left[0] for name, left in measured(f"latency-{suite}")["time_left"].items()}
    except FileNotFoundError:
        return {}


def _summary(options: argparse.Namespace) -> int:
    records = read(options.suite, options.records)
    if not records:
        sys.stderr.write(f"{options.suite} has no records to summarize.\n")
        return 1
    write_text(options.out / f"{options.suite}.json", summary_text(summarize(records)))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `table | head` ends without a traceback
    torch.set_num_threads(1)
    sys.exit(main())
