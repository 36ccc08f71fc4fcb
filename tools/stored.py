"""The gate of `make book`: what is stored must be executed, in order, and free of errors. Needs nothing but Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def faults(path: Path) -> Iterator[str]:
    """Yield one sentence for each cell of a stored notebook that a reader must not see."""
    try:
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError) as error:
        yield f"{path.name} is no notebook ({error!r}). Run `make notebooks`."
        return
    expected = 1
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        where = f"{path.name}, cell {number} ({first_line(cell)})"
        count = cell.get("execution_count")
        if count is None:
            yield f"{where}: not executed. Run `make notebooks`."
        elif count != expected:
            yield f"{where}: executed as number {count}, should be {expected}. Run `make notebooks`."
        expected = (count or expected) + 1
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"{where}: stored the error {output['ename']}: {output['evalue']}."


def first_line(cell: dict[str, Any]) -> str:
    """Return the first line of a cell that says something, to find it by."""
    lines = "".join(cell["source"]).splitlines()
    return next((line.strip()[:60] for line in lines if line.strip() and not line.startswith("#")), "empty")


def main() -> int:
    """Check all notebooks of a folder, `notebooks` unless another is named."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "notebooks")
    found = [fault for path in sorted(folder.glob("*.ipynb")) for fault in faults(path)]
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
