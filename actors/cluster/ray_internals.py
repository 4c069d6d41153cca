"""All that this program uses of Ray beyond its public API, each with the reason.

`tests/actors/cluster/test_ray_internals.py` checks it against the pinned version of Ray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER_LOGGER = "ray._private.worker"
"""Ray's logger of messages about the connection; no public name stands for it."""


@dataclass(frozen=True, slots=True)
class ActorRecord:
    """One actor in Ray's control store (GCS)."""

    state: str
    """"DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD": Ray's `ActorTableData`."""
    on_node: bool
    """Whether a process of it has a port on some node."""
    restarts: int

    @property
    def pending(self) -> bool:
        """Whether Ray has found no node for it, or none again. A new actor is on record before its
        arguments are there ("DEPENDENCIES_UNREADY").
        """
        return not self.on_node and self.state != "DEAD"


def actor_record(actor: Any) -> ActorRecord | None:
    """Return the record of an actor, None while it has none.

    Private, because the public `ray.util.state` asks the dashboard, which a cluster of ours does not start.
    """
    from ray._private import state

    record = state.actors(actor._actor_id.hex())
    if not record:
        return None
    return ActorRecord(record["State"], bool(record["Address"]["Port"]), int(record.get("NumRestarts", 0)))


def free_resources() -> dict[str, dict[str, float]]:
    """Return the free resources of each live node by its id.

    Private, because `ray.available_resources` sums over the nodes: an actor must fit on one.
    """
    from ray._private import state

    free: dict[str, dict[str, float]] = state.available_resources_per_node()
    return free


def may_add_nodes() -> bool:
    """Return whether an autoscaler may add nodes to the cluster that this process is connected to.

    Every head runs Ray's monitor. Where it only reads, it names the type of a node after the node; an
    autoscaler names the types that it was configured with. Where neither is on record, nodes may be added as
    well. Private, because no public call says whether a cluster scales.
    """
    from ray.experimental import internal_kv

    v2 = internal_kv._internal_kv_get(b"__autoscaler_v2_enabled")
    return has_autoscaler(v2, internal_kv._internal_kv_get(b"__autoscaling_status"))


def has_autoscaler(v2_enabled: bytes | None, status: bytes | None) -> bool:
    """Return what the two records of Ray's monitor say; see `may_add_nodes`."""
    if v2_enabled == b"1" or not status:
        return True
    types = (json.loads(status).get("autoscaler_report") or {}).get("node_type_mapping") or {}
    return any(kind != f"node_{node}" for node, kind in types.items())


def reread_environment() -> None:
    """Let Ray read its environment variables again.

    Private, because Ray reads them once, when it is imported, which may be long before a cluster is started.
    """
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    for constant, variable in (
        ("ENABLE_RAY_CLUSTER", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"),
        ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"),
    ):
        setattr(ray_constants, constant, os.environ.get(variable, "1") in ("1", "true", "True"))


@contextmanager
def without_helpers(*, log_monitor: bool) -> Iterator[None]:
    """Have `ray.init` start no helpers that a private cluster never asks: the server of the dashboard, which
    it would wait for, the autoscaler's monitor, and, unless `log_monitor`, what reads workers' logs.

    Private, because no argument of `ray.init` leaves them out; `include_dashboard=False` starts a server all
    the same. Each is a Python process that imports Ray.
    """
    from ray._private import node, services

    helpers: list[tuple[Any, str, Any]] = [(services, "start_api_server", ("", None))]
    helpers += [(node.Node, "start_monitor", None)]
    helpers += [] if log_monitor else [(node.Node, "start_log_monitor", None)]
    with ExitStack() as replaced:
        for owner, name, answer in helpers:
            replaced.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, lambda *_, answer=answer, **__: answer)
        yield


def note_fixed_size() -> None:
    """Write down for `may_add_nodes`, as Ray's monitor would, that nothing adds nodes to this cluster."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(b"__autoscaling_status", b"{}")


def redirect_worker_output(receive: Callable[..., None]) -> None:
    """Give `receive` what Ray and its workers print.

    Private, because Ray prints it on stdout, where only a command's results belong.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = receive


def job_with_path(folder: Path, needed: Callable[[], bool]) -> Any:
    """Return a `JobConfig` whose workers find modules in `folder` before all others, if that is `needed`.

    Private, because Ray puts the current folder first on a worker's path, and PYTHONPATH before the installed
    packages: a folder called `tools` or `agents` there would be taken for ours.
    """
    from ray.job_config import JobConfig

    class PathFirst(JobConfig):
        def _get_proto_job_config(self) -> Any:
            # Ray has added its folders by now, and a worker inserts each before those it has.
            if self._cached_pb is None and needed():
                self._py_driver_sys_path.append(str(folder))
            return super()._get_proto_job_config()

    return PathFirst()


def folder_options(temporary: Path, store: Path | None) -> Mapping[str, Any]:
    """Return the arguments of `ray.init` for Ray's temporary folder and the object store's, None for its own.

    Private, because neither has a public argument.
    """
    return {"_temp_dir": str(temporary), "_plasma_directory": None if store is None else str(store)}


PROBE = """
import os, socket, sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
address, *folders = sys.argv[1:]
if address == "auto":
    # Not as Ray itself would search: it also finds what another program started for itself, and ends.
    from ray._private.services import canonicalize_bootstrap_address, find_bootstrap_address
    named = os.environ.get("RAY_ADDRESS", "auto")
    noted = [named]
    if named in ("", "auto"):
        noted = [last for folder in [*folders, None] if (last := find_bootstrap_address(folder))]
    # Of those that were started in a folder the last one is noted; it may have ended: Ray would wait for it.
    address = None
    for candidate in noted:
        try:
            host, _, port = canonicalize_bootstrap_address(candidate).rpartition(":")
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
"""A program that prints whether the cluster at an address (or "auto") answers, and whether it asks for a
token.

Run in a process of its own, because Ray ends a process in which it waits in vain for a cluster. Private,
because `ray.init` cannot be asked only to look.
"""
