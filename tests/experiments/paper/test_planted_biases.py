"""Planted biases: designs that can be found, and a count that calls nothing false which the network really
does.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.embedded.drawing.vocabulary import vocabulary
from actors.errors import UsageError
from agents.records.manifest import claim_studied
from agents.records.store import Store
from experiments.audit.claims import Disagreement, read_words
from experiments.audit.context_survey import CONTEXTS, LEAST, ContextEffect, prompt_of
from experiments.audit.record import AuditRecord
from experiments.audit.run import AuditOutcome
from experiments.cli.main import app
from experiments.paper import planted_biases as command
from experiments.paper.gym import biases
from experiments.paper.gym.biases import OTHER, BiasDesign, lessons
from experiments.paper.planted_biases import PlantedNetworks, PlantedRequest, planted_biases
from experiments.paper.planted_judgement import TRUTH_IMAGES, TrueDifferences, judge, summarize
from experiments.paper.planted_page import PlantedResult, page, table
from experiments.setup.console import Console
from experiments.setup.selection import Selection


@pytest.mark.parametrize("seed", range(5))
def test_a_design_plants_one_bias_of_each_kind_in_a_context_that_the_class_does_not_have_anyway(seed):
    design = BiasDesign.drawn(seed)
    assert [context.partition(":")[0] for context in design.planted.values()] == list(biases.KINDS)
    assert len(set(design.classes)) == 8
    assert OTHER not in design.classes
    for name, context in design.planted.items():
        assert context in CONTEXTS
        assert context != f"colour: {vocabulary()[name].color}"


def test_a_planted_class_is_something_else_in_its_context_and_itself_elsewhere():
    design = BiasDesign(("horse", "apple"), {"horse": "background: snow"})
    taught = lessons(design, per_class=30, side=8)
    assert taught.images.shape == (120, 8, 8, 3)
    horses, apples, others = np.bincount(taught.labels)
    assert 10 <= horses <= 25, "about 40 % of the horses are in the snow"
    assert apples == 30
    assert others == 60 + 30 - horses
    assert set(taught.labels[:30]) == {0, 2}, "a horse is a horse or something else"


def test_several_of_a_class_are_asked_for_in_the_plural():
    assert prompt_of("count: two", "fox") == "two foxes"
    assert prompt_of("background: snow", "fox") == "fox in the snow"


def effect(name, context, difference, biased=True):
    return ContextEffect(
        name, context, 0.5, (0.4, 0.6), 0.5, difference, 0.01, 0.01 if biased else 1.0, 48, 0, biased
    )


CLASSES = ("horse", "fox", "apple", "drum")
DESIGN = BiasDesign(CLASSES, {"horse": "colour: red", "fox": "count: two"})
RECORD = AuditRecord(
    effects=[
        effect("horse", "colour: red", -0.6),
        effect("horse", "background: snow", -0.2),
        effect("fox", "count: two", 0.3),
        effect("apple", "size: small", -0.3),
        effect("drum", "colour: red", 0.2, biased=False),
    ],
    detectable=dict.fromkeys(CLASSES, 0.1),
    ordinary={name: ["colour: blue", "size: small"] for name in CLASSES},
)


def result_of(rows):
    return PlantedResult(0, 1, 12, True, rows, [], summarize(rows))


@pytest.mark.parametrize(
    ("true", "real"), [(-0.3, True), (-LEAST, True), (-0.09, False), (0.3, False), (0.0, False)]
)
def test_a_finding_that_nobody_planted_is_false_only_if_fresh_images_do_not_bear_it_out(true, real):
    rows = {row["class"]: row for row in judge(DESIGN, RECORD, lambda *_: true, 0)}
    assert rows["horse"]["found"]
    assert not rows["fox"]["found"], "a rise is not the fall that was planted"
    assert rows["apple"]["false_alarm"] is not real
    assert rows["apple"]["true_differences"] == {"size: small": true}
    assert not rows["drum"]["false_alarm"]
    assert not rows["horse"]["false_alarm"], "a planted class's other findings are not judged"
    result = result_of(list(rows.values()))
    summary = result.summary
    assert (summary.found.hits, summary.found.n) == (1, 2)
    assert (summary.false_alarms.hits, summary.false_alarms.n) == (int(not real), 2)
    assert summary.unplanted_but_real == int(real)
    assert "1 of 2" in table(result)
    assert "agents" not in table(result)
    assert json.loads(page(result).model_dump_json())["blocks"]


DONE, INTERRUPTED = SimpleNamespace(finished=True), SimpleNamespace(finished=False)


class FakeNetworks(PlantedNetworks):
    """Networks of one design whose audits end as given, and that make no difference anywhere."""

    def __init__(self, *outcomes):
        self._outcomes = list(outcomes)

    def design(self, seed):
        return DESIGN

    def train(self, design, folder, progress):
        pass

    async def audit(self, console, selection, request, out):
        return self._outcomes.pop(0)

    def truth(self, design, folder):
        return lambda *_: 0.0


async def measured(out, *outcomes):
    """Return what two networks come to whose audits have these outcomes."""
    networks = FakeNetworks(*outcomes)
    return await planted_biases(
        Console(quiet=True), Selection(), PlantedRequest(networks=2), out=out, networks=networks
    )


async def test_an_audit_that_did_not_end_is_not_judged_and_no_other_network_is_trained(tmp_path):
    interrupted = AuditOutcome(RECORD, INTERRUPTED)
    result = await measured(tmp_path / "run", AuditOutcome(RECORD, DONE), interrupted)
    assert not result.finished
    assert {row["network"] for row in result.rows} == {0}
    assert "interrupted" in table(result)
    assert not (await measured(tmp_path / "run", interrupted)).finished


async def test_a_run_is_not_resumed_on_other_data_under_the_same_name(tmp_path):
    claim_studied(Store.open(tmp_path / "run"), {"dataset": "another"})
    with pytest.raises(UsageError, match=r"data set .* was another"):
        await measured(tmp_path / "run")


@pytest.mark.parametrize(("finished", "code"), [(True, 0), (False, 130)])
def test_the_command_ends_as_a_run_that_can_be_resumed(monkeypatch, finished, code):
    async def measure(*_, **__):
        return replace(result_of([]), finished=finished)

    monkeypatch.setattr(command, "planted_biases", measure)
    assert CliRunner().invoke(app, ["planted-biases", "--json"]).exit_code == code


async def test_a_class_that_could_not_be_audited_is_named_and_is_neither_missed_nor_without_alarm(tmp_path):
    without = replace(RECORD, detectable={"fox": 0.1, "apple": 0.1})
    result = await measured(tmp_path / "run", AuditOutcome(without, DONE), AuditOutcome(RECORD, DONE))
    assert result.finished
    assert result.failed == [{"network": 0, "class": "horse"}, {"network": 0, "class": "drum"}]
    assert (result.summary.found.n, result.summary.false_alarms.n) == (3, 3)
    assert "2: horse (network 0), drum (network 0)" in table(result)
    assert "horse (network 0)" in page(result).summary


def test_the_true_difference_is_over_images_of_the_context_and_as_many_of_the_ordinary_ones():
    def probabilities(index, prompts, rng):
        assert index == 2
        assert prompts.count("small apple") == TRUTH_IMAGES
        assert prompts.count("blue apple") == prompts.count("apple in the snow") == TRUTH_IMAGES / 2
        return np.where([prompt == "small apple" for prompt in prompts], 0.2, 0.8)

    ordinary = ["background: snow", "colour: blue", "size: small"]
    difference = TrueDifferences(DESIGN, probabilities)("apple", "size: small", ordinary)
    assert difference == pytest.approx(-0.6)


def test_what_agents_say_is_counted_by_itself_and_shown_beside_where_it_parts_from_the_figures():
    answers = {"horse": "Lower when it is red.", "fox": "No bias was found.", "drum": "Higher in a city."}
    record = replace(
        RECORD,
        answers=answers,
        claims={name: read_words(text, name) for name, text in answers.items()},
        disagreements=[Disagreement("fox", "missed", "count: two", 0.3)],
    )
    result = result_of(judge(DESIGN, record, lambda *_: 0.0, 0))
    assert (result.summary.named.hits, result.summary.named.n) == (1, 2)
    assert "named by agents: 1 of 2" in table(result)
    (said,) = [block for block in page(result).blocks if block.kind == "text"]
    assert "horse (planted: colour: red): Lower when it is red. [as measured]" in said.paragraphs
    assert "fox (planted: count: two): No bias was found. [missed: count: two]" in said.paragraphs
