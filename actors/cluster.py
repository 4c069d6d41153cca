"""Starts or joins Ray, and makes pools of replicas there.

Workers of a cluster that we start inherit a small, named part of this process's environment: an API key
reaches a replica only when its pool asks for it through `env`. Ray itself would hand on everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from actors.cluster_settings import RaySettings
from actors.errors import MaiaError, UsageError
from actors.link import ReplicaLostError
from actors.placing import Demand, answered, restarts
from actors.replica import Letter, ReplicaActor, Reply
from actors.replica_pool import ReplicaPool
from actors.settings import Placement
from actors.transport import Parcel, pack

_log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0
MAX_CONCURRENCY = 65536
"""Calls one replica may hold: each client process parks one. (Ray's default is 1000.)"""

_INHERITED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "PWD", "HOSTNAME"}
    | {"TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "LD_PRELOAD", "NO_COLOR"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
    | {"HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE", "TORCH_HOME"}
)
_INHERITED_PREFIXES = (
    "LC_",
    "XDG_",
    "PYTHON",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "RAY_",
)
_NEVER_INHERITED = frozenset({"RAY_AUTH_TOKEN"})


@contextlib.contextmanager
def _environment(settings: RaySettings) -> Iterator[None]:
    """Show Ray's processes, which copy it, the environment that they may have; then restore ours."""
    before = dict(os.environ)
    for name in before:
        allowed = name in _INHERITED or name in settings.keep_env or name.startswith(_INHERITED_PREFIXES)
        if not allowed or name in _NEVER_INHERITED:
            del os.environ[name]
    failures = str(settings.health_failures)
    os.environ.update(
        RAY_health_check_initial_delay_ms="5000",
        RAY_health_check_period_ms="1000",
        RAY_health_check_timeout_ms="1000",
        RAY_health_check_failure_threshold=failures,
        # Ray starts workers at 15: whatever else runs here would take the cores from the models.
        RAY_worker_niceness=before.get("RAY_worker_niceness", "0"),
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _prepare_authentication() -> None:
    """Turn token authentication on, with a token that only this user can read. Before Ray is imported.

    Ray makes a token by itself, but readable by everybody on the machine.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] != "token" or "RAY_AUTH_TOKEN" in os.environ:
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise UsageError(
            f"Ray's token file {path} cannot be made private: {error}",
            "Set RAY_AUTH_TOKEN_PATH to a file of your own.",
        ) from error


def connect(settings: RaySettings) -> bool:
    """Start or join Ray in this process; return False if it was connected already.

    Raises:
        UsageError: If Ray does not start, or the cluster cannot be joined or accepts anybody.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return False
    address = "local" if settings.address == "local" else _find(settings)
    _prepare_authentication()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    _read_environment_again()
    _send_messages_to_the_log()
    common: dict[str, Any] = {
        "namespace": settings.namespace,
        "log_to_driver": settings.worker_logs,
        "logging_level": logging.WARNING,
        "configure_logging": False,
    }
    try:
        if address == "local":
            with _environment(settings), _signals_left_alone():
                ray.init(
                    address="local",
                    num_cpus=settings.num_cpus,
                    num_gpus=settings.num_gpus,
                    object_store_memory=settings.object_store_mb * 2**20,
                    include_dashboard=settings.dashboard,
                    dashboard_host="127.0.0.1",
                    **common,
                )
        else:
            if settings.ship_code:
                root = Path(__file__).resolve().parent.parent
                modules = [str(root / name) for name in ("actors", "tools", "agents", "experiments")]
                common["runtime_env"] = {"py_modules": modules}
            with _signals_left_alone():
                ray.init(address=address, **common)
    except Exception as error:
        ray.shutdown()  # what did start must not outlive the attempt
        raise UsageError(*_explain(settings, error)) from error
    return True


@contextlib.contextmanager
def _signals_left_alone() -> Iterator[None]:
    """Keep Ray from taking SIGTERM from a command that answers it, and from complaining in threads where it cannot."""
    log = logging.getLogger("ray._private.worker")

    def welcome(record: logging.LogRecord) -> bool:
        return "SIGTERM handler" not in record.getMessage()

    before = signal.getsignal(signal.SIGTERM)
    log.addFilter(welcome)
    try:
        yield
    finally:
        log.removeFilter(welcome)
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


_PROBE = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
address = sys.argv[1]
if address == "auto":
    from ray._private.services import canonicalize_bootstrap_address
    address = canonicalize_bootstrap_address("auto")
    if address is None:
        sys.exit("nothing")
try:
    GcsClient(address=address).check_alive([], timeout=5)
except AuthenticationError:
    print("closed", address)
else:
    print("open", address)
"""
"""Run in a process of its own, because Ray ends a process in which it waits in vain for a cluster."""


def _find(settings: RaySettings) -> str:
    """Return the host and port of a cluster that answers and asks for a token.

    Raises:
        UsageError: If nothing answers there, or whoever answers lets anybody in.
    """
    address = settings.address
    host, _, port = address.rpartition(":")
    if address != "auto":
        if "://" in address or not host or not port.isdigit():
            raise UsageError(
                f"the Ray address {address!r} is not host:port.",
                "Give the address of the cluster's head (port 6379 unless told); Ray Client (ray://) will not do.",
            )
        try:
            socket.create_connection((host, int(port)), settings.join_timeout_s).close()
        except OSError as error:
            raise UsageError(*_explain(settings, error)) from error
    without_token = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            env=without_token | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=settings.join_timeout_s,
            check=False,
        )
        answer, _, found = probe.stdout.strip().partition(" ")
    except subprocess.TimeoutExpired:
        answer = found = ""
    if answer not in ("open", "closed"):
        reason = "what answers there is not Ray"
        if address == "auto":
            named = os.environ.get("RAY_ADDRESS")
            # Ray looks there first; `ray job submit` wants the address of the job server in it, which is not a cluster's.
            where = f"at RAY_ADDRESS={named}" if named else "on this machine"
            reason = f"no cluster runs {where}"
        raise UsageError(*_explain(settings, ConnectionError(reason)))
    address = found
    if answer == "open":
        if not settings.allow_unauthenticated:
            raise UsageError(
                f"the Ray cluster at {address} accepts anybody: whoever reaches its ports can run code on it.",
                "Start it with RAY_AUTH_MODE=token, or set allow_unauthenticated: true.",
            )
        # Its processes call back without a token: asking them for one would leave both sides waiting.
        os.environ["RAY_AUTH_MODE"] = "disabled"
    return address


def _read_environment_again() -> None:
    """Let Ray see how it is to authenticate: it looks once, when it is imported, which may be long ago."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")


