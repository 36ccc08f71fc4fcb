"""Draw the moving picture of the landing page, `book/shrinking.svg`, from the README's network: `make figure`.

Every neuron's radius follows the recorded length of its weights. The film has three scenes: training, zeroing,
removing. It moves by CSS alone, so that it plays offline; a reader can stop it, and where a system asks for less
motion it shows its last picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor, nn

from tools.chapters import ROOT
from tools.readme_figure import tell

PATH = ROOT / "book" / "shrinking.svg"
WIDTH, HEIGHT = 720, 430
SECONDS = 12.0
TRAINED, ZEROED, MOVED = 0.56, 0.68, 0.80  # the scenes' ends, as shares of the film
FRAMES = 16  # of the training
COLUMNS = (215, 440, 645)
MIDDLE, REACH = 215, 178  # of a column of neurons: its centre, and half the height of the tallest
RADIUS, MOST = 1.6, 5.4  # of a ring without weights, of the longest row
STAY, GO, INK = "#0072B2", "#D55E00", "#333333"  # Okabe and Ito


@dataclass(frozen=True)
class Film:
    """What is drawn.

    Parameters
    ----------
    lengths : list of Tensor
        A layer each: the length of every neuron's weights by frame, (frames, neurons).
    dead : list of Tensor
        A layer each: which neurons are removed, bool (neurons,).
    weights : list of Tensor
        Between the columns: (neurons, neurons before).
    image : Tensor
        The digit on the left, (8, 8) in [0, 1].
    words : tuple of str
        What stands below, a scene each.
    """

    lengths: list[Tensor]
    dead: list[Tensor]
    weights: list[Tensor]
    image: Tensor
    words: tuple[str, str, str]


def record() -> Film:
    """Train the README's network, remove what receded, and note what the film shows."""
    story = tell()
    norms, dead = story.norms, story.dead
    before, after = story.macs
    right, same = story.accuracy
    assert right == same, "the last words say so"
    assert story.difference < 1e-4, "and this"
    layers = [layer for layer in story.model.modules() if isinstance(layer, nn.Linear)]
    sizes = [layer.out_features for layer in layers[:-1]]
    frames = norms[torch.linspace(0, len(norms) - 1, FRAMES).round().long()]
    outputs = torch.full((FRAMES, layers[-1].out_features), float(norms.max()) / 2)
    receded = int(dead.sum())
    return Film(
        lengths=[*torch.split(frames, sizes, dim=1), outputs],
        dead=[*torch.split(dead, sizes), torch.zeros(layers[-1].out_features, dtype=torch.bool)],
        weights=[layer.weight.detach() for layer in layers[1:]],
        image=story.image,
        words=(
            f"Training with a penalty: {receded} of {len(dead)} neurons lose their weights (rings).",
            f"Set to zero: the network still costs {before:,} multiply-adds.",
            f"Removed: {after:,} multiply-adds, the same outputs. {100 * right:.0f} % of the test digits are right.",
        ),
    )


def places(count: int, tallest: int, spread: float = 1.0) -> list[float]:
    """Return the height of each of `count` neurons of a column, centred."""
    reach = REACH * min(1.0, spread * count / tallest)
    return [MIDDLE + float(y) for y in torch.linspace(-reach, reach, count)] if count > 1 else [float(MIDDLE)]


def keyframes(name: str, steps: list[tuple[float, str]]) -> str:
    """Return one CSS animation: what holds at each share of the film."""
    return f"@keyframes {name}{{" + "".join(f"{100 * at:.4g}%{{{what}}}" for at, what in steps) + "}"


def still(name: str, steps: list[tuple[float, str]]) -> str:
    """Return the animation of the class `name`, and how it looks where nothing moves: as at the end."""
    return f".{name}{{animation-name:{name};{steps[-1][1]}}}" + keyframes(name, steps)


def neuron(name: str, sizes: Tensor, gone: bool, shift: float) -> str:
    """Return the CSS of one neuron: it swells or shrinks while training, then moves up or leaves."""
    at = torch.linspace(0, TRAINED, len(sizes)).tolist()
    scales = (RADIUS + (MOST - RADIUS) * sizes).div(MOST).tolist()
    shown = ";opacity:1" if gone else ""  # else what holds at the end would hold before
    steps = [(t, f"transform:scale({s:.2f}){shown}") for t, s in zip(at, scales, strict=True)]
    last = steps[-1][1]
    if gone:
        left = last.replace(shown, ";opacity:0")
        steps += [(ZEROED, last), (ZEROED + 0.03, left), (1.0, left)]
    else:
        moved = f"transform:translateY({shift:.1f}px) scale({scales[-1]:.2f})"
        steps += [(ZEROED + 0.03, last), (MOVED, moved), (1.0, moved)]
    return still(name, steps)


