"""What `ray_internals` uses of the installed Ray is there and does what is said of it."""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from actors.cluster import ray_internals


@pytest.mark.parametrize(
    ("types", "v2", "scales"),
    [
        ({"ab12": "node_ab12"}, b"0", False),
        ({"ab12": "head", "cd34": "gpu"}, b"0", True),
        ({"ab12": "node_ab12"}, b"1", True),
        (None, b"", True),
    ],
)
def test_node_types_tell_an_autoscaler_from_a_monitor(
    types: dict[str, str] | None, v2: bytes, scales: bool
) -> None:
    status = types and json.dumps({"autoscaler_report": {"node_type_mapping": types}}).encode()
    assert ray_internals.has_autoscaler(v2, status) is scales


def test_ray_init_takes_the_folder_arguments() -> None:
    options = ray_internals.folder_options(Path("/tmp/s"), None)
    assert options == {"_temp_dir": "/tmp/s", "_plasma_directory": None}
    source = inspect.getsource(ray.init)
    assert all(f'kwargs.pop("{name}"' in source for name in options)


def test_helpers_that_are_left_out_are_those_of_ray_init() -> None:
    from ray._private import node, services

    before = services.start_api_server, node.Node.start_monitor, node.Node.start_log_monitor
    source = inspect.getsource(node.Node)
    for call in ("services.start_api_server(", "self.start_monitor()", "self.start_log_monitor()"):
        assert source.count(call) == 1, "it starts it, and in one place"
    with ray_internals.without_helpers(log_monitor=True):
        assert services.start_api_server(False, gcs_address="") == ("", None)
        assert node.Node.start_monitor(None) is None
        assert node.Node.start_log_monitor is before[2]
    assert (services.start_api_server, node.Node.start_monitor, node.Node.start_log_monitor) == before
    assert not ray_internals.has_autoscaler(None, b"{}"), "what is noted of a cluster without a monitor"


def test_worker_output_goes_where_it_is_redirected() -> None:
    from ray._private import worker

    before = worker.print_to_stdstream
    received = []
    try:
        ray_internals.redirect_worker_output(received.append)
        worker.print_to_stdstream({"lines": ["x"]})
    finally:
        worker.print_to_stdstream = before
    assert received == [{"lines": ["x"]}]


REREAD = """
import os
import ray
from ray._private import ray_constants
from actors.cluster import ray_internals

for value in ("1", "0"):
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = value
    ray_internals.reread_environment()
    print(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)
"""


def test_the_environment_is_read_again() -> None:
    """In a process of its own: it also forgets the token of a connection."""
    printed = subprocess.check_output([sys.executable, "-c", REREAD], text=True)
    assert printed.split() == ["True", "False"]


@pytest.mark.parametrize("needed", [True, False])
def test_a_folder_is_put_on_the_path_of_workers_where_it_is_needed(needed: bool) -> None:
    job = ray_internals.job_with_path(Path("/ours"), lambda: needed)
    assert ("/ours" in list(job._get_proto_job_config().py_driver_sys_path)) is needed


def test_the_logger_of_connections_is_rays() -> None:
    from ray._private import worker

    assert worker.logger is logging.getLogger(ray_internals.WORKER_LOGGER)


def test_an_actor_without_a_node_is_pending_in_every_state_but_dead() -> None:
    states = "DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING", "DEAD"
    pending = [ray_internals.ActorRecord(state, on_node=False, restarts=0).pending for state in states]
    assert pending == [True, True, True, False]
    assert not ray_internals.ActorRecord("ALIVE", on_node=True, restarts=0).pending


@pytest.mark.ray
def test_actors_and_resources_are_on_record(ray_cluster: None) -> None:
    actor = ray.remote(num_cpus=0)(type("Alive", (), {"ping": lambda self: 1})).remote()
    ray.get(actor.ping.remote())
    assert ray_internals.actor_record(actor) == ray_internals.ActorRecord("ALIVE", True, 0)
    ray.kill(actor)
    waits = ray.remote(num_gpus=9)(type("Waits", (), {})).remote()
    record = ray_internals.actor_record(waits)
    assert record is None or record.pending
    ray.kill(waits)
    assert ray_internals.free_resources().keys() == {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert isinstance(ray_internals.may_add_nodes(), bool)
