"""The tables of the two deployment examples, kept as a record: ``python -m benchmarks.deployment [--table]``.

`examples/deploy_torchvision.py` and `examples/deploy_timm.py` run as they stand there, on one thread; what
they print is kept. Sizes in kB, time for one image, accuracy on test digits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pruning_lib.companion import records

ROOT = Path(__file__).parents[1]
RECORD = records.SHIPPED / f"{records.MEASURED}deployment.json"
SCRIPTS = {"torchvision": "deploy_torchvision.py", "timm": "deploy_timm.py"}


def run(script: str) -> list[list[str]]:
    """Return the cells of the table that an example prints, its head first."""
    command = [sys.executable, "-W", "ignore", f"examples/{script}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|-")]


def table(record: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    parts = []
    for name, (head, *rows) in record["tables"].items():
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        parts.append(f"{name}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown")
    if not parser.parse_args().table:
        packages = ("torch", "torchvision", "timm", "onnxruntime")
        found: dict[str, Any] = {"provenance": {name: version(name) for name in packages}}
        found["tables"] = {name: run(script) for name, script in SCRIPTS.items()}
        records.write_text(RECORD, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(table(records.measured("deployment")))


if __name__ == "__main__":
    main()
