"""The recipe for a new data set, walked on a toy: one file that registers it is all that training and judging need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from pruning_lib.companion.data import DATA_SETS, DataSet, Split, register
from pruning_lib.training import TensorPair, fit

# ---- the file that a contributor writes: pruning_lib/companion/data/_stripes.py ----


def stripes(seed: int = 0) -> Split:
    """Return images of 6 × 6 pixels with an upright stripe (class 0) or a level one (class 1)."""
    g = torch.Generator().manual_seed(seed)
    targets, place = torch.randint(0, 2, (120,), generator=g), torch.randint(0, 6, (120,), generator=g)
    upright = nn.functional.one_hot(place, 6).float()[:, None, None, :].expand(-1, 1, 6, 6)
    inputs = torch.where(targets.view(-1, 1, 1, 1) == 0, upright, upright.mT)
    return Split(*(TensorPair(inputs[i::3], targets[i::3]) for i in range(3)), classes=2)


def scores(outputs: Tensor, targets: Tensor, details: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of the level stripes that are recognized."""
    return {"recall": (outputs.argmax(1) == 1)[targets == 1].double().mean().item()}


STRIPES = DataSet(
    name="stripes", title="Stripes", load=stripes, scores=scores, score_names=("recall",), judged_by="recall"
)

# ---- what the others do with it ----


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(STRIPES)
    yield
    del DATA_SETS["stripes"]


def test_a_registered_set_is_loaded_trained_on_and_judged() -> None:
    data_set = DATA_SETS["stripes"]
    split = data_set.load()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, split.classes))
    optimizer = SGD(model.parameters(), 0.2)
    history = fit(model, split.train, split.val, epochs=1, optimizer=optimizer, batch_size=4, progress=False)
    assert len(history) == 1
    assert data_set.scores is not None
    outputs = model(split.test.inputs)
    judged = data_set.scores(outputs, split.test.targets, {})
    assert tuple(judged) == data_set.score_names
    level = split.test.targets == 1
    assert judged[data_set.judged_by] == pytest.approx((outputs.argmax(1) == 1)[level].float().mean().item())


def test_what_it_does_not_offer_is_no_choice_of_the_command_line() -> None:
    from pruning_lib.companion.data import build, fetch

    with pytest.raises(ValueError, match="no data set 'stripes' to fetch"):
        fetch("stripes")
    with pytest.raises(ValueError, match="no data set 'stripes' to build"):
        build("stripes", "originals")
