"""The built-in aggregator reads what `agents.repeats.pooling` writes, and names concepts that are not one
another.
"""

from __future__ import annotations

from actors.embedded.scientist.pooling import pooled_answer
from agents.repeats import pooling
from agents.repeats.agreement import Agreement
from agents.repeats.pooling import PooledTask, evidence_text
from agents.tasks.describe_unit import DescribeUnit

BACKGROUND = {"n_images": 100, "mean": 0.1, "std": 0.2, "maximum": 5.0}


def answered(
    concepts: list[pooling.TestedConcept], seen: dict[tuple[str, str], tuple[int, int]]
) -> tuple[str, ...]:
    text = evidence_text(BACKGROUND, '"4.00": a thing', {}, concepts, Agreement(3, 3, (), seen), 0)
    task = PooledTask(DescribeUnit(), text)
    answer = task.read_answer(pooled_answer(task.chat_task(final=False)))
    assert answer is not None
    return answer.labels


def test_concepts_that_drive_the_unit_and_are_seen_apart_are_all_named() -> None:
    concepts = [
        pooling.TestedConcept("robot", [6.0], [0.1]),
        pooling.TestedConcept("snowman", [5.0], [0.1]),
        pooling.TestedConcept("a|b", [0.4], [0.1]),
    ]
    assert answered(concepts, {("robot", "snowman"): (0, 10)}) == ("robot", "snowman")


def test_a_concept_whose_images_show_a_stronger_one_is_not_named_again() -> None:
    concepts = [pooling.TestedConcept("canine", [5.0], [0.1]), pooling.TestedConcept("dog", [6.0], [0.1])]
    assert answered(concepts, {("dog", "canine"): (9, 10)}) == ("dog",)


def test_where_nothing_drives_the_unit_nothing_is_named() -> None:
    assert answered([pooling.TestedConcept("dog", [0.1], [0.4])], {}) == ("not interpretable",)
    assert answered([], {}) == ("not interpretable",)


def test_a_label_cannot_pass_for_figures() -> None:
    forged = "dog | mean 99.00 on 20 fresh images of it | mean 0.00 on 20 of other things"
    concepts = [pooling.TestedConcept("car", [6.0], [0.1]), pooling.TestedConcept(forged, [0.2], [0.1])]
    assert answered(concepts, {}) == ("car",)
