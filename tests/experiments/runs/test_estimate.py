"""What a sweep will take is told from its configuration, and nobody spends much by accident."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.chat.settings import OpenAIChat
from actors.errors import UsageError
from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import distinct
from actors.vision.networks.layer_cache import KnownNetwork, save_known
from actors.vision.readout.base import LayerInfo
from actors.vision.settings import VisionSettings
from agents.critic.assessor import witness_questions
from agents.records.journal import slug
from agents.study.budget import BudgetSettings
from experiments.cli import main as cli
from experiments.cli.costs import confirm, count_units
from experiments.runs.assumptions import Assumptions, assumptions_of, parse_assumptions
from experiments.runs.comparable_runs import (
    EstimateSources,
    PredictedStudies,
    comparable_runs,
    estimate_run,
    measured,
)
from experiments.runs.estimate import RunEstimate, confirmation_images, estimate
from experiments.setup.config import load
from experiments.setup.science import science
from experiments.setup.selection import Selection
from tests.command_line import maia
from tests.fake_endpoint import KEY, MODEL, FakeEndpoint

PRICED = """
profiles:
  free:
    dataset: scenes:300:1
  paid:
    dataset: scenes:300:1
    confirmation: null
    chat:
      interpreter:
        {backend: openai, model: big, price: {prompt: 2, cached: 1, completion: 10}, image_tokens: 100}
      observers: {backend: builtin, model: observer}
  unpriced:
    dataset: scenes:300:1
    chat:
      interpreter: {backend: openai, model: big}
"""
EXACT = Assumptions(
    rounds=3,
    images_per_round=5,
    observation_tokens=200,
    reply_tokens=300,
    descriptions_per_round=0,
    seconds_per_pass=0.1,
)


def predicted(profile, predicted=None, *, n: int = 1, **sources) -> RunEstimate:
    return estimate_run(profile, n, predicted, EstimateSources(**sources))


@pytest.fixture
def dear(tmp_path, monkeypatch) -> Iterator[list[str]]:
    """The options of a profile whose endpoint works, and charges a fortune; nobody is there to agree."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setenv("DEAR_KEY", KEY)
    with FakeEndpoint(probed=True) as endpoint:
        model = f"{{backend: openai, model: {MODEL}, base_url: '{endpoint.base_url}', api_key_env: DEAR_KEY, "
        model += "price: {prompt: 90000, completion: 90000}}"
        path = tmp_path / "dear.yaml"
        path.write_text(
            f"profiles:\n  dear:\n    dataset: scenes:300:1\n    chat: {{interpreter: {model}}}\n"
        )
        yield ["--profile", "dear", "--config", str(path)]


