"""The observer speaks of photographs in ImageNet's words, and says where it cannot tell."""

from __future__ import annotations

import pytest

from actors.embedded.observer.photographs import describe, shows, summarize
from tests.actors.embedded.photographs.test_look import DAISY, EGYPTIAN_CAT, ESPRESSO, TABBY, sighting

CAT = sighting(*[{EGYPTIAN_CAT: 0.8}] * 6)
COFFEE = sighting(*[{ESPRESSO: 0.9}] * 6)
UNKNOWN = sighting(*[{}] * 6)


@pytest.mark.parametrize(
    ("phrase", "answer"),
    [
        ("a cat", True),
        ("cats", True),
        ("espresso", False),
        ("tabby, tabby cat", False),
        ("an espresso or a cat", True),
        ("a cat and an espresso", False),
        ("a cat without an espresso", True),
        ("a cat without whiskers", None),
        ("a stone background", None),
        ("a red cat", None),
        ("a red espresso", False),
        ("justice", None),
        ("", None),
    ],
)
def test_a_phrase_is_answered_as_far_as_its_words_are_known(phrase: str, answer: bool | None) -> None:
    assert shows(CAT, phrase) is answer


def test_a_description_names_the_thing_its_kind_and_how_sure_it_is() -> None:
    assert describe(CAT) == "A photograph with an Egyptian cat, a kind of cat (0.80)."
    assert describe(UNKNOWN) == "A photograph of nothing that I know."


def test_a_summary_counts_things_and_kinds_and_what_is_not_known() -> None:
    tabby, daisy = sighting(*[{TABBY: 0.8}] * 6), sighting(*[{DAISY: 0.8}] * 6)
    summary = summarize([CAT, CAT, tabby, COFFEE, daisy, UNKNOWN])
    assert "2 of 6 show an Egyptian cat" in summary
    assert "3 of 6 show a cat" in summary
    assert "espresso" not in summary
    assert "In 1 of 6 photographs I know nothing." in summary
