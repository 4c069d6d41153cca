"""The manifests parse, fit each other and the program, and hold no secret; nothing is started."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.main import app
from experiments.runs.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kuberay").glob("*.yaml"))


def pods(manifest: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod's spec in a manifest."""
    if isinstance(manifest, dict):
        if "containers" in manifest:
            yield manifest
        for value in manifest.values():
            yield from pods(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from pods(value)


def every_pod() -> list[dict[str, Any]]:
    return [pod for path in MANIFESTS for pod in pods(yaml.safe_load(path.read_text()))]


def test_there_are_pods_to_look_at() -> None:
    assert len(every_pod()) == 3


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_pod_mounts_only_what_it_has_and_asks_for_what_it_may_use(path: Path) -> None:
    for pod in pods(yaml.safe_load(path.read_text())):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            limits, requests = container["resources"]["limits"], container["resources"]["requests"]
            assert limits.keys() == requests.keys() >= {"cpu", "memory"}


def test_secrets_are_referred_to_and_every_process_of_the_cluster_has_its_token() -> None:
    for pod in every_pod():
        for container in pod["containers"]:
            env = {each["name"]: each for each in container["env"]}
            assert env["RAY_AUTH_MODE"]["value"] == "token"
            for name, each in env.items():
                if re.search("KEY|TOKEN|SECRET", name):
                    assert each.keys() == {"name", "valueFrom"}, f"{name} must not be written out"
                    assert each["valueFrom"].keys() == {"secretKeyRef"}


def test_every_secret_is_named_in_the_instructions() -> None:
    told = (DEPLOY / "kuberay" / "raycluster.yaml").read_text()
    used = {
        each["valueFrom"]["secretKeyRef"]["name"]
        for pod in every_pod()
        for container in pod["containers"]
        for each in container["env"]
        if "valueFrom" in each
    }
    assert all(f"kubectl create secret generic {name}" in told for name in used)


def test_the_versions_of_ray_are_the_pinned_one() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    cluster = yaml.safe_load((DEPLOY / "kuberay" / "raycluster.yaml").read_text())
    assert cluster["spec"]["rayVersion"] == pinned[1]
    assert f"rayproject/ray:{pinned[1]}-" in (DEPLOY / "Containerfile").read_text()


def test_the_job_joins_the_cluster_and_its_command_is_one_of_ours() -> None:
    cluster = yaml.safe_load((DEPLOY / "kuberay" / "raycluster.yaml").read_text())
    job = yaml.safe_load((DEPLOY / "kuberay" / "sweep-job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    join, work = container["args"][0].strip().splitlines()
    assert f"--address={cluster['metadata']['name']}-head-svc:6379" in join
    check_command(work.removeprefix("exec "))


def check_command(line: str) -> None:
    """Let the command line's own parser judge a command, without running it."""
    import typer

    command = typer.main.get_command(app)
    program, name, *arguments = shlex.split(line)
    assert program == "maia"
    command.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


def test_a_command_that_is_not_ours_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        check_command("maia sweep resnet50 layer4 --no-such-option")


def test_ray_accepts_the_launcher_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = (DEPLOY / "ray-up" / "aws.yaml").read_text()
    validate_config(prepare_config(yaml.safe_load(content)))
    assert all("RAY_AUTH_MODE=token" in line for line in content.splitlines() if "ray start" in line)


def test_the_image_holds_the_program_and_extras_that_exist() -> None:
    import tomllib

    text = (DEPLOY / "Containerfile").read_text()
    for source in re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r'pip install .*"\.\[(.*)\]"', text)
    assert asked is not None
    assert set(asked[1].split(",")) <= extras.keys()
    assert {"cluster", "s3"} <= set(asked[1].split(",")), (
        "jobs and results at a URL are what a cluster is for"
    )
    assert " -c constraints.txt " in asked[0], "the image has the versions that were tested"
    assert "ENTRYPOINT" not in text, "the launchers start shells in it"


def test_the_dashboard_shows_metrics_that_a_run_gives_out() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "maia.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_(maia_\w+)", target["expr"])
    }
    assert shown <= METRICS
    assert METRICS - shown == set(), "every metric has a place to be seen"
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
