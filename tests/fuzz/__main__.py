"""``python -m tests.fuzz arguments|files|commands|networks --tries N --seed S``: try, count, and list every fault."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.fuzz import arguments, commands, files, networks

KINDS: dict[str, Any] = {"arguments": arguments, "files": files, "commands": commands, "networks": networks}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=list(KINDS))
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--accepted", action="store_true", help="list what was accepted, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        module = KINDS[options.what]
        tries, shown = [], {"faulty", "accepted"} if options.accepted else {"faulty"}
        for each in module.fuzz(options.tries, options.seed, Path(folder), options.only):
            tries.append(each)
            if each.outcome in shown:
                sys.stdout.write(f"{each.outcome} · {each.case} · {each.text[:1000]}\n")
                sys.stdout.flush()
    counts = Counter(each.outcome for each in tries)
    sys.stdout.write(f"{len(tries)} tries: {dict(counts)}\n")
    for case, number in sorted(Counter(each.case for each in tries).items()):
        sys.stdout.write(f"  {case}: {number}\n")
    return 1 if counts["faulty"] else 0


if __name__ == "__main__":
    sys.exit(main())
