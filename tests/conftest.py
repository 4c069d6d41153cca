"""What every test may use: the asyncio backend of anyio, and one Ray cluster for each process of a run."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest
import structlog

# Ray reads these when it is imported, so they are set before any test module can import it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Signals that whoever started the tests had ignored (`nohup`, a job in the background) would be ignored by
# all that the tests start. A handler is not inherited, and does nothing here that ignoring did not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

CANARY = {"OPENAI_API_KEY": "canary-key", "SOME_VARIABLE_OF_THE_DRIVER": "canary-value"}
"""Set in this process while the cluster starts; no worker may ever see them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that use Ray, which take longest: what is short fills the end of a run of several
    processes.
    """
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in with_ray)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Connect to one private cluster with two cores; `Cluster.start` then uses and keeps this connection.

    Mark the tests that use it `ray`.
    """
    from actors.cluster.connection import connect, disconnect
    from actors.cluster.settings import RaySettings

    with pytest.MonkeyPatch.context() as environment:
        for name, value in CANARY.items():
            environment.setenv(name, value)
        assert connect(RaySettings(num_cpus=2, namespace="maia-tests"))
    try:
        yield
    finally:
        disconnect()


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """A command that ran in this process has bound the log to a stream that ends with its test."""
    yield
    structlog.reset_defaults()
    for name in ("actors", "tools", "agents", "experiments"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
