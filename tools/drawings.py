"""Draw the pictures of the page *Architecture*, one a walk: `make figure`; tests compare them with the code.

A drawing is a column of stations, so that it reads the same on a phone. A station names a file and what happens there.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from tools.chapters import ROOT

BOOK = ROOT / "book"
WIDTH, BOX, GAP, LINE = 640, 74, 26, 22
INK, PAPER, ROOM, EDGE = "#1a1a1a", "#ffffff", "#e8f1f8", "#0072B2"  # Okabe and Ito's blue


@dataclass(frozen=True)
class Station:
    """A step of a walk.

    Parameters
    ----------
    place : str
        A file of the checkout, or what comes in or goes out.
    says : str
        What happens there, in a few words.
    """

    place: str
    says: str


WALKS: dict[str, tuple[Station, ...]] = {
    "walk-shrink": (
        Station("model, example", "a network, some of whose units are exactly zero"),
        Station("pruning_lib/channels/_trace.py", "torch.export runs forward once: a graph of operators"),
        Station("pruning_lib/channels/_solve.py", "labels: which channels are the same; values: which are constant"),
        Station("pruning_lib/channels/rules/", "each operator answers for itself, one class a family"),
        Station("pruning_lib/channels/_planning.py", "what stays of every tensor, written down as a Plan"),
        Station("pruning_lib/channels/_plan.py", "a copy is cut as the plan says"),
        Station("pruning_lib/channels/_compensate.py", "removed constants are added to biases that follow"),
        Station("pruning_lib/channels/_verify.py", "outputs are compared in float64, at other sizes too"),
        Station("Shrunk", "the small network, its optimizer, the plan, the largest error"),
    ),
    "walk-fit": (
        Station("inputs, targets", "a batch, in an order drawn from the seed"),
        Station("pruning_lib/training/_fit.py", "augment, forward, loss + regularizer.penalty(outputs), backward"),
        Station("pruning_lib/regularizers/", "penalty: a term of the loss; update: a proximal map, a decay, a sample"),
        Station("pruning_lib/training/_callbacks.py", "after the epoch: validate, log, threshold, stop"),
        Station("pruning_lib/training/_checkpoint.py", "written whole or not at all; a killed run goes on from it"),
        Station("History", "an entry an epoch"),
    ),
    "walk-record": (
        Station("python -m experiments run SUITE", "the runs of a suite that have no record yet"),
        Station("experiments/suites/", "one file a family: protocol, question, margin, labels"),
        Station("experiments/runner.py", "each run once, each by one process, each resumable"),
        Station("experiments/recipes/", "train, prune, shrink, fine-tune; the test set is read once, at the end"),
        Station("experiments/records/", "one JSON a run, checked when written and when read"),
        Station("pruning_lib/companion/_records/", "the summary that ships: rows, and what the suite asks"),
        Station("pruning_lib/companion/records/", "chapters read rows; verdicts judge them"),
    ),
}


def draw(stations: tuple[Station, ...]) -> str:
    """Return a column of stations, an arrow between each two, as an SVG image."""
    height = len(stations) * (BOX + GAP) - GAP + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
    ]
    for number, station in enumerate(stations):
        top = 4 + number * (BOX + GAP)
        room = "/" in station.place
        fill, mono = (ROOM, ' font-family="monospace"') if room else (PAPER, "")
        parts += [
            f'<rect x="4" y="{top}" width="{WIDTH - 8}" height="{BOX}" rx="10" fill="{fill}" stroke="{EDGE}"/>',
            f'<text x="20" y="{top + 30}" font-size="19" font-weight="bold" fill="{INK}"{mono}>'
            f"{escape(station.place)}</text>",
            f'<text x="20" y="{top + 30 + LINE + 4}" font-size="17" fill="{INK}">{escape(station.says)}</text>',
        ]
        if number + 1 < len(stations):
            middle, end = WIDTH // 2, top + BOX + GAP
            arrow = f"M{middle} {top + BOX}V{end - 3}m-7 -9l7 9l7 -9"
            parts.append(f'<path d="{arrow}" fill="none" stroke="{EDGE}" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>", ""])


def main(folder: Path = BOOK) -> None:
    """Write every drawing."""
    for name, stations in WALKS.items():
        (folder / f"{name}.svg").write_text(draw(stations), encoding="utf-8")


if __name__ == "__main__":
    main()
