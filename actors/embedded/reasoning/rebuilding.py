"""A unit that fires on next to no image: what little there is, drawn again, taken apart, and edited.

Random pictures around a suspicion never show the two or three things together that such a unit may wait for.
One picture of the data set does.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from actors.embedded.language.words import Words
from actors.embedded.reasoning.edits import relocation, replacement
from actors.embedded.reasoning.programs import CausalEdit
from actors.embedded.reasoning.stimuli import Stimulus, Thing

FEW = 3
"""Exemplars that a unit fires on at most to be studied this way."""
MAX_THINGS = 4
_WHOLE, _PAIR, _ALONE = 3, 2, 1
"""Pictures of everything that was seen together, of each two of its parts, and of each part."""


@dataclass(frozen=True, slots=True)
class Example:
    """An exemplar that drives the unit: its place among the exemplars, its activation and what was seen in
    it.

    Things come in the order in which they may matter: first those of the part that the unit looks at.
    """

    place: int
    activation: float
    content: Stimulus


def rebuilt(examples: Sequence[Example], words: Words, rng: random.Random) -> list[Stimulus]:
    """Return pictures of all that an example shows, of each two parts of it, and of each part without
    the others.
    """
    stimuli: list[Stimulus] = []
    for example in examples:
        things, place = example.content.things, example.content.background
        elsewhere = [name for name in words.backgrounds if name != place] or [""]
        strange = [name for name in words.concepts if name not in example.content.concepts]
        stimuli += [example.content] * _WHOLE
        for pair in itertools.combinations(things, 2):
            stimuli += [Stimulus(pair, rng.choice(elsewhere)) for _ in range(_PAIR)]
        for thing in things:
            stimuli += [Stimulus((thing,), place)] * (_PAIR if place else 0)
            stimuli += [Stimulus((thing,), rng.choice(elsewhere)) for _ in range(_ALONE)]
        if place:
            stimuli += [Stimulus((Thing(rng.choice(strange)),), place) for _ in range(_PAIR)]
    return stimuli


def example_edits(examples: Sequence[Example], words: Words, rng: random.Random) -> list[CausalEdit]:
    """Return edits of the examples themselves, each with one part replaced: a part without which the unit
    falls silent matters.
    """
    planned: list[CausalEdit] = []
    for example in examples:
        content, place = example.content, example.place
        strange = [name for name in words.concepts if name not in content.concepts]
        for thing in content.things:
            planned.append(replacement(content, thing, rng.choice(strange), place))
        others = [name for name in words.backgrounds if name != content.background]
        for background in rng.sample(others, 2 if content.background else 0):
            planned.append(relocation(content, background, place))
    return planned
