"""Agents go to units whose labels by embeddings are doubtful, and the others are tested without one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from actors.errors import UsageError
from actors.vision.networks.layer_cache import KnownNetwork
from agents.records.store import Store
from agents.records.work import WorkItem
from experiments.labels.record import LabelSummary, UnitLabel, lines, read_labels
from experiments.labels.run import LabelRequest
from experiments.labels.tiers import AgentChoice, LabelTiers, doubt_of, effects_in, hypotheses_of, proposed
from experiments.records.tiers import UnitTier
from experiments.setup.console import Console
from experiments.setup.selection import Selection
from experiments.studies.sweep import by_agent

NETWORK = KnownNetwork("net", {"mix": 4}, {}, {}, ())
UNITS = [f"net/mix:{index}" for index in range(4)]


def label(index: int, text: str | None, **more: Any) -> UnitLabel:
    known = {"best": text or "dust", "correlation": 0.8, "auroc": 0.9, "q": 0.01, "margin": 0.5} | more
    return UnitLabel(f"mix:{index}", "mix", index, text, "" if text else "nothing fits", **known)


LABELS = [
    label(0, "dog", correlation=0.9),
    label(1, None, q=0.4),
    label(2, "cat OR car"),
    label(3, "grass", margin=0.01, runner_up="lawn"),
]


def write_labels(folder: Path, labels: list[UnitLabel], network: str) -> Path:
    """Return the folder of a run of `maia label`."""
    folder.mkdir()
    (folder / "labels.jsonl").write_bytes(lines(labels))
    figures = {"units": 4, "labeled": 3, "dead": 0, "seconds": 1.0, "files": []}
    counts = {"words": 5, "unknown_words": 0, "images": 200, "skipped_images": 0, "layers": {}}
    names = {"model": "net", "dataset": "d", "embedder": "e", "stand_in": "", "reduce": "max"}
    summary = LabelSummary(**names, network=network, vocabulary="v", **counts, **figures)  # type: ignore[arg-type]
    (folder / "labels.json").write_text(json.dumps(asdict(summary)))
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "labels", LABELS, "f1")


def decided(labels: Path, text: str, **more: Any) -> list[UnitTier]:
    choice = AgentChoice.parse(text, 1)
    assert choice is not None
    store = Store.open(labels.parent / "run")
    return LabelTiers(choice, labels, **more).decide(store, NETWORK, "f1", UNITS)


def given(tiers: list[UnitTier]) -> dict[int, str]:
    return {int(tier.unit[-1]): tier.given for tier in tiers}


def test_doubtful_units_get_agents_and_the_other_labels_are_tested_first(labels: Path) -> None:
    tiers = decided(labels, "doubtful")
    both = "test, then agent"
    assert given(tiers) == {0: both, 1: "agent", 2: both, 3: "agent"}
    assert [tier.unit[-1] for tier in tiers] == ["1", "3", "2", "0"], "the least sure first"
    assert tiers[0].why == "of the words nothing fits (q 0.40)"
    assert tiers[1].why == "'lawn' fits nearly as well as its label by embeddings"
    kept = (labels.parent / "run" / "labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["unit"] for line in kept] == UNITS, "under the names of the run"


def test_units_whose_strong_images_have_nothing_in_common_get_the_last_agents(tmp_path: Path) -> None:
    known = [*LABELS[:1], label(1, None, q=0.4, common=0.3), *LABELS[2:3], label(3, None, q=0.4, common=20.0)]
    labels = write_labels(tmp_path / "labels", known, "f1")
    doubtful = decided(labels, "doubtful")
    assert given(doubtful)[1] == "nothing"
    assert given(doubtful)[3] == "agent"
    assert "nothing in common" in doubtful[-1].why
    assert given(decided(labels, "top:4"))[1] == "agent"
    assert [tier.unit[-1] for tier in decided(labels, "top:3")] == ["3", "2", "0", "1"]


def test_a_number_of_agents_goes_to_the_first_and_no_label_is_left_untested(labels: Path) -> None:
    assert given(decided(labels, "top:1")) == {0: "test", 1: "agent", 2: "test", 3: "nothing"}
    assert given(decided(labels, "budget:3")) == given(decided(labels, "top:1")), "of what one agent costs"
    assert given(decided(labels, "top:3"))[2] == "test, then agent"
    assert set(given(decided(labels, "top:0")).values()) == {"test", "nothing"}


def test_of_doubtful_units_those_whose_exemplars_are_most_alike_come_first(tmp_path: Path) -> None:
    first = [
        label(0, None, clarity=0.1),
        label(1, None, clarity=0.3),
        label(2, "cat", auroc=0.6, clarity=0.2),
    ]
    labels = write_labels(tmp_path / "labels", [*first, label(3, "grass", clarity=0.9)], "f1")
    assert [tier.unit[-1] for tier in decided(labels, "doubtful")] == ["1", "2", "0", "3"]


def test_agents_are_told_the_labels_and_their_rivals_where_that_is_asked(labels: Path) -> None:
    base = WorkItem("net/mix:3", "mix", "3")
    blind = {tier.unit: tier.item(base) for tier in decided(labels, "doubtful")}
    assert all(item is not None and not item.arguments for item in blind.values())
    informed = {tier.unit: tier.item(base) for tier in decided(labels, "top:2", tell=True)}
    assert [each and each.arguments.get("hypotheses") for each in informed.values()] == [
        ["dust"],
        ["grass", "lawn"],
        None,
        None,
    ], "what nothing was accepted of too, and no unit without an agent"
    assert hypotheses_of(label(0, "(dog OR cat) AND NOT grass")) == ("dog or cat without grass",)


@pytest.mark.parametrize("given", ["agent", "test", "test, then agent"])
def test_work_on_a_unit_whose_agent_gets_labels_is_still_that_of_an_agent_alone(given: Any) -> None:
    """Else a run with `--tell-labels` could not be resumed: its plan would be another command's."""
    base = WorkItem("net/mix:3", "mix", "3", seed=4)
    item = UnitTier(base.unit, given, "doubtful", ("dog",), ("dog", "cat")).item(base)
    assert item is not None
    assert by_agent(item) == base


