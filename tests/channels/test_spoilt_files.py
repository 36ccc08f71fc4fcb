"""Files that are damaged, changed by hand or made to hurt: equal outputs, or one sentence, and nothing in between."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruning_lib.channels import Shrunk, load, save, shrink
from pruning_lib.channels._files import CHECKSUM, KEY
from tests.mutations import spoil, spoil_bytes, spoil_tensor

SENTENCES = (
    *("There is no file ", " does not fit this Gated: ", " is cut or is not a safetensors file"),
    *(" holds weights but no plan", " was changed after "),
)


class Gated(nn.Module):
    """Grouped, depthwise, normalized by groups, with a dead branch and a buffer: every field of a plan is in use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.norm = nn.GroupNorm(4, 8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.into, self.out_of = nn.Linear(8, 6), nn.Linear(6, 8)
        self.last = nn.Linear(8, 2, bias=False)
        self.register_buffer("gate", torch.ones(8))
        self.register_buffer("seen", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(torch.relu(self.norm(self.first(x)))))
        x = x.mean((2, 3)) * self.gate
        return self.last(torch.relu(x + self.out_of(torch.relu(self.into(x)))))


X = torch.randn(3, 1, 9, 9, generator=torch.Generator().manual_seed(1))


def shrunk() -> Shrunk:
    """Return a network whose plan uses every field."""
    torch.manual_seed(0)
    model = Gated().eval()
    with torch.no_grad():
        model.out_of.weight.zero_()
        for layer in (model.first, model.grouped):
            layer.weight[[0, 1, 4, 5]] = 0
            layer.bias[[0, 1, 4, 5]] = 0.5
    found = shrink(model, X[:2])
    plan = found.plan
    assert all((plan.kept, plan.units, plan.created, plan.groups, plan.blocks, plan.constants, plan.notes))
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """Return a file that `save` wrote and what its network makes of `X`."""
    path, found = tmp_path_factory.mktemp("saved") / "small.safetensors", shrunk()
    save(found, path)
    return path, found.model(X).detach()


def outcome(path: Path, wanted: Tensor) -> str:
    """Return what loading a file comes to, in a word; anything but what is promised raises."""
    dense = Gated().eval()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    said = ""
    try:
        small = load(dense, path)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    if said:
        assert any(sentence in said for sentence in SENTENCES), said
        assert "\n" not in said
        assert len(said) < 1000
    else:
        assert torch.equal(small(X), wanted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    return "refused" if said else "equal"


def write(path: Path, plan: str, tensors: dict[str, Tensor], **metadata: str) -> None:
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={KEY: plan, **metadata})


def contents(path: Path) -> tuple[dict[str, object], dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return json.loads(metadata[KEY]), {CHECKSUM: metadata[CHECKSUM]}, load_file(path)


def damage(rng: random.Random, whole: Path, path: Path, kind: str) -> None:
    """Write a spoilt copy of a file; `legacy` ones have no checksum."""
    plan, checksum, tensors = contents(whole)
    raw = whole.read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    match kind:
        case "bytes":
            path.write_bytes(spoil_bytes(rng, raw))
        case "header":
            head = json.dumps(spoil(rng, json.loads(raw[8:length]))).encode()
            path.write_bytes(len(head).to_bytes(8, "little") + head + raw[length:])
        case "plan":
            write(path, json.dumps(spoil(rng, plan)), tensors, **checksum)
        case "legacy plan":
            write(path, json.dumps(spoil(rng, plan | {"format": 2})), tensors)
        case "tensors" | "legacy tensors":
            spoilt, name = dict(tensors), rng.choice([*tensors])
            spoilt[name] = spoil_tensor(rng, spoilt[name])
            if kind == "legacy tensors":
                if spoilt[name].shape == tensors[name].shape and spoilt[name].dtype == tensors[name].dtype:
                    spoilt.pop(name)  # that its numbers are others goes unnoticed without a checksum
                write(path, json.dumps(plan | {"format": 2}), spoilt)
            else:
                write(path, json.dumps(plan, separators=(",", ":")), spoilt, **checksum)


KINDS = ("bytes", "header", "plan", "legacy plan", "tensors", "legacy tensors")


@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_files_load_equal_or_are_refused_in_a_sentence(
    saved: tuple[Path, Tensor], tmp_path: Path, kind: str
) -> None:
    rng, path = random.Random(f"{kind} 0"), tmp_path / "spoilt.safetensors"
    counts: Counter[str] = Counter()
    for _ in range(50):
        damage(rng, saved[0], path, kind)
        counts[outcome(path, saved[1])] += 1
    assert counts["refused"] > 20, counts


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"constants": {"into": -1, "out_of": 10**9}}, "by more channels than it has"),
        ({"constants": {"": 3}}, "cannot be replaced"),
        ({"constants": {"gate": 3}}, "which Gated does not have"),
        ({"created": ["norm"]}, "a bias, which it has"),
        ({"created": [""]}, "has no place for"),
        ({"groups": {"norm": 1, "depthwise": 4}}, "does not lie in 1 groups"),
        ({"groups": {"norm": 2, "depthwise": 2}}, "does not lie in 2 groups"),
        ({"groups": {"norm": 2}}, "does not lie in 8 groups"),
        ({"groups": {"last": 2}}, "'last' 2 groups, and it has 1"),
        ({"groups": {"norm": 0}}, "'norm' 0 groups, and it has 4"),
        ({"groups": {"norm": True}}, "'groups' is unknown or of another type"),
        ({"blocks": {"last.weight": [[0], [1]]}}, "cuts 'last.weight' twice along one axis"),
        ({"blocks": {"first.weight": [[0]]}}, "by groups, and its layer has none"),
        ({"blocks": {"grouped.weight": [[2, 3]]}}, "does not lie in 2 groups"),
        ({"blocks": {"grouped.weight": [[2, 3], [3]]}}, "keep different numbers"),
        ({"kept": {"first.weight": {"-1": [0]}}}, "do not fit its shape"),
        ({"kept": {"into.weight": {"0": [0]}}}, "does not say of which shape"),
        ({"units": {"first": [1, 0]}}, "not in order"),
        ({"format": 4}, "its checksum is missing"),
        ({"format": 6}, "it has format 6"),
    ],
)
def test_what_a_plan_without_a_checksum_may_not_say(
    saved: tuple[Path, Tensor], tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    plan, _, tensors = contents(saved[0])
    path = tmp_path / "a.safetensors"
    write(path, json.dumps(plan | {"format": 2}), tensors)
    assert outcome(path, saved[1]) == "equal"
    write(path, json.dumps(plan | {"format": 2} | change), tensors)
    with pytest.raises(ValueError, match=f"does not fit this Gated: .*{sentence}"):
        load(Gated(), path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format":2,"model":' + '{"a":' * 100_000, '{"format":1' + "0" * 9999]
)
def test_plans_that_are_nested_or_long_are_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.safetensors", text, {"a": torch.ones(2)})
    with pytest.raises(ValueError, match="no JSON, or nested too deep"):
        load(Gated(), tmp_path / "a.safetensors")


def test_dtypes_are_those_of_the_file_where_a_checksum_vouches_for_them(
    saved: tuple[Path, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    shrunk = shrink(Gated(), X[:2])
    shrunk.model.half().norm.float()
    path = tmp_path / "a.safetensors"
    save(shrunk, path)
    assert {tensor.dtype for tensor in load(Gated(), path).parameters()} == {torch.float16, torch.float32}
    plan, _, tensors = contents(path)
    write(path, json.dumps(plan | {"format": 2}), tensors)
    with pytest.raises(ValueError, match=r"'norm.weight' is torch.float32 in the file, torch.float32 here, unlike"):
        load(Gated(), path)


def test_a_loaded_network_does_not_live_in_its_file(saved: tuple[Path, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(saved[0].read_bytes())
    small = load(Gated().eval(), path)
    with path.open("r+b") as file:
        file.seek(-200, 2)
        file.write(bytes(200))
    assert torch.equal(small(X), saved[1])


def test_a_read_error_that_passes_is_no_damage(saved: tuple[Path, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(OSError, match="cannot be read .Too many open files.: '.*small.safetensors'"):
        load(Gated(), saved[0])


@pytest.mark.parametrize(
    ("path", "error", "sentence"),
    [
        ("no/folder.safetensors", FileNotFoundError, "Nothing can be written here .*: '.*/no/folder.safetensors'"),
        ("nul\0.safetensors", ValueError, "nul.*; it needs a path of one line, .* no NUL"),
        ("", OSError, "was not written|can be written"),
        (5, TypeError, "save got path=5; it needs a path of one line"),
    ],
)
def test_places_where_nothing_can_be_written_are_named(
    tmp_path: Path, path: object, error: type[Exception], sentence: str
) -> None:
    shrunk = shrink(Gated(), X[:2])
    with pytest.raises(error, match=sentence):
        save(shrunk, tmp_path / path if isinstance(path, str) else path)
    assert list(tmp_path.iterdir()) == []


def test_a_saved_file_can_be_read_by_those_whom_the_umask_lets(saved: tuple[Path, Tensor], tmp_path: Path) -> None:
    (tmp_path / "like").touch()
    save(shrink(Gated(), X[:2]), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "like").stat().st_mode
