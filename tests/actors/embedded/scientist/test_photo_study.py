"""A study of photographs argues from real images alone, in words that its classifier knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.chat.base import ChatRequest, Message
from actors.embedded.language.words import embedded_words
from actors.embedded.observer.eyes import Seen
from actors.embedded.photographs.look import PhotoSighting
from actors.embedded.scientist.photo_study import Pictured, guesses_of
from actors.embedded.scientist.scientist import Scientist
from actors.images import Image
from tests.actors.embedded.photographs.test_look import (
    DAISY,
    EGYPTIAN_CAT,
    ESPRESSO,
    TABBY,
    TIGER_CAT,
    sighting,
)

CAT, TABBY_CAT, TIGER = (sighting(*[{it: 0.8}] * 6) for it in (EGYPTIAN_CAT, TABBY, TIGER_CAT))
COFFEE, FLOWER, UNKNOWN = (sighting(*[it] * 6) for it in ({ESPRESSO: 0.9}, {DAISY: 0.9}, {}))


def pictured(*groups: tuple[PhotoSighting, Sequence[float]]) -> list[Pictured]:
    return [Pictured(value, seen) for seen, values in groups for value in values]


def test_a_class_that_the_strong_images_show_is_the_first_guess() -> None:
    seen = pictured((COFFEE, [9, 8.5, 8]), (UNKNOWN, [2, 1.5, 1, 0]), (CAT, [1, 0.5]))
    assert guesses_of(seen, 1.0)[0].labels == ("espresso",)


def test_classes_of_one_kind_make_the_kind_the_guess() -> None:
    seen = pictured(
        (CAT, [9, 8]), (TABBY_CAT, [8.5, 8]), (TIGER, [9, 8.7]), (COFFEE, [1, 0]), (UNKNOWN, [0, 1])
    )
    assert guesses_of(seen, 1.0)[0].labels == ("cat",)


def test_an_ambiguous_class_is_guessed_by_its_kind() -> None:
    unsure = sighting(*[{EGYPTIAN_CAT: 0.6, TABBY: 0.1, TIGER_CAT: 0.2}] * 6)
    seen = pictured((unsure, [9, 8.5, 8]), (COFFEE, [1, 0]), (UNKNOWN, [0, 1]))
    assert guesses_of(seen, 1.0)[0].labels == ("cat",)


def test_two_unrelated_things_are_named_together() -> None:
    seen = pictured(
        (COFFEE, [9, 8.5, 8]), (FLOWER, [9, 8.4, 8]), (UNKNOWN, [1, 0.5, 0, 0]), (CAT, [0.2, 0.1])
    )
    assert set(guesses_of(seen, 1.0)[0].labels) == {"espresso", "daisy"}


def test_weak_evidence_gives_no_guess() -> None:
    assert guesses_of(pictured((COFFEE, [9]), (UNKNOWN, [8, 8, 7, 1, 0])), 1.0) == []
    assert guesses_of(pictured((UNKNOWN, [9, 8, 7, 1, 0])), 1.0) == []
    assert guesses_of(pictured((COFFEE, [9, 0, 8, 1])), 1.0) == []
    assert guesses_of(pictured((COFFEE, [3, 3, 3])), 1.0) == []
    assert guesses_of([], 1.0) == []


class Eyes:
    """Sees what was laid down for each image."""

    def __init__(self, seen: dict[str, PhotoSighting]) -> None:
        self._seen = seen

    def look(self, images: Sequence[Image], whole: bool = False) -> list[Seen]:
        return [Seen(photograph=self._seen[image.id]) for image in images]


def conversation(*turns: str, shown: Sequence[Sequence[Image]]) -> ChatRequest:
    """Return a study with these assistant turns; after each the observation holds the images shown then."""
    messages = [Message("system", ("api",)), Message("user", ("Find what drives the unit.",))]
    for turn, images in zip(turns, shown, strict=True):
        word = "EXEMPLAR" if turn.startswith("top") else "CONTRAST"
        lines = "\n".join(
            f"{word} {n} | {10 - n if word == 'EXEMPLAR' else n / 10} ;" for n in range(1, len(images) + 1)
        )
        code = "tools.dataset_exemplars(system)" if word == "EXEMPLAR" else "system.exemplars('least')"
        messages += [
            Message("assistant", (f"```python\n{code}\n```",)),
            Message("user", (*images, lines)),
        ]
    return ChatRequest(tuple(messages), conversation="study")


def test_the_scientist_looks_at_exemplars_then_at_other_real_images_and_answers_without_making_any() -> None:
    top = [Image.from_pixels(np.full((8, 8, 3), n, np.uint8)) for n in range(4)]
    others = [Image.from_pixels(np.full((8, 8, 3), 100 + n, np.uint8)) for n in range(4)]
    eyes = Eyes({image.id: COFFEE for image in top} | {image.id: UNKNOWN for image in others})
    scientist = Scientist(embedded_words(), eyes)
    first = scientist.next_turn(conversation(shown=[]))
    second = scientist.next_turn(conversation("top", shown=[top]))
    answer = scientist.next_turn(conversation("top", "others", shown=[top, others]))
    assert "dataset_exemplars" in first
    assert 'system.exemplars("quantiles")' in second
    assert "espresso" in second
    assert "text2image" not in second
    assert "[LABEL]: espresso" in answer
    assert "No image was made" in answer


def test_a_small_contrast_gives_no_answer() -> None:
    top = [Image.from_pixels(np.full((8, 8, 3), n, np.uint8)) for n in range(8)]
    others = [Image.from_pixels(np.full((8, 8, 3), 100 + n, np.uint8)) for n in range(4)]
    eyes = Eyes({image.id: COFFEE if n in (0, 4) else UNKNOWN for n, image in enumerate([*top, *others])})
    answer = Scientist(embedded_words(), eyes).next_turn(conversation("top", "others", shown=[top, others]))
    assert "not interpretable" in answer