def _send_messages_to_the_log() -> None:
    """Log what Ray and its workers say: Ray would print it on stdout, where only answers belong."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _log_message


def _log_message(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    # Workers' lines come only where `worker_logs` asks for them, and then they are to be seen without more ado.
    level = logging.INFO if data.get("pid") == "autoscaler" else logging.WARNING
    _log.log(level, "ray %s: %s", data.get("pid", ""), "\n".join(data["lines"]))


def _explain(settings: RaySettings, error: Exception) -> tuple[str, str]:
    """Return what happened when Ray did not start or was not found, and what to do."""
    reason = (str(error).strip().splitlines() or [""])[0]
    told = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if settings.address == "local":
        return (
            f"Ray could not start on this machine: {told}",
            "Look at the newest folder in /tmp/ray for its logs; free memory, and space on /tmp and /dev/shm.",
        )
    return (
        f"the Ray cluster at {settings.address!r} could not be joined: {told}",
        "Check that it runs, that it has the same versions of Python and Ray, and that its token is in "
        "~/.ray/auth_token (or the file that RAY_AUTH_TOKEN_PATH names). Where several run, set ray.address to host:port.",
    )


def disconnect() -> None:
    """Leave Ray; a cluster that we started ends with all its processes."""
    import ray

    ray.shutdown()


class RayReplica:
    """A replica in a Ray actor."""

    def __init__(self, actor: Any, demand: Demand | None = None) -> None:
        """`demand` is what it needs of a node; its owner looks after that, nobody else."""
        self._actor, self._demand = actor, demand
        self._restarts: int | None = 0
        """How often it had been started again when it was last ready; None where Ray did not say."""

    async def _ask(self, method: Any, *args: Any) -> Any:
        from ray import exceptions

        try:
            return await method.remote(*args)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, MaiaError):
                raise error.cause from None
            raise
        except exceptions.ActorDiedError as error:
            raise ReplicaLostError(f"the actor died: {what_ray_says(error)}", gone=True) from None
        except exceptions.RayError as error:
            raise ReplicaLostError(f"the actor is unavailable: {what_ray_says(error)}") from None

    async def exchange(self, letter: Letter) -> Reply:
        reply: Reply = await self._ask(self._actor.exchange, letter)
        return reply

    async def call(self, parcel: Parcel, pixels: dict[str, np.ndarray]) -> Reply:
        reply: Reply = await self._ask(self._actor.call, parcel, pixels)
        return reply

    async def ping(self) -> int:
        pid: int = await self._ask(self._actor.ping)
        return pid

    async def describe(self) -> dict[str, Any]:
        """Return when the replica is there.

        Raises:
            UsageError: To its owner, if no node can ever carry it, or it dies whenever it starts.
        """
        facts: dict[str, Any]
        asking = self._ask(self._actor.describe)
        if self._demand is None:
            facts = await asking
            return facts
        facts = await answered(asking, self._actor, self._demand, self._restarts)
        try:
            self._restarts = await asyncio.to_thread(restarts, self._actor)
        except Exception:  # the head may be away for a moment, and the replica works
            self._restarts = None
        return facts

    async def statistics(self) -> dict[str, Any]:
        counts: dict[str, Any] = await self._ask(self._actor.statistics)
        return counts

    async def stop(self) -> None:
        """Close the backend, then end the actor's process, also if it does not answer."""
        import ray

        with contextlib.suppress(MaiaError, TimeoutError):
            await asyncio.wait_for(self._ask(self._actor.close), STOP_TIMEOUT_S)
        ray.kill(self._actor)


