"""What an audit found, as a page of the report."""

from __future__ import annotations

from experiments.audit_page import page
from experiments.report import write_site
from tests.experiments.report import markup
from tests.experiments.report.run_directories import FakeRun


def effect(name: str, context: str, mean: float, others: float, biased: bool) -> dict:
    return {
        "class_name": name,
        "context": context,
        "mean": mean,
        "interval": [mean - 0.05, mean + 0.04],
        "others": others,
        "difference": mean - others,
        "p": 0.001,
        "q": 0.004 if biased else 0.6,
        "n": 12,
        "notes": 0,
        "biased": biased,
    }


RESULT = {
    "effects": [
        effect("<b>tench</b>", "background: snow", 0.21, 0.72, True),
        effect("<b>tench</b>", "colour: red", 0.70, 0.66, False),
        effect("kite", "background: snow", 0.50, 0.51, False),
    ],
    "detectable": {"<b>tench</b>": 0.11, "kite": 0.23},
    "answers": {"kite": "No bias was found."},
    "disagreements": [
        {"class_name": "kite", "kind": "unsupported", "context": "size: small", "difference": 0.0}
    ],
}


def test_findings_come_first_then_classes_then_what_would_have_been_found(tmp_path):
    run = FakeRun(tmp_path / "run")
    page(RESULT, 0.1).save(run.root, "audit")
    write_site(run.root)
    shown = markup.check(run.root / "report" / "experiments" / "audit.html")
    text = " ".join(shown.text.split())
    assert "1 of 2 classes have a context in which their probability differs by 0.1 or more" in text
    order = [
        "Findings",
        "Where an agent's words",
        "probability of <b>tench</b>",
        "What would have been found",
    ]
    assert sorted(order, key=text.index) == order
    assert "kite: unsupported, size: small" in text
    assert "No bias was found." in text


def test_an_audit_without_findings_says_what_would_have_been_found():
    quiet = {**RESULT, "effects": RESULT["effects"][1:], "disagreements": []}
    made = page(quiet, 0.1)
    assert made.summary.startswith("0 of 2 classes")
    assert [block.kind for block in made.blocks] == ["bars", "bars", "table"]
    assert made.blocks[-1].rows[0] == ("kite", 0.23, "nothing")
