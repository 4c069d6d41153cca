"""What an audit found, as a page of the report."""

from __future__ import annotations

from experiments.audit.page import page
from experiments.report import write_site
from tests.experiments.report import markup
from tests.experiments.report.run_directories import FakeRun, picture


def effect(name: str, context: str, mean: float, others: float, biased: bool) -> dict:
    return {
        "class_name": name,
        "context": context,
        "mean": mean,
        "mean_interval": [mean - 0.05, mean + 0.04],
        "others": others,
        "difference": mean - others,
        "p": 0.001,
        "q": 0.004 if biased else 0.6,
        "n": 12,
        "notes": 0,
        "fresh": biased,
        "biased": biased,
    }


RESULT = {
    "effects": [
        effect("<b>tench</b>", "background: snow", 0.21, 0.72, True),
        effect("<b>tench</b>", "colour: red", 0.70, 0.66, False),
        effect("kite", "background: snow", 0.50, 0.51, False),
    ],
    "detectable": {"<b>tench</b>": 0.11, "kite": 0.23},
    "usual": {"<b>tench</b>": 0.7, "kite": 0.51},
    "values": {"<b>tench</b>": {"colour: red": [0.7, 0.9]}, "kite": {"size: small": [0.5]}},
    "answers": {"kite": "No bias was found."},
    "undrawn": {"kite": ["count: two"]},
    "lowest": {"<b>tench</b>": [], "kite": []},
    "telling": {"<b>tench</b>": [], "kite": []},
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
    assert "1 of 2 classes have a context in which the probability surely differs by more than 0.1" in text
    assert "1 stood out at first and were shown again" in text
    order = [
        "Findings on generated images",
        "Where an agent's words",
        "probability of <b>tench</b>",
        "What would have been found",
        "Not tested, for want of images",
    ]
    assert sorted(order, key=text.index) == order
    assert "kite: unsupported, size: small" in text
    assert "No bias was found." in text


def test_an_audit_without_findings_says_what_would_have_been_found():
    quiet = {**RESULT, "effects": RESULT["effects"][1:], "disagreements": [], "undrawn": {}}
    made = page(quiet, 0.1)
    assert made.summary.startswith("On generated images 0 of 2 classes")
    assert [block.kind for block in made.blocks] == ["text", "bars", "bars", "table"]
    assert made.blocks[-1].rows[0] == ("kite", 0.23, 0.51, "nothing")


def test_a_class_that_no_image_was_taken_for_is_said_to_be_unmeasured():
    quiet = {**RESULT, "effects": RESULT["effects"][1:], "disagreements": [], "undrawn": {}}
    values = {
        "<b>tench</b>": {"colour: red": [0.7]},
        "kite": {"size: small": [0.0, 0.03], "colour: red": [0.01]},
    }
    rows = {row[0]: row[3] for row in page(quiet | {"values": values}, 0.1).blocks[-1].rows}
    assert rows["kite"] == "nothing could be measured"
    assert page(quiet | {"values": values}, 0.1).summary.endswith("Of 1 class nothing could be measured.")
    assert "nothing" not in page(quiet, 0.1).summary


def test_the_worst_images_of_a_class_stand_below_its_contexts_with_what_they_show(tmp_path):
    run = FakeRun(tmp_path / "run")
    images = [picture(number) for number in range(3)]
    run.store(*images)
    shown = [
        {"context": context, "image": image.id, "probability": probability}
        for context, image, probability in zip(
            ("background: snow", "size: small", "background: snow"), images, (0.01, 0.02, 0.03), strict=True
        )
    ]
    result = RESULT | {
        "lowest": {"<b>tench</b>": shown[:2], "kite": []},
        "telling": {"<b>tench</b>": [shown[0], shown[2], shown[1] | {"image": "0" * 32}], "kite": []},
    }
    page(result, 0.1).save(run.root, "audit")
    write_site(run.root)
    page_path = run.root / "report" / "experiments" / "audit.html"
    pictures = [*markup.check(page_path).find("img")]
    assert [image.attributes["alt"] for image in pictures] == [
        "<b>tench</b>, background: snow: probability 0.010",
        "<b>tench</b>, size: small: probability 0.020",
        "<b>tench</b>, background: snow: probability 0.030",
    ]
    assert all((page_path.parent / image.attributes["src"]).is_file() for image in pictures)


REAL = {
    "dataset": "birds", "source": "column 'y' of metadata.csv", "images": {"kite": 60}, "unreadable": 0, "answers": [],
    "matches": [
        {"name": "1", "index": 4, "network_class": "kite", "how": "as told", "near": [], "images": 60},
        {"name": "9", "index": None, "network_class": "", "how": "", "near": [], "images": 2},
    ],
    "found": {
        "subgroups": [
            {"class_name": "kite", "attribute": "place", "level": "<i>sea</i>", "n": 50, "accuracy": 0.5,
             "accuracy_interval": [0.3, 0.7], "probability": 0.45},
            {"class_name": "kite", "attribute": "place", "level": "land", "n": 10, "accuracy": None,
             "accuracy_interval": None, "probability": None},
        ],
        "worst": None, "associations": [], "averages": [{"weighted_by": "", "accuracy": 0.5, "interval": [0.4, 0.6]}],
        "replications": [
            {"class_name": "<b>tench</b>", "context": "background: snow", "generated": -0.5, "verdict": "replicated",
             "told_by": "observers", "n": 30, "n_without": 40, "effect": -0.2, "interval": [-0.3, -0.1], "q": 0.01,
             "factor": 0.8, "corrected": -0.25},
        ],
    },
}  # fmt: skip


def test_a_page_says_what_was_audited_by_what_and_what_real_images_say_of_each_finding(tmp_path):
    run = FakeRun(tmp_path / "run")
    facts = {"generator": "scenes (embedded stand-in) 1", "observers": "gpt-x"}
    about = {"model": "resnet50", "profile": "mine", "facts": facts, "real": REAL}
    beyond = {"out_of_reach": {"zebra": "its probability is 0.020 at most in 12 ordinary generated images"}}
    page(RESULT | about | beyond, 0.1).save(run.root, "audit")
    write_site(run.root)
    text = " ".join(markup.check(run.root / "report" / "experiments" / "audit.html").text.split())
    assert "Network: resnet50. Profile: mine." in text
    assert "Stand-ins answered as generator:" in text
    assert "replicated: -0.200 (-0.300 to -0.100) on 30 real images with this context, 40 without" in text
    assert "errors of the observers shrink it to 0.80: corrected -0.250" in text
    assert "<i>sea</i>" in text
    assert "too few" in text
    assert "1 class is out of reach of the image maker" in text
    assert "zebra: its probability is 0.020 at most in 12 ordinary generated images" in text