def fading(name: str, sizes: Tensor) -> str:
    """Return the CSS of a neuron's connections: as strong as its weights, gone when the network is cut."""
    at = torch.linspace(0, TRAINED, len(sizes)).tolist()
    steps = [(t, f"opacity:{s:.2f}") for t, s in zip(at, sizes.tolist(), strict=True)]
    return still(name, [*steps, (ZEROED, steps[-1][1]), (ZEROED + 0.03, "opacity:0"), (1.0, "opacity:0")])


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return the path of one connection."""
    return f"M{x1:.0f} {y1:.1f}L{x2:.0f} {y2:.1f}"


def digit(image: Tensor) -> str:
    """Return the picture that goes in, as squares of grey."""
    size, left, top = 12, 24, MIDDLE - 48
    squares = [f'<rect x="{left - 2}" y="{top - 2}" width="100" height="100" fill="#fff" stroke="{INK}"/>']
    for y, x in (image > 0).nonzero().tolist():
        ink = 255 - round(255 * float(image[y, x]) / float(image.max()))
        fill = f"#{ink:02x}{ink:02x}{ink:02x}"
        squares.append(
            f'<rect x="{left + size * x}" y="{top + size * y}" width="{size}" height="{size}" fill="{fill}"/>'
        )
    return "".join(squares)


def compact(film: Film) -> list[dict[int, float]]:
    """Return the height of each neuron that stays, once the others are gone, by layer and index."""
    tallest = len(film.dead[0])
    stay = [(~dead).nonzero().flatten().tolist() for dead in film.dead]
    return [dict(zip(here, places(len(here), tallest, spread=2.0), strict=True)) for here in stay]


def connections(film: Film, heights: list[list[float]], short: list[dict[int, float]]) -> tuple[str, str]:
    """Return the connections of the whole network, each with the neuron that dies first, and those of the small one."""
    owned: dict[str, str] = {}
    left = ""
    for column, weight in enumerate(film.weights):
        x1, x2 = COLUMNS[column], COLUMNS[column + 1]
        strong = weight.abs() > 0.02
        for j, i in torch.ones_like(weight).nonzero().tolist():
            late = film.dead[column + 1][j] and not film.dead[column][i]
            if not (film.dead[column + 1][j] or film.dead[column][i] or strong[j, i]):
                continue
            if (3 * i + j) % 3 and (film.dead[column + 1][j] or film.dead[column][i]):
                continue  # a third of them shows as much, in a third of the file
            owner = f"e{column + 1}x{j}" if late else f"e{column}x{i}"
            owned[owner] = owned.get(owner, "") + line(x1, heights[column][i], x2, heights[column + 1][j])
            if i in short[column] and j in short[column + 1]:
                left += line(x1, short[column][i], x2, short[column + 1][j])
    return "".join(f'<path class="a {name}" d="{path}"/>' for name, path in owned.items()), left


def neurons(film: Film, heights: list[list[float]], short: list[dict[int, float]]) -> tuple[list[str], str]:
    """Return the CSS of all neurons and of their connections, and the dots."""
    longest = max(float(each.max()) for each in film.lengths[:-1])
    styles, dots = [], []
    for column, dead in enumerate(film.dead):
        for i, gone in enumerate(dead.tolist()):
            sizes = (film.lengths[column][:, i] / longest).clamp(0, 1)
            x, y = COLUMNS[column], heights[column][i]
            styles.append(neuron(f"n{column}x{i}", sizes, gone, 0.0 if gone else short[column][i] - y))
            styles.append(fading(f"e{column}x{i}", sizes.sqrt()))
            look = f'fill="#fff" stroke="{GO}" stroke-width="2"' if gone else f'fill="{STAY}"'
            dots.append(
                f'<circle class="a n{column}x{i}" cx="{x}" cy="{y:.1f}" r="{MOST}" {look} '
                f'style="transform-origin:{x}px {y:.1f}px"/>'
            )
    return styles, "".join(dots)


def scenes() -> list[str]:
    """Return the CSS of what comes and goes with a scene: the words, the image's lines, the small network's."""
    on, off = "opacity:1", "opacity:0"
    begin, cut = TRAINED + 0.01, ZEROED + 0.01
    return [
        still("small", [(0.0, off), (MOVED - 0.02, off), (MOVED + 0.03, on), (1.0, on)]),
        still("fan", [(0.0, "opacity:.5"), (ZEROED, "opacity:.5"), (ZEROED + 0.03, off), (1.0, off)]),
        still("said0", [(0.0, on), (TRAINED, on), (begin, off), (1.0, off)]),
        still("said1", [(0.0, off), (TRAINED, off), (begin, on), (ZEROED, on), (cut, off), (1.0, off)]),
        still("said2", [(0.0, off), (ZEROED, off), (cut, on), (1.0, on)]),
    ]


STYLE = (
    f".film .a{{animation-duration:{SECONDS:g}s;animation-timing-function:linear;"
    "animation-iteration-count:infinite}"
    ".film path{stroke:#777;stroke-width:.5;fill:none}"
    f".film text{{font:600 17px system-ui,sans-serif;fill:{INK};text-anchor:middle}}"
    "@media (prefers-reduced-motion:reduce){.film .a{animation:none!important}}"
)
ABOUT = (
    "A small network on a picture of a digit. While it trains, the neurons that recede become small rings and lose "
    "their connections. Then they are removed, and a narrow network with the same outputs is left."
)


def draw(film: Film) -> str:
    """Return the film as an SVG with its own style."""
    heights = [places(len(dead), len(film.dead[0])) for dead in film.dead]
    short = compact(film)
    edges, left = connections(film, heights, short)
    styles, dots = neurons(film, heights, short)
    fan = "".join(line(124, MIDDLE, COLUMNS[0], y) for y in heights[0])
    left += "".join(line(124, MIDDLE, COLUMNS[0], y) for y in short[0].values())
    words = "".join(
        f'<text class="a said{i}" x="{WIDTH / 2:.0f}" y="{HEIGHT - 12}">{escape(said)}</text>'
        for i, said in enumerate(film.words)
    )
    return (
        f'<svg class="film" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{ABOUT}"><style>{STYLE}{"".join(styles + scenes())}</style>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>{digit(film.image)}'
        f'<path class="a fan" d="{fan}"/>{edges}<path class="a small" d="{left}"/>{dots}{words}</svg>\n'
    )


def main() -> None:
    """Write the film."""
    PATH.write_text(draw(record()), encoding="utf-8")


if __name__ == "__main__":
    main()
