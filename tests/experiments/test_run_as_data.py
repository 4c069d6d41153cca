"""A run directory from a stranger chooses nothing that is executed, loaded, read or written elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.errors import UsageError
from agents.records.record_types import Manifest
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import WorkItem, build_task, read_plan
from agents.tasks import TASKS
from experiments.audit.context_survey import SURVEYS
from experiments.records.trust import Trust, dataset_of, network_of, sandbox_of, units_of
from tests.command_line import maia as run_command
from tests.experiments.report.run_directories import LAYER, FakeRun
from tools.sandbox import SandboxSettings

Maia = Callable[..., tuple[int, str]]


@pytest.fixture
def maia(capsys: pytest.CaptureFixture[str]) -> Maia:
    """Return a function that runs a command in this process and returns its exit code and all it printed."""

    def run(*words: Any) -> tuple[int, str]:
        code = run_command(*words)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    run = FakeRun(tmp_path / "run")
    run.write_unit(3)
    return run


def plan(run: FakeRun, **changes: Any) -> None:
    run.put("plan.json", [{"unit": run.unit_id(3), "layer": LAYER, "name": "3", "seed": 0} | changes])


def test_a_replay_runs_no_command_that_the_manifest_names(run: FakeRun, maia: Maia, tmp_path: Path) -> None:
    """The sandbox's launcher, executor and walls are the person's own."""
    mark = tmp_path / "ran"
    hostile = {
        "wrap": ["/bin/sh", "-c", f'touch {mark}; exec "$0" "$@"'],
        "allow_weak": True,
        "executor": "no such",
        "namespaces": False,
    }
    run.put("manifest.json", {"model": run.model, "settings": {"sandbox": hostile}})
    plan(run)
    code, output = maia("replay", run.root)
    assert (code, mark.exists()) == (1, False), output
    assert "no call of the interpreter is on record" in output


def test_of_recorded_sandbox_settings_only_lower_limits_count() -> None:
    """A record can't raise a limit, and what is no limit stays the person's."""
    own = SandboxSettings(max_calls=100, program_timeout_s=10.0)
    recorded: dict[str, Any] = {name: "anything" for name, _ in own} | {
        "wrap": ["sh"], "allow_weak": True, "namespaces": False, "max_calls": 50, "program_timeout_s": 1e9,
    }  # fmt: skip
    recorded.pop("dialect", None)
    found, output = sandbox_of(Manifest(settings={"sandbox": recorded}), own)
    assert found == own.model_copy(update={"max_calls": 50})
    assert len(output) == 1
    assert "program_timeout_s 1000000000" in output[0]


@pytest.mark.parametrize("value", [-1, 0, 1e-300, float("-inf")])
def test_a_recorded_limit_that_is_none_is_named(value: float) -> None:
    """Bad values in a manifest are damage, not a traceback."""
    with pytest.raises(RecordError, match=r"sandbox settings of this run are damaged: max_calls: .*[^\n]\.$"):
        sandbox_of(Manifest(settings={"sandbox": {"max_calls": value}}), SandboxSettings())


@pytest.mark.parametrize("command", ["replay", "export"])
def test_no_function_that_a_plan_names_is_called(
    run: FakeRun, maia: Maia, tmp_path: Path, command: str
) -> None:
    """Tasks come from a table; a plan's words are never imported."""
    mark = tmp_path / "called"
    plan(run, task="subprocess:getoutput", arguments={"cmd": f"touch {mark}"})
    options = ("--format", "inspect", "--out", tmp_path / "log.json") if command == "export" else ()
    code, output = maia(command, run.root, *options)
    assert (code, mark.exists()) == (2 if command == "replay" else 0, False), output
    assert "there is no task 'subprocess:getoutput'" in output


def test_plans_of_earlier_versions_name_the_same_tasks(tmp_path: Path) -> None:
    """What a plan calls a task may be its former name, and nothing else."""
    store = Store.open(tmp_path)
    item = {"unit": "u", "layer": "l", "name": "1"}
    former = item | {
        "task": "agents.tasks.bias:AuditClass", "arguments": {"class_name": "dog"},
        "survey": "experiments.runs.context_survey:survey_class",
    }  # fmt: skip
    store.put("plan.json", json.dumps([item, former]).encode())
    first, second = read_plan(store) or []
    assert [first.task, second.task, second.survey] == ["describe", "audit", *SURVEYS]
    assert set(TASKS) == {"describe", "audit", "selective"}
    assert "dog" in build_task(second).opening()


@pytest.mark.parametrize(
    ("task", "arguments"),
    [("describe", {"x": 1}), ("audit", {}), ("audit", {"class_name": 5}), ("selective", {"classes": 3})],
)
def test_a_task_refuses_arguments_that_are_not_its_own(task: str, arguments: dict[str, Any]) -> None:
    """The arguments of a plan are checked against the task's fields."""
    with pytest.raises(RecordError, match=f"the task '{task}' does not take"):
        build_task(WorkItem("u", "l", "1", task, arguments))


