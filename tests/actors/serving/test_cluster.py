"""Real Ray: pools in actors, a killed replica, secrets, pixels over the wire, and how a cluster ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

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
from actors.errors import RefusedError, UsageError
from actors.serving.cluster import Cluster
from actors.serving.replica_pool import PoolOptions, ReplicaPool
from actors.serving.transport import pack
from actors.settings import Placement
from tests.actors.scripted import Show, image
from tests.conftest import CANARY

SCRIPTED = "tests.actors.scripted:build"
ray_test = [pytest.mark.ray, pytest.mark.anyio]


@pytest.fixture
async def cluster(ray_cluster: None) -> AsyncIterator[Cluster]:
    async with Cluster.start() as cluster:
        yield cluster


async def until(happened: Callable[[], bool]) -> None:
    """Return when another process has brought something about; the test's timeout bounds it."""
    while not happened():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class TestPools:
    pytestmark = ray_test

    async def test_two_pools_answer_side_by_side(self, cluster: Cluster) -> None:
        open_pool = cluster.pool("open", SCRIPTED, {"gated": False})
        other = cluster.pool("other", SCRIPTED, {"gated": False, "max_batch": 2})
        answers, others = await asyncio.gather(
            open_pool.map([Show(i) for i in range(50)]), other.map([Show(i) for i in range(7)])
        )
        assert answers == [(i, None) for i in range(50)]
        assert others == [(i, None) for i in range(7)]
        with pytest.raises(RefusedError, match="number -1 is negative"):
            await other.submit(Show(-1))
        assert (await other.describe()).max_batch == 2

    async def test_pixels_travel_once_and_then_as_ids(self, cluster: Cluster) -> None:
        pool = cluster.pool("pixels", SCRIPTED, {"gated": False, "max_batch": 64})
        shows = [Show(i, image(i % 5, side=200)) for i in range(20)]
        expected = [(i, i % 5 * 200 * 201 * 3) for i in range(20)]
        assert await pool.map(shows) == expected
        assert await pool.map(shows) == expected
        (counts,) = await pool.replica_statistics()
        assert (counts.pixels_received, counts.images) == (5, 5)

    async def test_a_killed_replica_comes_back_and_its_requests_are_sent_again(
        self, cluster: Cluster
    ) -> None:
        pool = cluster.pool("killed", SCRIPTED, {"gated": True})
        futures = [pool.submit_nowait(Show(i)) for i in range(6)]
        pid = (await pool.describe()).pid
        await until(lambda: pool.statistics().unsent == 0)
        assert await pool.call("counts") == (1, 4)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: pool.statistics().lost_replicas == 1)
        await pool.call("open_gate")
        assert await asyncio.gather(*futures) == [(i, None) for i in range(6)]
        assert (await pool.describe()).pid != pid
        assert pool.statistics().resubmitted == 6

    async def test_a_process_whose_device_is_lost_ends_and_the_next_answers(self, cluster: Cluster) -> None:
        pool = cluster.pool("lost", SCRIPTED, {"gated": False, "max_batch": 1})
        shows = [Show(i, unit="on a device that lasts for two batches") for i in range(5)]
        pids, answers = set(), []
        for show in shows:
            answers.append(await pool.submit(show))
            pids.add((await pool.describe()).pid)
        assert answers == [(i, None) for i in range(5)]
        assert len(pids) == 3
        assert pool.statistics().lost_replicas == 2

    async def test_workers_see_no_secret_that_their_pool_did_not_ask_for(self, cluster: Cluster) -> None:
        pool = cluster.pool("scrubbed", SCRIPTED)
        keyed = cluster.pool("keyed", SCRIPTED, env={"OPENAI_API_KEY": "for this pool"})
        environment, with_key = await asyncio.gather(pool.call("environment"), keyed.call("environment"))
        assert not CANARY.keys() & environment.keys()
        assert not any("canary" in value for value in environment.values())
        assert with_key["OPENAI_API_KEY"] == "for this pool"
        assert not any("canary" in value for value in with_key.values())
        assert environment["OMP_WAIT_POLICY"] == "PASSIVE"

    async def test_a_backend_that_cannot_be_built_gives_the_typed_reason(self, cluster: Cluster) -> None:
        pool = cluster.pool("broken", "tests.actors.scripted:build_badly", {"reason": "lost"})
        with pytest.raises(UsageError, match="there are no weights: lost"):
            await pool.submit(Show(1))

    async def test_a_pool_has_the_replicas_of_its_placement(self, cluster: Cluster) -> None:
        placement = Placement(min_replicas=2, max_replicas=2, threads=1)
        pool: ReplicaPool[Show, Any] = cluster.pool("two", SCRIPTED, {"gated": False}, placement)
        await until(lambda: pool.statistics().ready == 2)
        await pool.map([Show(i) for i in range(10)])
        counts = [replica.batch_items for replica in await pool.replica_statistics()]
        assert sorted(counts) == [5, 5]
        assert (await pool.call("environment"))["OMP_NUM_THREADS"] == "1"


class Host:
    """An actor that carries callers and reaches the models through a pool of its own process."""

    async def ask(self, address: str, numbers: list[int]) -> list[Any]:
        async with Cluster.start() as cluster:
            pool: ReplicaPool[Show, Any] = cluster.attach(address)
            return await pool.map([Show(number, image(1, side=100)) for number in numbers])

    async def miss(self, address: str) -> None:
        async with Cluster.start() as cluster:
            cluster.attach(address)


class TestHosts:
    pytestmark = ray_test

    async def test_a_host_sees_the_replicas_that_are_added_later_and_not_those_that_went(
        self, cluster: Cluster
    ) -> None:
        placement = Placement(min_replicas=1, max_replicas=2)
        options = PoolOptions(scale_up_batches=1, tick_s=0.1)
        pool = cluster.pool("growing", SCRIPTED, {"gated": True}, placement, options=options)
        await pool.ready()
        shared = cluster.attach(pool.address, options)
        # Only the host asks: the owner learns of the load from its replica.
        asked = [shared.submit_nowait(Show(number)) for number in range(30)]
        await until(lambda: shared.statistics().ready == 2)
        while any(not future.done() for future in asked):
            await asyncio.gather(*(link.handle.call(*pack(("open_gate", (), {}))) for link in pool._links))
        assert [number for number, _ in await asyncio.gather(*asked)] == list(range(30))

    async def test_hosts_share_the_replicas_that_the_driver_started(self, cluster: Cluster) -> None:
        import ray

        pool = cluster.pool("shared", SCRIPTED, {"gated": False})
        hosts = [ray.remote(Host).options(num_cpus=0).remote() for _ in range(2)]
        await pool.ready()
        asked = [host.ask.remote(pool.address, [10 * i, 10 * i + 1]) for i, host in enumerate(hosts)]
        answers = await asyncio.gather(*asked)
        assert [[number for number, _ in each] for each in answers] == [[0, 1], [10, 11]]
        assert await pool.submit(Show(5)) == (5, None), "the replicas stay when hosts leave"
        (counts,) = await pool.replica_statistics()
        assert (counts.batch_items, counts.images) == (5, 1)
        with pytest.raises(UsageError, match="no pool has the address 'nowhere'"):
            await hosts[0].miss.remote("nowhere")
        for host in hosts:
            ray.kill(host)


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
    assert listening(set(names)) == {
        "0100007F",
        "0000000000000000FFFF00000100007F",
    }


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
@pytest.mark.slow
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
            _find(RaySettings(address=address, join_timeout_s=3))


@pytest.mark.ray
@pytest.mark.slow
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
