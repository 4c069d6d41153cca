"""Is the label right? Concepts that a label names against those that a unit is made of.

A phrase means a set of things of the embedded world (a category all of its members), so that synonyms are
equal and "reptile" is not "snake". Words outside that world mean themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    named: list[Sense] = []
    chunk: list[Token] = []
    for term in (*read(text), Token("comma", ",", ())):
        if term.kind in _DIVIDERS:
            named += _chunk(chunk)
            chunk = []
        elif term.kind not in _SILENT:
            chunk.append(term)
    return list(dict.fromkeys(named))


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
    parts = [part for label in labels for part in label.split(" OR ")]
    return list(dict.fromkeys(sense for part in parts for sense in senses(part)))


def operator_of(labels: Sequence[str]) -> str:
    """Return how the labels combine what they name: mono, or, given (any conjunction), and-not."""
    parts = [part for label in labels for part in label.split(" OR ")]
    if len(parts) > 1:
        return "or"
    if any(term.kind == "negation" for term in read(parts[0] if parts else "")):
        return "and-not"
    return "given" if len(senses(parts[0] if parts else "")) > 1 else "mono"


def abstained(labels: Sequence[str]) -> bool:
    """Return whether the unit was called not interpretable (or dead), or got no label."""
    return all(NOT_INTERPRETABLE in label.lower() or label.lower() == "dead" for label in labels)


@dataclass(frozen=True, slots=True)
class Score:
    """How right a label is. `right`: it names all concepts of the unit and no other.

    Recall, precision and the operator are None for a unit without meaning, of which only abstaining is right.
    """

    right: bool
    f1: float
    recall: float | None = None
    precision: float | None = None
    operator: bool | None = None


def score(unit: GymUnit, labels: Sequence[str]) -> Score:
    """Return how right labels are about a unit."""
    if unit.formula is None:
        right = abstained(labels)
        return Score(right, float(right))
    truth = [(senses(concept) or [frozenset({concept})])[-1] for concept in unit.formula.concepts]
    named = [] if abstained(labels) else named_by(labels)
    recall = _share_in(truth, named)
    precision = _share_in(named, truth)
    f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
    operator = bool(named) and operator_of(labels) == unit.formula.operator
    return Score(recall == precision == 1.0, f1, recall, precision, operator)


def _share_in(senses_of: Sequence[Sense], others: Sequence[Sense]) -> float:
    """Return the share of meanings that are among the others, 0.0 of none."""
    if not senses_of:
        return 0.0
    return sum(any(same(sense, other) for other in others) for sense in senses_of) / len(senses_of)
