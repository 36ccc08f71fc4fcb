"""What each command does; `experiments.__main__` reads the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from experiments import figures, latency, ledger, pages, rankings, tables, tidy
from experiments.runner import Runner
from experiments.suites import SUITES
from pruning_lib.companion.records import load, read, summarize, summary_text, write_text

Command = Callable[[argparse.Namespace], int]


def run(options: argparse.Namespace) -> int:
    """Do what has no record."""
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


def status(options: argparse.Namespace) -> int:
    """Print how far the suites are."""
    for runner in _runners(options):
        print(f"{runner.suite.name}: {runner.progress()}")
        for name in runner.running():
            print(f"  running {name}")
    return 0


def check(options: argparse.Namespace) -> int:
    """Print what is wrong with records."""
    if not options.records.is_dir():
        raise FileNotFoundError(f"There is no folder {options.records}; --records names that of the records.")
    faults = [fault for runner in _runners(options) for fault in runner.faults()]
    folders = {path.parent.name for path in options.records.glob("*/*.json")}
    strangers = [] if options.suite else sorted(folders - SUITES.keys())
    faults += [f"{options.records / name} belongs to no suite; delete it." for name in strangers]
    for fault in faults:
        print(fault)
    if not faults:
        count = sum(len(runner.configs) - len(runner.left()) for runner in _runners(options))
        print(f"{count} records agree with their suites.")
    return int(bool(faults))


def table(options: argparse.Namespace) -> int:
    """Print every row."""
    head = SUITES[options.suite].head()
    print(tables.table(load(options.suite, folder=options.records), head, tables.times(options.suite)))
    return 0


def verdicts(options: argparse.Namespace) -> int:
    """Print both answers on every method."""
    print(ledger.verdicts(load(options.suite, folder=options.records), SUITES[options.suite]))
    return 0


def claims(options: argparse.Namespace) -> int:
    """Print the ledger."""
    print(ledger.ledger(options.records))
    return 0


def ranked(options: argparse.Namespace) -> int:
    """Print which ranking is safe, and what each did to each network."""
    print(f"{rankings.RULE}\n\n{rankings.table(options.records)}")
    return 0


def write_pages(options: argparse.Namespace) -> int:
    """Write every table of the book."""
    for path in pages.write(options.records, options.out):
        print(path)
    return 0


def figure(options: argparse.Namespace) -> int:
    """Write a picture: every front of one suite, or one of those that `experiments.tidy` collects of several."""
    suites = [SUITES[name] for name in options.suite]
    if options.kind != FRONT:
        drawn = tidy.picture(options.kind, suites, options.records, options.methods)
    elif len(suites) == 1:
        rows, name = load(suites[0].name, folder=options.records), suites[0].name
        drawn = figures.figure(rows, suites[0].head(), options.against, tables.times(name))
    else:
        raise ValueError(f"A picture of every front takes one suite, not {len(suites)}; --kind fronts takes several.")
    drawn.savefig(options.out, bbox_inches="tight")
    return 0


def time(options: argparse.Namespace) -> int:
    """Write how long a forward pass takes."""
    times = latency.measured(read(options.suite, options.records), options.rounds, options.engine)
    latency.write(options.suite, times, options.out, options.engine)
    return 0


def summary(options: argparse.Namespace) -> int:
    """Write what ships with the package: what the suite asks, and its rows."""
    records = read(options.suite, options.records)
    if not records:
        sys.stderr.write(f"{options.suite} has no records to summarize.\n")
        return 1
    text = summary_text(summarize(records), SUITES[options.suite].head())
    write_text(options.out / f"{options.suite}.json", text)
    return 0


def _runners(options: argparse.Namespace) -> list[Runner]:
    names = [options.suite] if options.suite else SUITES
    return [Runner(SUITES[name], options.records, options.work) for name in names]


COMMANDS: dict[str, tuple[Command, str]] = {
    "run": (run, "do the runs that have no record"),
    "status": (status, "how far a suite is"),
    "check": (check, "whether records are whole and agree with their suite"),
    "table": (table, "a table in Markdown"),
    "verdicts": (verdicts, "of each method: is the published claim met, and is the method the reason"),
    "ledger": (claims, "both answers on every claim of the papers, and what is missing"),
    "rankings": (ranked, "which ranking is safe: the rule, and what each ranking did to each network"),
    "pages": (write_pages, "write the book's pages of tables"),
    "figure": (figure, "a picture: error against size, epochs or time, deaths, claims, methods by networks"),
    "latency": (time, "time the networks that the tables end in, all in turn; the machine should do nothing else"),
    "summary": (summary, "write the summary that ships with the package"),
}
FRONT = "front"
"""The kind of picture that has a panel a family of methods."""
OF_SOME = ("figure",)
"""What may be asked of several suites together."""
OF_ALL = ("status", "check")
"""What may be asked of all suites at once."""
OF_NONE = ("ledger", "rankings", "pages")
"""What is asked of no suite in particular."""
