"""What contradicts the leading explanation is followed up, and what was never really shown is looked at
again.
"""

from __future__ import annotations

import random

import pytest

from actors.embedded.language.words import Term, embedded_words
from actors.embedded.reasoning.appraisal import Appraisal
from actors.embedded.reasoning.formulas import Explanation
from actors.embedded.reasoning.stimuli import Stimulus, Thing
from actors.embedded.reasoning.study_state import Row, StudyState, ViewedExemplar

WORDS = embedded_words()
VIOLIN = Explanation("is", (Term("concept", "violin"),))


def row(activation: float, *things: Thing, round: int = 2) -> Row:
    return Row(round, Stimulus(things, "snow"), activation)


def rows_of_a_violin_unit() -> list[Row]:
    others = random.Random(0).sample([name for name in WORDS.concepts if name not in ("violin", "dog")], 16)
    violins = [row(0.9 + place / 100, Thing("violin"), round=1 + place % 2) for place in range(10)]
    return violins + [
        row(0.01 * place, Thing(name), round=1 + place % 2) for place, name in enumerate(others)
    ]


def suspected(rows: list[Row]) -> list[str]:
    appraisal = Appraisal(StudyState(rows=rows), WORDS)
    standing = appraisal.standing()
    assert standing is not None
    assert standing.lead == VIOLIN
    return [name for each in appraisal.suspects(standing) for name in each.stimulus.concepts]


def test_an_unexplained_thing_is_a_suspect_until_it_was_shown_three_times():
    rows = rows_of_a_violin_unit()
    assert suspected(rows) == []
    assert suspected([*rows, row(0.95, Thing("dog"))]) == ["dog"]
    assert suspected([*rows, row(0.95, Thing("dog")), row(0.0, Thing("dog"))]) == ["dog"]
    assert suspected([*rows, row(0.95, Thing("dog")), row(0.0, Thing("dog")), row(0.0, Thing("dog"))]) == []


@pytest.mark.parametrize(
    ("things", "tried"),
    [
        ((Thing("dog"),), True),
        ((Thing("dog"), Thing("teapot")), True),
        ((Thing("dog", size="large"), Thing("teapot")), True),
        ((Thing("dog"), Thing("teapot", size="large")), False),
        ((Thing("dog", size="small"),), False),
        ((Thing("dog", "purple"),), False),
        ((Thing("dog"), Thing("violin")), False),
    ],
    ids=str,
)
def test_a_concept_counts_as_tried_if_it_was_there_to_be_seen(things, tried):
    appraisal = Appraisal(StudyState(rows=[*rows_of_a_violin_unit(), row(0.0, *things)]), WORDS)
    assert ("dog" not in appraisal.untried(VIOLIN)) == tried


def few_exemplars(*rows: Row) -> Appraisal:
    """Two strong exemplars, each taken for another tool, and many silent ones."""
    strong = [ViewedExemplar(0.9, "A white telescope."), ViewedExemplar(0.6, "A red dagger.")]
    return Appraisal(
        StudyState(exemplars=[*strong, *[ViewedExemplar(0.0, "A cake.")] * 13], rows=list(rows)), WORDS
    )


def test_hints_begin_with_what_strong_exemplars_were_taken_for():
    hinted = few_exemplars().hinted()
    assert hinted[:2] == ["telescope", "dagger"]
    assert "wrench" in hinted
    assert "cake" not in hinted
    assert "dagger" not in few_exemplars(row(0.0, Thing("dagger"))).hinted()


def test_a_strong_image_is_a_hit_until_its_thing_was_shown_three_times():
    weak = row(0.01, Thing("dagger"))
    hits = few_exemplars(weak, row(0.8, Thing("wrench"))).hits()
    assert [each.stimulus.concepts for each in hits] == [("wrench",)]
    assert few_exemplars(weak, *[row(0.8, Thing("wrench"))] * 3).hits() == []
    assert few_exemplars(weak).hits() == few_exemplars().hits() == []
