"""What endpoints answer is known before anything is started: real servers on loopback, the real client."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors.endpoint.model_list import ListedModel, find, nearest, read_list
from actors.errors import ConfigError, UsageError
from actors.vision.networks.layer_cache import KnownNetwork, save_known
from actors.vision.readout.base import LayerInfo
from agents.records.manifest import claim
from agents.records.record_types import Manifest
from agents.records.store import Store
from experiments.cli.costs import confirm_cost
from experiments.setup.config import BUILT_IN_FILE, Profile, load
from experiments.setup.endpoint_check import check_endpoints, require_endpoints, suggestions
from experiments.setup.init import ProfileAnswers, write_profile
from experiments.setup.profile_file import new_file, update_profile
from experiments.setup.selection import Selection
from tests.command_line import maia
from tests.fake_endpoint import KEY, MODEL, FakeEndpoint, Fault, Seen
from tests.fake_images import IMAGE_MODEL, FakeImages

ENVIRON = {"SOME_KEY": KEY}


def sees(seen: Seen) -> str:
    assert seen.messages[0]["role"] == "system"
    assert len(seen.images) == 2
    return "Red, blue"


def profile(server: FakeEndpoint, *, model: str = MODEL, images: str = "", **more: Any) -> Profile:
    common = {"base_url": server.base_url, "api_key_env": "SOME_KEY"}
    chat = {"interpreter": {"backend": "openai", "model": model, **common, **more}}
    parts = {"generation": {"backend": "openai-images", "model": images, **common}} if images else {}
    return Profile(chat=chat, **parts)


def quiet(_: str) -> None: ...


async def test_a_working_endpoint_is_reported_with_its_findings():
    with FakeEndpoint(sees) as server:
        (report,) = await check_endpoints(profile(server), 20, ENVIRON)
        assert len(server.seen) == 1
    assert report.error is None
    assert report.key == "chat.interpreter"
    assert "sees images" in report.found
    assert "in the server's list of 1 model" in report.found
    assert report.warnings == ()


async def test_an_endpoint_that_is_asked_in_batches_is_tried_without_one():
    """A batch would be billed, and answered long after anybody waits for it."""
    with FakeEndpoint(sees) as server:
        chat = {"backend": "openai", "model": MODEL, "base_url": server.base_url, "api_key_env": "SOME_KEY"}
        asked = Profile(chat={"interpreter": {**chat, "batch": {}}})
        (report,) = await check_endpoints(asked, 20, ENVIRON)
        assert server.batches == {}
    assert "sees images" in report.found


async def test_a_model_that_names_no_color_may_be_blind_and_that_is_a_warning():
    with FakeEndpoint(lambda _: "I see nothing.") as server:
        (report,) = await check_endpoints(profile(server), 20, ENVIRON)
    assert report.error is None
    assert "may not see images" in report.warnings[0]


@pytest.mark.parametrize(
    ("environ", "model", "message"),
    [
        ({"SOME_KEY": "wrong-key-wrong-key"}, MODEL, "does not accept the key"),
        (ENVIRON, "fake-vln", f"Nearest that it lists: {MODEL}"),
        ({}, MODEL, "SOME_KEY"),
    ],
)
async def test_a_wrong_key_and_a_wrong_model_stop_a_command_before_it_starts(environ, model, message):
    with FakeEndpoint(sees) as server, pytest.raises(UsageError, match=message) as stopped:
        await require_endpoints(profile(server, model=model), quiet, 20, environ)
    assert str(stopped.value).startswith("chat.interpreter: ")
    assert KEY not in str(stopped.value)


async def test_an_address_where_nothing_answers_is_a_mistake_of_the_profile():
    with FakeEndpoint(sees) as server:
        gone = profile(server)
    with pytest.raises(UsageError, match=r"right host and port") as stopped:
        await require_endpoints(gone, quiet, 20, ENVIRON)
    assert "no connection to 127.0.0.1:" in str(stopped.value)
    assert "ssl" not in str(stopped.value)


async def test_a_wrong_image_model_is_reported_without_making_an_image():
    images = FakeImages()
    with FakeEndpoint(sees, routes=images.routes) as server:
        await require_endpoints(profile(server, images=IMAGE_MODEL), quiet, 20, ENVIRON)
        with pytest.raises(UsageError, match=r"generation: .*does not know the model 'fake-paint'"):
            await require_endpoints(profile(server, images="fake-paint"), quiet, 20, ENVIRON)
    assert images.seen == []


async def test_one_endpoint_that_two_roles_use_is_asked_once():
    with FakeEndpoint(sees) as server:
        one = profile(server)
        both = one.model_copy(
            update={"chat": one.chat.model_copy(update={"observers": one.chat.interpreter})}
        )
        reports = await check_endpoints(both, 20, ENVIRON)
        assert len(server.seen) == 1
    assert [report.key for report in reports] == ["chat.interpreter", "chat.observers"]


async def test_refused_parameters_become_settings_of_the_profile(tmp_path: Path):
    """A server without a system role and without seeds is asked again at once, and the profile can say so."""

    def choosy(seen: Seen) -> str | Fault:
        if "seed" in seen.body:
            return Fault.error(400, "Unknown parameter: 'seed'.", "unknown_parameter")
        if seen.messages[0]["role"] == "system":
            return Fault.error(400, "System role not supported")
        return "red blue"

    with FakeEndpoint(choosy) as server:
        reports = await check_endpoints(profile(server), 20, ENVIRON)
    assert reports[0].error is None
    assert suggestions(reports) == {"chat": {"interpreter": {"omit": ["seed"], "system": "fold"}}}
    path = tmp_path / "own.yaml"
    path.write_text("profiles: {a: {chat: {interpreter: {backend: openai, model: m}}}}")
    update_profile(path, "a", suggestions(reports))
    assert load(path).profile("a").chat.interpreter.system == "fold"


def never() -> int:
    raise AssertionError("nothing is counted, loaded or estimated before the endpoints were asked")


def written(own: Profile, folder: Path) -> Selection:
    """Return the selection of a profile in a file of its own, with a folder of its own for caches."""
    config = folder / "own.yaml"
    values = own.model_dump(mode="json", exclude_unset=True)
    config.write_text(json.dumps({"profiles": {"own": values}, "cache_dir": str(folder / "cache")}))
    return Selection(config, "own")


def test_endpoints_are_asked_before_units_are_counted_and_before_a_person_is_asked_about_money(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SOME_KEY", "wrong-key-wrong-key")
    with FakeEndpoint(sees) as server:
        selection = written(profile(server, price={"prompt": 100.0, "completion": 100.0}), tmp_path)
        with pytest.raises(UsageError, match="does not accept the key"):
            confirm_cost(selection, False, never, folder=tmp_path / "run")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("describe resnet18 layr1 3", "has no layer 'layr1'"),
        ("describe resnet18 layer1 64", "are numbered 0 to 63"),
        ("sweep resnet18 layr1", "has no layer 'layr1'"),
    ],
)
def test_a_wrong_name_in_a_known_network_is_told_before_any_endpoint_is_asked(
    tmp_path, monkeypatch, capsys, command, message
):
    monkeypatch.setenv("SOME_KEY", "wrong-key-wrong-key")
    layer = LayerInfo("layer1", "map", 64, (56, 56), "Sequential")
    known = KnownNetwork("resnet18", {"layer1": layer}, {}, {}, [])
    with FakeEndpoint(sees) as server:
        own = profile(server)
        save_known(tmp_path / "cache", "resnet18", known, own.vision)
        options = ("--profile", "own", "--config", written(own, tmp_path).config, "--out", tmp_path / "run")
        assert maia(*command.split(), *options) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "key" not in said


def test_of_a_finished_run_nobody_is_asked(tmp_path):
    (tmp_path / "run").mkdir()
    with FakeEndpoint(sees) as server:
        confirm_cost(written(profile(server), tmp_path), False, lambda: 0, folder=tmp_path / "run")
        assert server.seen == []


async def test_a_process_asks_the_same_endpoint_once(tmp_path):
    with FakeEndpoint(sees) as server:
        for _ in range(2):
            await require_endpoints(profile(server), quiet, 20, ENVIRON)
        assert len(server.seen) == 1
        with pytest.raises(UsageError, match="does not accept the key"):
            await require_endpoints(profile(server), quiet, 20, {"SOME_KEY": "another-key-another"})


ASKED_FIRST = (
    "describe tf_efficientnet_lite0 blocks.6 91",
    "sweep tf_efficientnet_lite0 blocks.6 --agents doubtful",
    "audit tf_efficientnet_lite0 --classes umbrella --figures-only",
    "session tf_efficientnet_lite0 blocks.6 91",
    "mcp",
    "find tf_efficientnet_lite0 blocks.6 forest",
    "ablate synthetic",
    "synthetic",
    "planted-biases --agents",
    "robust-features",
    "evaluate run",
)
LOADED_LATER = ("torch", "ray", "timm", "transformers", "torchvision", "diffusers")
PROGRAM = f"""
import sys
from experiments.cli.main import main
for line in sys.stdin.read().splitlines():
    try:
        main([*line.split(), "--profile", "own", "--config", sys.argv[1]])
    except SystemExit as stop:
        assert stop.code == 2, (line, stop.code)
    else:
        raise AssertionError(line)
    loaded = [name for name in {LOADED_LATER} if name in sys.modules]
    assert not loaded, (line, loaded)