@pytest.mark.parametrize("command", ["branch", "evaluate"])
def test_code_that_a_run_names_is_not_loaded_unasked(
    run: FakeRun, maia: Maia, tmp_path: Path, command: str
) -> None:
    """Where nobody can be asked, the path is shown and nothing runs."""
    evil = run.root / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    run.put("manifest.json", {"model": f"python:{evil}:make", "settings": {}})
    unit = run.unit_id(3)
    run.put("plan.json", [{"unit": unit, "layer": LAYER, "name": "3"}])
    words = (f"{run.root}/{unit}", "--out", tmp_path / "out") if command == "branch" else (run.root,)
    code, output = maia(command, *words)
    assert (code, (tmp_path / "ran").exists()) == (2, False), output
    assert str(evil) in output.replace("\n", "")
    assert "--trust" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("python:/tmp/it.py:make", "the code /tmp/it.py"),
        ("python:mod.ule:make", "the code mod.ule"),
        ("resnet18@/tmp/weights.pt", "the weights /tmp/weights.pt"),
        ("hf:./folder", "the folder ./folder"),
    ],
)
def test_a_person_agrees_to_local_parts_of_a_network(model: str, shown: str) -> None:
    """A person agrees by a flag, by an answer, or by naming the network again."""
    manifest = Manifest(model=model)
    with pytest.raises(UsageError, match=shown):
        network_of(manifest, None, Trust())
    with pytest.raises(UsageError, match="--trust"):
        network_of(manifest, None, Trust(ask=lambda _: False))
    asked: list[str] = []
    assert network_of(manifest, None, Trust(ask=lambda question: asked.append(question) is None)) == model
    assert shown in asked[0]
    assert network_of(manifest, model, Trust()) == model
    assert network_of(manifest, None, Trust(given=True)) == model
    with pytest.raises(UsageError, match="the run studied"):
        network_of(manifest, "resnet50", Trust())


@pytest.mark.parametrize(
    "model", ["resnet18", "timm:resnet50.a1_in1k", "hf:facebook/dinov2-small", "concept-net"]
)
def test_published_networks_need_no_question(model: str) -> None:
    """They are loaded by name, with the weights of their publisher."""
    assert network_of(Manifest(model=model), None, Trust()) == model


@pytest.mark.parametrize("text", ["/a\0b", "hf:x\x1b[2J", "python:" + "a" * 10_000])
def test_what_is_no_name_is_damage(text: str) -> None:
    """Whatever a run names by it."""
    with pytest.raises(RecordError, match="the name of the network in this run is none"):
        network_of(Manifest(model=text), None, Trust(given=True))
    with pytest.raises(RecordError, match="the name of the data set"):
        dataset_of(Manifest(settings={"dataset": text}), "scenes", None, Trust(given=True))
    with pytest.raises(RecordError, match="the name of the unit"):
        units_of([("layer4", text)], Trust(given=True))


def test_a_name_that_no_file_can_have_is_no_traceback(run: FakeRun, maia: Maia) -> None:
    run.put("manifest.json", {"model": f"hf:{'a' * 300}", "settings": {}})
    plan(run)
    code, output = maia("evaluate", run.root)
    assert (code, "can be no file (File name too long)" in output) == (2, True), output


def test_a_data_set_of_the_hub_is_one_with_an_owner_that_is_no_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library prefers a folder of that name, and takes the formats of files for data sets."""
    (tmp_path / "owner" / "photographs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for named in ("hf:owner/photographs:train", "hf:imagefolder", "hf:json:train", "hf:"):
        with pytest.raises(UsageError, match="--trust"):
            dataset_of(Manifest(settings={"dataset": named}), "scenes", None, Trust())
    published = "hf:owner/birds:train:image"
    assert dataset_of(Manifest(settings={"dataset": published}), "scenes", None, Trust()) == published


def test_files_of_units_and_images_are_agreed_to() -> None:
    """A direction's file and a folder of images are read only where the person agrees."""
    with pytest.raises(UsageError, match=r"the file /tmp/v\.npy"):
        units_of([("layer4", "direction:/tmp/v.npy:0")], Trust())
    units_of([("layer4", "3"), ("output", "logit:dog")], Trust())
    manifest = Manifest(settings={"dataset": "/home/ada/photos"})
    with pytest.raises(UsageError, match="/home/ada/photos"):
        dataset_of(manifest, "scenes", None, Trust())
    assert dataset_of(manifest, "/home/ada/photos", None, Trust()) == "/home/ada/photos"
    assert dataset_of(manifest, "scenes", "scenes:50", Trust()) == "scenes:50"
    assert dataset_of(Manifest(settings={"dataset": "scenes:9"}), "scenes", None, Trust()) == "scenes:9"
