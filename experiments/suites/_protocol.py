"""What a suite is: a protocol, which makes the configurations of its runs; a question, a margin, claims, names.

The configurations are what records are checked against, so a changed protocol needs a new name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from experiments import criteria, methods, targets
from experiments.methods import METHODS, Config
from experiments.targets import LOOP, NATURAL
from pruning_lib.companion.data import DATA_SETS
from pruning_lib.companion.records import identifier


class Matched(NamedTuple):
    """A run in which units go by themselves, whose widths and whose multiply-adds controls take.

    Parameters
    ----------
    method, strength : str and float
        Of the run.
    target : str
        Which of its small networks: ``"natural"``, ``"epsilon-…"``, or ``"loop"`` for the end of SeReNe's loop.
    decays : tuple of float or None
        Weight decay of the controls; None for all of the suite's.
    """

    method: str
    strength: float
    target: str = NATURAL
    decays: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Protocol:
    """Settings of a suite on images in classes.

    Parameters
    ----------
    network : dict
        ``model`` and whatever its builder in `experiments.networks.NETWORKS` reads.
    strengths, loop_strengths : dict of str to tuple of float
        By method, for the recipes prune and loop.
    sources : dict of str to tuple of float or None
        Methods whose architectures the scratch controls take, with the strength for each target; None for no control.
    natural : dict of str to tuple of float
        Strengths by method of the recipe natural: units die by themselves, and nothing is ranked.
    cuts : dict of str to tuple of str
        What else a method of that recipe may zero at its end, as in `experiments.recipes`.
    matched : tuple of Matched
        Runs in which units go by themselves, for which there are controls.
    seeds, loop_seeds : tuple of int
        Of prune and its controls, and of loop, which comes last.
    more : dict
        What every run shares beside the settings below: weight decay, precision, kinds of groups, …
    own : dict of str to dict
        What a method has otherwise than its settings in `experiments.methods.METHODS`.
    criteria : dict of str to tuple of str
        By what else units are ranked than by the method's own importance.
    """

    suite: str
    data: str
    network: Config
    strengths: dict[str, tuple[float, ...]]
    sources: dict[str, tuple[float | None, ...]]
    loop_strengths: dict[str, tuple[float, ...]] = field(default_factory=dict)
    natural: dict[str, tuple[float, ...]] = field(default_factory=dict)
    cuts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    matched: tuple[Matched, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    loop_seeds: tuple[int, ...] = (0, 1, 2)
    targets: tuple[str, ...] = ("fraction-0.5", "macs-0.25", "macs-0.10", "macs-0.05")
    # Weight decay of the controls, one chosen by validation as strengths are: a small network may be regularized, too.
    decays: tuple[float, ...] = (0.0,)
    # Random pruning says something about networks without structure of their own.
    criteria: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"dense": ("random",), "l2": ("random",)})
    epochs: int = 8
    finetune_epochs: int = 3
    loop_epochs: int = 15
    patience: int = 1
    tolerance: float = 0.2
    batch_size: int = 100
    lr: float = 0.1
    finetune_lr: float = 0.01
    loop_lr: float = 0.05
    momentum: float = 0.9
    more: Config = field(default_factory=dict)
    own: dict[str, Config] = field(default_factory=dict)

    def configs(self) -> list[Config]:
        """Return every run: seed by seed, pruning before its controls, the loop last."""
        pruned = [config for seed in self.seeds for config in self._of_seed(seed)]
        return pruned + [config for seed in self.loop_seeds for config in self._loops(seed)]

    def _base(self, seed: int) -> Config:
        base = {"suite": self.suite, "data": self.data, **self.network, "seed": seed}
        return base | {"batch_size": self.batch_size, "momentum": self.momentum, "lr": self.lr} | self.more

    def _of_seed(self, seed: int) -> list[Config]:
        base = self._base(seed)
        pruned = [
            base | self._prune(method, strength) | METHODS[method].settings | self.own.get(method, {})
            for method, values in self.strengths.items()
            for strength in values
        ]
        natural = [
            base | self._natural(method, strength) | METHODS[method].settings | self.own.get(method, {})
            for method, values in self.natural.items()
            for strength in values
        ]
        controls = [control for decay in self.decays for control in self._controls(base, decay)]
        return [*natural, *pruned, *controls]

    def _scratch(self, base: Config, decay: float) -> Config:
        """Return what all controls of a seed share: trained for as long as all that is done to the others."""
        scratch = base | {"recipe": "control", "strength": decay, "epochs": self.epochs + self.finetune_epochs}
        return scratch | ({"weight_decay": decay} if decay else {})

    def _controls(self, base: Config, decay: float) -> list[Config]:
        scratch = self._scratch(base, decay)
        # Widths that a suite names are not uniform.
        names = {target: "scratch" if target.startswith("widths") else "uniform" for target in self.targets}
        controls = [scratch | {"method": name, "target": target} for target, name in names.items()]
        for method, values in self.sources.items():
            for target, strength in zip(self.targets, values, strict=True):
                if strength is None:
                    continue
                source = identifier({"recipe": "prune", "method": method, "strength": strength, "seed": base["seed"]})
                more = {"target": target, "source": source, "most": 2}
                controls += [scratch | more | {"method": f"scratch-{kind}-{method}"} for kind in ("e", "b")]
        matched = [it for it in self.matched if it.target != LOOP and decay in (it.decays or self.decays)]
        return controls + [control for it in matched for control in self._matching(scratch, it)]

    def _matching(self, scratch: Config, it: Matched) -> list[Config]:
        """Return the controls of a run in which units go by themselves, at one weight decay."""
        recipe = LOOP if it.target == LOOP else NATURAL
        run = {"recipe": recipe, "method": it.method, "strength": it.strength, "seed": scratch["seed"]}
        control = scratch | {"target": it.target, "source": identifier(run), "most": 2}
        if it.target == LOOP:
            control |= {"epochs": self.loop_epochs}
        found = [control | {"method": f"{kind}-{it.method}"} for kind in ("uniform", "scratch-e", "scratch-b")]
        if it.target != NATURAL:  # there, random units are a matter of the budget that the claim names
            cut = {"finetune_epochs": self.finetune_epochs, "finetune_lr": self.finetune_lr}
            found.append(control | {"method": f"random-{it.method}"} | cut)
        return found

    def _loops(self, seed: int) -> list[Config]:
        base = self._base(seed)
        loop = {"recipe": "loop", "epochs": self.loop_epochs, "patience": self.patience, "tolerance": self.tolerance}
        loops = [
            base | loop | {"method": method, "strength": strength, "lr": self.loop_lr} | METHODS[method].settings
            for method, values in self.loop_strengths.items()
            for strength in values
        ]
        for it in self.matched:
            for decay in (it.decays or self.decays) if it.target == LOOP else ():
                loops.append(base | self._natural("dense-loop", decay))
                loops += self._matching(self._scratch(base, decay), it)
        return loops

    def _natural(self, method: str, strength: float) -> Config:
        common = {"recipe": "natural", "method": method, "strength": strength, "finetune_lr": self.finetune_lr}
        whole = {
            "dense-long": self.epochs + self.finetune_epochs,  # as long as everything that is done to others
            "dense-loop": self.loop_epochs,
            "dense-twice": 2 * self.epochs,
        }
        if method in whole:
            return common | {"cuts": [], "epochs": whole[method], "finetune_epochs": 0}
        cuts = [NATURAL, *self.cuts.get(method, ())]
        return common | {"cuts": cuts, "epochs": self.epochs, "finetune_epochs": self.finetune_epochs}

    def _prune(self, method: str, strength: float) -> Config:
        return {
            "recipe": "prune",
            "method": method,
            "strength": strength,
            "criteria": ["own", *self.criteria.get(method, ())],
            "targets": list(self.targets),
            "epochs": self.epochs,
            "finetune_epochs": self.finetune_epochs,
            "finetune_lr": self.finetune_lr,
        }


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A headline claim of a paper, written down before the runs that test it.

    Is it met? The error of the small network is compared with that of its own dense network before the cut, and with
    that of a dense network trained as long as everything that was done to the small one. With d the mean difference in
    points of test error, `loss` the published one and m the margin:

        met                     d ≤ loss + m
        met at a slight loss    d ≤ loss + m + slight
        not met                 else, or if fewer units go than the paper says

    Where a paper gives no number, `loss` is 0 and m is twice the standard deviation of dense networks over seeds: ours,
    and the same rule for every method. Where it gives one, m is that, too, as its own spread was not published.

    Parameters
    ----------
    paper : str
        Its number on arXiv.
    says : str
        In our words.
    method, target : str
        The runs that test it: a budget, ``"natural"`` or ``"epsilon-…"`` where units die by themselves, or ``"loop"``.
    stage : {"shrunk", "finetuned"}
        The network that the claim is about.
    criterion : str
        By what its units are ranked: ``"own"``, or ``"own-retrained"`` where it is then retrained as long.
    rival : str or None
        A method that the claim says errs more, at the same size and in the same way.
    removed : float or None
        The share of units that goes at least; None where the paper's number could not be read.
    loss : float or None
        Points of test error that the paper's own table loses to a dense network; None where it gives none.
    slight : float
        Points that "slightly less accurate" may mean.
    departs : str
        How our runs depart from the paper's, in a sentence.
    """

    paper: str
    says: str
    method: str
    target: str
    stage: str
    removed: float | None
    loss: float | None
    slight: float
    departs: str
    criterion: str = "own"
    rival: str | None = None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A protocol, and what is asked of its runs.

    Parameters
    ----------
    protocol : Protocol
        Which runs there are; its name is the suite's.
    title : str
        Network and data, as people call them.
    question : str
        What the runs are for, in a sentence.
    margin : float or None
        Points of error that count as no loss where the book judges methods; None where it judges none.
    scores : dict of str to str
        The task's own scores beside the accuracy, in the order in which tables show them, and what people call them.
    claims : tuple of Claim
        What papers say that these runs test.
    labels : dict of str to str
        What people call a method, control, target or criterion here, if not what they call it everywhere.
    departs : dict of str to str
        How the runs of a method depart from its paper, in sentences, if more than everywhere.
    epoch_seconds : float or None
        Of one epoch of the whole network on a core, measured before any run: the price of runs that nobody made yet.
    """

    protocol: Protocol
    title: str
    question: str
    margin: float | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    departs: Mapping[str, str] = field(default_factory=dict)
    epoch_seconds: float | None = None

    @property
    def name(self) -> str:
        """The name of the folder of its records."""
        return self.protocol.suite

    def configs(self) -> list[Config]:
        """Return the configuration of every run, in running order."""
        return self.protocol.configs()

    def by_name(self) -> dict[str, Config]:
        """Return {record name: configuration} in running order."""
        return {identifier(config): config for config in self.configs()}

    def head(self) -> dict[str, Any]:
        """Return what a summary of the records says before their rows; see `records.about`."""
        return {
            "title": self.title,
            "question": self.question,
            "margin": self.margin,
            "judged_by": DATA_SETS[self.protocol.data].judged_by,
            "scores": dict(self.scores),
            "labels": self.all_labels(),
            "claims": [asdict(claim) for claim in self.claims],
        }

    def all_labels(self) -> dict[str, str]:
        """Return what people call each method, control, criterion and target of the runs."""
        found: dict[str, str] = {}
        for config in self.configs():
            found[config["method"]] = methods.label(config["method"])
            found |= {name: criteria.label(name) for name in config.get("criteria", ())}
            aims = config.get("targets", config.get("cuts", [config["target"]] if "target" in config else []))
            found |= {target: targets.label(target) for target in aims}
        return found | dict(self.labels)
