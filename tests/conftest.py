"""What every test may use: the asyncio backend of anyio, and one Ray cluster for the whole run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Ray reads these when it is imported, so they are set before any test module can import it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start one private Ray cluster with two cores; mark the tests that use it `ray`."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="maia-tests")
    try:
        yield
    finally:
        ray.shutdown()