"""


@pytest.mark.slow
def test_a_wrong_key_is_told_before_anything_large_is_imported(tmp_path):
    """By every command that uses an endpoint: its seconds until then are those of the imports."""
    with FakeEndpoint(sees) as server:
        selection = written(profile(server), tmp_path)
        claim(Store.open(tmp_path / "run"), Manifest(command="sweep", model="tf_efficientnet_lite0"))
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(selection.config)],
            input="\n".join(ASKED_FIRST), cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env={**os.environ, "SOME_KEY": "wrong-key-wrong-key", "PYTHONPATH": str(Path.cwd())},
        )  # fmt: skip
        assert server.seen == []
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("does not accept the key") == len(ASKED_FIRST)


async def test_an_endpoint_that_answers_late_is_left_to_the_run():
    with FakeEndpoint(sees) as server:
        server.delay_s = 20
        output: list[str] = []
        await require_endpoints(profile(server), output.append, 0.5, ENVIRON)
    assert any("no answer within 0.5 s" in line for line in output)


async def test_the_embedded_profile_asks_no_endpoint():
    output: list[str] = []
    await require_endpoints(load(BUILT_IN_FILE).profile("embedded"), output.append, 1, {})
    assert output == []


def test_lists_of_models_are_read_in_the_forms_that_servers_use():
    body = {
        "data": [
            {"id": "models/a-1", "shutdown_date": "2027-01-14"},
            {"id": "b:latest", "max_model_len": 4096},
            {"name": "c", "shutdown_date": 1800000000},
            {"id": 5},
            "odd",
        ]
    }
    models = read_list(body)
    assert models is not None
    assert models[0] == ListedModel("a-1", datetime.date(2027, 1, 14))
    assert find(models, "b") == ListedModel("b:latest", None, 4096)
    assert find(models, "models/a-1") == models[0]
    assert models[2].ends is not None
    assert find(models, "d") is None
    assert nearest(models, "A-2")[0] == "a-1"
    assert read_list({"object": "error"}) is None


async def test_the_answers_become_a_profile_that_loads(tmp_path: Path):
    path = tmp_path / "maia.yaml"
    photos = tmp_path / "photos"
    photos.mkdir()
    await write_profile(path, "mine", ProfileAnswers(provider="openai", data=str(photos)), environ={})
    made = load(path).profile()
    assert made.dataset == str(photos)
    assert made.generation.backend == "openai-images"
    assert made.chat.interpreter.known_price is not None
    assert made.generation.known_price.expected(made.generation.quality) is not None
    with pytest.raises(UsageError, match="exists already"):
        await write_profile(path, "mine", ProfileAnswers(), environ={})
    await write_profile(
        path, "mine", ProfileAnswers(provider="anthropic", gpu=True), replace=True, environ={}
    )
    assert load(path).profile().generation.backend == "diffusers"


async def test_the_only_model_of_a_server_is_taken_and_of_several_one_must_be_named(tmp_path: Path):
    with FakeEndpoint(sees) as server:
        await write_profile(
            tmp_path / "one.yaml",
            "mine",
            ProfileAnswers(server=server.base_url, key_env="SOME_KEY"),
            environ=ENVIRON,
        )
    roles = load(tmp_path / "one.yaml").profile().chat
    assert (roles.interpreter.model, roles.observers) == (MODEL, None), "no stand-in looks in its place"

    async def several(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "a"}, {"id": "b"}]})

    with FakeEndpoint(sees, routes=[web.get("/other/models", several)]) as server:
        address = server.base_url.replace("/v1", "/other")
        with pytest.raises(UsageError, match=r"lists 2 models: a, b.*--server-model"):
            await write_profile(
                tmp_path / "two.yaml",
                "mine",
                ProfileAnswers(server=address, key_env="SOME_KEY"),
                environ=ENVIRON,
            )
    assert not (tmp_path / "two.yaml").exists()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (ProfileAnswers(provider="openai", server="http://x/v1"), "one of --provider and --server"),
        (ProfileAnswers(provider="opnai"), "no provider of the built-in list"),
        (ProfileAnswers(data="/nowhere/at/all"), "do not exist"),
    ],
)
async def test_answers_that_cannot_be_are_refused_and_nothing_is_written(tmp_path: Path, answers, message):
    with pytest.raises(UsageError, match=message):
        await write_profile(tmp_path / "maia.yaml", "mine", answers, environ={})
    assert not (tmp_path / "maia.yaml").exists()


def test_a_profile_is_changed_in_its_file_and_comments_stay(tmp_path: Path, monkeypatch):
    path = tmp_path / "own.yaml"
    path.write_text("# mine\nprofiles:\n  a:\n    extends: hosted  # a reason\n    vision: {batch: 7}\n")
    update_profile(path, "a", {"chat": {"interpreter": {"temperature": 0.5}}, "ask_above_dollars": 2})
    text = path.read_text()
    assert "# mine" in text
    assert "# a reason" in text
    changed = load(path).profile("a")
    assert (changed.vision.batch, changed.ask_above_dollars) == (7, 2)
    assert changed.chat.interpreter.temperature == 0.5
    with pytest.raises(ConfigError):
        update_profile(path, "a", {"nonsense": 1})
    assert path.read_text() == text
    monkeypatch.chdir(tmp_path)
    written = update_profile(BUILT_IN_FILE, "hosted", {"vision": {"batch": 3}})
    assert written == tmp_path / "maia.yaml"
    assert load(written).profile("hosted").vision.batch == 3
    assert load(written).profile("hosted").generation.backend == "openai-images"


def test_a_changed_file_keeps_its_permissions_and_its_link(tmp_path: Path):
    """A configuration is often kept private, and elsewhere."""
    file, link = tmp_path / "kept.yaml", tmp_path / "maia.yaml"
    new_file(file, "mine", {"extends": "embedded"}, "# a comment\n")
    file.chmod(0o600)
    link.symlink_to(file)
    update_profile(link, "mine", {"ask_above_dollars": 2})
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o600
    assert load(file).profiles["mine"].ask_above_dollars == 2


def test_a_new_file_starts_with_its_comment(tmp_path: Path):
    new_file(tmp_path / "x.yaml", "mine", {"extends": "embedded"}, "# a comment\n")
    assert (tmp_path / "x.yaml").read_text().startswith("# a comment\n")
