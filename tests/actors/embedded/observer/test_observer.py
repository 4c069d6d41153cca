"""The observer says what its eyes see, in plain English, and knows nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.tasks import ChatTask, CheckLabelTask, ClassifyMediumTask, DescribeImagesTask
from actors.embedded.language.words import Term, embedded_words
from actors.embedded.observer.eyes import Seen, SeenThing
from actors.embedded.observer.observer import Observer
from actors.images import Image

WORDS = embedded_words()
DESCRIBE, SUMMARIZE = "You describe images for a scientist.", "You summarize images for a scientist."


def image(number: int) -> Image:
    return Image.from_pixels(np.full((4, 6, 3), number, np.uint8))


class FakeEyes:
    """Sees what was set for each image; notes which images each look held."""

    def __init__(self, *scenes: Seen) -> None:
        self._scenes = {image(number).id: scene for number, scene in enumerate(scenes)}
        self.looks: list[int] = []

    def look(self, images: Sequence[Image], whole: bool = False) -> list[Seen]:
        assert not whole, "an observer sees the highlighted part only"
        self.looks.append(len(images))
        return [self._scenes[each.id] for each in images]


def ask(role: str, text: str, *numbers: int) -> ChatRequest:
    return ChatRequest((Message("system", (role,)), Message("user", (text, *map(image, numbers)))))


async def said(role: str, text: str, *scenes: Seen) -> str:
    reply = await Observer(WORDS, FakeEyes(*scenes)).complete(ask(role, text, *range(len(scenes))))
    assert reply.model == "builtin:observer (embedded stand-in)"
    assert "stand-in" not in reply.text
    return reply.text


async def test_things_have_number_color_and_place() -> None:
    scene = Seen(
        (
            SeenThing("dog", "brown", 0.2, 0.5),
            SeenThing("apple", "red", 0.8, 0.9),
            SeenThing("apple", "red", 0.6, 0.9),
        ),
        "grass",
    )
    text = await said(DESCRIBE, "What does this image show?", scene)
    assert text == "A brown dog at the left and two red apples; the background is grass."


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (Seen((), "snow"), "No object that I recognize; the background is snow."),
        (Seen((), "", "red"), "Nothing that I recognize; the visible part is mostly red."),
        (Seen(), "Nothing that I recognize."),
    ],
)
async def test_an_unrecognized_image_is_reported(scene: Seen, text: str) -> None:
    assert await said(DESCRIBE, "What does this image show?", scene) == text


async def test_descriptions_can_be_read_back() -> None:
    scene = Seen((SeenThing("orange", "orange", 0.5, 0.5),), "night")
    text = await said(DESCRIBE, "What does this image show?", scene)
    assert set(WORDS.find(text)) == {
        Term("color", "orange"),
        Term("concept", "orange"),
        Term("background", "night"),
    }


async def test_a_summary_gives_groups_and_shares() -> None:
    dogs = [Seen((SeenThing("dog", "brown"),), "grass")] * 12
    wolves = [Seen((SeenThing("wolf", "gray"),), "grass")] * 3
    text = await said(SUMMARIZE, "What do these images have in common?", *dogs, *wolves)
    assert "12 of 15 show a dog; 3 of 15 show a wolf." in text
    assert "15 of 15 show some mammal" in text
    assert "15 of 15 show a background of grass" in text


async def test_a_summary_of_unlike_images_says_so() -> None:
    scenes = [Seen((SeenThing(name, ""),)) for name in ("dog", "pizza", "castle", "violin")]
    assert "No single thing is common" in await said(SUMMARIZE, "What do these have in common?", *scenes)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Does this image show a puppy? Answer yes or no.", "yes"),
        ("Does this image show an animal? Answer yes or no.", "yes"),
        ("Does this image show a brown dog on grass? Answer yes or no.", "yes"),
        ("Does this image show a cat? Answer yes or no.", "no"),
        ("Does this image show a dog without a cat? Answer yes or no.", "yes"),
        ("Does this image show a dog without brown objects? Answer yes or no.", "no"),
        ("Does this image show green color? Answer yes or no.", "yes"),
        ("Does this image show green objects? Answer yes or no.", "no"),
        ("Does this image show justice? Answer yes or no.", "I cannot tell: I do not know these words."),
    ],
)
async def test_yes_or_no(question: str, answer: str) -> None:
    assert await said("", question, Seen((SeenThing("dog", "brown"),), "grass")) == answer


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (DescribeImagesTask(), "A brown dog in the center; the background is grass."),
        (CheckLabelTask("a dog? really"), "yes"),
        (ClassifyMediumTask(), "drawn"),
    ],
)
async def test_the_task_counts_and_not_the_prompt(task: ChatTask, answer: str) -> None:
    request = ChatRequest((Message("user", ("Summarize, yes or no?", image(0))),), task=task)
    reply = await Observer(WORDS, FakeEyes(Seen((SeenThing("dog", "brown"),), "grass"))).complete(request)
    assert reply.text == answer


async def test_a_request_without_images_is_answered() -> None:
    assert await said(DESCRIBE, "What does this image show?") == "There is no image to look at."


def test_a_batch_is_one_look_and_answers_keep_their_order() -> None:
    eyes = FakeEyes(*(Seen((SeenThing(name, ""),)) for name in ("dog", "cat", "cow")))
    replies = Observer(WORDS, eyes).answer_all(
        [ask(DESCRIBE, "?", 2), ask(SUMMARIZE, "?", 0, 1), ask(DESCRIBE, "?", 1)]
    )
    assert eyes.looks == [4]
    assert [("cow" in r.text, "cat" in r.text) for r in replies] == [
        (True, False),
        (False, False),
        (False, True),
    ]
