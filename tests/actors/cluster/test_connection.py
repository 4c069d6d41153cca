"""Starting, joining and leaving Ray: what a private cluster exposes, and which clusters are joined."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actors.cluster.connection import (
    _find,
    _log_message,
    inherited_environment,
    log_folder,
    prepare_authentication,
)
from actors.cluster.settings import RaySettings
from actors.errors import UsageError


def listening(pids: set[int]) -> set[str]:
    """Return the addresses, as the kernel writes them, at which these processes listen."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and fields[3] in ("0A", "07"):
                found.add(fields[1].rpartition(":")[0])
    return found


@pytest.mark.ray
def test_nothing_of_a_private_cluster_listens_beyond_the_loopback_address(ray_cluster: None) -> None:
    """GCS, raylet, agents, workers, and this process itself."""
    this = psutil.Process()
    names = {}
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # one that ends is no server
            names[process.pid] = process.name()
    assert {"gcs_server", "raylet"} <= set(names.values())
    assert listening(set(names)) == {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.ray
def test_other_users_cannot_reach_the_files_of_a_private_cluster(ray_cluster: None) -> None:
    """Sockets and logs lie below a folder of mode 0700 that belongs to us."""
    logs = Path(log_folder())
    folder = next(each for each in logs.parents if each.name.startswith("maia-ray-"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert any(logs.iterdir())


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        RaySettings.model_validate({"adress": "auto"})


def test_the_token_can_be_read_by_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    path = tmp_path / "ray" / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    prepare_authentication()
    assert len(path.read_text()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("an older token")
    path.chmod(0o644)
    prepare_authentication()
    assert path.read_text() == "an older token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_file_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "token"))
    with pytest.raises(UsageError, match="file/token cannot be made private"):
        prepare_authentication()


def test_only_named_variables_are_shown_to_ray_and_ours_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("MY_DATA", "/data")
    before = dict(os.environ)
    with inherited_environment(RaySettings(keep_env=("MY_DATA",)), {"RAY_AUTH_MODE": "token"}):
        assert not {"HF_TOKEN", "RAY_AUTH_TOKEN", "RAY_ADDRESS", "PYTHONWARNINGS"} & os.environ.keys()
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert os.environ["MY_DATA"] == "/data"
        assert os.environ["PATH"] == before["PATH"]
        assert os.environ["RAY_health_check_period_ms"] == "1000"  # noqa: SIM112
    assert dict(os.environ) == before


LIFE = """
import asyncio, json, os, sys
import ray  # before anything has set how it authenticates
from actors.serving.cluster import Cluster
from actors.cluster.settings import RaySettings
from tests.actors.scripted import Show

async def main():
    allow = "MAIA_TEST_ALLOW" in os.environ
    settings = RaySettings(num_cpus=1, address=sys.argv[1], allow_unauthenticated=allow)
    async with Cluster.start(settings) as cluster:
        pool = cluster.pool("life", "tests.actors.scripted:build", {"gated": False})
        print(json.dumps([await pool.submit(Show(3)), (await pool.describe()).pid]))

asyncio.run(main())
"""


def live(address: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", LIFE, address],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        | environment,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_of_its_own_ends_without_a_trace_and_prints_nothing_on_stdout() -> None:
    marker = f"life-{os.getpid()}"
    done = live("local", XDG_SESSION_ID=marker)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[[3, null], ")
    assert done.stdout.count("\n") == 1
    left = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and marker.encode() in (process / "environ").read_bytes():
                left.append((process / "cmdline").read_bytes())
        except OSError:
            continue
    assert left == []


@pytest.mark.ray
@pytest.mark.exhaustive
def test_a_private_cluster_starts_whatever_the_shell_holds(tmp_path: Path) -> None:
    """One start with all at once: each was tried alone, and none hides another's failure."""
    long = tmp_path / ("x" * 80)
    stranger = tmp_path / "ein fremder Ordner für maia"
    for name in ("actors", "tools", "agents", "experiments"):
        (stranger / name).mkdir(parents=True)
        (stranger / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    long.mkdir()
    done = live(
        "local",
        cwd=stranger,
        TMPDIR=str(long),
        HOME=str(tmp_path / "nowhere"),
        http_proxy="http://127.0.0.1:9",
        https_proxy="http://127.0.0.1:9",
        RAY_ADDRESS="10.9.9.9:6379",
        RAY_TMPDIR="/nowhere",
        RAY_RUNTIME_ENV_HOOK="nobody.knows",
        RAY_JOB_CONFIG_JSON_ENV_VAR="{",
        RAY_REDIS_ADDRESS="10.9.9.9:1",
        RAY_OVERRIDE_RESOURCES='{"CPU": 0}',
        RAY_AUTH_TOKEN_PATH="/nowhere/token",
        CUDA_VISIBLE_DEVICES="",
        LC_ALL="C",
        TERM="dumb",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[[3, null], ")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "the Ray cluster at '127.0.0.1:1' could not be joined: ConnectionRefusedError"),
        ("nonsense", "the Ray address 'nonsense' is not host:port"),
        ("ray://127.0.0.1:10001", "is not host:port"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_named(address: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        _find(RaySettings(address=address))


def test_worker_output_is_logged_where_it_was_requested(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")  # as where no verbosity is asked for
    _log_message({"pid": 17, "lines": ["round run=b6 unit=0:3 round=2"], "is_err": False})
    _log_message({"pid": "autoscaler", "lines": ["Tip: use `ray status`"], "is_err": False})
    assert [record.getMessage() for record in caplog.records] == ["ray 17: round run=b6 unit=0:3 round=2"]


def test_an_address_for_jobs_in_the_environment_is_named_where_no_cluster_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UsageError, match=r"no cluster runs at RAY_ADDRESS=http://127\.0\.0\.1:8265"):
        _find(RaySettings(address="auto"))


def test_an_ended_cluster_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(UsageError, match=r"started on this machine, [\d.]+:1, does not answer") as raised:
        _find(RaySettings(address="auto", join_timeout_s=15))
    assert "set ray.address to host:port" in raised.value.fix


def test_a_server_that_is_not_ray_is_not_joined() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match="what answers there is not Ray"):
            _find(RaySettings(address=address, join_timeout_s=1))


@pytest.mark.ray
@pytest.mark.exhaustive
def test_a_cluster_without_authentication_is_joined_only_where_that_is_allowed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    head = subprocess.Popen(
        f"{sys.executable} -m ray.scripts.scripts start --head --block --port={port} --num-cpus=1"
        " --include-dashboard=false --disable-usage-stats".split(),
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert head.stdout is not None
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        refused = live(f"127.0.0.1:{port}")
        assert refused.returncode == 1
        assert f"the Ray cluster at 127.0.0.1:{port} asks for no token" in refused.stderr
        joined = live(f"127.0.0.1:{port}", MAIA_TEST_ALLOW="1")
        assert joined.returncode == 0, joined.stderr
        assert joined.stdout.startswith("[[3, null], ")
    finally:
        head.terminate()
        head.communicate(timeout=30)
