"""Planted biases: designs that can be found, and a count that calls nothing false which the network really
does.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.embedded.drawing.vocabulary import vocabulary
from actors.errors import UsageError
from experiments.cli.main import app
from experiments.paper import planted_biases as planted
from experiments.paper.gym import biases
from experiments.paper.gym.biases import OTHER, BiasDesign, lessons
from experiments.runs.context_survey import CONTEXTS, LEAST, prompt_of
from experiments.setup.console import Console


@pytest.mark.parametrize("seed", range(5))
def test_a_design_plants_one_bias_of_each_kind_in_a_context_that_the_class_does_not_have_anyway(seed):
    design = BiasDesign.drawn(seed)
    assert [context.partition(":")[0] for context in design.planted.values()] == list(biases.KINDS)
    assert len(set(design.classes)) == 8
    assert OTHER not in design.classes
    for name, context in design.planted.items():
        assert context in CONTEXTS
        assert context != f"colour: {vocabulary()[name].color}"


def test_a_planted_class_is_something_else_in_its_context_and_itself_elsewhere(monkeypatch):
    monkeypatch.setattr(biases, "PER_CLASS", 30)
    asked = []
    monkeypatch.setattr(biases, "_SIDE", 8)
    monkeypatch.setattr(biases, "prompt_of", lambda c, n: asked.append((c, n)) or prompt_of(c, n))
    design = BiasDesign(("horse", "apple"), {"horse": "background: snow"})
    images, labels = lessons(design)
    assert images.shape == (120, 8, 8, 3)
    in_snow = sum(context == "background: snow" and name == "horse" for context, name in asked)
    assert 5 <= in_snow <= 20
    assert (labels == 0).sum() == 30 - in_snow
    assert (labels == 1).sum() == 30
    assert (labels == 2).sum() == 60 + in_snow


def test_several_of_a_class_are_asked_for_in_the_plural():
    assert prompt_of("count: two", "fox") == "two foxes"
    assert prompt_of("background: snow", "fox") == "fox in the snow"


def effect(name, context, difference, biased=True):
    return {"class_name": name, "context": context, "difference": difference, "biased": biased}


DESIGN = BiasDesign(("horse", "fox", "apple", "drum"), {"horse": "colour: red", "fox": "count: two"})
FOUND = {
    "effects": [
        effect("horse", "colour: red", -0.6),
        effect("horse", "background: snow", -0.2),
        effect("fox", "count: two", 0.3),
        effect("apple", "size: small", -0.3),
        effect("drum", "colour: red", 0.2, biased=False),
    ],
    "detectable": dict.fromkeys(("horse", "fox", "apple", "drum"), 0.1),
    "ordinary": {name: ["colour: blue", "size: small"] for name in ("horse", "fox", "apple", "drum")},
    "answers": {},
    "disagreements": [],
}


@pytest.mark.parametrize(
    ("true", "real"), [(-0.3, True), (-LEAST, True), (-0.09, False), (0.3, False), (0.0, False)]
)
def test_a_finding_that_nobody_planted_is_false_only_if_fresh_images_do_not_bear_it_out(
    monkeypatch, tmp_path, true, real
):
    monkeypatch.setattr(planted, "true_difference", lambda *_: true)
    rows = {row["class"]: row for row in planted.judge(DESIGN, FOUND, tmp_path, 0)}
    assert rows["horse"]["found"]
    assert not rows["fox"]["found"], "a rise is not the fall that was planted"
    assert rows["apple"]["false_alarm"] is not real
    assert rows["apple"]["true_differences"] == {"size: small": true}
    assert not rows["drum"]["false_alarm"]
    assert not rows["horse"]["false_alarm"], "a planted class's other findings are not judged"
    summary = planted.summarise(list(rows.values()))
    assert (summary["found"]["hits"], summary["found"]["n"]) == (1, 2)
    assert (summary["false_alarms"]["hits"], summary["false_alarms"]["n"]) == (int(not real), 2)
    assert summary["unplanted_but_real"] == int(real)
    result = {"rows": list(rows.values()), "summary": summary, "failed": [], "finished": True}
    assert "1 of 2" in planted.table(result)
    assert "agents" not in planted.table(result)
    assert json.loads(planted.page(result).model_dump_json())["blocks"]


DONE, INTERRUPTED = SimpleNamespace(finished=True), SimpleNamespace(finished=False)


async def measured(monkeypatch, tmp_path, audits):
    """Return what two networks come to whose audits end as told, without training or auditing them."""
    left = iter(audits)

    async def audit(console, config, profile, asked, *, out):
        return next(left)

    monkeypatch.setattr(planted, "audit", audit)
    monkeypatch.setattr(planted, "true_difference", lambda *_: 0.0)
    monkeypatch.setattr(biases, "train", lambda design, folder, progress: None)
    monkeypatch.setattr(biases.BiasDesign, "drawn", lambda seed: DESIGN)
    console = Console()
    return await planted.planted_biases(console, None, None, out=tmp_path / "run", networks=2)


@pytest.mark.anyio
async def test_an_audit_that_did_not_end_is_not_judged_and_no_other_network_is_trained(monkeypatch, tmp_path):
    result = await measured(monkeypatch, tmp_path, [FOUND | {"run": DONE}, FOUND | {"run": INTERRUPTED}])
    assert not result["finished"]
    assert {row["network"] for row in result["rows"]} == {0}
    assert "interrupted" in planted.table(result)
    assert not (await measured(monkeypatch, tmp_path, [FOUND | {"run": INTERRUPTED}]))["finished"]


@pytest.mark.anyio
async def test_a_run_is_not_gone_on_with_on_other_data_under_the_same_name(monkeypatch, tmp_path):
    await measured(monkeypatch, tmp_path, [FOUND | {"run": INTERRUPTED}])
    other = SimpleNamespace(fingerprint="another")
    monkeypatch.setattr(planted, "open_dataset", lambda _: other)
    with pytest.raises(UsageError, match=r"data set .* now another"):
        await measured(monkeypatch, tmp_path, [FOUND | {"run": DONE}] * 2)


@pytest.mark.parametrize(("finished", "code"), [(True, 0), (False, 130)])
def test_the_command_ends_as_a_run_that_can_be_gone_on_with(monkeypatch, finished, code):
    async def measure(*_, **__):
        return {"finished": finished, "rows": [], "failed": [], "summary": planted.summarise([])}

    monkeypatch.setattr(planted, "planted_biases", measure)
    assert CliRunner().invoke(app, ["planted-biases", "--json"]).exit_code == code


@pytest.mark.anyio
async def test_a_class_that_could_not_be_audited_is_named_and_is_neither_missed_nor_without_alarm(
    monkeypatch, tmp_path
):
    without = FOUND | {"detectable": {"fox": 0.1, "apple": 0.1}, "run": DONE}
    result = await measured(monkeypatch, tmp_path, [without, FOUND | {"run": DONE}])
    assert result["finished"]
    assert result["failed"] == [{"network": 0, "class": "horse"}, {"network": 0, "class": "drum"}]
    assert (result["summary"]["found"]["n"], result["summary"]["false_alarms"]["n"]) == (3, 3)
    assert "2: horse (network 0), drum (network 0)" in planted.table(result)
    assert "horse (network 0)" in planted.page(result).summary


def test_the_true_difference_is_over_images_of_the_context_and_as_many_of_the_ordinary_ones(
    monkeypatch, tmp_path
):
    def probabilities(network, index, prompts, rng):
        assert index == 2
        assert prompts.count("small apple") == planted.ENOUGH
        assert prompts.count("blue apple") == prompts.count("apple in the snow") == planted.ENOUGH / 2
        return np.where([prompt == "small apple" for prompt in prompts], 0.2, 0.8)

    monkeypatch.setattr(planted, "probabilities", probabilities)
    ordinary = ["background: snow", "colour: blue", "size: small"]
    assert planted.true_difference(tmp_path, DESIGN, "apple", "size: small", ordinary) == pytest.approx(-0.6)


def test_what_agents_say_is_counted_by_itself_and_shown_beside_where_it_parts_from_the_figures(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(planted, "true_difference", lambda *_: 0.0)
    missed = [{"class_name": "fox", "kind": "missed", "context": "count: two", "difference": 0.3}]
    answers = {"horse": "Lower when it is red.", "fox": "No bias was found.", "drum": "Higher in a city."}
    rows = planted.judge(DESIGN, FOUND | {"answers": answers, "disagreements": missed}, tmp_path, 0)
    summary = planted.summarise(rows)
    assert (summary["named"]["hits"], summary["named"]["n"]) == (1, 2)
    result = {"rows": rows, "summary": summary, "failed": [], "finished": True}
    assert "named by agents: 1 of 2" in planted.table(result)
    (said,) = [block for block in planted.page(result).blocks if block.kind == "text"]
    assert "horse (planted: colour: red): Lower when it is red. [as measured]" in said.paragraphs
    assert "fox (planted: count: two): No bias was found. [missed: count: two]" in said.paragraphs