def what_ray_says(error: Exception) -> str:
    """Return Ray's reason in one line: where an actor could not be built, the error that kept it from that."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__]
    return f"it could not be built: {lines[-1].strip()}" if "creation task" in lines[0] else lines[0]


class SharedReplica(RayReplica):
    """A replica that another process started, and ends."""

    async def stop(self) -> None:
        return None


class RayLauncher:
    """Starts replicas of one pool as Ray actors, named after the pool's address."""

    def __init__(
        self,
        name: str,
        address: str,
        factory: str,
        kwargs: Mapping[str, Any],
        placement: Placement,
        env: Mapping[str, str],
        demand: Demand,
    ) -> None:
        self._address, self._factory, self._placement, self._env = address, factory, placement, dict(env)
        self._demand = demand
        self._kwargs, images = pack(dict(kwargs))
        if images:
            raise UsageError(f"{name}: a factory's arguments cannot hold images.")
        self._numbers = itertools.count()
        self._folder = Path.cwd()

    def launch(self) -> RayReplica:
        import ray

        actor = (
            ray.remote(ReplicaActor)
            .options(
                name=f"{self._address}/{next(self._numbers)}",
                num_cpus=self._placement.num_cpus,
                num_gpus=self._placement.num_gpus,
                # A restart repeats __init__ alone; which calls are repeated is the pool's to say.
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=MAX_CONCURRENCY,
            )
            .remote(self._factory, self._kwargs, self._env, self._placement.threads, self._folder)
        )
        return RayReplica(actor, self._demand)


