"""The neuron-description study on photographs: hypotheses from what a classifier sees, judged on real images
alone.

The embedded image maker draws scenes, which say nothing about a unit that answers to photographs. So nothing
is made: the strongest images of the data set are compared with images from across the unit's range, and a
label stands or falls by these. Whether it holds on images that were held out is for others to test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.photographs.look import PhotoSighting
from actors.embedded.photographs.taxonomy import Taxonomy, TaxonomyNode, WordSense
from actors.embedded.reasoning.programs import CONTRAST, reply
from actors.embedded.reasoning.study_state import StudyState
from actors.embedded.scientist.answers import NOT_INTERPRETABLE, final_description

_FLOOR = 0.02
"""Added to every probability: nothing is surer to be absent than this."""
_MIN_SCORE = 3.0
"""Nats of evidence from which a word is worth a hypothesis."""
_MIN_IMAGES = 2
"""Strong images that must show it: a single one decides nothing."""
_MIN_COVERED = 0.25
"""Part of the height of all images seen that those of a label must have."""
_MIN_MARGIN = 2.0
"""Standard deviations by which a label's images must stand out. On crops of photographs, class logits of
EfficientNet-lite0 whose class is there had 2.2 to 5.8 (12 of them), others at most 1.6: those answer to what
is least unlike their class.
"""
_MAX_LABELS = 3
_SEPARATED = 0.85
"""Part of a kind's probability that one of it must have to be named in its place."""


@dataclass(frozen=True, slots=True)
class Pictured:
    """A real image with its activation and what is seen in it."""

    activation: float
    seen: PhotoSighting


@dataclass(frozen=True, slots=True)
class Guess:
    """What may drive the unit: any of `nodes`. `covered` is the part of the height of all images that its
    images have.
    """

    nodes: tuple[TaxonomyNode, ...]
    covered: float
    score: float

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    @property
    def claim(self) -> str:
        return f"the unit is driven by {' OR '.join(with_article(name) for name in self.labels)}"


class PhotoStudy:
    """One decision in the study of one unit whose exemplars are photographs."""

    def __init__(self, state: StudyState, pictured: Sequence[Pictured]) -> None:
        self._state, self._pictured = state, pictured

    def next_turn(self) -> str:
        """Return the next assistant turn: a program that shows further real images, or the answer."""
        contrast = [exemplar.activation for exemplar in self._state.contrast]
        # Before other images are known, zero stands for what the unit usually does.
        guesses = guesses_of(self._pictured, float(np.median(contrast)) if contrast else 0.0)
        asked = self._state.contrast or self._state.rounds >= 2
        if not asked and not self._state.final:
            hypotheses = [guess.claim for guess in guesses[:4]]
            hypotheses.append("the unit is driven by nothing that ImageNet's words name")
            thoughts = (
                "These are photographs, and my image maker draws scenes: I argue from real images alone. "
                "I compare the strongest with images from across the unit's range."
            )
            return reply(thoughts, hypotheses, CONTRAST)
        answers = _apart([guess for guess in guesses if self._margin(guess) >= _MIN_MARGIN])
        if not answers:
            return self._nothing()
        # A label that is sent back may be right, and untestable here: where nothing else is left it is given
        # again.
        return self._answer(answers[min(len(self._state.rejected), len(answers) - 1)])

    def _answer(self, guess: Guess) -> str:
        shown, others = self._split(guess)
        text = (
            f"{guess.claim[:1].upper()}{guess.claim[1:]}. Of {len(self._pictured)} photographs that were "
            f"looked at, the {len(shown)} that show it reach a mean activation of {np.mean(shown):.2f}"
        )
        text += f", the {len(others)} others {np.mean(others):.2f}." if others else "."
        text += " No image was made for this answer: it rests on real images alone."
        return final_description(text, guess.labels)

    def _split(self, guess: Guess) -> tuple[list[float], list[float]]:
        """Return the activations of the images that show a guess, and of the others."""
        meaning = WordSense(frozenset().union(*(node.classes for node in guess.nodes)), 1.0)
        shown = [photo.activation for photo in self._pictured if photo.seen.shows(meaning)]
        return shown, [photo.activation for photo in self._pictured if not photo.seen.shows(meaning)]

    def _margin(self, guess: Guess) -> float:
        """Return by how many standard deviations of the others the mean of a guess's images is above
        theirs.
        """
        shown, others = self._split(guess)
        spread = float(np.std(others)) if others else 0.0
        return float(np.mean(shown) - np.mean(others)) / spread if spread > 0 else np.inf

    def _nothing(self) -> str:
        seen = f"on {len(self._pictured)} photographs"
        text = (
            f"Nothing that ImageNet's words name explains the unit {seen}. No image was made for this answer."
        )
        return final_description(text, [NOT_INTERPRETABLE])


