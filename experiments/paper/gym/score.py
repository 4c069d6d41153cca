"""Is the label right? Concepts that a label names against those that a unit is made of.

A phrase means a set of things of the embedded world (a category all of its members), so that synonyms are
equal and "reptile" is not "snake". Words outside that world mean themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.embedded.drawing.lexicon import Token, read
from actors.embedded.drawing.vocabulary import vocabulary
from agents.tasks.describe_unit import NOT_INTERPRETABLE
from experiments.paper.gym.neurons import GymUnit

Sense = frozenset[str]

SAME = 0.5
"""Share of their union that two meanings must have in common to count as one ("brick" and "brick wall")."""

_DIVIDERS = ("and", "comma", "relation", "preposition", "negation")
_SILENT = ("article", "filler", "count", "size", "generic", "setting", "position", "action")


def senses(text: str) -> list[Sense]:
    """Return what a text names, in order. In a row of nouns ("car window") the last is meant."""
    found: list[Sense] = []
    chunk: list[Token] = []
    for term in (*read(text), Token("comma", ",", ())):
        if term.kind in _DIVIDERS:
            found += [sense for sense in _chunk(chunk) if sense not in found]
            chunk = []
        elif term.kind not in _SILENT:
            chunk.append(term)
    return found


def _chunk(terms: Sequence[Token]) -> list[Sense]:
    nouns = [term for term in terms if term.kind in ("thing", "background")]
    colors = [frozenset({f"color {term.value}"}) for term in terms if term.kind == "color"]
    strange = [frozenset({word}) for term in terms if term.kind == "unknown" for word in term.words]
    return [*colors, *([_noun(nouns[-1])] if nouns else strange)]


def _noun(term: Token) -> Sense:
    if term.kind == "background":
        return frozenset({term.value})
    names = {concept.name for concept in vocabulary().members(term.value)}
    kind, _, place = term.also.partition(":")
    return frozenset(names | {place}) if kind == "background" else frozenset(names)


def same(first: Sense, second: Sense) -> bool:
    return len(first & second) >= SAME * len(first | second)


def named_by(labels: Sequence[str]) -> list[Sense]:
    """Return everything that the labels name."""
    found: list[Sense] = []
    for label in labels:
        for part in label.split(" OR "):
            found += [sense for sense in senses(part) if sense not in found]
    return found


def operator_of(labels: Sequence[str]) -> str:
    """Return how the labels combine what they name: mono, or, given (any conjunction), and-not."""
    parts = [part for label in labels for part in label.split(" OR ")]
    if len(parts) > 1:
        return "or"
    if any(term.kind == "negation" for term in read(parts[0] if parts else "")):
        return "and-not"
    return "given" if len(senses(parts[0] if parts else "")) > 1 else "mono"


def abstained(labels: Sequence[str]) -> bool:
    """Say whether the unit was called not interpretable (or dead), or got no label."""
    return all(NOT_INTERPRETABLE in label.lower() or label.lower() == "dead" for label in labels)


def score(unit: GymUnit, labels: Sequence[str]) -> dict[str, Any]:
    """Return concept recall, precision and F1, whether the operator is right, and `right`: all concepts, no
    other.

    For a unit without meaning only abstaining is right.
    """
    if unit.formula is None:
        right = abstained(labels)
        return {"right": right, "f1": float(right), "recall": None, "precision": None, "operator": None}
    truth = [
        each[-1] if each else frozenset({concept})
        for concept in unit.formula.concepts
        for each in [senses(concept)]
    ]
    named = [] if abstained(labels) else named_by(labels)
    recall = sum(any(same(each, other) for other in named) for each in truth) / len(truth)
    precision = (
        sum(any(same(each, other) for other in truth) for each in named) / len(named) if named else 0.0
    )
    f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
    return {
        "right": recall == precision == 1.0,
        "recall": recall,
        "precision": precision,
        "f1": f1,
        "operator": bool(named) and operator_of(labels) == unit.formula.operator,
    }
