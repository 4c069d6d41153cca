"""Starts or joins Ray, and leaves it.

Workers of a cluster that we start inherit a small, named part of this process's environment: an API key
reaches a replica only when its pool asks for it through `env`. Ray itself would hand on everything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.cluster import machine
from actors.cluster import private_folder as own_folder
from actors.cluster.private_folder import OwnFolder
from actors.cluster.settings import RaySettings
from actors.errors import UsageError
from actors.runtime import available_cores

_log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]

_folder: OwnFolder | None = None
"""Of the cluster that this process started."""

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
)
_NOT_INHERITED = frozenset({"PYTHONWARNINGS", "PYTHONINSPECT"})
_PRIVATE = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's name for it: nodes have the loopback address, on which all its servers then listen.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
"""Ray's variables for a cluster that only this process uses."""


@contextlib.contextmanager
def inherited_environment(settings: RaySettings, ray: Mapping[str, str] | None = None) -> Iterator[None]:
    """Show Ray and its processes, which copy it, the environment that they may have; then restore ours.

    Of Ray's own variables they get `ray` and those in `keep_env`: others may be meant for another project.
    """
    before = dict(os.environ)
    for name in before:
        allowed = name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
        if name not in settings.keep_env and (not allowed or name in _NOT_INHERITED):
            del os.environ[name]
    failures = str(settings.health_failures)
    os.environ.update(
        RAY_health_check_initial_delay_ms="5000",
        RAY_health_check_period_ms="1000",
        RAY_health_check_timeout_ms="1000",
        RAY_health_check_failure_threshold=failures,
        # Ray starts workers at 15: whatever else runs here would take the cores from the models.
        RAY_worker_niceness=before.get("RAY_worker_niceness", "0"),
        **machine.without_proxy(before),
        **(ray or {}),
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def prepare_authentication() -> None:
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
    if settings.address == "local":
        _start(settings)
    else:
        _join(settings, _find(settings))
    return True


def _start(settings: RaySettings) -> None:
    """Start a cluster that only this process uses: on the loopback address, in a folder and with a token of
    its own.
    """
    global _folder
    machine.ensure(machine.Surroundings(settings=settings))
    _folder = own_folder.make()
    with _explained(settings), contextlib.ExitStack() as surroundings:
        private = {**_PRIVATE, "RAY_AUTH_TOKEN_PATH": str(_folder.write_token())}
        store, place = machine.store_place(settings, machine.SHARED_MEMORY, _folder.path)
        surroundings.enter_context(inherited_environment(settings, private))
        surroundings.enter_context(_signals_left_alone())
        import ray

        _read_environment_again()
        ray.init(
            address="local",
            num_cpus=settings.num_cpus or available_cores(),
            num_gpus=settings.num_gpus,
            object_store_memory=store,
            include_dashboard=settings.dashboard,
            dashboard_host="127.0.0.1",
            _temp_dir=str(_folder.ray),
            _plasma_directory=None if place is None else str(place),
            **_common(settings),
        )


def _join(settings: RaySettings, address: str) -> None:
    prepare_authentication()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # `uv run` would have each worker start through uv, in a copy of the current folder.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    with _explained(settings), _signals_left_alone():
        import ray

        _read_environment_again()
        common = _common(settings)
        if settings.ship_code:
            modules = [str(_ROOT / name) for name in machine.PACKAGES]
            common["runtime_env"] = {"py_modules": modules}
        ray.init(address=address, **common)


def _common(settings: RaySettings) -> dict[str, Any]:
    _send_messages_to_the_log()
    return {
        "namespace": settings.namespace,
        "job_config": _job(),
        "log_to_driver": settings.worker_logs,
        "logging_level": logging.WARNING,
        "configure_logging": False,
    }


def _job() -> Any:
    """Return a job in whose workers our packages come first.

    Ray puts the current folder before all else on a worker's path, and PYTHONPATH before the installed
    packages: a folder called `tools` or `agents` there would be taken for ours.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):
        def _get_proto_job_config(self) -> Any:
            # Ray has added its folders by now, and a worker inserts each before those it has.
            if self._cached_pb is None and machine.hidden_by(os.environ, Path.cwd()):
                self._py_driver_sys_path.append(str(_ROOT))
            return super()._get_proto_job_config()

    return Job()


@contextlib.contextmanager
def _explained(settings: RaySettings) -> Iterator[None]:
    """Turn what Ray raises while it starts into a `UsageError`, and leave nothing running."""
    try:
        yield
    except Exception as error:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()  # what did start must not outlive the attempt
        told = _explain(settings, error)
        _release()
        raise UsageError(*told) from error


@contextlib.contextmanager
def _signals_left_alone() -> Iterator[None]:
    """Keep Ray from taking SIGTERM from a command that answers it, and from complaining in threads where it
    cannot.
    """
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
import os, socket, sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
address, *folders = sys.argv[1:]
if address == "auto":
    # Not as Ray itself would look: it also finds what another program started for itself, and ends.
    from ray._private.services import canonicalize_bootstrap_address, find_bootstrap_address
    named = os.environ.get("RAY_ADDRESS", "auto")
    noted = [named]
    if named in ("", "auto"):
        noted = [found for each in [*folders, None] if (found := find_bootstrap_address(each))]
    # Of those that were started in a folder the last one is noted; it may have ended, and Ray would wait long for it.
    address = None
    for each in noted:
        try:
            host, _, port = canonicalize_bootstrap_address(each).rpartition(":")
            socket.create_connection((host, int(port)), 5).close()
            address = f"{host}:{port}"
            break
        except (OSError, ValueError):
            pass
    if address is None:
        print(*["ended", noted[0]] if noted else "")
        sys.exit(0)
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
            [sys.executable, "-P", "-c", _PROBE, address, *map(str, own_folder.running())],
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
            named = os.environ.get("RAY_ADDRESS", "").removeprefix("auto")
            # Ray looks there first; `ray job submit` wants the address of the job server in it, which is not
            # a cluster's.
            where = f"at RAY_ADDRESS={named}" if named else "on this machine"
            reason = f"no cluster runs {where}"
            if answer == "ended" and not named:
                reason = f"the last cluster that was started on this machine, {found}, does not answer"
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
    """Let Ray see its environment: it looks once, when it is imported, which may be long ago."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    for constant, variable in (
        ("ENABLE_RAY_CLUSTER", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"),
        ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"),
    ):
        setattr(ray_constants, constant, os.environ.get(variable, "1") in ("1", "true", "True"))


def _send_messages_to_the_log() -> None:
    """Log what Ray and its workers say: Ray would print it on stdout, where only answers belong."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _log_message


def _log_message(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    # Workers' lines come only where `worker_logs` asks for them, and then they are to be seen without more
    # ado.
    level = logging.INFO if data.get("pid") == "autoscaler" else logging.WARNING
    _log.log(level, "ray %s: %s", data.get("pid", ""), "\n".join(data["lines"]))


def _explain(settings: RaySettings, error: Exception) -> tuple[str, str]:
    """Return what happened when Ray did not start or was not found, and what to do."""
    reason = (str(error).strip().splitlines() or [""])[0]
    told = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if settings.address == "local":
        return (
            f"Ray could not start on this machine: {told}",
            f"`maia doctor` looks for the cause; Ray's logs are in {log_folder()}.",
        )
    return (
        f"the Ray cluster at {settings.address!r} could not be joined: {told}",
        "Check that it runs, that it has the same versions of Python and Ray, and that its token is in "
        "~/.ray/auth_token (or the file that RAY_AUTH_TOKEN_PATH names). Where several run, set ray.address to host:port.",
    )


def log_folder() -> str:
    """Return where Ray's logs are on this machine; on other nodes of a cluster they are below that node's own
    folder.
    """
    if _folder is not None:
        return str(_folder.logs)
    import ray

    temporary = ray.get_runtime_context().get_temp_dir() if ray.is_initialized() else "/tmp/ray"
    return f"{temporary}/session_latest/logs"


def disconnect() -> None:
    """Leave Ray; a cluster that we started ends with all its processes."""
    import ray

    ray.shutdown()
    _release()


def _release() -> None:
    global _folder
    if _folder is not None:
        _folder.release()
        _folder = None
