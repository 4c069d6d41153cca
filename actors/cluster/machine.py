"""Checks of the user's shell and machine before anything is started.

Each check is of one thing and returns a `CheckResult`, or None where there is nothing to report. `maia
doctor` shows them all; a command that starts Ray fails with the first that is not `ok`, and logs nothing of
the others.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actors.cluster import private_folder
from actors.cluster.settings import RaySettings
from actors.errors import UsageError
from actors.runtime import available_memory

SHARED_MEMORY = Path("/dev/shm")
PACKAGES = ("actors", "tools", "agents", "experiments")
MIN_OPEN_FILES = 256
"""A study of one unit was seen to run with so many."""
MIN_STORE_BYTES = 80 * 2**20
"""Ray starts no smaller object store."""
_MIN_MEMORY_GIB = 2.0
_MIN_DISK_MIB = 100
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
RAY_VARIABLES_KEPT = frozenset(
    {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"}
)
"""Of a cluster that is started here; all other variables of Ray's are another project's."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the report. `advice` is empty where nothing has to be done.

    Services elsewhere are not called (`asked` is false): `ok` then means that nothing here prevents their
    use. What is not `needed` may be missing.
    """

    topic: str
    ok: bool
    found: str
    advice: str = ""
    asked: bool = True
    needed: bool = True


@dataclass(frozen=True)
class Environment:
    """The inputs of the checks."""

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: Path = field(default_factory=Path.cwd)
    platform: str = sys.platform
    encoding: str = field(default_factory=sys.getfilesystemencoding)
    open_files: int = field(default_factory=lambda: raise_open_files())
    shared_memory: Path = SHARED_MEMORY
    memory_bytes: int = field(default_factory=available_memory)
    settings: RaySettings = field(default_factory=RaySettings)


def examine(here: Environment) -> list[CheckResult]:
    """Return the results of all checks."""
    return [result for check in CHECKS if (result := check(here)) is not None]


def ensure(here: Environment) -> None:
    """Return if a cluster can be started here.

    Raises:
        UsageError: With the first check that fails, and what to do.
    """
    for result in examine(here):
        if not result.ok:
            raise UsageError(f"{result.topic}: {result.found}.", result.advice)


def raise_open_files() -> int:
    """Raise the limit on open files of this process and its children as far as it may; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Beyond that a process that closes all descriptors one by one takes seconds to start another.
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit that it does not report
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return soft if soft != resource.RLIM_INFINITY else sys.maxsize


def store_place(settings: RaySettings, shared_memory: Path, fallback: Path) -> tuple[int, Path | None]:
    """Return the bytes of the object store, and its folder where Ray's own (shared memory) will not do."""
    wanted = settings.object_store_mb * 2**20
    if not sys.platform.startswith("linux"):
        return wanted, None
    return fitted(wanted, _free(shared_memory) or 0, fallback)


def fitted(wanted: int, free: int, fallback: Path) -> tuple[int, Path | None]:
    """Return the bytes of an object store, and its folder if not shared memory, of which `free` bytes are
    free.

    It gets what is wanted; less where shared memory has less; a folder on disk where shared memory has not
    even what Ray needs at least (docker gives 64 MiB).
    """
    if free >= wanted:
        return wanted, None
    if free * 9 // 10 >= MIN_STORE_BYTES:
        return free * 9 // 10, None
    return wanted, fallback


