"""Planted biases are found, and where there is none, the smallest that could have been found is told."""

from __future__ import annotations

import numpy as np
import pytest

from actors.errors import UsageError
from agents.tasks.bias import AuditClass
from agents.tasks.selective import JudgeSelectivity
from agents.work import WorkItem
from experiments.audit import (
    CONTEXTS,
    LEAST,
    ClassAudit,
    UndrawableError,
    _drawable,
    choose_classes,
    judge,
    measure_class,
    names_of,
)
from tests.tools.fakes import FakeStudio, FakeSubject

pytestmark = pytest.mark.anyio


def noise(text: str) -> float:
    """Return a number in [0, 0.2) that belongs to the text."""
    return (hash_of(text) % 1000) / 5000


def hash_of(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


async def audited(activation, name: str, per_context: int = 12) -> ClassAudit:
    studio = FakeStudio()
    counter = iter(range(10**6))
    subject = FakeSubject(studio, lambda shown: activation(shown) + noise(f"{name} {next(counter)}"))
    return await measure_class(studio, subject, name, per_context=per_context, seed=3)


@pytest.mark.parametrize("words", ["in the snow", "red ", "next to a person", "small "])
async def test_a_planted_bias_is_found_in_its_context_alone(words):
    audit = await audited(lambda shown: 0.3 if words in shown else 0.7, "kayak")
    biased = [effect for effect in judge([audit]) if effect.biased]
    assert len(biased) == 1
    assert words.strip() in CONTEXTS[biased[0].context]
    assert biased[0].difference == pytest.approx(-0.4, abs=0.05)
    low, high = biased[0].interval
    assert low < biased[0].mean < high < 0.6


async def test_unbiased_classes_raise_few_alarms_and_say_what_would_have_been_seen():
    audits = [await audited(lambda shown: 0.5, f"class {i}") for i in range(20)]
    alarms = {effect.class_name for effect in judge(audits) if effect.biased}
    assert len(alarms) <= 1, "5 % of 20 classes"
    assert all(LEAST < audit.detectable(20 * len(CONTEXTS)) < 0.2 for audit in audits)


def drawn(rng, name: str, spread: float, difference: float = 0.0) -> ClassAudit:
    values = {context: list(rng.normal(0.5, spread, 12)) for context in CONTEXTS}
    values["size: small"] = [value + difference for value in values["size: small"]]
    return ClassAudit(name, values, dict.fromkeys(CONTEXTS, 0))


@pytest.mark.parametrize("classes", [11, 40])
def test_a_single_biased_context_is_found_however_many_classes_are_audited(classes):
    rng = np.random.default_rng(2)
    audits = [drawn(rng, f"class {i}", 0.1, -0.3 if i == 0 else 0.0) for i in range(classes)]
    found = [(effect.class_name, effect.context) for effect in judge(audits) if effect.biased]
    assert found == [("class 0", "size: small")]


@pytest.mark.parametrize("spread", [0.005, 0.05, 0.2])
def test_what_is_said_to_be_found_in_four_of_five_cases_is_found_as_often(spread):
    rng = np.random.default_rng(3)
    others = [drawn(rng, f"class {i}", spread) for i in range(3)]
    found = []
    for _ in range(30):
        size = drawn(rng, "kayak", spread).detectable(4 * len(CONTEXTS))
        effects = judge([*others, drawn(rng, "kayak", spread, size)])
        found.append(
            any(e.biased and e.class_name == "kayak" and e.context == "size: small" for e in effects)
        )
    assert np.mean(found) > 0.6


def test_classes_that_are_drawn_by_the_same_word_keep_names_of_their_own():
    plan = [
        WorkItem(f"net/{i}", "output", f"probability:{i}", survey_arguments={"class_name": name})
        for i, name in [(1, "goldfish"), (134, "crane"), (517, "crane")]
    ]
    assert names_of(plan) == {"net/1": "goldfish", "net/134": "crane (134)", "net/517": "crane (517)"}


async def test_every_context_is_shown_the_same_number_of_times_with_seeds_of_its_own():
    studio = FakeStudio()
    subject = FakeSubject(studio, lambda shown: 0.5)
    await measure_class(studio, subject, "kayak", per_context=5, seed=1)
    assert len(set(studio.made)) == len(studio.made) == 5 * len(CONTEXTS)


async def test_a_class_that_cannot_be_drawn_is_told_and_not_called_unbiased():
    with pytest.raises(UndrawableError, match="declined"):
        await audited(lambda shown: 0.5, "forbidden thing")


def test_the_answers_of_audit_and_selectivity_are_read_and_nothing_else_is():
    audit = AuditClass("tench")
    assert '"tench"' in audit.opening()
    assert audit.read_answer("[BIAS]: lower in the\nsnow").label == "lower in the snow"
    assert audit.read_answer("[CODE]:\n```python\npass\n```") is None
    selective = JudgeSelectivity(["dog", "cat"], ["snow", "sand"])
    assert "dog, cat" in selective.opening()
    found = selective.read_answer("[REASONING]: by class.\n[LABEL]: Selective.")
    assert (found.label, found.description) == ("SELECTIVE", "by class.")
    assert selective.read_answer("[LABEL]: perhaps") is None


NAMES = ["tench, Tinca tinca", "goldfish", "T-shirt", "2-cell embryo", "crane", "crane"]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("tench, Tinca tinca", [0]),
        ("Tinca tinca,goldfish", [0, 1]),
        ("T-shirt, 3-4", [2, 3, 4]),
        ("5", [5]),
        ("1,5", [1, 5]),
    ],
)
def test_classes_are_chosen_by_name_number_and_range(text, chosen):
    assert choose_classes(text, NAMES, 6, seed=0) == chosen


@pytest.mark.parametrize(
    ("text", "told"), [("goldfich", "goldfish"), ("crane", "numbers"), ("4-6", "0 to 5")]
)
def test_a_class_that_is_not_there_is_refused_with_what_is(text, told):
    with pytest.raises(UsageError) as refusal:
        choose_classes(text, NAMES, 6, seed=0)
    assert told in f"{refusal.value.message} {refusal.value.fix}"


def test_a_class_is_drawn_by_its_first_name():
    assert [_drawable(index, NAMES) for index in (0, 1)] == ["tench", "goldfish"]
    with pytest.raises(UsageError, match="no name"):
        _drawable(7, NAMES)
