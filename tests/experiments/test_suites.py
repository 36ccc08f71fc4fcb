"""The suites: configurations that old records were made with, heads, claims, and how a new suite is added."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from experiments import criteria, methods, targets
from experiments.methods import METHODS
from experiments.suites import SUITES, Suite
from pruning_lib.companion.data import DATA_SETS
from pruning_lib.companion.records import MEASURED, SHIPPED, about, read, summarize, summary_text

# Of every suite's configurations, when its records were made. A run that changes invalidates its record: give a changed
# protocol a new name, and a new suite a new line. A suite may only get more runs, or fewer.
HASHES = {
    "ablation-criteria": "1d23ab5e9ca1b77f",
    "ablation-deaths": "d3cfcab9134bdc08",
    "ablation-deaths-plain": "80aa0e51238b3cac",
    "ablation-finetuning": "ab491708b5a4f397",
    "ablation-mlp-temperature": "9f03b964e2fd1859",
    "ablation-precision": "0c632d7c19896a08",
    "ablation-ranking": "7bb50152dda7fd10",
    "ablation-readings": "918a5520b9e9e66c",
    "ablation-receding": "cce15d9df4e6f733",
    "ablation-shares": "4e9ccae88f9023ac",
    "ablation-spaces": "640a75da9eef4cf5",
    "cifar10-resnet20": "5975506d4f32a6d1",
    "cifar10-resnet56": "8a2f6dcda4eea054",
    "cifar10-resnet56-paper-protocol": "6ca6edc3ce849667",
    "cifar10-vgg16": "d51767632f4bdf9b",
    "cifar10-vgg16-paper-protocol": "823f3f4f53643f89",
    "cifar10-vgg16-quarter": "6fe4485b98db6d06",
    "covid-cnn": "7b279318ccd5ca4b",
    "covid-cnn-within": "f4b90bd39058f5de",
    "covid-deaths": "fa20e550984eccdc",
    "digits-tiny": "e9e6d88bfbc88b3e",
    "digits-tiny-deaths": "83196bee37a71012",
    "fashion-lenet5": "7ea6154b0634df5e",
    "fashion-lenet5-bn": "2f6f37ecbb775e7f",
    "fashion-lenet5-shares": "115976a1f5166a0d",
    "marks-lenet300": "07512879b5d04dae",
    "marks-lenet5": "2996ff8acacfaf46",
    "mnist-lenet300": "6f27cfabf88eafd6",
    "mnist-lenet300-bn": "4b0c7dd70977bab6",
    "mnist-lenet5": "48226a61a8e66684",
    "mnist-lenet5-bn": "704e591a37802576",
    "mnist-lenet5-shares": "c06812b30a1de490",
    "mnist-mlp": "892ff34ab28e057c",
    "nuclei-deaths": "abab63fbdec3f369",
    "nuclei-unet": "c4355930bac1e173",
    "rankings-fashion-lenet300": "6610a369da80d5f0",
    "rankings-fashion-lenet5": "b78fd31ee333eecd",
    "rankings-mnist-lenet300": "57887be20562c800",
    "rankings-mnist-lenet5": "e4c20e159697fc8d",
    "rankings-nuclei": "5e4dd1227a9aff4f",
    "rankings-resnet20": "2e47fb33fa7dd62e",
    "rankings-vgg16-quarter": "190605ce3aaf31aa",
    "rankings-xrays": "8d2a53a6cb8663f0",
}


def test_every_suite_asks_for_the_runs_that_its_records_are_of() -> None:
    found = {
        name: hashlib.sha256(json.dumps(suite.configs(), sort_keys=True).encode()).hexdigest()[:16]
        for name, suite in SUITES.items()
    }
    assert found == HASHES


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_a_suite_says_in_words_what_it_asks_and_what_its_methods_are(suite: Suite) -> None:
    assert suite.title
    assert suite.question.endswith("?")
    assert len(suite.by_name()) == len(suite.configs())  # no two share a record
    assert tuple(suite.scores) == DATA_SETS[suite.protocol.data].score_names
    head = suite.head()
    assert head == json.loads(json.dumps(head))
    labels = head["labels"]
    for config in suite.configs():
        named = [config["method"], *config.get("criteria", ()), *config.get("targets", config.get("cuts", ()))]
        for name in named:
            words = labels[name]
            assert words == name or not any(other in words for other in METHODS if "-" in other), words
    of_methods = [labels[config["method"]] for config in suite.configs()]
    assert len(set(of_methods)) == len({config["method"] for config in suite.configs()})


def test_claims_name_runs_that_their_suite_asks_for() -> None:
    claims = [(suite.name, claim) for suite in SUITES.values() for claim in suite.claims]
    assert {claim.paper for _, claim in claims} == {"2012.03827", "2204.06404", "2102.03773", "2305.18448"}
    assert len(claims) == 9
    for name, claim in claims:
        assert claim.stage in ("shrunk", "finetuned")
        assert claim.removed is None or 0 < claim.removed < 1
        assert claim.method in METHODS
        asked = {
            (config["method"], cut)
            for config in SUITES[name].configs()
            for cut in config.get("cuts", config.get("targets", ["loop"]))
        }
        assert (claim.method, claim.target) in asked


SUMMARIES = [path for path in sorted(SHIPPED.glob("*.json")) if not path.name.startswith(MEASURED)]


@pytest.mark.parametrize("path", SUMMARIES, ids=lambda path: path.stem)
def test_shipped_summaries_equal_the_records_and_what_the_suite_says(path: Path) -> None:
    whole = read(path.stem)
    assert whole, f"{path} ships without records"
    text = summary_text(summarize(whole), SUITES[path.stem].head())
    assert path.read_text(encoding="utf-8") == text, f"python -m experiments summary {path.stem}"
    assert path.stat().st_size <= 300_000
    assert about(path.stem) == SUITES[path.stem].head()


def test_labels_are_peoples_words() -> None:
    assert methods.label("scratch-e-rni") == "Scratch-E, widths of receding importances"
    assert methods.label("uniform-stochastic-l2") == "uniform width, size of stochastic pruning with L2"
    assert methods.label("uniform") == "uniform width"
    with pytest.raises(KeyError, match="no method 'l7'"):
        methods.label("l7")
    assert targets.label("fraction-0.5") == "50 % of the units removed"
    assert targets.label("macs-0.182") == "18.2 % of the MACs left"
    assert targets.label("widths-2-8-77") == "2 · 8 · 77 units"
    assert (targets.label("natural"), targets.label("epsilon-0.01")) == ("units that died", "units below 0.01")
    assert criteria.label("magnitude-local") == "length, equal shares"
    assert criteria.label("own-retrained") == "its own importance, retrained as long"
    assert criteria.label("folded-isomorphic") == "length times scale, among layers of one structure"
