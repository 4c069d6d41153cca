"""The best-scoring formula is the one that made the numbers."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from actors.embedded.drawing.vocabulary import Noun, Setting
from actors.embedded.language.words import Term, Words, embedded_words
from actors.embedded.reasoning.appraisal import Appraisal
from actors.embedded.reasoning.formulas import Explanation, MeasuredTerms, auroc
from actors.embedded.reasoning.stimuli import Stimulus, Thing
from actors.embedded.reasoning.study_state import Row, StudyState, ViewedExemplar

WORDS = Words(
    concepts={
        name: Noun(name, categories=(kind,), colors=("gray",))
        for kind, names in {"animal": "dog cat cow", "vehicle": "car bus", "food": "pie egg"}.items()
        for name in names.split()
    },
    categories={kind: Noun(kind) for kind in ("animal", "vehicle", "food")},
    backgrounds={name: Setting(name, f"on {name}") for name in ("grass", "snow", "sand")},
    colors=("gray", "red", "blue"),
)
DOG, CAR, SNOW, ANIMAL = (
    Term("concept", "dog"),
    Term("concept", "car"),
    Term("background", "snow"),
    Term("category", "animal"),
)


def rows_of(unit: Callable[[dict[Term, float]], float], count: int = 120) -> list[Row]:
    rng = random.Random(3)
    rows = []
    for index in range(count):
        names = rng.sample(list(WORDS.concepts), rng.choice((1, 2)))
        plan = Stimulus(
            tuple(Thing(name, rng.choice(("", "red"))) for name in names), rng.choice(list(WORDS.backgrounds))
        )
        rows.append(Row(index // 30, plan, unit(plan.terms(WORDS)) + rng.gauss(0, 0.05)))
    return rows


@pytest.mark.parametrize(
    ("truth", "unit"),
    [
        (Explanation("is", (DOG,)), lambda t: float(DOG in t)),
        (Explanation("is", (ANIMAL,)), lambda t: float(ANIMAL in t)),
        (Explanation("or", (SNOW, DOG)).ordered(), lambda t: float(SNOW in t or DOG in t)),
        (Explanation("and", (SNOW, ANIMAL)).ordered(), lambda t: float(SNOW in t and ANIMAL in t)),
        (Explanation("without", (ANIMAL, SNOW)), lambda t: float(ANIMAL in t and SNOW not in t)),
    ],
)
def test_the_true_formula_wins(truth: Explanation, unit: Callable[[dict[Term, float]], float]) -> None:
    assert MeasuredTerms(rows_of(unit), [], WORDS).ranked()[0].formula == truth


def test_a_suppressing_term_does_not_explain_a_unit() -> None:
    merits = MeasuredTerms(rows_of(lambda t: -float(DOG in t)), [], WORDS).ranked()
    assert all(merit.formula != Explanation("is", (DOG,)) for merit in merits)


def test_exemplars_alone_suggest_but_measurements_decide() -> None:
    exemplars = [frozenset({CAR, SNOW})] * 12
    words = embedded_words()
    assert CAR in MeasuredTerms([], exemplars, words).ranked()[0].formula.terms
    assert MeasuredTerms(rows_of(lambda t: float(SNOW in t)), exemplars, WORDS).ranked()[
        0
    ].formula == Explanation("is", (SNOW,))


def test_one_lucky_image_is_no_answer() -> None:
    rows = rows_of(lambda t: 0.0)
    lucky = Row(0, Stimulus((Thing("dog"),), "snow"), 9.0)
    state = StudyState(rows=[*rows, lucky], rounds=4, exemplars=[ViewedExemplar(1.0)])
    standing = Appraisal(state, WORDS).standing(final=True)
    assert standing is None or not standing.acceptable


def test_a_named_part_must_do_its_share_alone() -> None:
    """Cars stood beside dogs: alone they do nothing, so they are no second concept."""
    state = StudyState(rows=rows_of(lambda t: float(DOG in t)), rounds=4)
    assert Appraisal(state, WORDS).pruned(Explanation("or", (CAR, DOG))) == Explanation("is", (DOG,))
    assert Appraisal(state, WORDS).pruned(Explanation("without", (DOG, SNOW))) == Explanation("is", (DOG,))


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == 0.875
    assert auroc(np.array([]), np.array([1.0])) == 0.5
