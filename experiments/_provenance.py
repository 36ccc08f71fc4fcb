"""What the numbers of a record depend on beside its configuration."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

SOURCES = ("pruning_lib/*.py", "experiments/*.py", "benchmarks/*.py")  # git's globs cross folders
"""What a number of a record hangs on; changes to it since the commit are marked."""


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Return date, commit, releases, processor and threads; a commit with a ``+`` had changes to the code."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("diff", "HEAD", "--", *SOURCES) else ""),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": _processor(device),
        "threads": torch.get_num_threads(),
    }


def _git(*arguments: str) -> str:
    command = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    return command.stdout.strip()


def _processor(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device
