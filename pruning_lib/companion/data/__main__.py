"""Put image data into a cache: ``python -m pruning_lib.companion.data fetch NAME``, ``… build NAME --from FOLDER``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pruning_lib.companion.data._files import CACHE
from pruning_lib.companion.data._registry import build, fetch, offering


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.command == "fetch":
            path = fetch(options.name, options.root)
        else:
            path = build(options.name, options.originals, options.root)
        sys.stdout.write(f"{path}\n")
    except ImportError as error:
        parser.exit(1, f"{options.command} needs {error.name}, which is not installed: pip install {error.name}\n")
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pruning_lib.companion.data", description="Put image data into a cache."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="download and verify")
    building = commands.add_parser("build", help="make a file from a data set's originals")
    building.add_argument("--from", dest="originals", required=True, help="folder that holds the originals")
    for command, subparser in (("fetch", fetching), ("build", building)):
        subparser.add_argument("name", type=_hyphenated, choices=offering(command))
        subparser.add_argument("--root", help=f"folder to put it below (default {CACHE})")
    return parser


def _hyphenated(name: str) -> str:
    """Return a data set's name from that of its function, which is the one that a reader of a chapter knows."""
    return name.replace("_", "-")


if __name__ == "__main__":
    main()
