"""Which ranking is safe: the rule on records made up for it, the chance it compares with, and names of criteria."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments import criteria, rankings
from experiments.suites.rankings import RANKED, SUITES
from experiments.tasks import judge, split
from pruning_lib.companion.data import DATA_SETS
from pruning_lib.companion.records import write
from pruning_lib.units import Group, Member, Units

WIDTHS = {"fc1": 300, "fc2": 100}


def stage(error: float, units: dict[str, int]) -> dict[str, Any]:
    values: dict[str, Any] = {f"{part}_{name}": 1 - error / 100 for part in ("val", "test") for name in ("accuracy",)}
    values |= {"val_loss": 0.1, "test_loss": 0.1, "units": units}
    return values | dict.fromkeys(("parameters", "nonzero", "macs", "macs_used_inputs"), 1000)


def record(cuts: dict[str, tuple[float, float, int]], seed: int = 0, again: float | None = None) -> dict[str, Any]:
    """Return a record of a network that errs by 2 %; `cuts` are (error as cut, fine-tuned, units of fc1 left)."""
    prunings = []
    for criterion, (cut, finetuned, width) in cuts.items():
        units = WIDTHS | {"fc1": width}
        stages = {"zeroed": stage(cut, units), "shrunk": stage(cut, units), "finetuned": stage(finetuned, units)}
        stages |= {} if again is None else {"recalibrated": stage(again, units)}
        prunings.append({"criterion": criterion, "target": "macs-0.5", "stages": stages})
    config = {"recipe": "prune", "method": "dense", "strength": 0.0, "seed": seed, "data": "mnist"}
    provenance = {"commit": "0", "python": "", "torch": "", "processor": "", "threads": 1, "seconds": 1.0, "date": ""}
    return {
        "suite": SUITES[0].name,
        "config": config | {"suite": SUITES[0].name},
        "stages": {"trained": stage(2.0, WIDTHS)},
        "prunings": prunings,
        "history": [],
        "provenance": provenance,
    }


def test_a_case_collapses_by_its_thinnest_layer_or_by_what_it_has_lost() -> None:
    """From 2 % to 90 % there are 88 points; at 81.2 % nine tenths of them are lost. A twentieth of 300 units is 15."""
    made = record({"own": (10, 3, 14), "folded": (10, 3, 15), "taylor": (81.1, 3, 150), "random-local": (81.3, 3, 150)})
    found = {name: by["macs-0.5"][0] for name, by in rankings.cases([made]).items()}
    assert {name: case.collapsed for name, case in found.items()} == {
        "own": True,
        "folded": False,
        "taylor": False,
        "random-local": True,
    }
    assert found["own"].thinnest == pytest.approx(14 / 300)
    again = record({"own": (85, 3, 150)}, again=30)
    (case,) = rankings.cases([again])["own"]["macs-0.5"]
    assert (case.cut, case.recalibrated, case.collapsed) == (pytest.approx(85), pytest.approx(30), False)


def test_the_winner_never_collapses_and_then_has_the_lowest_mean_rank() -> None:
    first = [
        record({"own": (10, 2.0, 10), "folded": (10, 2.4, 100), "taylor": (9, 2.6, 100), "random-local": (9, 2.1, 99)})
    ]
    second = [
        record({"own": (9, 2.0, 99), "folded": (9, 3.0, 99), "taylor": (9, 2.9, 99), "random-local": (9, 2.5, 99)}),
        record({"own": (9, 2.0, 99), "folded": (9, 3.2, 99), "taylor": (9, 2.9, 99), "random-local": (9, 2.5, 99)}, 1),
        record({"own": (9, 2.0, 99), "folded": (9, 2.8, 99), "taylor": (9, 2.9, 99), "random-local": (9, 2.5, 99)}, 2),
    ]
    order = rankings.standings({"a": rankings.cases(first), "b": rankings.cases(second)})
    assert {name: it.rank for name, it in order.items()} == {
        "own": 1.0,
        "random-local": 2.0,
        "folded": (3 + 4) / 2,
        "taylor": (4 + 3) / 2,
    }
    assert next(iter(order)) in ("folded", "taylor")
    assert list(order)[-2:] == ["own", "random-local"]
    assert order["own"].collapses == 1
    assert [len(its) for its in order["taylor"].cases.values()] == [1, 3]


def test_equal_errors_share_their_ranks_and_without_a_safe_one_the_fewest_collapses_win() -> None:
    same = {"own": (10, 2.5, 1), "folded": (10, 2.5, 1), "taylor": (10, 2.0, 1)}
    order = rankings.standings({"a": rankings.cases([record(same), record(same | {"own": (10, 2.5, 150)}, 1)])})
    assert {name: it.rank for name, it in order.items()} == {"own": 2.5, "folded": 2.5, "taylor": 1.0}
    assert list(order) == ["own", "taylor", "folded"]
    assert [it.collapses for it in order.values()] == [1, 2, 2]


def test_the_table_says_where_a_ranking_collapses_and_what_is_missing(tmp_path: Path) -> None:
    assert rankings.table(tmp_path) == "There are no runs yet."
    write(record({"own": (10, 2.0, 10), "folded": (10, 2.4, 100)}), tmp_path)
    text = rankings.table(tmp_path)
    assert "| length times scale | 1 | 0 | 2.00 |  |" in text
    assert "| length | 1 | 1 | 1.00 | LeNet-300 on MNIST, 50 % of the MACs left |" in text
    assert "| length times scale | 50 % of the MACs left | 1 | 33.3 % | 10.00 | 10.00 | 2.40 | 0 |" in text
    assert "Not run yet: LeNet-300 on Fashion-MNIST, rankings;" in text


def test_every_suite_ranks_in_every_way_without_a_floor() -> None:
    for suite in SUITES:
        for config in suite.configs():
            assert config["criteria"] == ["own", *RANKED]
            assert config["targets"] == ["macs-0.5", "macs-0.3"]
            assert "floor" not in config
        assert suite.protocol.data in rankings.CHANCE
        words = [suite.head()["labels"][name] for name in ("own", *RANKED)]
        assert len(set(words)) == len(words)


@pytest.mark.slow
@pytest.mark.parametrize("name", rankings.CHANCE)
def test_chance_is_what_a_constant_answer_errs(name: str) -> None:
    try:
        data = split(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))

    class Constant(nn.Module):
        def __init__(self, answer: int) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: Tensor) -> Tensor:
            places = x.shape[-2:] if data.val.targets.ndim > 1 else ()
            outputs = torch.zeros(len(x), data.classes, *places)
            outputs[:, self.answer] = 1
            return outputs

    score = DATA_SETS[name].judged_by
    best = max(judge(Constant(answer), name, "val")[score] for answer in range(data.classes))
    assert rankings.CHANCE[name] == pytest.approx(100 * (1 - best), abs=2)  # of ten classes none has exactly a tenth


def test_endings_of_criteria_scale_by_layer_and_choose_the_scope_and_the_shift() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]))
    every = torch.arange(3)
    units = Units([Group("0", 3, "inner", (Member("0", every),), (), (Member("1", every),))])
    x = torch.randn(50, 2)
    examples: Any = (x, torch.zeros(50, dtype=torch.long))
    assert criteria.ranks("magnitude-normalized", model, units, examples, 0)["0"].tolist() == [2.5, 0.5, 0.0]
    scores = criteria.ranks("fluctuation-standardized", model, units, examples, 0)["0"]
    assert scores.mean().item() == pytest.approx(0, abs=1e-6)
    assert scores.std(correction=0).item() == pytest.approx(1)
    assert [criteria.scope(name, "global") for name in ("taylor", "taylor-local", "folded-isomorphic")] == [
        "global",
        "local",
        "isomorphic",
    ]
    assert criteria.scope("own-retrained", "local") == "local"
    assert (criteria.shift("fluctuation-standardized", "drop"), criteria.shift("folded-local", "drop")) == (
        "mean",
        "drop",
    )
