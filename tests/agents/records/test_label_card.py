"""The kind of a unit whose labels hold follows from the figures, and a broken tool is called by its name."""

from __future__ import annotations

import pytest

from agents.records.label_card import kind_of
from agents.records.label_card import label_card as card_of
from agents.records.record_types import StudyResult


def label_card(values):
    return card_of(StudyResult.model_validate(values))


def trial(activation, label="", shows=None, notes=()):
    return {
        "prompt": "p",
        "image": "0" * 8,
        "activation": activation,
        "notes": list(notes),
        "label": label,
        "shows": shows,
    }


def record(labels=("dog",), verdict="confirmed", std=1.0, mean=0.0, **evidence):
    positives = [trial(3 + i / 10, labels[i % len(labels)] if labels else "") for i in range(10)]
    usual = {
        "kind": "confirmation",
        "positives": positives,
        "controls": [trial(i / 10) for i in range(10)],
        "finding": {"verdict": verdict, "reason": "because"},
    }
    return {
        "unit": "u",
        "status": "answered",
        "labels": list(labels),
        "background": {"std": std, "mean": mean, "maximum": mean, "n_images": 9},
        "evidence": usual | evidence,
        "rounds": 3,
        "images_made": 20,
    }


def compared(label, simpler, *, rejected=True):
    return {"label": label, "simpler": simpler, "weaker": simpler, "stronger": label, "rejected": rejected}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (record(), "monosemantic"),
        (record(("dog", "car")), "polysemantic"),
        (record(("dog on grass",), simpler=[compared("dog on grass", "dog")]), "conditional"),
        (record(("dog without cat",), simpler=[compared("dog without cat", "dog")]), "conditional"),
        (
            record(("dog on grass",), simpler=[compared("dog on grass", "dog", rejected=False)]),
            "monosemantic",
        ),
        (record(("red dog",), simpler=[compared("red dog", "dog")]), "monosemantic"),
        (record(verdict="holds on your images"), "monosemantic"),
        (record(std=0.002, mean=0.37), "monosemantic"),
        (record(verdict="partial"), None),
        (record(verdict="not confirmed"), None),
        (record(("not interpretable",), "out of reach", kind="abstention", positives=[], controls=[]), None),
        (record(()), None),
        (record(std=0.0), None),
    ],
)
def test_the_kind_of_unit_follows_from_the_figures(given, kind):
    card = label_card(given)
    assert card["kind"] == kind
    assert card["reason"]


def test_a_second_label_that_does_nothing_makes_no_polysemantic_unit():
    positives = [trial(3.0, "dog") for _ in range(5)] + [trial(0.4, "car") for _ in range(5)]
    card = label_card(record(("dog", "car"), positives=positives))
    assert card["kind"] == "monosemantic"
    assert [each["auroc"] for each in card["labels"]] == [1.0, 0.45]


def test_labels_that_are_significant_only_together_are_polysemantic():
    positives = [trial(1.0, ("blue", "yellow")[i % 2]) for i in range(6)]
    card = label_card(
        record(("blue", "yellow"), positives=positives, controls=[trial(0.2), trial(1.0), trial(1.1)])
    )
    assert card["kind"] == "polysemantic"


def test_the_figures_of_a_perfect_label():
    card = label_card(record(retest=[[3.0, 3.1], [3.2, 3.0], [0.1, 0.2], [0.3, 0.1]]))
    assert card["auprc"] == 1.0
    assert card["null_percentile"] == 1.0
    assert card["pearson"] > 0.9
    assert 0.9 < card["ceiling"] <= 1.0
    assert card["warnings"] == []


def test_each_label_has_its_share_of_the_strongest_exemplars():
    explained = {"n": 15, "labels": {"dog": 0.6, "car": 0.2}, "any": 0.8}
    card = label_card(record(("dog", "car"), explained=explained))
    assert [each["explains"] for each in card["labels"]] == [0.6, 0.2]
    assert card["explained"] == 0.8


def test_what_was_not_measured_is_none_and_not_zero():
    card = label_card(record(kind="abstention", positives=[], controls=[]))
    assert [card[key] for key in ("auprc", "pearson", "null_percentile", "ceiling")] == [None] * 4
    assert card["labels"][0]["auroc"] is card["labels"][0]["explains"] is card["explained"] is None


def test_an_unreliable_image_maker_gets_a_warning():
    positives = [trial(3.0, "dog", shows=True), trial(0.1, "dog", shows=False)] * 5
    (warning,) = label_card(record(positives=positives, controls=[trial(0.2, shows=False)] * 10))["warnings"]
    assert warning.startswith("image maker:")
    assert "5 of 10" in warning


def test_an_unreliable_observer_gets_a_warning():
    positives = [trial(3.0 + i / 10, "dog", shows=i % 2 == 0) for i in range(10)]
    controls = [trial(0.2 + i / 10, shows=i % 2 == 0) for i in range(10)]
    (warning,) = label_card(record(positives=positives, controls=controls))["warnings"]
    assert warning.startswith("observer:")
    inverted = label_card(
        record(positives=[trial(3.0, "dog", shows=False)] * 10, controls=[trial(0.2, shows=True)] * 10)
    )
    assert inverted["warnings"][0].startswith("observer:")


def test_reliable_tools_get_no_warning():
    positives = [trial(3.0, "dog", shows=i > 0) for i in range(10)]
    assert label_card(record(positives=positives, controls=[trial(0.2, shows=False)] * 10))["warnings"] == []


@pytest.mark.parametrize(
    ("inspected", "named"),
    [
        ({"n": 10, "seen": 9, "false": 0}, []),
        ({"n": 10, "seen": 5, "false": 0}, ["image maker"]),
        ({"n": 10, "seen": 1, "false": 9}, ["observer"]),
        ({"n": 2, "seen": 0, "false": 0}, []),
    ],
)
def test_the_card_of_an_abstention_warns_of_unreliable_tools(inspected, named):
    empty = {"kind": "abstention", "positives": [], "controls": []}
    given = record(("not interpretable",), "not interpretable", **empty, inspected=inspected)
    assert [warning.split(":")[0] for warning in label_card(given)["warnings"]] == named


def test_a_label_that_does_not_hold_has_the_reason_of_its_verdict_and_no_kind():
    card = label_card(record(verdict="weak"))
    assert (card["kind"], card["reason"]) == (None, "because")
    assert kind_of(record() | {"card": card}) is None


def test_a_card_of_an_earlier_version_has_a_kind_only_where_its_label_holds():
    earlier = {"status": "answered", "confirmed": False, "card": {"kind": "not interpretable"}}
    assert kind_of(earlier) is None
    assert kind_of(earlier | {"confirmed": True, "card": {"kind": "conditional"}}) == "conditional"


def test_the_shares_of_images_that_show_a_label_are_those_of_the_coverage():
    found = {"share": 0.7, "labels": {"dog": 0.7}}
    card = label_card(record(coverage=found))
    assert card["explained"] == card["labels"][0]["explains"] == 0.7
    assert card["coverage"] == found
