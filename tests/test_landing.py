"""The landing page says what is so, and its film shows the network that it was drawn from."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import pruning_lib as prl
from tools.chapters import ROOT
from tools.landing_figure import COLUMNS, FRAMES, PATH, Film, draw

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def film() -> Film:
    """Return three hidden neurons, of which the middle one dies, two more, and two outputs."""
    fading = torch.linspace(1, 0, FRAMES)
    first = torch.stack([torch.ones(FRAMES), fading, torch.ones(FRAMES)], dim=1)
    dead = [torch.tensor([False, True, False]), torch.tensor([False, False]), torch.tensor([False, False])]
    weights = [torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]), torch.ones(2, 2)]
    lengths = [first, torch.ones(FRAMES, 2), torch.ones(FRAMES, 2)]
    return Film(lengths, dead, weights, torch.eye(8), ("one < two", "two", "three"))


def test_a_neuron_that_dies_leaves_and_the_others_close_up(film: Film) -> None:
    root = ElementTree.fromstring(draw(film))
    dots = {dot.get("class", "").split()[1]: dot for dot in root.iter(f"{SVG}circle")}
    assert len(dots) == 7
    (style,) = (element.text or "" for element in root.iter(f"{SVG}style"))
    end = {name: re.search(rf"\.{name}{{animation-name:{name};([^}}]*)}}", style)[1] for name in dots}  # type: ignore[index]
    assert [name for name, look in end.items() if "opacity:0" in look] == ["n0x1"]
    places = {}
    for name, look in end.items():
        if moved := re.search(r"translateY\(([-\d.]+)px\)", look):
            places[name] = float(dots[name].get("cy", "")) + float(moved[1])
    middle = (places["n1x0"] + places["n1x1"]) / 2
    assert places["n0x0"] + places["n0x2"] == pytest.approx(2 * middle)  # centred, as before
    assert [dots[f"n{column}x0"].get("cx") for column in range(3)] == [str(x) for x in COLUMNS]
    assert "prefers-reduced-motion:reduce" in style
    assert "one < two" in "".join(root.itertext())


def test_the_film_is_small_and_tells_what_the_picture_of_the_readme_shows() -> None:
    text = PATH.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert len(text) < 150_000
    assert "nan" not in text
    assert root.get("role") == "img"
    assert root.get("aria-label")
    rings = [dot for dot in root.iter(f"{SVG}circle") if dot.get("fill") == "#fff"]
    assert f"{len(rings)} of {len(list(root.iter(f'{SVG}circle'))) - 10} neurons" in "".join(root.itertext())


def test_there_are_as_many_records_as_the_landing_page_says() -> None:
    assert "More than 1,500 recorded trainings" in (ROOT / "book" / "welcome.md").read_text(encoding="utf-8")
    assert len(list((ROOT / "experiments" / "records").glob("*/*.json"))) > 1500


def test_the_code_of_the_landing_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it saves a file
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "book" / "welcome.md").read_text(encoding="utf-8"), re.DOTALL)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    images = torch.randn(8, 64)
    printed: list[object] = []
    loader = [(images, torch.randint(10, (8,)))]
    loss_fn = torch.nn.functional.cross_entropy
    room = {"model": model, "loader": loader, "loss_fn": loss_fn, "print": printed.append}
    exec(code, room)
    whole = prl.measure(model, images).macs
    (report,) = printed
    assert isinstance(report, prl.Shrunk)
    assert prl.measure(report.model, images).macs == whole // 2
    assert room["small"](images).shape == (8, 10)  # type: ignore[operator]
    again = prl.load(copy.deepcopy(model), tmp_path / "small.safetensors")
    assert torch.equal(again.eval()(images), room["small"].eval()(images))  # type: ignore[attr-defined]