def _apart(guesses: Sequence[Guess]) -> list[Guess]:
    """Return the best guess, and after it the one other that shares nothing with it and is worth half of it;
    or it again.
    """
    if not guesses:
        return []
    best = guesses[0]
    taken = {at for node in best.nodes for at in node.classes}
    others = [
        guess
        for guess in guesses[1:]
        if guess.score >= 0.5 * best.score and not any(taken & node.classes for node in guess.nodes)
    ]
    return [best, *others[:1], best]


def guesses_of(pictured: Sequence[Pictured], usual: float) -> list[Guess]:
    """Return what may drive the unit, the best first: words in which strong images differ from the others.

    An image's height is 0 at the `usual` activation or below and 1 at the strongest; it speaks for its words
    above one half and against them below. How much: the log of how much likelier the classifier finds them
    there than by chance, (probability + floor) / (share of the classes + floor). That a weak image lacks a
    thing speaks for nothing.
    """
    if not pictured:
        return []
    values = np.array([photo.activation for photo in pictured])
    if values.max() <= usual or np.ptp(values) == 0:
        return []
    height = np.clip((values - usual) / (values.max() - usual), 0, 1)
    nodes = pictured[0].seen.taxonomy.spoken
    sure = np.array([[photo.seen.sure(node.classes) for photo in pictured] for node in nodes])
    shown = np.array([[photo.seen.says(node.classes) for photo in pictured] for node in nodes])
    shown &= _resolved(pictured[0].seen.taxonomy, sure, shown, height > 0.5)[:, None]
    chance = np.array([len(node.classes) for node in nodes]) / 1000
    lift = np.log((sure + _FLOOR) / (chance[:, None] + _FLOOR))
    return _ranked(nodes, np.where(height > 0.5, lift, np.maximum(lift, 0)), shown, height)


def _resolved(taxonomy: Taxonomy, sure: np.ndarray, shown: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """Return which words the classifier separates from others of their kind: bool, one for each spoken node.

    Where a tabby takes only part of what it finds of cats, the images show a cat, of no known breed.
    """
    places = {node.classes: at for at, node in enumerate(taxonomy.spoken)}
    separated = np.ones(len(sure), bool)
    for at in map(int, np.flatnonzero((shown & strong).any(1))):
        kind = taxonomy.kind_of(taxonomy.spoken[at])
        if kind is None:
            continue
        whole = sure[places[kind.classes]]
        there = strong & shown[at] & (sure[at] >= 0.5 * whole)
        separated[at] = not there.any() or sure[at, there].sum() >= _SEPARATED * whole[there].sum()
    return separated


def _ranked(
    nodes: Sequence[TaxonomyNode], lift: np.ndarray, shown: np.ndarray, height: np.ndarray
) -> list[Guess]:
    """Return the best union of words, then the best single ones, that cover enough of the activation."""
    scores = lift @ (2 * height - 1)
    supported = (shown & (height > 0.5)).sum(1) >= _MIN_IMAGES
    single = [int(at) for at in np.argsort(-scores) if supported[at] and scores[at] >= _MIN_SCORE]
    if not single:
        return []
    choices = dict.fromkeys([tuple(_union(nodes, lift, shown, height)), *((at,) for at in single)])
    guesses = [_guess(nodes, chosen, scores, shown, height) for chosen in choices]
    return [guess for guess in guesses if guess.covered >= _MIN_COVERED]


def _union(
    nodes: Sequence[TaxonomyNode], lift: np.ndarray, shown: np.ndarray, height: np.ndarray
) -> list[int]:
    """Return words that together explain the strong images: each the best for those that the former leave."""
    weights = 2 * height - 1
    chosen: list[int] = []
    while len(chosen) < _MAX_LABELS:
        scores = lift @ weights
        supported = (shown & (height > 0.5) & (weights != 0)).sum(1) >= _MIN_IMAGES
        apart = [
            at
            for at in map(int, np.flatnonzero(supported & (scores >= _MIN_SCORE)))
            if not any(nodes[at].classes & nodes[other].classes for other in chosen)
        ]
        if not apart:
            break
        best = max(apart, key=lambda at: scores[at])
        chosen.append(int(best))
        weights = np.where(shown[best], 0.0, weights)
    return chosen


def _guess(
    nodes: Sequence[TaxonomyNode],
    chosen: Sequence[int],
    scores: np.ndarray,
    shown: np.ndarray,
    height: np.ndarray,
) -> Guess:
    any_shown = shown[list(chosen)].any(0)
    covered = float(height[any_shown].sum() / height.sum())
    return Guess(tuple(nodes[at] for at in chosen), covered, float(scores[list(chosen)].sum()))