def test_units_that_do_most_to_the_outputs_come_first(labels: Path, tmp_path: Path) -> None:
    rows = [{"unit": "net/mix:3", "role": {"norm": 0.4}}, {"unit": "net/mix:1", "role": None}]
    (tmp_path / "roles.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert given(decided(labels, "top:1", effects=effects_in(tmp_path)))[3] == "agent"
    with pytest.raises(UsageError, match="no roles"):
        effects_in(labels)
    with pytest.raises(UsageError, match="no roles"):
        effects_in(tmp_path / "nowhere")


def test_a_query_gives_agents_to_the_units_whose_labels_match_it(labels: Path) -> None:
    assert given(decided(labels, "query: animal")) == {0: "agent", 1: "nothing", 2: "agent", 3: "nothing"}


def test_labels_of_another_network_or_layer_decide_nothing(labels: Path) -> None:
    tiers = LabelTiers(AgentChoice("doubtful", "doubtful"), labels)
    store = Store.open(labels.parent / "run")
    with pytest.raises(UsageError, match="of another network"):
        tiers.decide(store, NETWORK, "f2", UNITS)
    with pytest.raises(UsageError, match="has no labels of other"):
        tiers.decide(store, NETWORK, "f1", ["net/other:0"])


async def test_labels_by_earlier_rules_are_made_again_before_they_decide(tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked: list[str] = []
    whole = [replace(each, left=0.0, common=9.0, uncovered=0.0) for each in LABELS]
    run.mkdir()
    (run / "labels.jsonl").write_bytes(lines(LABELS))

    async def made(_: Console, request: LabelRequest) -> None:
        asked.append(request.layers)
        write_labels(request.out, whole, "f1")

    tiers = LabelTiers(AgentChoice("doubtful", "doubtful"), label=made)
    for _ in range(2):
        await tiers.prepare(Console(quiet=True), Selection(None), "net", ["mix"], run)
        tiers.decide(Store.open(run), NETWORK, "f1", UNITS)
    assert asked == ["mix"], "once: the run has the new ones then"
    assert [each.left for each in read_labels(run)] == [0.0] * 4


def test_a_run_of_labels_by_earlier_rules_decides_where_it_is_named(labels: Path) -> None:
    summary = json.loads((labels / "labels.json").read_text())
    del summary["seconds_of"]
    (labels / "labels.json").write_text(json.dumps(summary | {"version": 1}))
    assert len(decided(labels, "doubtful")) == len(UNITS)


def test_only_parts_of_an_or_are_labels_of_their_own() -> None:
    assert proposed(LABELS[2]) == ("cat", "car")
    assert proposed(label(0, "dog AND NOT grass")) == ("dog without grass",)
    assert proposed(label(0, "(dog OR cat) AND grass")) == ("dog or cat with grass",)
    assert proposed(LABELS[1]) == proposed(None) == ()
    assert doubt_of(None)
    assert "badly" in doubt_of(label(0, "dog", auroc=0.6))
    assert "explains 40% of its strong images" in doubt_of(label(0, "dog", coverage=0.4))


@pytest.mark.parametrize("text", ["", "top", "top:-1", "top:x", "query:", "budget:much", "some", "all:3"])
def test_a_choice_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="agents are given to all"):
        AgentChoice.parse(text)
    assert AgentChoice.parse("all") is None