@pytest.fixture
def profiles(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(PRICED)
    return load(path)


def test_the_built_in_models_cost_nothing(profiles):
    assert estimate(profiles.profile("free"), 50, EXACT).likely.dollars == 0


def test_tokens_and_dollars_follow_from_the_conversation(profiles):
    """Three rounds: the opening is sent three times, what the first round added twice, the second's once."""
    likely = estimate(profiles.profile("paid"), 10, EXACT).likely
    one = estimate(profiles.profile("paid"), 10, parse_assumptions(["rounds=1"], EXACT)).likely
    added = 300 + 200 + 5 * 100
    assert likely.prompt_tokens == 3 * one.prompt_tokens + 10 * 3 * added
    fresh = one.prompt_tokens + 10 * 2 * added
    assert likely.cached_tokens == likely.prompt_tokens - fresh
    assert likely.completion_tokens == 10 * 3 * 300
    expected = (fresh * 2 + likely.cached_tokens * 1 + likely.completion_tokens * 10) / 1e6
    assert likely.dollars == pytest.approx(expected, abs=0.01)
    assert likely.images == 10 * 3 * 5
    assert likely.device_seconds.vision == pytest.approx(10 * (15 + 15) * 0.1 + 300 * 0.1)


def test_more_units_rounds_and_images_take_more(profiles):
    paid = profiles.profile("paid")
    base = estimate(paid, 10, EXACT).likely
    for changed in (
        estimate(paid, 20, EXACT),
        *(
            estimate(paid, 10, parse_assumptions([text], EXACT))
            for text in ("rounds=6", "images_per_round=9")
        ),
    ):
        assert changed.likely.dollars > base.dollars
        assert changed.likely.images > base.images
    assert estimate(paid, 10, EXACT).at_most.dollars > base.dollars


def test_the_most_counts_every_image_that_a_confirmation_may_make(profiles):
    profile = profiles.profile("free")
    test, rounds = profile.confirmation, profile.interpreter
    found = estimate(profile, 1, EXACT).at_most
    a_test = 2 * test.max_images
    # Of each answer: all its labels, those that were borne out, and a simpler one.
    assert found.observer_calls >= rounds.max_examinations * 3 * a_test
    assert found.images >= rounds.max_images + rounds.max_examinations * 3 * (a_test + test.probe)


def test_an_estimate_counts_questions_on_data_set_images_within_settings(profiles):
    profile = profiles.profile("free")
    without = profile.model_copy(
        update={"confirmation": profile.confirmation.model_copy(update={"held_back": 0})}
    )
    answers = replace(EXACT, answers=1.0)
    asked = [estimate(own, 1, answers).likely.observer_calls for own in (profile, without)]
    assert asked[0] - asked[1] == profile.confirmation.held_back_looks
    assert witness_questions(profile.confirmation, 4) == 80 + 4 * 30
    assert witness_questions(profile.confirmation, 8) == 8 * 20 + 8 * 30


def test_an_unconfigured_price_is_unknown_and_not_zero(profiles):
    found = estimate(profiles.profile("unpriced"), 10, EXACT)
    assert found.likely.dollars is None
    assert any("chat.interpreter.price" in note for note in found.notes)


def test_endpoints_with_a_key_elsewhere_may_charge():
    assert OpenAIChat(model="m").charges
    assert OpenAIChat(model="m", api_key_env=None, headers_env={"api-key": "K"}).charges
    assert not OpenAIChat(model="m", base_url="http://127.0.0.1:8000/v1").charges
    assert not OpenAIChat(model="m", base_url="http://localhost:8000/v1").charges
    assert not OpenAIChat(model="m", base_url="http://gpu7:8000/v1", api_key_env=None).charges


def test_hosted_images_are_part_of_the_estimate(tmp_path):
    """An image with a known price is counted; one without makes the whole unknown, and what is known is still
    told.
    """
    path = tmp_path / "config.yaml"
    images = "{backend: openai-images, model: %s, quality: low, size: 1024x1024}"
    path.write_text(
        "profiles:\n"
        f"  known: {{extends: embedded, generation: {images % 'gpt-image-2'}}}\n"
        f"  mixed: {{extends: hosted, dataset: 'scenes:300:1', generation: {images % 'somebodys'}}}\n"
    )
    loaded = load(path)
    likely = estimate(loaded.profile("known"), 10, EXACT).likely
    # Each unit makes 3 rounds of 5 images, and its confirmation.
    assert likely.dollars == pytest.approx(likely.images * 0.006, abs=0.01)
    mixed = estimate(loaded.profile("mixed"), 10, EXACT)
    assert mixed.likely.dollars is None
    assert mixed.likely.dollars_known > 0
    assert any("generation.price.image" in note for note in mixed.notes)


def earlier(
    folder, profile, *rounds, counted=None, person=False, model="net", profile_name="free", task="describe"
):
    """Write a run of studies that took so many rounds."""
    folder.mkdir(parents=True)
    about = {"model": model, "profile": profile_name, "settings": science(profile)}
    (folder / "manifest.json").write_text(json.dumps(about))
    for number, n_rounds in enumerate(rounds):
        unit = folder / "units" / str(number)
        unit.mkdir(parents=True)
        usage = {"interpreter": {"completion_tokens": n_rounds * 100}}
        facts = {"interpreter": "person:ada" if person else "model"}
        record = {
            "unit": f"net/output:{number}",
            "rounds": n_rounds,
            "images_made": n_rounds * 7,
            "usage": usage,
            "facts": facts,
            "task": task,
        }
        (unit / "done.json").write_text(json.dumps(record))
    if counted is not None:
        (folder / "leases" / "0001").mkdir(parents=True)
        (folder / "leases" / "0001" / "machinery.json").write_text(json.dumps(counted))


def test_an_earlier_run_replaces_assumptions(profiles, tmp_path):
    paid = profiles.profile("paid")
    earlier(tmp_path / "a", paid, 4, 6)
    found = measured([tmp_path / "a"], paid, EXACT)
    assert (found.rounds, found.images_per_round, found.reply_tokens, found.studies) == (5, 7, 100, 2)
    with pytest.raises(UsageError, match="no finished study"):
        measured([tmp_path / "nowhere"], paid, EXACT)


def test_few_studies_that_took_as_many_rounds_do_not_predict_that_all_will(profiles, tmp_path):
    def spread(n: int) -> float:
        earlier(tmp_path / str(n), profiles.profile("free"), *[14] * n)
        return measured([tmp_path / str(n)], profiles.profile("free"), EXACT).rounds_spread

    few, many = spread(2), spread(100)
    assert 0 < many < 1 < few < EXACT.rounds_spread


def test_an_estimate_repeats_the_counts_of_an_earlier_run(profiles, tmp_path):
    """A run like the recorded one comes to what was recorded: calls, images, seconds of devices."""
    free = profiles.profile("free")
    counted = {
        "interpreter": {"asked": 30, "reused": 0, "busy_s": 60.0},
        "observers": {"asked": 800, "reused": 0, "busy_s": 200.0},
        "generation": {"asked": 900, "reused": 100, "busy_s": 160.0},
        "vision": {"asked": 1500, "reused": 500, "busy_s": 20.0},
    }
    earlier(tmp_path / "a", free, 10, 10, 10, counted=counted)
    assumed = measured([tmp_path / "a"], free, EXACT)
    found = estimate(free, 3, assumed).likely
    assert (found.interpreter_calls, found.observer_calls, found.images) == (30, 800, 900)
    assert found.device_seconds.generation == pytest.approx(900 * 0.2)
    assert found.device_seconds.vision == pytest.approx((1000 - 150 + 300) * 0.02, abs=0.1)
    assert (assumed.interpreter_latency_s, assumed.observer_latency_s) == (2.0, 0.25)


def test_the_images_of_a_survey_are_made_and_shown_to_no_agent_and_an_audit_is_not_confirmed(
    profiles, tmp_path
):
    tested = profiles.profile("free").confirmation
    assert tested is not None
    paid = profiles.profile("paid").model_copy(update={"confirmation": tested})
    counted = {
        "observers": {"asked": 30 + 60, "reused": 0, "busy_s": 100.0},
        "generation": {"asked": 3 * 300 + 210, "reused": 0, "busy_s": 160.0},
        "vision": {"asked": 1500, "reused": 0, "busy_s": 20.0},
    }
    earlier(tmp_path / "a", paid, 10, 10, 10, counted=counted, task="audit")
    for unit in (tmp_path / "a" / "units").iterdir():
        (unit / "survey.json").write_text(json.dumps({"images": 300, "found": {}}))
    assumed = measured([tmp_path / "a"], paid, EXACT, "audit")
    assert (assumed.survey_images, assumed.images_per_round, assumed.descriptions_per_round) == (300, 7, 2)
    surveyed = estimate(paid, 3, assumed)
    assert (surveyed.likely.images, surveyed.likely.observer_calls) == (3 * 300 + 210, 60)
    agents = estimate(paid, 3, replace(assumed, survey_images=0))
    for column in ("likely", "at_most"):
        with_survey, agents_alone = getattr(surveyed, column), getattr(agents, column)
        assert with_survey.dollars == agents_alone.dollars > 0
        assert with_survey.images - agents_alone.images == 3 * 300
    assert predicted(paid, PredictedStudies(task="audit"), below=tmp_path / "nowhere").assumes.answers == 0


def test_only_runs_of_the_same_models_and_settings_predict(profiles, tmp_path):
    free = profiles.profile("free")
    earlier(tmp_path / "like", free, 4)
    earlier(tmp_path / "moved", free.model_copy(update={"dataset": "scenes:9:9"}), 4)
    earlier(tmp_path / "other", profiles.profile("paid"), 4)
    earlier(tmp_path / "empty", free)
    earlier(tmp_path / "by hand", free, 4, person=True)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("[")
    damaged = tmp_path / "like" / "units" / "damaged" / "done.json"
    damaged.parent.mkdir()
    damaged.write_text('{"rounds": ')
    assert [run.name for run in comparable_runs(free, tmp_path)] == ["like", "moved"]
    assert predicted(free, n=9, below=tmp_path).likely.interpreter_calls == 36
    assert predicted(free, n=9, below=tmp_path / "nowhere").assumes == assumptions_of(free)


def test_copies_among_the_images_are_not_counted_once_they_are_known(profiles, tmp_path):
    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    scenes = open_dataset("scenes:4:0")
    for number in range(8):
        scenes.load(number % 4).to_pil().save(folder / f"{number}.png")
    profile = profiles.profile("free").model_copy(update={"dataset": str(folder)})
    (note,) = (note for note in estimate(profile, 1, EXACT, cache).notes if "copies" in note)
    assert note == "the data set is taken to hold no copies among its 8 images"
    before = estimate(profile, 1, EXACT, cache).likely.device_seconds.vision
    distinct(open_dataset(str(folder)), cache)
    found = estimate(profile, 1, EXACT, cache)
    assert not any("copies" in note for note in found.notes)
    assert found.likely.device_seconds.vision == pytest.approx(before - 4 * EXACT.seconds_per_pass)


def test_runs_of_the_same_network_predict_alone_and_others_are_said_to_differ(profiles, tmp_path):
    free = profiles.profile("free")
    earlier(tmp_path / "same", free, 4, model="net", profile_name="free")
    earlier(tmp_path / "other", free, 8, model="resnet18", profile_name="free")
    earlier(tmp_path / "renamed", free, 6, model="net", profile_name="mine")
    found = predicted(free, PredictedStudies("net", "free"), below=tmp_path)
    assert (found.like, found.assumes.rounds) == ([str(tmp_path / "same")], 4)
    assert not any("another" in note for note in found.notes)
    found = predicted(free, PredictedStudies("net", "theirs"), below=tmp_path)
    assert found.like == [str(tmp_path / "renamed"), str(tmp_path / "same")]
    found = predicted(free, PredictedStudies("vit", "free"), below=tmp_path)
    assert found.like == [str(tmp_path / "other"), str(tmp_path / "same")]
    assert [note.partition(" (")[0] for note in found.notes[:2]] == [
        "predicted from another network, resnet18",
        "predicted from another network, net",
    ]
    found = predicted(free, PredictedStudies("vit", "free"), like=tmp_path / "renamed")
    assert [note.split()[3] for note in found.notes[:2]] == ["network,", "profile,"]


def test_studies_that_were_asked_something_else_predict_nothing(profiles, tmp_path):
    free = profiles.profile("free")
    earlier(tmp_path / "units", free, 4, model="net", task="describe")
    earlier(tmp_path / "classes", free, 8, model="net", task="audit")
    assert predicted(free, PredictedStudies("net"), below=tmp_path).assumes.rounds == 4
    assert predicted(free, PredictedStudies("net", task="audit"), below=tmp_path).assumes.rounds == 8
    with pytest.raises(UsageError, match="no finished study"):
        predicted(free, PredictedStudies("net"), like=tmp_path / "classes")


def test_a_range_narrows_with_the_studies_that_it_comes_from_and_stays_within_the_limits(profiles):
    paid = profiles.profile("paid")

    def dollars(n, studies):
        found = estimate(paid, n, parse_assumptions([f"studies={studies}", "rounds=8"], EXACT))
        ends = [totals.dollars / n for totals in (found.low, found.likely, found.at_most)]
        assert ends == sorted(ends)
        return ends

    few, many = dollars(2, 1), dollars(200, 100)
    assert few[0] < many[0] < many[1] == pytest.approx(few[1], rel=0.05)
    long = estimate(paid, 1, parse_assumptions(["rounds=1000"], EXACT))
    assert long.likely.interpreter_calls == paid.interpreter.max_rounds


def test_a_budget_bounds_the_most(profiles):
    paid = profiles.profile("paid")
    sweep = paid.sweep.model_copy(update={"budget": BudgetSettings(dollars=3, hours=0.5)})
    most = estimate(paid.model_copy(update={"sweep": sweep}), 1000, EXACT).at_most
    assert (most.dollars, most.hours) == (3, 0.5)


@pytest.mark.parametrize("text", ["rounds", "rounds=many", "nosuch=3", "rounds=-1"])
def test_an_assumption_of_another_form_is_refused(text):
    with pytest.raises(UsageError, match="NAME=NUMBER"):
        parse_assumptions([text])


def test_a_cost_above_the_limit_needs_a_confirmation(profiles):
    found = estimate(profiles.profile("paid"), 1000, EXACT)
    assert "about $" in confirm(found, 1e6, yes=False, ask=None)
    with pytest.raises(UsageError, match="Confirm with --yes"):
        confirm(found, 1, yes=False, ask=None)
    with pytest.raises(UsageError, match="Confirm with --yes"):
        confirm(found, 1, yes=False, ask=lambda _: False)
    asked = []
    assert confirm(found, 1, yes=False, ask=lambda question: bool(asked.append(question)) or True)
    assert "Continue?" in asked[0]
    assert confirm(found, 1, yes=True, ask=None)
    unknown = estimate(profiles.profile("unpriced"), 1, EXACT)
    with pytest.raises(UsageError, match="a price is unknown"):
        confirm(unknown, 1e6, yes=False, ask=None)
    nothing = estimate(profiles.profile("unpriced"), 0, EXACT)
    assert confirm(nothing, 0, yes=False, ask=None) == "no unit is left to study"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "n"),
    [
        (["sweep", "resnet18", "layer1", "--units", "0-63"], "64 studies are"),
        (["audit", "resnet18", "--classes", "goldfish,3-5,sample:9"], "13 studies are"),
        (["audit", "resnet18", "--classes", "goldfish"], "1 study is"),
        (["describe", "resnet18", "layer1", "3"], "1 study is"),
        (["session", "resnet18", "layer1", "3"], "1 study is"),
        (["ablate", "resnet18", "layer1", "--units", "0-4", "--variants", "one-shot"], "10 studies are"),
        (["ablate", "synthetic", "--units", "dog; blue", "--variants", "full,one-shot"], "4 studies are"),
        (["synthetic", "--units", "dog; blue; cat", "--limit", "2"], "2 studies are"),
        (["planted-biases", "--networks", "2", "--agents"], "16 studies are"),
        (["robust-features", "--trainings", "2", "--top", "7"], "14 studies are"),
    ],
)
def test_a_costly_command_without_a_confirmation_ends_at_once(dear, capsys, arguments, n):
    assert maia(*arguments, *dear) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert f"{n} expected to cost about $" in output.err
    assert "--yes" in output.err


