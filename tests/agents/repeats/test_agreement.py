"""Agreement is measured on images and not on words, and what was not measured is not counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from actors.images import Image
from agents.records.record_types import StudyResult
from agents.repeats import agreement
from agents.repeats.agreement import LabeledStudy
from tests.tools.fakes import picture_of

TRIAL = {"image": "0" * 16, "activation": 1.0}
PICTURES = {f"{kind} {i}": picture_of(f"{kind} {i}") for kind in ("dog", "car", "cup") for i in range(4)}
SHOWN = {image.id: name.split()[0] for name, image in PICTURES.items()}
MEANS = {"dogs": {"dog"}, "canines": {"dog"}, "things": {"dog", "car", "cup"}, "cars": {"car"}}


async def shows(questions: Sequence[tuple[Image, str]]) -> list[bool | None]:
    assert len(set(questions)) == len(questions), "no question is asked twice"
    return [None if label == "blurs" else SHOWN[image.id] in MEANS[label] for image, label in questions]


def answer(number: int, label: str, kind: str) -> LabeledStudy:
    positives = tuple((f"{kind} {i}", label) for i in range(4))
    return LabeledStudy(number, (label,), positives, tuple(f"cup {i}" for i in range(4)))


async def measured(*found: LabeledStudy) -> agreement.Agreement:
    return await agreement.measure(len(found), found, PICTURES.__getitem__, shows)


async def test_labels_in_other_words_agree_where_their_images_show_the_same() -> None:
    found = await measured(answer(1, "dogs", "dog"), answer(2, "canines", "dog"))
    assert found.value == 1.0
    assert found.seen[("dogs", "canines")] == (4, 4)


async def test_labels_of_different_things_agree_no_better_than_chance() -> None:
    found = await measured(answer(1, "dogs", "dog"), answer(2, "cars", "car"))
    assert found.value == 0.5


async def test_a_label_that_is_seen_in_everything_agrees_no_better_than_chance() -> None:
    found = await measured(answer(1, "things", "dog"), answer(2, "dogs", "dog"))
    predicted = {(pair.label_of, pair.images_of): pair.predicted for pair in found.pairs}
    assert predicted == {(1, 2): 0.5, (2, 1): 1.0}


async def test_images_without_a_clear_answer_of_the_witness_are_left_out() -> None:
    found = await measured(answer(1, "blurs", "dog"), answer(2, "dogs", "dog"))
    assert [(pair.label_of, pair.predicted) for pair in found.pairs] == [(2, 1.0)]


async def test_a_single_label_has_no_agreement() -> None:
    found = await measured(answer(1, "dogs", "dog"))
    assert found.record().to_json() == {"value": None, "studies": 1, "labelled": 1, "pairs": []}


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": [], "evidence": {"positives": [TRIAL], "controls": [TRIAL]}},
        {"labels": ["not interpretable"], "evidence": {"kind": "abstention"}},
        {"labels": ["dogs"], "evidence": None},
    ],
)
def test_a_study_without_a_tested_label_takes_no_part(fields: dict[str, Any]) -> None:
    result = StudyResult.model_validate({"unit": "u", **fields})
    assert agreement.labeled_study(1, result) is None
