"""What the shell and the machine hold: result thing that stands in a run's way is named with its fix."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from actors.cluster import machine
from actors.cluster.machine import Environment
from actors.cluster.settings import RaySettings
from actors.errors import UsageError

SOUND = Environment(environment={}, encoding="utf-8", open_files=65536, memory_bytes=2**34)


@pytest.mark.parametrize(
    ("change", "said", "fix"),
    [
        ({"open_files": 64}, "64 are allowed, and a run needs 256", "ulimit -Hn"),
        ({"memory_bytes": 2**29}, "0.5 GiB are allowed, and a run needs 2 GiB", "docker --memory"),
        ({"encoding": "iso8859-1"}, "files are named in iso8859-1", "PYTHONUTF8=1"),
    ],
)
def test_a_failed_check_names_the_limit_and_the_fix(change: dict[str, object], said: str, fix: str) -> None:
    """The message names the limit, what is needed, and how to raise it."""
    with pytest.raises(UsageError, match=said) as raised:
        machine.ensure(dataclasses.replace(SOUND, **change))  # type: ignore[arg-type]
    assert fix in raised.value.fix


def test_a_sound_machine_is_looked_at_in_a_moment() -> None:
    """Every command that starts Ray looks first."""
    before = time.process_time()
    machine.ensure(SOUND)
    assert time.process_time() - before < 0.2


def test_variables_of_another_ray_project_are_named_and_those_that_were_asked_for_are_not() -> None:
    """They would otherwise change a private cluster without a word."""
    shell = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_TMPDIR": "/x", "RAY_memory_usage_threshold": "0.5"}
    settings = RaySettings(keep_env=("RAY_memory_usage_threshold",))
    found = machine.examine(dataclasses.replace(SOUND, environment=shell, settings=settings))
    result = next(result for result in found if result.topic == "Ray's variables")
    assert result.ok
    assert "RAY_ADDRESS, RAY_TMPDIR:" in result.found


def test_a_temporary_folder_that_is_too_long_is_named() -> None:
    """The folder that is used instead is said, too."""
    found = machine.examine(dataclasses.replace(SOUND, environment={"TMPDIR": "/tmp/" + "x" * 80}))
    result = next(result for result in found if result.topic == "Temporary folder")
    assert result.ok
    assert "85 bytes" in result.found


@pytest.mark.parametrize(
    ("free_mib", "expected_mib", "on_disk"), [(2000, 512, False), (200, 180, False), (64, 512, True)]
)
def test_the_object_store_fits_into_what_shared_memory_has_free(
    free_mib: int, expected_mib: int, on_disk: bool, tmp_path: Path
) -> None:
    """Docker gives 64 MiB, in which Ray does not start."""
    size, place = machine.fitted(512 * 2**20, free_mib * 2**20, tmp_path)
    assert size == expected_mib * 2**20
    assert (place == tmp_path) is on_disk


def test_loopback_and_cluster_addresses_are_kept_from_a_proxy() -> None:
    """What is excepted already stays so; where no proxy is set, nothing changes."""
    changed = machine.without_proxy({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "corp.example"}, "10.0.0.9")
    assert changed["no_proxy"] == changed["NO_PROXY"] == "corp.example,localhost,127.0.0.1,::1,10.0.0.9"
    assert machine.without_proxy({"no_proxy": "x"}) == {}


def test_packages_of_our_names_in_the_folder_or_on_the_path_are_seen(tmp_path: Path) -> None:
    """Our own folder is none of them."""
    (tmp_path / "agents.py").write_text("")
    (tmp_path / "here" / "tools").mkdir(parents=True)
    found = machine.shadowed_packages({"PYTHONPATH": str(tmp_path)}, tmp_path / "here")
    assert found == {"tools": tmp_path / "here", "agents": tmp_path}
    own = Path(machine.__file__).parents[2]
    assert machine.shadowed_packages({"PYTHONPATH": os.pathsep.join([str(own), ""])}, own) == {}