def test_the_guide_names_every_command_that_asks():
    import typer.main

    commands = typer.main.get_command(cli.app).commands
    asking = {name for name, command in commands.items() if any("--yes" in p.opts for p in command.params)}
    guide = (Path(__file__).parents[3] / "docs" / "costs.md").read_text()
    sentence = guide.partition("These ask, all in the same way:")[2].partition("Only studies")[0]
    assert set(re.findall(r"`maia ([\w-]+)`", sentence)) == asking


def planned(folder, units, finished):
    """Write a run of so many units, of which the first are finished."""
    plan = [
        {"unit": f"net/output:{number}", "layer": "output", "name": str(number)} for number in range(units)
    ]
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "plan.json").write_text(json.dumps(plan))
    for item in plan[:finished]:
        done = folder / "units" / slug(item["unit"]) / "done.json"
        done.parent.mkdir(parents=True)
        done.write_text("{}")


def test_an_audit_counts_the_unfinished_classes_of_its_own_run(dear, tmp_path, capsys):
    arguments = ["audit", "net", "--classes", "0-4", *dear]
    planned(tmp_path / "runs" / slug("net output 0-4"), units=5, finished=5)
    assert maia(*arguments) == 2
    assert "5 studies are expected" in capsys.readouterr().err
    planned(tmp_path / "runs" / slug("audit net 0-4"), units=5, finished=2)
    assert maia(*arguments) == 2
    assert "3 studies are expected" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "judge"])
