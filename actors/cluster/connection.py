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

from actors.cluster import machine, private_folder, ray_internals
from actors.cluster.private_folder import PrivateFolder
from actors.cluster.settings import RaySettings
from actors.errors import UsageError
from actors.runtime import available_cores

_log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]

_folder: PrivateFolder | None = None
"""Of the cluster that this process started."""

_INHERITED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "PWD", "HOSTNAME"}
    | {"TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "LD_PRELOAD", "NO_COLOR"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
    | {"HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE", "TORCH_HOME"}
)
_INHERITED_PREFIXES = ("LC_", "XDG_", "PYTHON", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_")
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
    """Restrict the environment to what Ray and its processes, which copy it, may have; then restore it.

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
        # Ray starts workers at 15: other programs would take the cores from the models.
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

    Ray makes a token by itself, but one that every user of the machine can read.
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
    """Start or join Ray in this process; return False if it was connected already, or models need no Ray.

    Raises:
        UsageError: If Ray does not start, or the cluster cannot be joined or asks for no token.
    """
    if settings.in_process or ("ray" in sys.modules and sys.modules["ray"].is_initialized()):
        return False
    if settings.address == "local":
        _start(settings)
    else:
        _join(settings, _find(settings))
    return True


def _start(settings: RaySettings) -> None:
    """Start a private cluster: on the loopback address, in a folder and with a token of its own."""
    global _folder
    machine.ensure(machine.Environment(settings=settings))
    _folder = private_folder.make()
    with _translate_errors(settings), contextlib.ExitStack() as surroundings:
        private = {**_PRIVATE, "RAY_AUTH_TOKEN_PATH": str(_folder.write_token())}
        store, place = machine.store_place(settings, machine.SHARED_MEMORY, _folder.path)
        surroundings.enter_context(inherited_environment(settings, private))
        surroundings.enter_context(_keep_signal_handlers())
        import ray

        ray_internals.reread_environment()
        if not settings.dashboard:
            surroundings.enter_context(ray_internals.without_helpers(log_monitor=settings.worker_logs))
        ray.init(
            address="local",
            num_cpus=settings.num_cpus or available_cores(),
            num_gpus=settings.num_gpus,
            object_store_memory=store,
            include_dashboard=settings.dashboard,
            dashboard_host="127.0.0.1",
            **ray_internals.folder_options(_folder.ray, place),
            **_common(settings),
        )
        if not settings.dashboard:
            ray_internals.note_fixed_size()


def _join(settings: RaySettings, address: str) -> None:
    prepare_authentication()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # `uv run` would have each worker start through uv, in a copy of the current folder.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    with _translate_errors(settings), _keep_signal_handlers():
        import ray

        ray_internals.reread_environment()
        common = _common(settings)
        if settings.ship_code:
            modules = [str(_ROOT / name) for name in machine.PACKAGES]
            common["runtime_env"] = {"py_modules": modules}
        ray.init(address=address, **common)


def _common(settings: RaySettings) -> dict[str, Any]:
    ray_internals.redirect_worker_output(_log_message)
    return {
        "namespace": settings.namespace,
        "job_config": ray_internals.job_with_path(_ROOT, _packages_shadowed),
        "log_to_driver": settings.worker_logs,
        "logging_level": logging.WARNING,
        "configure_logging": False,
    }


@contextlib.contextmanager
def _translate_errors(settings: RaySettings) -> Iterator[None]:
    """Turn what Ray raises while it starts into a `UsageError`, and leave nothing running."""
    try:
        yield
    except Exception as error:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()  # what did start must not outlive the attempt
        message, fix = _explain(settings, error)
        _release()
        raise UsageError(message, fix) from error


def retake_signals() -> None:
    """Let Python hear SIGTERM again, after `connect` in another thread: Ray takes it there, and would abort
    the process. Does nothing outside the main thread, which alone can set handlers.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Keep Ray from taking SIGTERM, and from warning in threads where it cannot."""
    log = logging.getLogger(ray_internals.WORKER_LOGGER)

    def wanted(record: logging.LogRecord) -> bool:
        return "SIGTERM handler" not in record.getMessage()

    before = signal.getsignal(signal.SIGTERM)
    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _find(settings: RaySettings) -> str:
    """Return the host and port of a cluster that answers and asks for a token.

    Raises:
        UsageError: If nothing answers there, or the cluster asks for no token.
    """
    address = settings.address
    host, _, port = address.rpartition(":")
    if address != "auto":
        if "://" in address or not host or not port.isdigit():
            raise UsageError(
                f"the Ray address {address!r} is not host:port.",
                "Give the address of the cluster's head (port 6379 by default); Ray Client (ray://) "
                "is not supported.",
            )
        try:
            socket.create_connection((host, int(port)), settings.join_timeout_s).close()
        except OSError as error:
            raise UsageError(*_explain(settings, error)) from error
    answer, address = _probe(settings)
    if answer not in ("open", "closed"):
        raise UsageError(*_explain(settings, ConnectionError(_reason_not_found(settings, answer, address))))
    if answer == "open":
        if not settings.allow_unauthenticated:
            raise UsageError(
                f"the Ray cluster at {address} asks for no token: anyone who reaches its ports can run code "
                "on it.",
                "Start it with RAY_AUTH_MODE=token, or set allow_unauthenticated: true.",
            )
        # Its processes call back without a token: asking them for one would leave both sides waiting.
        os.environ["RAY_AUTH_MODE"] = "disabled"
    return address


def _probe(settings: RaySettings) -> tuple[str, str]:
    """Return "open", "closed" (asks for a token), "ended" or "", and the address of what answers or ended."""
    without_token = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    folders = map(str, private_folder.running())
    try:
        probe = subprocess.run(
            [sys.executable, "-P", "-c", ray_internals.PROBE, settings.address, *folders],
            env=without_token | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=settings.join_timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", ""
    answer, _, address = probe.stdout.strip().partition(" ")
    return answer, address


def _reason_not_found(settings: RaySettings, answer: str, last: str) -> str:
    if settings.address != "auto":
        return "what answers there is not Ray"
    # Ray reads this variable first; `ray job submit` wants the address of the job server in it, which is not
    # a cluster's.
    if named := os.environ.get("RAY_ADDRESS", "").removeprefix("auto"):
        return f"no cluster runs at RAY_ADDRESS={named}"
    if answer == "ended":
        return f"the last cluster that was started on this machine, {last}, does not answer"
    return "no cluster runs on this machine"


def _packages_shadowed() -> bool:
    return bool(machine.shadowed_packages(os.environ, Path.cwd()))


def _log_message(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    # Workers' lines come only where `worker_logs` asks for them: they are shown at any verbosity.
    level = logging.INFO if data.get("pid") == "autoscaler" else logging.WARNING
    _log.log(level, "ray %s: %s", data.get("pid", ""), "\n".join(data["lines"]))


def _explain(settings: RaySettings, error: Exception) -> tuple[str, str]:
    """Return what happened when Ray did not start or was not found, and what to do."""
    reason = (str(error).strip().splitlines() or [""])[0]
    cause = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if settings.address == "local":
        return (
            f"Ray could not start on this machine: {cause}",
            f"`maia doctor` looks for the cause; Ray's logs are in {log_folder()}.",
        )
    return (
        f"the Ray cluster at {settings.address!r} could not be joined: {cause}",
        "Check that it runs, that it has the same versions of Python and Ray, and that its token is in "
        "~/.ray/auth_token (or the file that RAY_AUTH_TOKEN_PATH names). Where several run, set ray.address "
        "to host:port.",
    )


def log_folder() -> str:
    """Return where Ray's logs are on this machine; each other node has its own folder."""
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
