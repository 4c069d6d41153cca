"""A unit's page says what the records say, whatever they hold."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from actors.errors import UsageError
from actors.images import Provenance
from agents.evidence.verdict import MEANINGS
from experiments.records.names import without_home
from experiments.report import write_unit_page
from experiments.report.figures import MEANINGS as FIGURES
from tests.experiments.report import markup
from tests.experiments.report.run_directories import LAYER, FakeRun, masked, picture
from tools.sandbox.child.wire import IMAGE

HOSTILE = (
    "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>\"' onmouseover=window.hurt=1 "
    "x='"
    "{{ 7 * 7 }}{% raw %}<!--</pre></title></textarea>]]>&lt;b&gt;\u202e\u2028\x00\ud800javascript:hurt()"
    "\x1b[2J\x9b"
)


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "a run")


def test_a_finished_unit_is_shown_with_its_card_evidence_and_rounds(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(35, "wheels of parked cars")))
    assert "wheels of parked cars" in next(page.find("h1")).text
    assert next(page.find("span", class_="chip")).text == "confirmed"
    card = " ".join(next(page.find("section", class_="card")).text.split())
    for fact in (
        "0.91",
        "0.78 to 0.97",
        "43.5",
        "2.00",
        "5 + 6",
        "80%",
        "5,380",
        "$0.05",
        "landlock+seccomp",
        "48 s",
    ):
        assert fact in card
    assert "maia describe tf_efficientnet_lite0 blocks.4.1 35 --profile embedded --seed 3" in card
    assert len(list(page.find("article", class_="round"))) == 3
    assert "weights 1a2b" in card


def test_images_are_counted_with_those_of_its_tests(run):
    tested = run.evidence("wheels", 5) | {"images_made": 11}
    rounds = [run.round(1), run.answer(2, "wheels", tested, accepted=False), run.answer(3, "wheels", tested)]
    page = markup.check(write_unit_page(run.root, run.write_unit(1, rounds=rounds)))
    card = " ".join(next(page.find("section", class_="card")).text.split())
    assert "Images made and tested28" in card, "six of the agent, eleven of each test"


def test_every_fresh_image_is_a_dot_that_leads_to_its_picture(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(1)))
    section = next(page.find("section", **{"aria-labelledby": "test-title"}))
    dots = [a.attributes["href"] for a in section.find("a") if a.attributes["href"].startswith("#")]
    assert len(dots) == 11
    figures = {f.attributes["id"] for f in section.find("figure") if "id" in f.attributes}
    assert {dot[1:] for dot in dots} == figures


def test_a_masked_image_can_be_shown_without_its_mask(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(2)))
    exemplars = next(page.find("section", **{"aria-labelledby": "exemplars-title"}))
    shown = [image.attributes["src"] for image in exemplars.find("img")]
    layers = [image for rank in range(3) for image in (picture(200 + rank), masked(picture(200 + rank)))]
    assert [layer.id in address for layer, address in zip(layers, shown, strict=True)] == [True] * 6
    assert [image.attributes["src"] for image in exemplars.find("img", class_="mask")] == shown[1::2]


def test_an_image_whose_mask_is_painted_on_can_be_shown_without_it(run):
    slug = run.write_unit(2)
    run.paint_on()
    page = markup.check(write_unit_page(run.root, slug))
    exemplars = next(page.find("section", **{"aria-labelledby": "exemplars-title"}))
    for rank, image in enumerate(exemplars.find("img")):
        assert masked(picture(200 + rank)).id in image.attributes["src"]
        assert picture(200 + rank).id in image.attributes["data-plain"]


def test_logged_images_get_their_title_and_activation_as_caption(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(3)))
    first = next(page.find("article", id="round-1"))
    captions = [" ".join(c.text.split()) for c in first.find("figcaption")]
    assert captions[:2] == ["4.20 a wheel", "1.10 a wheel without"]
    assert "a wheel: activation" not in "".join(
        element.text for element in first.find("pre", class_="output")
    )


def lie_in_the_log(record, image, value):
    record["toolbox"]["log"] = [[{"title": "a wheel", "activation": value, "image": image, "text": ""}]]


def lie_in_a_caption(record, image, value):
    record["observation"] = [f"a wheel: activation {value}", {"image": image}]


def lie_in_printed_words(record, image, value):
    record["observation"] = [f"looking\nof the unit, its activation {value}", {"image": image}]


@pytest.mark.parametrize("lie", [lie_in_the_log, lie_in_a_caption, lie_in_printed_words])
@pytest.mark.parametrize("of", ["before", "after"])
def test_a_page_never_shows_program_output_as_measurements(run, lie, of):
    """Of an image that was measured the measurement is shown, and what was said stands beside it as said."""
    record = run.round(1)
    cover, after = (part["image"] for part in record["observation"] if isinstance(part, dict))
    lie(record, cover if of == "before" else after, 99.99)
    page = markup.check(write_unit_page(run.root, run.write_unit(4, rounds=[record], finished=False)))
    edit = next(page.find("ol", class_="edits"))
    assert "−3.10" in edit.text
    assert not any("99.99" in element.text for element in page.find("b", class_="value"))
    said = [element.text for element in page.find("small", class_="reported") if "99.99" in element.text]
    # Words in no form of a title and its activation stay the caption that the program gave.
    assert bool(said) is (lie is not lie_in_printed_words)


def test_an_edit_is_shown_with_the_change_it_made(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(4)))
    edits = next(page.find("ol", class_="edits"))
    assert "remove the wheel" in edits.text
    assert "−3.10" in edits.text


def test_a_page_finds_measurements_in_recorded_calls(run):
    record = run.round(1)
    before, after = picture(31), picture(32)
    covers = masked(before), masked(after)
    run.store(before, after, *covers)
    record["toolbox"]["log"] = []
    record["observation"] = ["nothing shown"]
    record["toolbox"]["provenance"] = {
        before.id: Provenance("generated", prompt="a red car").to_json(),
        after.id: Provenance(
            "edited", prompt="a red car", edits=("make it blue",), parent=before.id
        ).to_json(),
        **{
            c.id: Provenance("masked", parent=i.id).to_json()
            for c, i in zip(covers, (before, after), strict=True)
        },
    }
    handles = [{IMAGE: [cover.id, 64, 64]} for cover in covers]
    record["sandbox"] = [
        {
            "program": "",
            "status": "ok",
            "calls": [{"asked": "", "value": {"activations": [1.25, 5.0], "images": handles}}],
        }
    ]
    page = markup.check(write_unit_page(run.root, run.write_unit(5, rounds=[record], finished=False)))
    assert "+3.75" in next(page.find("ol", class_="edits")).text


def intervention(image: str, name: str) -> dict[str, Any]:
    """Return the recorded answer to an intervention on an image."""
    change = {"name": name, "before": 3.5, "after": 1.0, "change": -2.5, "probabilities": [0.75, 0.25]}
    effect = {
        "image": {IMAGE: [image, 64, 64]},
        "activation": 4.2,
        "edited": 0.0,
        "raised": [],
        "lowered": [change, {"name": 3, "change": "much"}, None],
        "asked": [],
        "top": [name, "dog"],
        "distance": 2.5,
        "cosine": None,
    }
    effects = {"about": f"ablate {name}", "images": [effect, None], "raised": [], "lowered": [change]}
    return {"effects": {**effects, "floor": 1e-7, "exact": False}, "activations": [4.2], "images": []}


@pytest.mark.parametrize("name", ["snowplow", HOSTILE])
def test_an_intervention_is_shown_with_its_figures_beside_the_images(run, name):
    record = run.round(1)
    image = picture(1001)
    calls = [{"asked": "", "value": intervention(image.id, name)}, {"asked": "", "value": {"effects": [1]}}]
    record["sandbox"] = [{"program": "", "status": "ok", "calls": calls}]
    page = markup.check(write_unit_page(run.root, run.write_unit(8, rounds=[record], finished=False)))
    (details,) = [
        each for each in page.find("details") if each.text.lstrip().startswith("Interventions: the unit")
    ]
    words = " ".join(details.text.split())
    assert "inside the network (1)" in words
    assert "unit 4.2 to 0" in words
    assert "reproduced to 1e-07" in words
    assert f"lowered {name[:9]}" in words
    assert "-2.5" in words


def test_a_page_marks_kept_new_and_dropped_hypotheses(run):
    rounds = [run.round(1, hypotheses=("cars", "dogs")), run.round(2, hypotheses=("dogs", "wheels"))]
    page = markup.check(write_unit_page(run.root, run.write_unit(6, rounds=rounds, finished=False)))
    second = next(page.find("article", id="round-2"))
    fates = {
        " ".join(item.text.split())
        for item in second.find("li")
        if "fate" in str([c.attributes for c in item.find("span")])
    }
    assert fates == {"kept dogs", "new wheels", "dropped cars"}


def test_a_program_is_highlighted_and_stays_the_same_text(run):
    program = "for a in [1, 2]:\n    print('<b>', a < 3 & 4)  # & more\n"
    name = run.write_unit(7, rounds=[run.round(1, program=program)], finished=False)
    page = markup.check(write_unit_page(run.root, name))
    code = next(page.find("code", id="program-1"))
    assert code.text == program
    assert {"k", "s1", "mi"} <= {span.attributes["class"] for span in code.find("span")}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"confirmed": False, "evidence": {"kind": "confirmation"}}, "not confirmed"),
        ({"evidence": {"kind": "abstention"}}, "not interpretable"),
        ({"evidence": {"kind": "abstention", "finding": {"verdict": "out of reach"}}}, "out of reach"),
        ({"evidence": {"kind": "confirmation"}}, "holds for generated images"),
        (
            {"evidence": {"kind": "untestable", "failures": ["no <b>ink</b>"]}, "confirmed": False},
            "not confirmed",
        ),
        ({"confirmed": None, "evidence": None}, "untested"),
        (
            {"status": "no_answer", "label": None, "labels": [], "description": None, "confirmed": None},
            "no answer",
        ),
        ({"status": "refused", "label": None, "labels": [], "exemplars": []}, "no answer"),
    ],
)
def test_each_ending_has_its_verdict(run, changes, verdict):
    done = run.done(8) | changes
    page = markup.check(write_unit_page(run.root, run.write_unit(8, done=done)))
    assert next(page.find("span", class_="chip")).text == verdict


def test_a_unit_in_progress_shows_its_rounds(run):
    run.put("plan.json", [{"unit": run.unit_id(9)}])
    page = markup.check(write_unit_page(run.root, run.write_unit(9, rounds=[run.round(1)], finished=False)))
    assert next(page.find("span", class_="chip")).text == "in progress"
    assert run.unit_id(9) in page.text
    assert len(list(page.find("article"))) == 1


def test_a_unit_without_a_round_has_a_page(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(10, rounds=[], finished=False)))
    assert "None finished yet" in page.text


def test_the_page_of_a_failed_unit_shows_error_and_fix(run):
    done = {
        "unit": run.unit_id(11),
        "task": "describe",
        "status": "failed",
        "error": {
            "type": "BackendError",
            "message": "the endpoint <gone>.",
            "fix": "Start it again: `on <it>`.",
        },
    }
    page = markup.check(write_unit_page(run.root, run.write_unit(11, done=done)))
    assert next(page.find("code")).text == "on <it>", "and no backtick is shown"
    assert next(page.find("span", class_="chip")).text == "failed"
    assert "the endpoint <gone>. Start it again: on <it>." in next(page.find("p", class_="alert")).text


def test_a_unit_that_failed_is_failed_until_it_has_a_result(run):
    slug = run.write_unit(11, rounds=[run.round(1)], finished=False)
    for attempt in (1, 2):
        error = {"type": "BackendError", "message": f"attempt {attempt}.", "fix": ""}
        run.put(
            f"units/{slug}/failed-{attempt}.json",
            {"unit": run.unit_id(11), "status": "failed", "error": error},
        )
    page = markup.check(write_unit_page(run.root, slug))
    assert next(page.find("span", class_="chip")).text == "failed"
    assert "attempt 2." in next(page.find("p", class_="alert")).text
    assert "2 attempts ended by a fault" in page.text
    run.put(f"units/{slug}/done.json", run.done(11))
    page = markup.check(write_unit_page(run.root, slug))
    assert next(page.find("span", class_="chip")).text == "confirmed"
    assert "attempt 1." in page.text


def test_a_stand_in_is_named_and_a_real_model_is_not(run):
    named = run.write_unit(12, rounds=[run.round(1, model="builtin:scientist (embedded stand-in)")])
    page = markup.check(write_unit_page(run.root, named))
    assert "builtin:scientist" in next(page.find("p", class_="stand-in")).text
    page = markup.check(write_unit_page(run.root, run.write_unit(13)))
    assert not list(page.find("p", class_="stand-in"))


def test_the_command_is_quoted_for_a_shell(run):
    run.put(
        "manifest.json",
        {
            "command": "describe", "model": "my net; rm -rf ~", "layer": "a b", "unit": "logit:3", "seed": 1,
            "config": "/my files/lab.yaml",
        },
    )  # fmt: skip
    page = markup.check(write_unit_page(run.root, run.write_unit(14)))
    words = (
        "maia describe 'my net; rm -rf ~' 'a b' logit:3 --config '/my files/lab.yaml' --seed 3"
        " --out runs/again-"
    )
    assert next(page.find("code", id="command")).text.startswith(words)


def test_a_page_names_no_home_folder(run):
    """It is given away; the command still works for whoever made it."""
    run.put(
        "manifest.json",
        {
            "command": "describe", "model": "python:/home/ada/nets/it.py:make", "layer": "a", "unit": "3",
            "config": "/home/ada/lab.yaml", "settings": {"dataset": "/Users/ada/my photos"},
        },
    )  # fmt: skip
    slug = run.write_unit(14)
    record = json.loads((run.root / "units" / slug / "done.json").read_text())
    record["facts"]["model"] = "python:/home/ada/nets/it.py:make"
    run.put(f"units/{slug}/done.json", record)
    page = markup.check(write_unit_page(run.root, slug))
    assert next(page.find("code", id="command")).text.startswith(
        "maia describe 'python:~/nets/it.py:make' a 3 --config ~/lab.yaml --data ~/'my photos' --seed 3"
    )
    pages = list((run.root / "report").rglob("*.html"))
    assert pages
    assert not [path for path in pages if "ada/" in path.read_text()]


def test_ones_own_home_folder_is_not_named_wherever_it_lies(monkeypatch):
    monkeypatch.setenv("HOME", "/nfs/home/ada")
    assert without_home({"data": ["/nfs/home/ada/photos", "/home/eve/x"]}) == {"data": ["~/photos", "~/x"]}
    assert (
        without_home("/nfs/home/adalbert and /mnt/nfs/home/ada") == "/nfs/home/adalbert and /mnt/nfs/home/ada"
    )
    monkeypatch.setenv("HOME", "/")
    assert without_home("/data/photos") == "/data/photos"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manifest", "planned", "words"),
    [
        (
            {"command": "sweep", "model": "net"},
            {"layer": "b", "name": "7"},
            "describe net b 7 --data d --seed 3",
        ),
        (
            {"command": "session", "model": "net", "layer": "b", "unit": "cat", "person": "ada"},
            {},
            "session net b cat --person ada --data d --seed 3",
        ),
        (
            {"command": "audit", "model": "net", "per_context": 5, "agents": False},
            {"layer": "output", "name": "probability:281"},
            "audit net --classes 281 --images 5 --figures-only --data d --seed 3",
        ),
        ({"command": "synthetic", "model": "synthetic"}, {}, f"synthetic --units {LAYER}:14 --seed 3"),
    ],
)
def test_the_command_asks_the_same_question_of_the_same_data_into_a_folder_of_its_own(
    run, manifest, planned, words
):
    run.put("manifest.json", manifest | {"settings": {"dataset": "d"}})
    run.put("plan.json", [{"unit": run.unit_id(14)} | planned])
    page = markup.check(write_unit_page(run.root, run.write_unit(14)))
    command, _, out = next(page.find("code", id="command")).text.partition(" --out ")
    assert command == f"maia {words}"
    assert out.startswith("runs/again-")
    assert not (run.root.parent / out).exists()


def test_the_part_of_the_data_set_that_was_not_searched_is_accounted_for(run):
    run.put("manifest.json", {"settings": {"vision": {"reserve": 0.2}}})
    page = markup.check(write_unit_page(run.root, run.write_unit(14)))
    assert "the rest of the data set is held out for confirmation" in " ".join(page.text.split())


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"{", b"[1, 2]", b"\xff\xfe", b'"text"', b"null", b"[" * 100_000])
@pytest.mark.parametrize("name", ["done.json", "rounds/0002.json", "duration.json"])
def test_a_damaged_record_is_named_and_the_rest_is_shown(run, name, damage):
    slug = run.write_unit(15)
    (run.root / "units" / slug / name).write_bytes(damage)
    page = markup.check(write_unit_page(run.root, slug))
    assert name in page.text
    assert len(list(page.find("article"))) == (2 if name.startswith("rounds") else 3)


def test_a_page_names_a_missing_round(run):
    slug = run.write_unit(16)
    (run.root / "units" / slug / "rounds/0001.json").unlink()
    assert "round 1 is missing" in markup.check(write_unit_page(run.root, slug)).text


def test_a_missing_image_leaves_a_place_with_its_words(run):
    slug = run.write_unit(17)
    for path in (run.root / "blobs").rglob("*.webp"):
        path.unlink()
    page = markup.check(write_unit_page(run.root, slug))
    assert not list(page.find("img"))
    assert next(page.find("span", class_="missing")).attributes["aria-label"].startswith("exemplar 1")


def test_an_image_id_cannot_lead_out_of_the_store(run):
    done = run.done(18)
    for exemplar, wrong in zip(done["exemplars"], ("../../manifest", "..", "a" * 300), strict=True):
        exemplar["image"] = exemplar["source"] = wrong
    page = markup.check(write_unit_page(run.root, run.write_unit(18, done=done)))
    assert not any("manifest" in address for address in markup.addresses(page))


@pytest.mark.slow
@pytest.mark.parametrize("slug", ["", ".", "..", "../units", "a/b", "nothing", "a\\b"])
def test_a_unit_that_is_not_there_is_refused(run, slug):
    run.write_unit(19)
    with pytest.raises(UsageError, match="unit"):
        write_unit_page(run.root, slug)


def test_hostile_text_everywhere_stays_text(run):
    """Every string of every record becomes markup, script and quotes; the page keeps its own elements."""
    slug = run.write_unit(20)
    tags = {element.tag for element in markup.check(write_unit_page(run.root, slug)).find()}
    keep = {"kind", "status", "finish", "image", "source", "parent"}
    for path in (run.root / "units" / slug).rglob("*.json"):
        path.write_text(json.dumps(_replaced(json.loads(path.read_text()), HOSTILE, keep)))
    run.put("manifest.json", _replaced({"model": "", "name": "", "profile": "", "seed": 3}, HOSTILE, set()))
    path = write_unit_page(run.root, slug)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", path.read_text(encoding="utf-8"))
    page = markup.check(path)
    assert {element.tag for element in page.find()} <= tags | {"em"}
    assert len(list(page.find("script"))) == 3
    assert "window.hurt=1" in next(page.find("h1")).text
    assert "{{ 7 * 7 }}" in next(page.find("h1")).text
    for anchor in page.find("a"):
        assert "hurt" not in anchor.attributes["href"]


@pytest.mark.slow
def test_records_of_any_other_shape_never_break_a_page(run):
    """Values of wrong types, at random places of all records."""
    rng = random.Random(5)
    slug = run.write_unit(21)
    odd: list[Any] = [
        None,
        True,
        -1,
        1e308,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "x",
        [],
        [[]],
        {},
        {"a": [None]},
        [1, "x"],
    ]
    sources = {p: p.read_text() for p in (run.root / "units" / slug).rglob("*.json")}
    for _ in range(60):
        for path, source in sources.items():
            record = json.loads(source)
            for _ in range(rng.randint(1, 6)):
                place = record
                while True:
                    key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
                    deeper = place[key]
                    if not deeper or not isinstance(deeper, dict | list) or rng.random() < 0.35:
                        place[key] = copy.deepcopy(rng.choice(odd))
                        break
                    place = deeper
            path.write_text(json.dumps(record))
        markup.check(write_unit_page(run.root, slug))


def _replaced(value: Any, text: str, keep: set[str]) -> Any:
    """Return `value` with every string, and every key of an open mapping, made of `text`."""
    if isinstance(value, dict):
        return {
            key: item if key in keep and isinstance(item, str) else _replaced(item, text, keep)
            for key, item in value.items()
        } | ({text: text} if "fields" in value or "versions" in value else {})
    if isinstance(value, list):
        return [_replaced(item, text, keep) for item in value]
    if isinstance(value, str) and not value.startswith("{"):
        return value + text
    return value


def test_the_card_has_verdict_warnings_and_figures(run):
    card = {
        "kind": "polysemantic",
        "reason": "2 labels each drive the unit",
        "warnings": ["image maker: <b>half</b> of the images are blank"],
        "labels": [{"label": "a <i>wheel</i>", "auroc": 0.91, "explains": 0.4}, {"label": "sky"}],
        "null_percentile": 0.95,
        "ceiling": 0.81,
    }
    page = markup.check(write_unit_page(run.root, run.write_unit(36, done=run.done(36, card=card))))
    assert "The answer was" not in page.text
    card["answered"] = ["a <i>wheel</i>", "sky", "a <b>cloud</b>"]
    longer = markup.check(write_unit_page(run.root, run.write_unit(37, done=run.done(37, card=card))))
    assert "The answer was a <i>wheel</i> OR sky OR a <b>cloud</b>, and the description" in longer.text
    shown = " ".join(next(page.find("section", class_="card")).text.split())
    for fact in (
        "polysemantic",
        "2 labels each drive",
        "<b>half</b>",
        "a <i>wheel</i>",
        "95%",
        "0.81",
        "40%",
    ):
        assert fact in shown


def test_the_labels_of_other_units_that_drive_a_unit_are_named(run):
    slug = run.write_unit(36, done=run.done(36))
    write_unit_page(run.root, run.write_unit(37, done=run.done(37)))
    unit, other = run.done(36)["unit"], run.done(37)["unit"]
    nearest = [{"unit": other, "label": "a <b>wheel</b>", "mean": 2.5, "share": 0.64}]
    (run.root / "crosswise.json").write_text(
        json.dumps({unit: {"percentile": 0.875, "n": 41, "nearest": nearest}})
    )
    page = markup.check(write_unit_page(run.root, slug))
    shown = " ".join(page.text.split())
    for fact in ("Above other units' labels", "88% of 41", "a <b>wheel</b>", "2.5", "64%"):
        assert fact in shown


@pytest.mark.parametrize(
    ("sight", "message"),
    [
        ("its own", None),
        ("blind descriptions by qwen", "it was given blind descriptions by qwen"),
        ("none: no image could be shown", "there were no descriptions of the images"),
    ],
)
def test_an_interpreter_that_cannot_see_is_said_to_be_blind(run, sight, message):
    done = run.done(37, facts={"sight": sight})
    text = " ".join(markup.check(write_unit_page(run.root, run.write_unit(37, done=done))).text.split())
    assert "cannot see" not in text if message is None else message in text


def test_the_spread_of_activations_over_the_data_set_is_drawn(run):
    background = {"mean": 0.4, "std": 0.9, "maximum": 9.5, "n_images": 500}
    spread = {"low": -1.0, "high": 9.5, "counts": [90, 30, 8, 0, 1], "n": 129}
    done = run.done(38, background={**background, "histogram": spread})
    page = markup.check(write_unit_page(run.root, run.write_unit(38, done=done)))
    drawn = next(page.find("div", class_="density"))
    assert len([bar for bar in drawn.find("rect") if bar.attributes.get("class") == "bar"]) == 4
    assert "90 images" in drawn.text
    for row in ("exemplars", "label", "others"):
        assert f"mean of {row}" in drawn.text


def test_a_page_folds_thoughts_and_names_missing_capabilities(run):
    """Thoughts are model-written text: they stay text, and apart from the answer."""
    record = run.round(1)
    record["reply"] |= {"thoughts": f"a draft {HOSTILE}", "notes": ["sent without seed", 3]}
    page = markup.check(write_unit_page(run.root, run.write_unit(1, rounds=[record], finished=False)))
    folded = next(page.find("details", class_="reasoning"))
    assert "a draft" in folded.text
    assert "sent without seed" in next(page.find("article", class_="round")).text


def assessed(run):
    """Return a result with all figures of an examination, and an image that the label does not explain."""
    fence = picture(4711)
    run.store(fence)
    looked = {
        "image": fence.id,
        "activation": 9.47,
        "origin": "exemplar",
        "shows": {"wheels": False},
        "prompt": "exemplar 15",
    }
    evidence = run.evidence("wheels", 7) | {
        "strength": {"share": 0.72, "interval": [0.6, 0.85], "labels": {}, "least": 0.3},
        "coverage": {
            "n": 14,
            "untold": 1,
            "shown": 9,
            "share": 0.64,
            "interval": [0.4, 0.8],
            "corrected": 0.7,
            "least": 0.3,
        },
        "held_back": {
            "drawn": 80,
            "shown": 12,
            "untold": 0,
            "auroc": 0.93,
            "auroc_interval": [0.8, 0.99],
            "e_value": 99.0,
        },
        "reach": {"n": 320, "share": 0.98, "least": 0.5},
        "uncovered": [looked],
    }
    return run.done(8, evidence=evidence)


def test_a_page_explains_verdict_and_figures(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(8, done=assessed(run))))
    head = next(page.find("div", class_="head")).text
    assert MEANINGS["confirmed"] in head
    assert "Because of its figures." in head
    rows = [row.text for row in next(page.find("table", class_="figures")).find("tr")]
    assert [
        name in row
        for name, row in zip(
            ("specific", "strong", "covering", "true on real images", "reachable"), rows, strict=True
        )
    ] == [True] * 5
    assert "72% (60% to 85%)" in rows[1]
    assert "9 of the 14 strongest images" in rows[2]
    assert "AUROC 0.93 (0.80 to 0.99)" in rows[3]


def test_every_figure_that_has_a_meaning_says_it_where_it_stands_and_in_a_list(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(35, "wheels")))
    numbers = next(page.find("dl", class_="numbers"))
    terms = [*numbers.find("span", class_="term")]
    tips = [*numbers.find("span", class_="tip")]
    output = {term.text: tip.text.removesuffix(" All figures") for term, tip in zip(terms, tips, strict=True)}
    assert output.keys() >= {
        "AUROC",
        "e-value",
        "Margin",
        "Mean activation",
    }
    assert all(meaning == FIGURES[name] for name, meaning in output.items())
    listed = " ".join(next(page.find("section", class_="card")).text.split())
    assert all(" ".join(meaning.split()) in listed for meaning in FIGURES.values())


def test_a_page_shows_exemplars_that_the_label_does_not_cover(run):
    page = markup.check(write_unit_page(run.root, run.write_unit(8, done=assessed(run))))
    section = next(
        element for element in page.find("section") if "What the label does not cover" in element.text
    )
    assert [figure.text.split() for figure in section.find("figcaption")] == [
        ["9.47", "exemplar", "15of", "the", "data", "set"]
    ]
    assert (
        "What the label does not cover" not in markup.check(write_unit_page(run.root, run.write_unit(9))).text
    )


@pytest.mark.slow
@pytest.mark.parametrize("value", [7, "x", [], {"share": "high", "n": []}, None])
def test_figures_that_are_damaged_are_left_out(run, value):
    evidence = run.evidence("wheels", 7) | dict.fromkeys(
        ("strength", "coverage", "held_back", "reach", "uncovered", "finding"), value
    )
    done = run.done(8) | {"evidence": evidence}
    page = markup.check(write_unit_page(run.root, run.write_unit(8, done=done)))
    (row,) = next(page.find("table", class_="figures")).find("tr")
    assert row.text.startswith("specific")


def test_the_page_of_a_head_says_that_masks_show_where_it_looks(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    layer, facts = "blocks.1.attn@head2", {"masks": "attention"}
    head = run.write_unit(1, done=run.done(1, layer=layer, facts=facts), layer=layer)
    other = run.write_unit(2, done=run.done(2, layer=layer), layer=layer)
    looks, active = (write_unit_page(run.root, unit).read_text() for unit in (head, other))
    assert "Read at head 2: masks show where the head looks from the token at which the unit is" in looks
    assert "where its head looks" in looks
    assert "mask threshold" not in looks
    assert "where it is active" in active
    assert "mask threshold" in active