class SharedLauncher:
    """Finds replicas that a pool of another process starts and stops (`actors.replica_pool.SharedReplicas`)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._given: Counter[str] = Counter()

    def names(self) -> list[str]:
        """Return the names of the pool's replicas.

        Raises:
            UsageError: If there is none.
        """
        import ray

        names = [name for name in ray.util.list_named_actors() if name.startswith(f"{self._address}/")]
        if not names:
            raise UsageError(f"no pool has the address {self._address!r}.", "Keep the pool's owner running.")
        return sorted(names)

    def launch(self) -> SharedReplica:
        return self._give(min(self.names(), key=lambda name: self._given[name]))

    def fresh(self) -> list[SharedReplica]:
        return [self._give(name) for name in self.names() if not self._given[name]]

    def _give(self, name: str) -> SharedReplica:
        import ray

        try:
            actor = ray.get_actor(name)
        except ValueError as error:
            raise ReplicaLostError(f"{name} went while it was looked up: {error}", gone=True) from None
        self._given[name] += 1
        return SharedReplica(actor)


def _resources(placement: Placement) -> dict[str, float]:
    return {"CPU": placement.num_cpus, "GPU": placement.num_gpus}


class Cluster:
    """Ray as this process sees it. Made by `Cluster.start`."""

    def __init__(self, settings: RaySettings) -> None:
        self.settings = settings
        self._pools: list[ReplicaPool[Any, Any]] = []
        self._placements: list[tuple[ReplicaPool[Any, Any], Placement]] = []
        """Of the pools whose replicas are ours to start."""

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, settings: RaySettings | None = None) -> AsyncIterator[Self]:
        """Start or join Ray; at the end close the pools and leave. An existing connection is used and kept.

        Raises:
            UsageError: If Ray does not start or the cluster cannot be joined.
        """
        settings = settings or RaySettings()
        ours = connect(settings)
        cluster = cls(settings)
        try:
            yield cluster
        finally:
            try:
                await asyncio.gather(*(pool.aclose() for pool in cluster._pools))
            finally:
                if ours:
                    disconnect()

    def pool(
        self,
        name: str,
        factory: str,
        kwargs: Mapping[str, Any] | None = None,
        placement: Placement | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> ReplicaPool[Any, Any]:
        """Return a pool, started, of the backend that `factory` ("package.module:callable") builds.

        `kwargs` are the factory's arguments and must pickle. `env` is set in the replicas before the factory
        is imported: the only way for a secret to reach them. `options` are those of `ReplicaPool`.
        """
        placement = placement or Placement()
        address = f"{name}-{uuid.uuid4().hex[:12]}"
        demand = Demand(
            f"a replica of {name}",
            _resources(placement),
            self._asked_together,
            # To a cluster of our own nobody adds nodes.
            0.0 if self.settings.address == "local" else self.settings.placement_timeout_s,
        )
        launcher = RayLauncher(name, address, factory, kwargs or {}, placement, env or {}, demand)
        pool: ReplicaPool[Any, Any] = ReplicaPool(name, launcher, placement, address=address, **options)
        self._placements.append((pool, placement))
        return self._started(pool)

    def _asked_together(self) -> dict[str, float]:
        """Return the resources of all replicas that must be there."""
        total = {"CPU": 0.0, "GPU": 0.0}
        for pool, placement in self._placements:
            if not pool.ended:
                for kind, amount in _resources(placement).items():
                    total[kind] += placement.min_replicas * amount
        return total

    def attach(self, address: str, **options: Any) -> ReplicaPool[Any, Any]:
        """Return a handle in this process on the replicas of another process's pool, also those it adds later.

        `address` is that pool's. The replicas stay when this handle is closed. For hosts, each of which
        carries many agents: `Cluster.start()` in a Ray actor uses the actor's own connection.

        Raises:
            UsageError: If no replica has this address.
        """
        launcher = SharedLauncher(address)
        n = len(launcher.names())
        placement = Placement(min_replicas=n, max_replicas=n)
        name = address.rpartition("-")[0]
        return self._started(ReplicaPool(name, launcher, placement, address=address, **options))

    def _started(self, pool: ReplicaPool[Any, Any]) -> ReplicaPool[Any, Any]:
        pool.start()
        self._pools.append(pool)
        return pool

    def describe(self) -> dict[str, Any]:
        """Return plain facts for `maia doctor` and logs."""
        import ray

        return {
            "address": self.settings.address,
            "ray": ray.__version__,
            "python": sys.version.split()[0],
            "nodes": sum(node["Alive"] for node in ray.nodes()),
            "resources": ray.cluster_resources(),
        }
