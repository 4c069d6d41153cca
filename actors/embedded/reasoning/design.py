"""Which images to measure next: those on which the leading hypotheses disagree, repeats, and controls."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from actors.embedded.language.words import Term, Words
from actors.embedded.reasoning.formulas import Explanation, Merit, truth_table
from actors.embedded.reasoning.stimuli import Stimulus, Thing

_POOL = 1200
_TEMPERATURE = 5.0
"""Nats: rivals far behind still get a say, because early scores rest on few images."""
_RIVALS = 16
_ODD = 0.5
"""Worth of an image whose suspect is repainted, against one that shows it as it is."""


class Designer:
    """Draws planned images at random around what is suspected, and picks the most telling ones."""

    def __init__(self, words: Words, rng: random.Random) -> None:
        self._words, self._rng = words, rng
        self._concepts = list(words.concepts)

    def survey(
        self, count: int, things: int, first: Collection[str] = (), without: Explanation | None = None
    ) -> list[Stimulus]:
        """Return images that together show as many different things as possible, those of `first` first.

        `without`: leave out whatever satisfies this formula, to see what else there is.
        """
        names = self._rng.sample(self._concepts, len(self._concepts))
        names.sort(key=lambda name: name not in first)
        backgrounds = self._rng.sample(list(self._words.backgrounds), len(self._words.backgrounds))
        if without is not None:
            names = [name for name in names if not self._satisfies(Stimulus((Thing(name),)), without)]
            backgrounds = [name for name in backgrounds if not self._satisfies(Stimulus((), name), without)]
        stimuli: list[Stimulus] = []
        while names and len(stimuli) < count:
            chosen, names = names[:things], names[things:]
            background = backgrounds[len(stimuli) % len(backgrounds)] if backgrounds else ""
            stimuli.append(Stimulus(tuple(Thing(name) for name in chosen), background))
        return stimuli

    def each_alone(self, concepts: Sequence[str]) -> list[Stimulus]:
        """Return an image of each concept by itself, on any background."""
        return [Stimulus((Thing(name),), self._background()) for name in concepts]

    def one_by_one(self, crowded: Sequence[Stimulus], copies: int) -> list[Stimulus]:
        """Return images that show each part of the given ones alone: which of them was it?"""
        stimuli = []
        for thing in dict.fromkeys(thing for stimulus in crowded for thing in stimulus.things):
            stimuli += [Stimulus((thing,), self._background()) for _ in range(copies)]
        for background in dict.fromkeys(stimulus.background for stimulus in crowded if stimulus.background):
            stimuli += [replace(self._random_stimulus(), background=background) for _ in range(copies)]
        return stimuli

    def _random_stimulus(self) -> Stimulus:
        return Stimulus((Thing(self._rng.sample(self._concepts, 1)[0]),), self._background())

    def _satisfies(self, stimulus: Stimulus, formula: Explanation) -> bool:
        return float(formula.truth(truth_table([stimulus.terms(self._words)], formula.terms))[0]) >= 0.3

    def telling(self, merits: Sequence[Merit], count: int, repeats: int, controls: int) -> list[Stimulus]:
        """Return `count` images: `repeats` that the leader predicts to be strong, `controls` that share
        nothing with any hypothesis, and for the rest those that split the hypotheses best."""
        rivals = list(merits[:_RIVALS])
        focus = list(dict.fromkeys(term for merit in rivals for term in merit.formula.terms))
        pool = [self._around(focus) for _ in range(_POOL)]
        shown = [stimulus.terms(self._words) for stimulus in pool]
        predicted = np.stack(
            [m.formula.truth(truth_table(shown, m.formula.terms)) for m in rivals]
        )  # (rivals, pool)
        weights = np.exp((np.array([m.score for m in rivals]) - rivals[0].score) / _TEMPERATURE)
        weights /= weights.sum()
        chosen: list[int] = []

        strong = np.flatnonzero(predicted[0] > 0.8)
        chosen += self._varied(pool, strong, repeats)
        chosen += self._split(
            predicted, weights, count - repeats - controls, set(chosen), self._plain(pool, rivals[0].formula)
        )
        free = [int(i) for i in np.flatnonzero(predicted.max(axis=0) < 0.2) if i not in set(chosen)]
        chosen += self._varied(pool, free, count - len(chosen))
        self._rng.shuffle(chosen)
        return [pool[index] for index in chosen]

    def _plain(self, pool: Sequence[Stimulus], lead: Explanation) -> np.ndarray:
        """Return what each image is worth (pool,): less where a thing that the leader speaks of was
        repainted.

        It may fail because it is not recognized, which says nothing about the color.
        """
        nouns = {term for term in lead.terms if term.kind in ("concept", "category")}

        def odd(thing: Thing) -> bool:
            about = nouns & self._words.closure(Term("concept", thing.concept))
            return bool(about) and thing.repainted(self._words)

        return np.array([_ODD if any(map(odd, stimulus.things)) else 1.0 for stimulus in pool])

    def _split(
        self, predicted: np.ndarray, weights: np.ndarray, count: int, taken: set[int], worth: np.ndarray
    ) -> list[int]:
        """Pick images one by one; a pair of hypotheses that was separated counts for less from then on."""
        apart = np.abs(predicted[:, None, :] - predicted[None, :, :])  # (rivals, rivals, pool)
        value = np.sqrt(np.outer(weights, weights))
        picked: list[int] = []
        for _ in range(max(0, count)):
            gain = np.einsum("ij,ijp->p", value, apart) * worth
            for index in (*picked, *taken):
                gain[index] = -1
            best = int(gain.argmax())
            if gain[best] <= 1e-6:
                break
            picked.append(best)
            value = value * (1 - 0.35 * apart[:, :, best])
        return picked

    def _varied(
        self, pool: Sequence[Stimulus], candidates: Sequence[int] | np.ndarray, count: int
    ) -> list[int]:
        """Pick candidates that repeat concepts and backgrounds as little as possible."""
        used: dict[str, int] = {}
        left = [int(index) for index in candidates]
        picked: list[int] = []
        while left and len(picked) < count:

            def familiarity(index: int) -> int:
                stimulus = pool[index]
                names = [stimulus.background, *(thing.concept for thing in stimulus.things)]
                # A thing in its usual look comes first: a repainted one may fail for another reason.
                oddity = sum(1 + bool(thing.color) + bool(thing.size) for thing in stimulus.things)
                return sum(used.get(name, 0) for name in names) + oddity

            best = min(left, key=familiarity)
            left.remove(best)
            picked.append(best)
            for name in (pool[best].background, *(thing.concept for thing in pool[best].things)):
                used[name] = used.get(name, 0) + 1
        return picked

    def _around(self, focus: Sequence[Term]) -> Stimulus:
        """Return a random image that shows some of the suspected terms, near misses, or neither."""
        rng = self._rng
        things: list[Thing] = []
        for _ in range(rng.choices((1, 2, 3), (6, 4, 1))[0]):
            concept = self._thing([t for t in focus if t.kind in ("concept", "category")])
            color = self._color(focus)
            # Its own color needs no word: asking for it may repaint the thing beyond recognition.
            if color in self._words.concepts[concept].colors or not self._words.can_be(concept, color):
                color = ""
            if concept not in (each.concept for each in things):
                things.append(Thing(concept, color, 1, rng.choice(("", "", "", "large", "small"))))
        backgrounds = [term.name for term in focus if term.kind == "background"]
        tones = {term for term in focus if term.kind == "tone"}
        backgrounds += [
            name for name in self._words.backgrounds if tones & self._words.closure(Term("background", name))
        ]
        if backgrounds and rng.random() < 0.45:
            return Stimulus(tuple(things), rng.choice(backgrounds))
        return Stimulus(tuple(things), self._background())

    def _thing(self, nouns: Sequence[Term]) -> str:
        rng, words = self._rng, self._words
        if not nouns or rng.random() < 0.3:
            return rng.choice(self._concepts)
        # Better hypotheses come first, and are met more often.
        term = nouns[min(int(rng.expovariate(0.25)), len(nouns) - 1)]
        if term.kind == "category":
            return rng.choice(words.members(term.name))
        if rng.random() < 0.3:
            return rng.choice(words.siblings(term.name) or self._concepts)
        return term.name

    def _color(self, focus: Sequence[Term]) -> str:
        suspected = [term.name for term in focus if term.kind in ("color", "tone")]
        if suspected:
            draw = self._rng.random()
            if draw < 0.3:
                return self._rng.choice(suspected)
            return self._rng.choice(list(self._words.colors)) if draw < 0.5 else ""
        return self._rng.choice(list(self._words.colors)) if self._rng.random() < 0.12 else ""

    def _background(self) -> str:
        return self._rng.choice(list(self._words.backgrounds)) if self._words.backgrounds else ""
