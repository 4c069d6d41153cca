"""How the scientist words its hypotheses, labels and final answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.language.words import Term, Words
from actors.embedded.reasoning.formulas import Explanation

NOT_INTERPRETABLE = "not interpretable"

_CLEARLY_MORE = 0.3
"""Difference in the share of exemplars from which one term is seen clearly more often than another."""


def label_of(term: Term) -> str:
    """Return the short form of one term, in words that ask an image maker for it."""
    if term.kind == "color":
        return f"{term.name} objects"
    if term.kind == "tone":
        return f"{term.name} color"
    if term.kind == "background" and not term.name.endswith(("background", "wall")):
        return f"{term.name} background"
    return term.name


def labels_of(formula: Explanation, words: Words) -> tuple[str, ...]:
    """Return one label for each unrelated concept of a formula, one for a combination."""
    if formula.operator in ("is", "or"):
        return tuple(label_of(term) for term in formula.terms)
    return (_combined(formula, words),)


def claim(formula: Explanation, words: Words) -> str:
    """Return the hypothesis that the formula states, as a sentence."""
    if formula.operator in ("is", "or"):
        return f"the unit is driven by {' OR '.join(_phrase(term) for term in formula.terms)}"
    return f"the unit is driven by {_combined(formula, words)}"


def _phrase(term: Term) -> str:
    if term.kind == "category":
        return f"any kind of {term.name}"
    if term.kind == "color":
        return f"{term.name} objects of any kind"
    if term.kind == "tone":
        return f"the color {term.name} anywhere, in things or in the background"
    if term.kind == "background":
        return f"the {label_of(term)}, whatever is in front of it"
    return with_article(term.name)


def _combined(formula: Explanation, words: Words) -> str:
    """Word a combination of two terms; the first is what the unit looks at, the second its condition."""
    first, second = formula.terms
    if formula.operator == "without":
        return f"{label_of(first)} without {label_of(second)}"
    for color, noun in ((first, second), (second, first)):
        if color.kind == "color" and noun.kind in ("concept", "category"):
            # Its usual color goes without saying, and an image maker may overdo what is said.
            usual = noun.kind == "concept" and color.name in words.concepts[noun.name].colors
            return noun.name if usual else f"{color.name} {noun.name}"
    if second.kind == "background":
        return f"{label_of(first)} {words.backgrounds[second.name].phrase}"
    if first.kind == "background":
        return f"{label_of(first)} behind {_with(second)}"
    return f"{label_of(first)} with {_with(second)}"


def _with(term: Term) -> str:
    return label_of(term) if term.kind not in ("concept", "category") else with_article(term.name)


def final_description(description: str, labels: Sequence[str]) -> str:
    """Return the final turn of the neuron-description task."""
    if len(labels) == 1:
        return f"[DESCRIPTION]: {description}\n[LABEL]: {labels[0]}"
    listed = "\n".join(f"[LABEL {n}]: {label}" for n, label in enumerate(labels, 1))
    return f"[DESCRIPTION]: {description}\n{listed}"


def headed(formula: Explanation, looked_at: Mapping[Term, float]) -> Explanation:
    """Return a combination with what the unit looks at first: the term clearly more often in highlighted
    regions.

    Where the regions do not say, a place or a color is the condition rather than the thing.
    """
    if formula.operator != "and":
        return formula
    order = {"concept": 0, "category": 0, "color": 1, "tone": 1, "background": 2}
    first, second = sorted(
        formula.terms, key=lambda term: (order[term.kind], -looked_at.get(term, 0.0), term.name)
    )
    if looked_at.get(second, 0.0) - looked_at.get(first, 0.0) > _CLEARLY_MORE:
        first, second = second, first
    return Explanation("and", (first, second))
