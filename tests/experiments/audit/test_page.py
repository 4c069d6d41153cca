"""What an audit found, as a page of the report."""

from __future__ import annotations

from dataclasses import replace

from experiments.audit.claims import Disagreement, TextClaims
from experiments.audit.context_survey import ContextEffect, Shown
from experiments.audit.page import page
from experiments.audit.real.audit import RealSection
from experiments.audit.real_images import MatchedClass
from experiments.audit.record import AuditRecord
from experiments.audit.replication import Replication
from experiments.audit.subgroups import Average, Findings, Subgroup
from experiments.report import site
from experiments.report.charts import styled
from tests.experiments.report import markup
from tests.experiments.report.run_directories import FakeRun, picture


def effect(name: str, context: str, mean: float, others: float, biased: bool) -> ContextEffect:
    return ContextEffect(
        name,
        context,
        mean,
        (mean - 0.05, mean + 0.04),
        others,
        mean - others,
        0.001,
        0.004 if biased else 0.6,
        12,
        0,
        biased,
    )


RECORD = AuditRecord(
    effects=[
        effect("<b>tench</b>", "background: snow", 0.21, 0.72, True),
        effect("<b>tench</b>", "colour: red", 0.70, 0.66, False),
        effect("kite", "background: snow", 0.50, 0.51, False),
    ],
    detectable={"<b>tench</b>": 0.11, "kite": 0.23},
    usual={"<b>tench</b>": 0.7, "kite": 0.51},
    values={"<b>tench</b>": {"colour: red": [0.7, 0.9]}, "kite": {"size: small": [0.5]}},
    answers={"kite": "No bias was found."},
    claims={"kite": TextClaims()},
    undrawn={"kite": ["count: two"]},
    lowest={"<b>tench</b>": [], "kite": []},
    telling={"<b>tench</b>": [], "kite": []},
    disagreements=[Disagreement("kite", "unsupported", "size: small", 0.0)],
)
QUIET = replace(RECORD, effects=RECORD.effects[1:], disagreements=[], undrawn={})


def test_findings_come_first_then_classes_then_what_would_have_been_found(tmp_path):
    run = FakeRun(tmp_path / "run")
    page(RECORD).save(run.root, "audit")
    site.write(run.root)
    shown = markup.check(run.root / "report" / "experiments" / "audit.html")
    text = " ".join(shown.text.split())
    assert "1 of 2 classes have a context in which the probability surely differs by more than 0.1" in text
    assert "1 stood out at first and were shown again" in text
    order = [
        "Findings: background",
        "<b>tench</b>: lower with snow",
        "All findings on generated images",
        "Where an agent's words",
        "probability of <b>tench</b>",
        "What would have been found",
        "Not tested, for want of images",
    ]
    assert sorted(order, key=text.index) == order
    assert "✗ no such difference was measured" in text
    assert "? On real images: no real images" in text
    assert "The agent's text: no agent wrote about this class" in text
    assert "Of 1 text (kite) known words alone were read" in text
    assert "No bias was found." in text


def test_an_audit_without_findings_says_what_would_have_been_found():
    made = page(QUIET)
    assert made.summary.startswith("On generated images 0 of 2 classes")
    assert [block.kind for block in made.blocks] == ["text", "bars", "bars", "table"]
    assert made.blocks[-1].rows[0] == ("kite", 0.23, 0.51, "nothing")


def test_a_class_that_no_image_was_taken_for_is_said_to_be_unmeasured():
    values = {
        "<b>tench</b>": {"colour: red": [0.7]},
        "kite": {"size: small": [0.0, 0.03], "colour: red": [0.01]},
    }
    made = page(replace(QUIET, values=values))
    rows = {row[0]: row[3] for row in made.blocks[-1].rows}
    assert rows["kite"] == "nothing could be measured"
    assert made.summary.endswith("Of 1 class nothing could be measured.")
    assert "nothing" not in page(QUIET).summary


def test_the_worst_images_of_a_class_stand_below_its_contexts_with_what_they_show(tmp_path):
    run = FakeRun(tmp_path / "run")
    images = [picture(number) for number in range(3)]
    run.store(*images)
    shown = [
        Shown(context, image.id, probability)
        for context, image, probability in zip(
            ("background: snow", "size: small", "background: snow"), images, (0.01, 0.02, 0.03), strict=True
        )
    ]
    telling = [shown[0], shown[2], replace(shown[1], image="0" * 32)]
    record = replace(
        RECORD, lowest={"<b>tench</b>": shown[:2], "kite": []}, telling={"<b>tench</b>": telling, "kite": []}
    )
    page(record).save(run.root, "audit")
    site.write(run.root)
    page_path = run.root / "report" / "experiments" / "audit.html"
    pictures = [*markup.check(page_path).find("img")]
    assert [image.attributes["alt"] for image in pictures] == [
        "<b>tench</b>, background: snow: probability 0.010",
        "<b>tench</b>, background: snow: probability 0.030",
        "<b>tench</b>, background: snow: probability 0.010",
        "<b>tench</b>, size: small: probability 0.020",
    ], "those of the finding, then those with the least probability"
    assert all((page_path.parent / image.attributes["src"]).is_file() for image in pictures)


