"""Prompts for fresh images: of a label, and of unrelated everyday things to compare it with."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache

from actors.generation.base import MadeImage

_TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a close-up photo of {}",
    "a realistic photo of {}",
)

_EVERYDAY = """
a dog; a cat; a horse; a cow; an elephant; a bird; a fish; a butterfly; a snake; a frog; a bear; a monkey;
an apple; a banana; a strawberry; a carrot; a loaf of bread; a pizza; a cake; an ice cream; a cup of coffee;
a car; a bus; a bicycle; an airplane; a train; a sailboat; a truck; a rocket; a house; a castle; a tent;
a tree; a flower; a mushroom; a cactus; a leaf; a mountain; a cloud; the moon; a rainbow; fire; a snowflake;
a hat; a shoe; a dress; a shirt; glasses; a backpack; an umbrella; a crown; a ring; a key; a book; a pencil;
a clock; a telephone; a computer; a camera; a television; a lamp; a chair; a bed; a door; a guitar; a piano;
a drum; a trumpet; a football; a basketball; a tennis racket; a balloon; a gift box; a candle; a hammer; \
scissors;
a knife; a bottle; a bucket; a broom; a magnet; a microscope; a globe; a trophy; a robot; a ghost; a heart; \
a star
"""


def control_subjects(labels: Sequence[str]) -> list[str]:
    """Return everyday things that share no word with any label, in a fixed order."""
    taken = {form for label in labels for word in _words(label) for form in _forms(word)}
    things = [" ".join(thing.split()) for thing in _EVERYDAY.split(";")]
    return [thing for thing in things if not any(taken & _forms(word) for word in _words(thing))]


def share_words(first: str, second: str) -> bool:
    """Return whether two phrases have a content word in common, in singular or plural."""
    return not _all_forms(first).isdisjoint(_all_forms(second))


@lru_cache(maxsize=4096)
def _all_forms(text: str) -> frozenset[str]:
    return frozenset(form for word in _words(text) for form in _forms(word))


def content_words(text: str) -> set[str]:
    """Return a text's words without function words, each in its shortest form that may be its singular."""
    return {min(_forms(word), key=lambda form: (len(form), form)) for word in _words(text)}


def prompts_for(subjects: Sequence[str], rng: random.Random) -> list[str]:
    """Return one prompt a subject, in order; labels and controls share the same wordings."""
    return [rng.choice(_TEMPLATES).format(subject) for subject in subjects]


_FUNCTION_WORDS = frozenset(
    ["a", "an", "the", "of", "on", "in", "at", "and", "or", "with", "to", "is", "are", "any", "some"]
)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower())) - _FUNCTION_WORDS


def _forms(word: str) -> set[str]:
    """Return a word with the singulars that it may be the plural of."""
    singulars = {word[: -len(ending)] + rest for ending, rest in _PLURALS if word.endswith(ending)}
    return {word, *(form for form in singulars if len(form) > 2)}


_PLURALS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"))


def lacks_something(made: MadeImage) -> bool:
    """Return whether the image maker reports that a part of what was asked for is not in the picture."""
    return any("not drawn" in note or "could be drawn" in note for note in made.provenance.notes)
