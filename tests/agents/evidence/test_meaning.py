"""A label is taken apart by a stated form or by its words, and nothing in between."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.embedded.language.words import embedded_words
from actors.embedded.observer.eyes import Seen
from actors.embedded.observer.observer import Observer
from actors.images import Image
from agents.evidence.evidence_record import LabelMeaning, LabelPart
from agents.evidence.meaning import ROLE, ask_meaning, doubts_about, read_meaning, rivals_of
from agents.evidence.simpler_labels import Doubt, doubts

DOG = "CORE: dog\nBROADER: animal\nNARROWER: poodle\nSYNONYM: canine"


class Model:
    """Answers one question about a phrase, and nothing but the phrase."""

    name, sees_images = "model", True

    def __init__(self, reply: str, finish: str = "stop") -> None:
        self._reply, self._finish = reply, finish

    async def complete(self, request: ChatRequest) -> ChatReply:
        system, user = request.messages
        assert system.text == ROLE
        assert user.text == 'Take this phrase apart: "dogs"'
        assert not user.images
        return ChatReply(self._reply, finish=self._finish)  # type: ignore[arg-type]


async def test_a_single_thing_has_a_core_and_alternative_labels() -> None:
    found = await ask_meaning(Model(DOG), "dogs")
    assert found == LabelMeaning(core="dog", broader="animal", narrower="poodle", synonym="canine")
    assert doubts_about("dogs", found) == [Doubt("animal", "animal", wider=True)]
    assert rivals_of("dogs", found) == ["poodle", "canine"]
    assert not found.combines


def test_the_example_of_the_form_is_in_the_form() -> None:
    found = read_meaning(ROLE.partition('on a street":\n')[2])
    assert found is not None
    assert found.qualifiers[1] == LabelPart(what="a street", without="red car without people")
    assert found.exceptions == [LabelPart(what="people", without="red car on a street")]


def test_each_condition_is_doubted_by_leaving_it_out_and_an_exception_by_putting_it_in() -> None:
    meaning = LabelMeaning(
        core="car",
        qualifiers=[LabelPart(what="red things", without="car without people")],
        exceptions=[LabelPart(what="people", without="red car")],
    )
    assert doubts_about("red car without people", meaning) == [
        Doubt("red car", "red car with people", "red car"),
        Doubt("car without people", "car without people"),
        Doubt("red things", "red things"),
        Doubt("car", "car"),
    ]
    assert meaning.combines


def test_a_preposition_that_is_part_of_a_name_is_no_condition() -> None:
    meaning = LabelMeaning(core="lady in waiting", broader="courtier")
    assert doubts_about("lady in waiting", meaning) == [Doubt("courtier", "courtier", wider=True)]
    assert not meaning.combines


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "It is a dog.",
        DOG.replace("CORE: dog\n", ""),
        DOG.replace("CORE: dog", "CORE: none"),
        DOG + "\nSYNONYM: hound",
        DOG + "\nQUALIFIER: grass",
        DOG + "\nNOTE: see above",
        DOG.replace("animal", "animal" * 30),
        DOG + "\nQUALIFIER: a | dog" * 5,
    ],
)
def test_a_reply_in_another_form_is_refused(reply: str) -> None:
    assert read_meaning(reply) is None


async def test_a_reply_that_was_cut_off_is_refused() -> None:
    assert await ask_meaning(Model(DOG, finish="length"), "dogs") is None


def test_without_a_meaning_a_label_is_split_by_its_words() -> None:
    label = "a dog on grass"
    assert doubts_about(label, None) == doubts(label)
    assert rivals_of(label, None) == []


async def test_the_built_in_observer_does_not_answer_in_the_form() -> None:
    class NoEyes:
        def look(self, images: Sequence[Image], whole: bool = False) -> list[Seen]:
            assert not images
            return []

    assert await ask_meaning(Observer(embedded_words(), NoEyes()), "dogs") is None
