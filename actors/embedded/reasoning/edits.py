"""Edits as causal tests: the same picture with one thing changed."""

from __future__ import annotations

import random
from dataclasses import replace

from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.language.words import Term, Words
from actors.embedded.reasoning.formulas import Explanation
from actors.embedded.reasoning.programs import CausalEdit
from actors.embedded.reasoning.stimuli import Stimulus, Thing


def causal_edits(formula: Explanation, words: Words, rng: random.Random, count: int) -> list[CausalEdit]:
    """Return edits of pictures that satisfy the formula; each takes away or keeps what it speaks of."""
    planned: list[CausalEdit] = []
    makers = (_replaced, _moved, _recolored)
    for index in range(count * 3):
        if len(planned) == count:
            break
        terms = (
            (formula.terms[index % len(formula.terms)],)
            if formula.operator in ("is", "or")
            else formula.terms
        )
        stimulus = _picture(terms if formula.operator != "without" else terms[:1], words, rng)
        # The thing itself is what most formulas are about: it is changed every other time.
        maker = makers[(0, 1, 0, 2)[index % 4]]
        change = maker(stimulus, words, rng)
        if change is not None:
            planned.append(change)
    return planned


def _picture(terms: tuple[Term, ...], words: Words, rng: random.Random) -> Stimulus:
    concepts = [term.name for term in terms if term.kind == "concept"]
    concepts += [rng.choice(words.members(term.name)) for term in terms if term.kind == "category"]
    color = next((term.name for term in terms if term.kind in ("color", "tone")), "")
    if not concepts:
        concepts = [rng.choice([name for name in words.concepts if words.can_be(name, color)])]
    color = color if words.can_be(concepts[0], color) else ""
    things = tuple(
        Thing(name, color if index == 0 else "") for index, name in enumerate(dict.fromkeys(concepts))
    )
    background = next((term.name for term in terms if term.kind == "background"), "")
    return Stimulus(things, background or rng.choice(list(words.backgrounds)))


def _replaced(stimulus: Stimulus, words: Words, rng: random.Random) -> CausalEdit | None:
    old = rng.choice(stimulus.things)
    taken = {thing.concept for thing in stimulus.things}
    near = [name for name in words.siblings(old.concept) if name not in taken]
    far = [name for name in words.concepts if name not in taken]
    pool = near if near and rng.random() < 0.5 else far
    if not pool:
        return None
    return replacement(stimulus, old, rng.choice(pool))


def _moved(stimulus: Stimulus, words: Words, rng: random.Random) -> CausalEdit | None:
    others = [name for name in words.backgrounds if name != stimulus.background]
    if not others:
        return None
    return relocation(stimulus, rng.choice(others))


def _recolored(stimulus: Stimulus, words: Words, rng: random.Random) -> CausalEdit | None:
    old = rng.choice(stimulus.things)
    natural = words.concepts[old.concept].colors
    taken = {old.color, *natural}
    others = [name for name in words.colors if name not in taken and words.can_be(old.concept, name)]
    if not others:
        return None
    new = replace(old, color=rng.choice(others))
    instruction = f"change the color of the {old.concept} to {new.color}"
    return CausalEdit(stimulus, stimulus.swap(old.concept, new), instruction)


def replacement(stimulus: Stimulus, old: Thing, concept: str, exemplar: int | None = None) -> CausalEdit:
    """Return the edit that puts another concept in the place of a thing."""
    instruction = f"replace the {old.concept} with {with_article(concept)}"
    return CausalEdit(stimulus, stimulus.swap(old.concept, Thing(concept)), instruction, exemplar)


def relocation(stimulus: Stimulus, background: str, exemplar: int | None = None) -> CausalEdit:
    """Return the edit that changes the background."""
    return CausalEdit(stimulus, stimulus.on(background), f"change the background to {background}", exemplar)
