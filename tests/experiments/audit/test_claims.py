"""A [BIAS] text is held against the numbers: what they do not bear out is named, with its kind."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from actors.chat.reply import ChatReply
from actors.errors import MaiaError
from agents.records.store import Store
from agents.study.budget import BudgetSettings
from agents.study.metered import Rate
from experiments.audit import claim_questions
from experiments.audit.claims import Claim, TextClaims, disagreements, read_reply, read_words
from experiments.audit.context_survey import ContextEffect
from experiments.setup.console import Console


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("In the jungle and in snow the probability drops to 0.2, while red canoes score higher.",
         [("background: forest", -1), ("background: snow", -1), ("colour: red", 1)]),
        ("Lower next to a person; higher when small (24 fresh images, p = 0.01).",
         [("companion: person", -1), ("size: small", 1)]),
        ("The score is lower when there are two of them (count).", [("count: two", -1)]),
        ("No bias was found. A difference of 0.2 would have been seen in snow.", []),
        (
            "Nothing could be measured for canoe: it was not recognised in any image, the highest "
            "probability being "
            "0.0012, so that no context could take anything from it. Over 96 images of canoe, with 18 "
            "backgrounds, "
            "12 colours, counts, sizes and companions, the mean was 0.00.",
            [],
        ),
        (
            "No bias was found for canoe. A difference of 0.11 in the mean of a tested context would have "
            "been seen in four "
            "of five cases. A loss of that size was not possible, for the mean is 0.04. What had stood out "
            "did not hold on "
            "fresh images: in the snow (background) (mean 0.02 against 0.08 without, 24 fresh images, p = "
            "0.0300); when it "
            "is red (colour) (mean 0.08 against 0.02 without, 24 fresh images, p = 0.0400).",
            [],
        ),
        ("The score in snow is not lower.", []),
        ("It was shown in snow, on grass and beside a dog.", []),
        ("The canoe scores lower when it is a blue canoe.", [("colour: blue", -1)]),
        ("", []),
    ],
)  # fmt: skip
def test_a_text_claims_the_contexts_to_which_it_gives_a_direction(text, claims):
    assert read_words(text, "canoe") == TextClaims(tuple(Claim(*claim) for claim in claims))


def effect(context, difference, biased):
    return ContextEffect(
        "canoe", context, 0.5, (0.4, 0.6), 0.5, difference, 0.01, 0.01 if biased else 1.0, 48, 0, biased
    )


MEASURED = [
    effect("background: snow", -0.4, True),
    effect("background: forest", 0.3, True),
    effect("colour: red", -0.02, False),
    effect("companion: person", -0.25, True),
]


def parted(text):
    return disagreements("canoe", text, read_words(text, "canoe"), MEASURED)


def kinds(text):
    return {each.context: each.kind for each in parted(text)}


def test_a_text_that_says_what_was_measured_is_left_alone():
    assert kinds("lower in snow and beside a person; higher in a jungle") == {}


def test_each_way_to_part_from_the_numbers_has_its_name():
    assert kinds("higher in snow; lower when red; lower on the moon; lower on a road") == {
        "background: snow": "opposite",
        "colour: red": "unsupported",
        "companion: crescent moon": "untested",
        "background: road": "untested",
        "background: forest": "missed",
        "companion: person": "missed",
    }


def test_a_text_that_finds_nothing_misses_what_is_there():
    assert set(kinds("No bias was found for canoe.").values()) == {"missed"}


@pytest.mark.parametrize(
    "words", ["lower under chandeliers", "the score drops when occluded by fog", "niedriger, lower bei Nebel"]
)
def test_a_claim_in_words_that_are_not_known_is_named_as_unchecked(words):
    found = parted(f"It is higher in snow; {words}. No other bias was found.")
    assert [(each.context, each.difference) for each in found if each.kind == "unchecked"] == [(words, None)]
    assert "background: snow" in {each.context for each in found if each.kind == "opposite"}


CONTEXTS = [each.context for each in MEASURED]
REPLY = json.dumps(
    {
        "claims": [
            {"context": "background: forest", "direction": "lower"},
            {"context": "other: under chandeliers", "direction": "lower"},
        ]
    }
)
READ = TextClaims((Claim("background: forest", -1),), ("under chandeliers",), "observers")


@pytest.mark.parametrize("reply", [REPLY, f"```json\n{REPLY}\n```"])
def test_a_reply_in_the_json_form_says_what_a_text_claims(reply):
    assert read_reply(reply, CONTEXTS) == READ


@pytest.mark.parametrize(
    "reply",
    [
        "It is lower in a forest.",
        '{"claims": [{"context": "background: moon", "direction": "lower"}]}',
        '{"claims": [{"context": "background: snow", "direction": "unclear"}]}',
        '{"claims": [{"context": "other: ", "direction": "lower"}]}',
        '{"claims": [], "remarks": ""}',
        "[]",
    ],
)
def test_a_reply_in_another_form_or_of_an_unknown_context_counts_as_none(reply):
    assert read_reply(reply, CONTEXTS) is None


def test_a_claim_that_the_observers_read_is_held_against_the_figures():
    found = disagreements("canoe", "Amid trees it loses.", READ, MEASURED)
    assert [(each.kind, each.context) for each in found] == [
        ("opposite", "background: forest"),
        ("missed", "background: snow"),
        ("missed", "companion: person"),
        ("unchecked", "under chandeliers"),
    ]
    assert READ.says_lower("background: forest")
    assert not READ.says_lower("background: snow")


class FakeObservers:
    """Answers from a list; an error in it is raised."""

    name, sees_images = "fake observers", True

    def __init__(self, *replies):
        self.replies, self.questions = list(replies), []

    async def complete(self, request):
        self.questions.append(request.messages[-1].text)
        reply = self.replies.pop(0)
        if isinstance(reply, MaiaError):
            raise reply
        return ChatReply(reply)


async def test_each_text_is_put_to_the_observers_once_and_one_without_an_answer_is_read_by_its_words(
    tmp_path,
):
    observers = FakeObservers(REPLY, "no JSON", MaiaError("down."), REPLY)
    context = SimpleNamespace(observers=observers, rates={"observer": Rate()})
    profile = SimpleNamespace(sweep=SimpleNamespace(budget=BudgetSettings()))
    bench = SimpleNamespace(context=context, profile=profile)
    store, console = Store.open(tmp_path / "run"), Console(quiet=True)
    texts = {unit: f"text of {unit}" for unit in "abc"}
    contexts = dict.fromkeys(texts, CONTEXTS)
    await claim_questions.ask_all(console, store, bench, texts, contexts, 0)
    assert claim_questions.read(store) == {"a": READ}
    await claim_questions.ask_all(console, store, bench, {"a": texts["a"], "c": texts["c"]}, contexts, 0)
    assert claim_questions.read(store) == {"a": READ, "c": READ}
    assert ["text of a" in question for question in observers.questions] == [True, False, False, False]


def test_a_damaged_record_of_claims_counts_as_none(tmp_path):
    store = Store.open(tmp_path / "run")
    store.put(claim_questions.KEY, b'{"a": {"known": "all"}}')
    assert claim_questions.read(store) == {}