@pytest.mark.parametrize("names", [["maia"], ["another unit's label"], ["people", "people"]])
def test_methods_have_names_of_their_own(tmp_path, capsys, command, names):
    against = [part for name in names for part in ("--against", f"{name}=labels.json")]
    assert maia(command, str(tmp_path), *against) == 2
    assert repr(names[0]) in capsys.readouterr().err.replace("\n", " ")


async def test_of_a_network_that_was_loaded_before_no_more_units_are_predicted_than_it_has(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MAIA_CACHE", str(tmp_path))
    known = KnownNetwork(
        "resnet18",
        {name: LayerInfo(name, "map", n, (), "X") for name, n in (("layer3", 256), ("output", 1000))},
        {},
        {},
        ["tench", "goldfish"],
    )

    async def count(layers: list[str], units: str) -> int:
        return await count_units(Selection(), "resnet18", layers, units)

    assert await count(["layer3"], "sample:9999") == 9999, "nothing is known yet"
    save_known(tmp_path, "resnet18", known, VisionSettings())
    assert await count(["layer3"], "sample:9999") == 256
    assert await count(["layer3", "output"], "all") == 1256
    assert await count(["output"], "3,goldfish") == 2
    with pytest.raises(UsageError, match="no layer 'layer33'"):
        await count(["layer33"], "sample:6")
    with pytest.raises(UsageError, match="numbered 0 to 255"):
        await count(["layer3"], "7,256")


def test_repeated_studies_are_estimated_as_so_many_studies(profiles, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)

    def asked(*options):
        arguments = ["estimate", "net", "output", "--units", "0,3", "--profile", "paid", "--json", *options]
        assert maia(*arguments, "--config", profiles.path) == 0
        return json.loads(capsys.readouterr().out)

    once, thrice = asked(), asked("--repeat", "3")
    assert (once["units"], thrice["units"], thrice["repeat"]) == (2, 2, 3)
    for name in ("interpreter_calls", "images", "prompt_tokens"):
        assert thrice["likely"][name] == pytest.approx(3 * once["likely"][name], abs=2)
    assert "not counted" in thrice["notes"][-1]


def test_an_estimate_counts_rival_labels_where_the_observer_names_them(profiles):
    """A second measurement, a rival, a narrower word, a synonym, and a broader word twice."""
    builtin = profiles.profile("free")
    chat = builtin.chat.model_copy(update={"observers": OpenAIChat(model="seeing")})
    asked, test = builtin.model_copy(update={"chat": chat}), builtin.confirmation
    made, looked_at = confirmation_images(asked, Assumptions(answers=1))
    assert made == 2 * test.min_images + 6 * test.probe
    fewer, seldom = confirmation_images(builtin, Assumptions(answers=1))
    assert (made - fewer, looked_at - seldom) == (3 * test.probe, 2 * test.probe)
