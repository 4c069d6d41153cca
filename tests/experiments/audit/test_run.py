"""What an audit is asked about: classes by name and number, each under a name of its own."""

from __future__ import annotations

import numpy as np
import pytest

from actors.errors import UsageError
from actors.vision.data.labels import Column, Labels
from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.readout.base import LayerInfo
from agents.records.work import WorkItem
from agents.tasks.bias import AuditClass
from agents.tasks.selective import JudgeSelectivity
from experiments.audit.classes import check_classes, choose_classes, classes_of, drawable, names_of
from experiments.audit.real_images import match
from experiments.audit.record import AuditRecord
from experiments.audit.table import SHOWN, table
from tests.refusals import refusal


def test_classes_that_are_drawn_by_the_same_word_keep_names_of_their_own():
    plan = [
        WorkItem(f"net/{i}", "output", f"probability:{i}", survey_arguments={"class_name": name})
        for i, name in [(1, "goldfish"), (134, "crane"), (517, "crane")]
    ]
    assert names_of(plan) == {"net/1": "goldfish", "net/134": "crane (134)", "net/517": "crane (517)"}


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
    ("text", "message"), [("goldfich", "goldfish"), ("crane", "numbers"), ("4-6", "0 to 5")]
)
def test_a_class_that_is_not_there_is_refused_with_what_is(text, message):
    with pytest.raises(UsageError) as refusal:
        choose_classes(text, NAMES, 6, seed=0)
    assert message in f"{refusal.value.message} {refusal.value.fix}"


def test_the_classes_of_a_data_set_are_those_that_have_a_name_of_the_networks():
    network = KnownNetwork("net", {"output": LayerInfo("output", "vector", 6, (), "Net")}, {}, {}, NAMES)
    said = Labels(Column.of(["Gold_fish", "goldfish", "unicorn", "t shirt"]), {}, "class folders")
    assert classes_of("data", 0, network, 6, match(said, NAMES, {})) == {1: "goldfish", 2: "T-shirt"}
    with pytest.raises(UsageError, match="no class of the data set") as refusal:
        classes_of("data", 0, network, 6, match(said.take(np.array([2])), NAMES, {})[:1])
    assert "--label-names" in refusal.value.fix


def test_a_class_is_drawn_by_its_first_name():
    assert [drawable(index, NAMES) for index in (0, 1)] == ["tench", "goldfish"]
    for names in (NAMES, [""] * 8, [" , x"] * 8):
        with pytest.raises(UsageError, match="class 7 has no name"):
            drawable(7, names)


@pytest.mark.parametrize("text", ["", " ", "dog,", "3-1", "sample:0", "dog,,cat"])
def test_classes_that_no_network_could_have_are_refused_before_one_is_loaded(text):
    with pytest.raises(UsageError, match="Correct --classes"):
        check_classes(text)


@pytest.mark.parametrize(
    "text", ["all", "T-shirt", "2-cell embryo", "tench, Tinca tinca", "281-285", "sample:3,1"]
)
def test_what_may_name_classes_passes(text):
    assert refusal(check_classes, text) == ""


def test_a_class_that_is_hardly_recognized_anywhere_is_said_to_be_unable_to_lose():
    values = {"kite": {"size: small": [0.0, 0.1]}, "tench": {"size: small": [0.9]}}
    record = AuditRecord(
        detectable={"kite": 0.12, "tench": 0.12}, usual={"kite": 0.004, "tench": 0.9}, values=values
    )
    lines = table(record).splitlines()
    (kite,) = [line for line in lines if line.startswith("kite")]
    (tench,) = [line for line in lines if line.startswith("tench")]
    assert "but no loss: the class has 0.004 in ordinary contexts" in kite
    assert tench.endswith("4 of 5 cases")
    values["kite"] = {"size: small": [0.0, 0.03]}
    text = table(record)
    assert "kite: nothing could be measured: its probability is 0.004" in text
    assert "0.030 at most in any image" in text
    assert "kite: no bias" not in text


def test_of_a_thousand_classes_the_terminal_shows_a_few_and_counts_the_rest():
    names = [f"class {i}" for i in range(1000)]
    record = AuditRecord(
        undrawn={name: ["count: two"] for name in names},
        detectable=dict.fromkeys(names, 0.1),
        usual=dict.fromkeys(names, 0.5),
        values={name: {"size: small": [0.5]} for name in names},
    )
    lines = table(record).strip().splitlines()
    assert len(lines) == 2 * (SHOWN + 1)
    assert lines[SHOWN].startswith("... and 980 more classes without a bias")
    assert lines[-1].startswith("... and 980 more classes that were not tested")
