"""A label is right when it names all of a unit's concepts and no other, in whatever words."""

from __future__ import annotations

import pytest

from actors.detection.compose import Formula
from actors.errors import UsageError
from agents.records.record_types import ReplyRecord, RoundRecord, ToolboxRecord
from experiments.paper.gym.neurons import GymUnit, choose, nuisances, table_a4
from experiments.paper.gym.score import abstained, named_by, operator_of, score
from experiments.paper.synthetic_neurons import first_right
from experiments.paper.synthetic_summary import FirstRight, NeuronRow, OneShotLabel, summarize


def unit(text: str) -> GymUnit:
    formula = Formula.parse(text)
    return GymUnit(formula.operator, formula)


@pytest.mark.parametrize(
    ("truth", "labels"),
    [
        ("dog", ["dogs"]),
        ("dog", ["a photo of a puppy"]),
        ("car window", ["windows"]),
        ("blue", ["blue objects"]),
        ("bug", ["insects"]),
        ("grass", ["grass background"]),
        ("dog OR car", ["dog OR car"]),
        ("dog OR car", ["cars", "dogs"]),
        ("dog|grass", ["dog on grass"]),
        ("water|blue", ["blue objects in water"]),
        ("people|beach", ["people on a beach"]),
    ],
)
def test_the_truth_in_other_words_is_right(truth, labels):
    scored = score(unit(truth), labels)
    assert scored.right, named_by(labels)
    assert scored.operator


@pytest.mark.parametrize(
    ("truth", "labels", "recall", "precision"),
    [
        ("snake", ["reptiles"], 0.0, 0.0),
        ("dog OR car", ["dog"], 0.5, 1.0),
        ("dog", ["dog", "car"], 1.0, 0.5),
        ("dog|grass", ["grass background"], 0.5, 1.0),
        ("dog", ["not interpretable"], 0.0, 0.0),
        ("dog", [], 0.0, 0.0),
        ("dog", ["something quokka"], 0.0, 0.0),
    ],
)
def test_what_is_missing_or_too_much_is_not_right(truth, labels, recall, precision):
    scored = score(unit(truth), labels)
    assert not scored.right
    assert (scored.recall, scored.precision) == (recall, precision)


def test_the_operator_is_read_from_how_labels_are_put_together():
    assert operator_of(["dog"]) == "mono"
    assert operator_of(["dog", "car"]) == operator_of(["dog OR car"]) == "or"
    assert operator_of(["dog on grass"]) == operator_of(["red car"]) == "given"
    assert operator_of(["dog without grass"]) == "and-not"


def test_only_abstaining_is_right_about_a_unit_without_meaning():
    dead = nuisances()[0]
    assert score(dead, ["not interpretable"]).right
    assert not score(dead, ["dogs"]).right
    assert abstained([])


def test_the_units_of_table_a4_are_all_there_and_can_be_chosen():
    kinds = [each.kind for each in table_a4()]
    assert (kinds.count("mono"), kinds.count("or"), kinds.count("given")) == (45, 24, 19)
    assert len(choose("all")) == 88 + 8 + 12
    assert [each.name for each in choose("dead; dog|leash; horse OR violin")][-2:] == [
        "dog|leash",
        "horse OR violin",
    ]
    with pytest.raises(UsageError, match="not scored"):
        choose("dog AND NOT cat")


def test_the_first_right_hypothesis_is_the_first_that_names_the_truth_alone():
    def row(number, *hypotheses):
        toolbox = ToolboxRecord(images_made=10 * number)
        reply = ReplyRecord(text="")
        return RoundRecord(round=number, reply=reply, hypotheses=list(hypotheses), toolbox=toolbox)

    rounds = [
        row(1),
        row(2, "the unit is driven by a cat", "the unit is driven by a dog"),
        row(3, "the unit is driven by a dog OR a cat"),
        row(4, "the unit is driven by a dog"),
    ]
    assert first_right(unit("dog"), rounds) == FirstRight(4, 40)
    assert first_right(unit("cat OR dog"), rounds) == FirstRight(3, 30)
    assert first_right(unit("zebra"), rounds) is None


def neuron_row(kind, *, right, **more):
    """Return the row of a unit whose label is right or wrong."""
    words = dict.fromkeys(("unit", "truth"), "dog") | {"status": "answered", "verdict": "confirmed"}
    nothing = dict.fromkeys(("found_kind", "e_value", "rounds", "images", "first_right"))
    scored = {"right": right, "f1": float(right), "recall": 1.0, "precision": 1.0, "operator": True}
    return NeuronRow(kind=kind, labels=["dog"], confirmed=True, **words, **nothing, **scored, **more)


def test_ties_with_the_baseline_count_half():
    def row(right, other):
        return neuron_row("mono", right=right, one_shot=OneShotLabel(other, float(other), labels=[]))

    afc = summarize([row(True, True), row(True, False), row(False, True), row(True, False)]).two_afc
    assert (afc.wins, afc.ties, afc.rate) == (2, 1, 0.625)
    assert afc.interval[0] < 0.625 < afc.interval[1]