REAL = RealSection(
    dataset="birds",
    source="column 'y' of metadata.csv",
    matches=[MatchedClass("1", 4, "kite", "as assigned", (), 60), MatchedClass("9", None, "", "", (), 2)],
    images={"kite": 60},
    unreadable=0,
    found=Findings(
        subgroups=(
            Subgroup("kite", "place", "<i>sea</i>", 50, 0.5, (0.3, 0.7), 0.45),
            Subgroup("kite", "place", "land", 10),
        ),
        worst=None,
        averages=(Average("", 0.5, (0.4, 0.6)),),
        associations=(),
        replications=(
            Replication(
                "<b>tench</b>",
                "background: snow",
                -0.5,
                "replicated",
                "observers",
                30,
                40,
                -0.2,
                (-0.3, -0.1),
                0.01,
                0.8,
                -0.25,
            ),
        ),
    ),
    answers=[],
)


def test_a_page_says_what_was_audited_by_what_and_what_real_images_say_of_each_finding(tmp_path):
    run = FakeRun(tmp_path / "run")
    facts = {"generator": "scenes (embedded stand-in) 1", "observers": "gpt-x"}
    beyond = {"zebra": "its probability is 0.020 at most in 12 ordinary generated images"}
    record = replace(RECORD, model="resnet50", profile="mine", facts=facts, real=REAL, out_of_reach=beyond)
    page(record).save(run.root, "audit")
    site.write(run.root)
    text = " ".join(markup.check(run.root / "report" / "experiments" / "audit.html").text.split())
    assert "Network: resnet50. Profile: mine." in text
    assert "Stand-ins answered as generator:" in text
    assert "replicated: -0.200 (-0.300 to -0.100) on 30 real images with this context, 40 without" in text
    assert "errors of the observers shrink it to 0.80: corrected -0.250" in text
    assert "<i>sea</i>" in text
    assert "too few" in text
    assert "On the 60 real images that were looked at, each counting once, the accuracy is 0.500" in text
    assert "1 class is out of reach of the image maker" in text
    assert "zebra: its probability is 0.020 at most in 12 ordinary generated images" in text


def test_a_finding_stands_between_images_of_both_sides_with_what_bears_it_out(tmp_path):
    run = FakeRun(tmp_path / "run")
    inside, outside = picture(1), picture(2)
    run.store(inside, outside)
    snow, red = Shown("background: snow", inside.id, 0.2), Shown("colour: red", outside.id, 0.7)
    record = replace(
        RECORD,
        ordinary={"<b>tench</b>": ["colour: red"]},
        fresh={"<b>tench</b>": {"background: snow": [0.2, 0.21, 0.22, 0.2]}},
        rest={"<b>tench</b>": {"colour: red": [0.7, 0.72, 0.74]}},
        typical={"<b>tench</b>": [snow, red]},
        answers={"<b>tench</b>": "Lower on snow."},
        claims={},
        real=REAL,
    )
    contrast = next(block for block in page(record).blocks if block.kind == "contrast")
    assert contrast.difference.low < contrast.difference.value == effect_of(record).difference
    assert contrast.difference.high < 0
    assert [check.holds for check in contrast.checks] == [True, True], "replicated, and named by the agent"
    page(record).save(run.root, "audit")
    site.write(run.root)
    shown = markup.check(run.root / "report" / "experiments" / "audit.html")
    section = next(shown.find("section", class_="contrast"))
    assert [image.attributes["alt"] for image in section.find("img")] == [
        "<b>tench</b>, background: snow: probability 0.200",
        "<b>tench</b>, colour: red: probability 0.700",
    ]
    missed = replace(record, disagreements=[Disagreement("<b>tench</b>", "missed", "background: snow", -0.5)])
    contrast = next(block for block in page(missed).blocks if block.kind == "contrast")
    assert contrast.checks[1].holds is False


def effect_of(record: AuditRecord) -> ContextEffect:
    return record.biased[0]


def test_an_audit_of_many_classes_opens_on_a_table_of_classes_by_effect():
    names = [f"class {number}" for number in range(1000)]
    effects = [
        effect(name, "background: snow", 0.5 - number / 3000, 0.7, True) for number, name in enumerate(names)
    ]
    values = {name: {"size: small": [0.5]} for name in names}
    many = replace(
        RECORD,
        effects=effects,
        usual=dict.fromkeys(names, 0.7),
        values=values,
        lowest={},
        undrawn={},
        detectable={},
    )
    table = page(many).blocks[1]
    assert table.title == "Classes by effect"
    assert [row[0] for row in table.rows[:2]] == ["class 999", "class 998"]
    assert len(table.rows) == 1000
    assert sum(block.kind == "contrast" for block in page(many).blocks) == 40


def test_a_color_means_the_same_in_every_plot():
    lower = replace(RECORD, effects=[effect("kite", "background: snow", 0.2, 0.7, True)])
    higher = replace(RECORD, effects=[effect("kite", "background: snow", 0.9, 0.3, True)])
    plots = [next(b for b in page(record).blocks if b.kind == "bars") for record in (lower, higher, RECORD)]
    styles = [dict(styled(plot)) for plot in plots]
    assert styles[0] == {"lower": "s1"}
    assert styles[1] == {"higher": "s0"}
    assert styles[2] == {"lower": "s1", "ordinary": "s5"}
    assert plots[0].reference == 0.51, "the mean in ordinary contexts is a line"
