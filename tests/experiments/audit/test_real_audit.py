"""Real images of an audit: which are measured, what observers are asked, and the whole way of the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.images import Image
from actors.vision.data.folder import FolderDataset
from actors.vision.data.labels import Column, ColumnSettings, Labels, labels_of
from actors.vision.readout.base import LayerInfo
from actors.vision.readout.requests import Ask, ReadoutActivations, VisionRequest, VisionResult
from actors.vision.readout.units import Readout
from agents.critic.witness import Witness
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.study.metered import Rate
from experiments.audit import real_images
from experiments.audit.context_survey import CONTEXTS, ContextEffect
from experiments.audit.context_witness import KNOWN, ContextWitness, question_of
from experiments.audit.real.audit import RealSettings, is_done
from experiments.audit.real.survey import AuditedClass, Generated, RealSurvey, cost_warning
from experiments.audit.real_images import Answers, MatchedClass, RealImages, Tag, draw, match, match_table
from experiments.audit.subgroups import findings
from experiments.setup.config import Profile
from experiments.setup.console import Console
from tests.command_line import maia
from tests.experiments.waterbirds import write_birds, write_network
from tests.tools.fakes import FakeStudio, picture_of

NAMES = ["landbird", "waterbird", "owl"]


def labels(classes: list[str], split: list[str] | None = None) -> Labels:
    return Labels(Column.of(classes), {}, "class folders", None if split is None else Column.of(split))


def test_only_images_of_audited_classes_outside_training_are_drawn_and_no_more_than_asked():
    said = labels(["owl", "landbird", "waterbird", "landbird"] * 50, (["train"] * 4 + ["test"] * 4) * 25)
    audited = {0: "landbird", 1: "waterbird"}
    matches = match(said, NAMES, {})
    drawn = draw(said, matches, audited, seed=1, per_class=30)
    assert [int((drawn.targets == target).sum()) for target in (0, 1, 2)] == [30, 25, 0]
    assert not said.training()[drawn.indices].any()
    again = draw(said, matches, audited, seed=1, per_class=30)
    assert np.array_equal(drawn.indices, again.indices)


def test_a_data_set_of_training_images_alone_is_measured_whole():
    said = labels(["landbird"] * 5, ["train"] * 5)
    drawn = draw(said, match(said, NAMES, {}), {0: "landbird"}, seed=0, per_class=9)
    assert len(drawn.indices) == 5


def test_the_table_of_classes_says_what_matched_and_how_and_what_did_not():
    said = labels(["Land_bird", "waterbird", "waterbrid", "7"])
    table = match_table(match(said, NAMES, {"7": "owl"}), {1: "waterbird", 2: "owl"})
    assert table.splitlines() == [
        "2 of the data set's 4 classes are audited:",
        "  7 = owl (as assigned): 1 image",
        "  waterbird = waterbird (by name): 1 image",
        "  Land_bird: no class of the network has this name; the nearest: landbird",
        "  waterbrid: no class of the network has this name; the nearest: waterbird",
    ]


RECORD = RealImages(
    "birds",
    "f",
    "class folders",
    0,
    ["net/0"],
    [MatchedClass("a", 0, "a", "name", (), 2)],
    [4, 9],
    ["a", "a"],
    [0.5, 0.25],
    [True, False],
    {"place": Tag(["x", "y"], [0, -1])},
)


def test_a_record_of_real_images_is_read_back_as_it_was():
    assert RealImages.of(json.loads(json.dumps(asdict(RECORD)))) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"version": 9},
        {"correct": [True]},
        {"tags": {"place": Tag(["x"], [0, 5])}},
        {"images": ["x", 1]},
        {"probabilities": [float("nan"), 0.5]},
        {"training": {"place": {"a": {"x": -1}}}},
        {"answers": [Answers("a", "size: small", [7], [True])]},
        {"answers": [Answers("a", "size: small", [], [], 3, 2)]},
    ],
)
def test_a_record_that_does_not_fit_itself_is_refused(change: dict[str, Any]):
    with pytest.raises(RecordError):
        RealImages.of(json.loads(json.dumps(asdict(replace(RECORD, **change)))))


class Eyes:
    """An observer who sees what the studio made, and of other images what `real` says; it is asked in yes or
    no.
    """

    name, sees_images = "fake eyes", True

    def __init__(self, studio: FakeStudio, real: Callable[[Image], str]) -> None:
        self._studio, self._real = studio, real
        self.asked: list[str] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        (message,) = [each for each in request.messages if each.role == "user"]
        (image,) = message.images
        self.asked.append(message.text)
        assert "yes or no" in message.text
        shown = self._studio.shows.get(image.id) or self._real(image)
        return ChatReply(
            "cannot tell" if shown == "fog" else "yes" if "snow" in shown else "no", model=self.name
        )


async def test_observers_are_asked_of_real_images_and_judged_by_generated_ones_they_cannot_tell_apart():
    real = [picture_of(f"real {number}") for number in range(3)]
    studio = FakeStudio()
    said = dict(zip([image.id for image in real], ["snow", "grass", "fog"], strict=True))
    eyes = Eyes(studio, lambda image: said[image.id])
    witness = ContextWitness(Witness(eyes), studio, "kayak", seed=1, per_context=12)
    ordinary = ["background: grass", "colour: red", "background: snow"]
    found = await witness.ask(
        "background: snow", ordinary, [real[0], None, real[1], real[2]], [5, 6, 7, 8], "kayak"
    )
    assert (found.images, found.shown) == ([5, 7, 8], [True, False, None])
    assert (found.hits, found.present, found.alarms, found.absent) == (KNOWN, KNOWN, 0, KNOWN)
    assert {text.split("?")[0] for text in eyes.asked} == {"Does this image show something in the snow"}


def test_every_context_of_the_design_has_a_question():
    asked = {question_of(context, "kayak") for context in CONTEXTS}
    assert len(asked) == len(CONTEXTS)
    assert {"something at night", "a person", "red kayak", "two kayaks", "small kayak"} <= asked
    assert question_of("proposed: in a kitchen", "kayak") == "something in a kitchen"


class Classifier:
    """Says waterbird where middle and border of an image, weighed against each other, are blue rather than
    green.
    """

    def __init__(self, reliance: float) -> None:
        self._reliance = reliance

    async def layers(self) -> list[LayerInfo]:
        return [LayerInfo("output", "vector", 2, (), "head", "softmax")]

    async def passes(self, rows: Sequence[VisionRequest], **_: Any) -> list[VisionResult]:
        (ask,) = {each for row in rows for each in row.asks}
        assert ask == Ask(Readout("output", "probability"), None)
        table = self._probabilities([row.image for row in rows])
        return [
            VisionResult((ReadoutActivations(ask.readout, None, each, {}),), (0, 0, 1, 1)) for each in table
        ]

    def _probabilities(self, images: Sequence[Image]) -> np.ndarray:
        blue = [(image.pixels[..., 2].astype(float) - image.pixels[..., 1]) / 60 for image in images]
        middle, border = (
            np.array([each[rows, rows].mean() for each in blue]) for rows in (slice(14, 34), slice(8))
        )
        water = 1 / (1 + np.exp(-3 * ((1 - self._reliance) * middle + self._reliance * border)))
        return np.stack([1 - water, water], 1).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("reliance", "biased"), [(0.6, True), (0.0, False)])
async def test_the_bias_of_a_classifier_is_found_on_waterbirds_and_none_of_a_fair_one(
    tmp_path, reliance, biased
):
    dataset = FolderDataset(write_birds(tmp_path / "birds", 1400))
    said = labels_of(dataset, ColumnSettings(attributes=("place",)))
    audited = {0: "landbird", 1: "waterbird"}
    matches = match(said, NAMES, {"0": "landbird", "1": "waterbird"})
    drawn = draw(said, matches, audited, seed=0, per_class=2000)
    vision: Any = Classifier(reliance)
    probability, correct, read = await real_images.measure(vision, dataset, drawn, lambda done, total: None)
    place = said.attributes["place"].take(drawn.indices)
    found = findings(
        RealImages(
            "birds",
            "f",
            said.source,
            0,
            [],
            matches,
            drawn.indices.tolist(),
            [audited[target] for target in drawn.targets.tolist()],
            probability.tolist(),
            correct.tolist(),
            {"place": Tag(list(place.levels), place.values.tolist())},
        ),
        [],
    )
    assert read.all()
    assert any(each.biased for each in found.associations) is biased
    assert found.worst.below is biased
    if biased:
        assert (found.worst.class_name, found.worst.level) in {("landbird", "1"), ("waterbird", "0")}


def finding(context: str) -> ContextEffect:
    return ContextEffect("waterbird", context, 0.3, (0.2, 0.4), 0.8, -0.5, 0.001, 0.01, 48, 0, True)


async def test_a_survey_measures_the_images_asks_about_each_finding_and_records_all(tmp_path):
    """The observers call land "snow"; what they said is not asked again."""
    studio, store = FakeStudio(), Store.open(tmp_path / "run")
    eyes = Eyes(
        studio,
        lambda image: "snow" if image.pixels[:8, :, 1].mean() > image.pixels[:8, :, 2].mean() else "sea",
    )
    vision: Any = Classifier(0.6)
    vision.known = SimpleNamespace(class_names=NAMES)
    context = SimpleNamespace(observers=eyes, studio=studio, rates={}, dollars_per_image=0.0)
    dataset = FolderDataset(write_birds(tmp_path / "birds", 400, share=0.7))
    bench: Any = SimpleNamespace(dataset=dataset, vision=vision, profile=Profile(), context=context)
    audited = [AuditedClass(f"net/{n}", n, NAMES[n], NAMES[n], 5, 12) for n in (0, 1)]
    effects = [finding("background: snow")]
    generated = Generated(effects, {"waterbird": ["background: grass", "colour: red"]})
    settings = RealSettings({"0": "landbird", "1": "waterbird"}, witnessed=60)
    real_survey = RealSurvey(Console(quiet=True), store, bench, settings, audited, generated)
    await real_survey.run()
    record = real_images.read(store)
    assert is_done(store, ["net/0", "net/1"])
    assert not is_done(store, ["net/0", "net/1", "net/2"]), "of more classes it has to look again"
    (answers,) = record.answers
    assert (answers.class_name, answers.context, len(answers.images)) == ("waterbird", "background: snow", 60)
    (replicated,) = findings(record, effects).replications
    assert (replicated.verdict, replicated.told_by, replicated.factor) == ("replicated", "observers", 1.0)
    n_asked = len(eyes.asked)
    await real_survey.run()
    assert (real_images.read(store), len(eyes.asked)) == (record, n_asked)


def test_questions_that_cost_more_than_may_be_spent_unasked_need_a_yes():
    dear = Rate(prompt=10.0, completion=40.0, image_tokens=1000)
    assert "$22.48" in cost_warning(dear, 2000, limit=10.0)
    assert cost_warning(dear, 2000, limit=30.0) == cost_warning(Rate(), 10**6, limit=0.0) == ""
    assert "unknown amount" in cost_warning(Rate(known=False), 1, limit=10.0)


def test_a_yes_does_not_make_another_run_of_it():
    assert RealSettings(approved=True).manifest() == RealSettings().manifest() == {}
    assert RealSettings(everything=True).manifest() == {"real": {"everything": True}}


def test_a_column_that_is_not_there_ends_the_command_before_anything_is_started(
    config_file, tmp_path, capsys
):
    write_birds(tmp_path / "birds", 8)
    asked = (
        "audit",
        write_network(tmp_path),
        "--data",
        str(tmp_path / "birds"),
        "--config",
        str(config_file()),
    )
    out = tmp_path / "run"
    assert maia(*asked, "--label-column", "species", "--out", str(out)) == 2
    message = capsys.readouterr().err
    assert "no column 'species'" in message
    assert "y, split, place" in message
    assert not out.exists()


def assert_the_place_carries(biases: list[dict[str, Any]]) -> None:
    assert biases
    for bias in biases:
        carrying = [
            each for each in bias["shares"] if each["sure"] and each["effect"] * bias["difference"] > 0
        ]
        assert [each["index"] for each in carrying] == [1]
        assert abs(carrying[0]["difference"]) < abs(bias["difference"]) / 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_audit_names_the_worst_group_of_a_classifier_that_leans_on_the_place(
    config_file, tmp_path, capsys
):
    write_birds(tmp_path / "birds", 900, share=0.9)
    out = tmp_path / "run"
    names = ("--attributes", "place", "--classes", "data", "--label-names", "0=landbird,1=waterbird")
    places = ("--data", str(tmp_path / "birds"), "--out", str(out), "--config", str(config_file()))
    arguments = ("audit", write_network(tmp_path), *names, *places, "--figures-only", "--json")
    assert maia(*arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["out_of_reach"]) == set(NAMES[:2]), "the embedded image maker draws no such birds"
    found = result["real"]["found"]
    worst = found["worst"]
    assert (worst["class_name"], worst["level"]) in {("landbird", "1"), ("waterbird", "0")}
    assert worst["below"]
    assert [each["weighted_by"] for each in found["averages"]] == ["", "place"]
    measured = (out / real_images.KEY).read_bytes()
    page = (out / "report" / "experiments" / "audit.html").read_text()
    assert "Real images by subgroup" in page
    assert "stand-in" in page
    # Asked again for carriers, it reads what there is and ablates the cues.
    assert maia(*arguments, "--carriers", "cues") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["real"] == result["real"]
    assert_the_place_carries(again["carriers"]["found"])
    assert "that carry the findings" in (out / "report" / "experiments" / "audit.html").read_text()
    assert (out / real_images.KEY).read_bytes() == measured
