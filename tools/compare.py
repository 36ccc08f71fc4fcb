"""Compare re-executed outputs with the stored ones: equal words, numbers within the tolerance that a cell names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")  # not the 3 of conv3


def differences(
    stored: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]], tolerance: Mapping[str, float]
) -> Iterator[str]:
    """Yield one sentence for each number that left its tolerance, or one if the words differ.

    Parameters
    ----------
    stored, new : iterable of mapping
        Outputs of a cell as nbformat has them.
    tolerance : mapping
        ``rel`` and ``abs``, 0 where missing: a number may differ by abs + rel · |stored|.
    """
    before, after = text(stored), text(new)
    if NUMBER.split(before) != NUMBER.split(after):
        yield f"the words differ.\nStored: {before}\nNow:    {after}"
        return
    for old, now in zip(NUMBER.findall(before), NUMBER.findall(after), strict=True):
        allowed = tolerance.get("abs", 0.0) + tolerance.get("rel", 0.0) * abs(float(old))
        if not math.isclose(float(old), float(now), rel_tol=0.0, abs_tol=allowed + 1e-12):
            yield f"{old} is stored, {now} came now; {allowed:.3g} is allowed."


def text(outputs: Iterable[Mapping[str, Any]]) -> str:
    """Return what a reader reads in the outputs: printed text, Markdown, tables; no pictures."""
    parts = []
    for output in outputs:
        data = output.get("data", {})
        shown = [data[kind] for kind in ("text/markdown", "text/html", "text/plain") if kind in data][:1]
        parts += [output["text"]] if output.get("name") == "stdout" else shown
    joined = "\n".join(part.strip() for part in parts if "data:image" not in part and not part.startswith("<Figure"))
    return joined.replace("−", "-")  # a typographic minus
