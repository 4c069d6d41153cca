"""The skeptic sees images and activations only, and says what else they show."""

from __future__ import annotations

import pytest

from actors.chat.reply import ChatReply
from actors.images import Image
from agents.critic.skeptic import Skeptic
from agents.critic.witness import Witness
from tests.tools.fakes import picture_of


class Chat:
    """Gives its reply to every question, and keeps them."""

    name, sees_images = "chat", True

    def __init__(self, *replies: str) -> None:
        self._replies, self.requests = replies, []

    async def complete(self, request):
        self.requests.append(request)
        return ChatReply(self._replies[(len(self.requests) - 1) % len(self._replies)])


IMAGES = [(picture_of("a"), 3.0), (picture_of("b"), 2.5)]


@pytest.mark.parametrize(
    ("reply", "rival"),
    [
        ("12 of 15 show a dog; 9 of 15 show some grass. Colours: 3 of 15 show something red.", "grass"),
        ("12 of 15 show dogs; 7 of 15 show snow.", None),
        ("15 of 15 show a background of brick wall.", "brick wall"),
        ("I cannot help with that.", None),
        ("", None),
    ],
)
async def test_the_rival_is_the_most_frequent_thing_that_no_label_names(reply, rival):
    chat = Chat(reply)
    assert await Skeptic(chat).rival(IMAGES, ["a dog"]) == rival
    (request,) = chat.requests
    said = [part for message in request.messages for part in message.parts if isinstance(part, str)]
    assert not any("dog" in text for text in said), "the skeptic is blind to the label"
    assert "3.00" in said


async def test_a_witness_answers_yes_no_or_not_at_all():
    chat = Chat("Yes.", "no", "I cannot tell: I do not know these words.", "Nothing of the kind")
    questions = [(picture_of(str(i)), "a dog") for i in range(4)]
    answers = await Witness(chat).shows(questions)
    assert sorted(answers, key=str) == [False, None, None, True]
    assert all(sum(isinstance(p, Image) for m in r.messages for p in m.parts) == 1 for r in chat.requests)


async def test_without_images_no_question_is_asked():
    chat = Chat("1 of 1 show a dog")
    assert await Skeptic(chat).rival([], ["x"]) is None
    assert chat.requests == []