def shadowed_packages(environment: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Return which of our packages' names also stand in folders of PYTHONPATH or in `folder`, and where."""
    own = Path(__file__).resolve().parents[2]
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    found: dict[str, Path] = {}
    for place in (folder, *(folder / path for path in paths)):
        for name in PACKAGES:
            there = place / name
            if (there.is_dir() or there.with_suffix(".py").is_file()) and place.resolve() != own:
                found.setdefault(name, place)
    return found


def without_proxy(environment: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """Return the variables that exempt loopback and `hosts` from the proxy; {} where no proxy is set."""
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return {}
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    value = ",".join(dict.fromkeys([*names, *LOOPBACK, *hosts]))
    return {"no_proxy": value, "NO_PROXY": value}


def _platform(here: Environment) -> CheckResult | None:
    if here.platform.startswith("linux"):
        return None
    return CheckResult(
        "Platform",
        True,
        f"{here.platform}, on which this program is not tested",
        "Programs run in the sandbox `monty`, since the one of the kernel needs Linux.",
    )


def _minimum(topic: str, enough: bool, found: str, lacking: str, advice: str) -> CheckResult:
    return CheckResult(topic, enough, found if enough else lacking, "" if enough else advice)


def _open_files(here: Environment) -> CheckResult:
    return _minimum(
        "Open files",
        here.open_files >= MIN_OPEN_FILES,
        f"{here.open_files} allowed",
        f"{here.open_files} are allowed, and a run needs {MIN_OPEN_FILES}",
        f"Raise the hard limit: ulimit -Hn {MIN_OPEN_FILES * 16}, or docker --ulimit nofile.",
    )


def _shared_memory(here: Environment) -> CheckResult | None:
    if not here.platform.startswith("linux"):
        return None
    size, folder = store_place(here.settings, here.shared_memory, Path("disk"))
    free = _free(here.shared_memory)
    message = f"{here.shared_memory}: " + ("not there" if free is None else f"{free / 2**20:.0f} MiB free")
    if folder is not None:
        message += ", the object store is on disk"
    elif size < here.settings.object_store_mb * 2**20:
        message += f", the object store has {size / 2**20:.0f} MiB"
    small = folder is not None or size < here.settings.object_store_mb * 2**20
    return CheckResult(
        "Shared memory", True, message, "Large batches are slower: docker run --shm-size=1g." if small else ""
    )


def _temporary_folder(here: Environment) -> CheckResult:
    reasons: list[str] = []
    for place in private_folder.candidates(here.environment):
        if not (reason := private_folder.unfit(place)):
            why = f" ({reasons[0]})" if reasons else ""
            return CheckResult("Temporary folder", True, f"Ray's files are in {place}{why}")
        reasons.append(reason)
    return CheckResult(
        "Temporary folder",
        False,
        "; ".join(reasons),
        "Set TMPDIR to a folder of your own whose path has at most "
        f"{private_folder.LONGEST_TEMPORARY_PATH} bytes.",
    )


def _disk(here: Environment) -> CheckResult | None:
    for place in private_folder.candidates(here.environment):
        if not private_folder.unfit(place):
            free = shutil.disk_usage(place).free / 2**20
            return _minimum(
                "Disk",
                free >= _MIN_DISK_MIB,
                f"{free / 2**10:.1f} GiB free in {place}",
                f"{free:.0f} MiB are free in {place}, and a run needs {_MIN_DISK_MIB}",
                "Free some, or set TMPDIR to a folder on another disk.",
            )
    return None


def _memory(here: Environment) -> CheckResult:
    gib = here.memory_bytes / 2**30
    return _minimum(
        "Memory",
        not here.memory_bytes or gib >= _MIN_MEMORY_GIB,
        f"{gib:.1f} GiB",
        f"{gib:.1f} GiB are allowed, and a run needs {_MIN_MEMORY_GIB:g} GiB",
        "Raise the limit of the container or job (docker --memory, SLURM --mem).",
    )


def _proxies(here: Environment) -> CheckResult | None:
    if not (added := without_proxy(here.environment)):
        return None
    return CheckResult("Proxy", True, f"used, not for {added['no_proxy']}")


def _ray_variables(here: Environment) -> CheckResult | None:
    kept = RAY_VARIABLES_KEPT | set(here.settings.keep_env)
    ignored = sorted(name for name in here.environment if name.startswith("RAY_") and name not in kept)
    if not ignored or here.settings.address != "local":
        return None
    return CheckResult(
        "Ray's variables",
        True,
        f"{', '.join(ignored)}: not used for a cluster that is started here",
        "Name those that should count in ray.keep_env.",
    )


def _packages(here: Environment) -> CheckResult | None:
    hidden = shadowed_packages(here.environment, here.folder)
    if not hidden:
        return None
    places = ", ".join(f"{name} in {place}" for name, place in hidden.items())
    return CheckResult("Other packages", True, f"{places}: not taken for this program's own")


def _encoding(here: Environment) -> CheckResult | None:
    if here.encoding == "utf-8":
        return None
    return CheckResult(
        "Locale", False, f"files are named in {here.encoding}, and records need UTF-8", "Set PYTHONUTF8=1."
    )


def _umask(here: Environment) -> CheckResult | None:
    mask = os.umask(0o077)
    os.umask(mask)
    if not mask & 0o700:
        return None
    return CheckResult(
        "umask", False, f"it is {mask:04o}: you cannot use files that you make", "Set it to 022 or 077."
    )


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


CHECKS: tuple[Callable[[Environment], CheckResult | None], ...] = (
    _platform,
    _open_files,
    _shared_memory,
    _temporary_folder,
    _disk,
    _memory,
    _encoding,
    _umask,
    _proxies,
    _ray_variables,
    _packages,
)
