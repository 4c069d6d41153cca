"""The folder for Ray's files: private, short, and removed when its cluster is long gone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from actors.cluster import private_folder
from actors.errors import UsageError


@pytest.fixture
def short(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose TMPDIR is a new folder with a short path."""
    link = Path("/tmp") / f"m{os.getpid() % 10000}"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path)
    yield {"TMPDIR": str(link)}
    link.unlink()


def test_other_users_cannot_enter_the_folder_or_read_its_token(short: dict[str, str]) -> None:
    """Ray makes all below it writable by everybody, so the folder itself must keep others out."""
    folder = private_folder.make(short)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    token = folder.write_token()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    folder.release()


def test_sockets_stay_below_the_limit_whatever_tmpdir_is(tmp_path: Path) -> None:
    """A scheduler's TMPDIR of 80 bytes is too long for a socket below it."""
    long = tmp_path / ("x" * 80)
    long.mkdir()
    folder = private_folder.make({"TMPDIR": str(long)})
    socket = folder.ray / "session_2026-11-29_09-07-35_513675_4194304" / "sockets" / "plasma_store"
    assert len(os.fsencode(socket)) <= 107
    assert folder.path.parent == Path("/tmp")
    folder.release()
    folder.ray.rmdir()
    folder.path.rmdir()


def test_folders_of_running_clusters_are_kept_and_old_logs_of_ended_ones_are_not(
    short: dict[str, str],
) -> None:
    """A run's logs can be read after it; they do not fill the disk."""
    running = private_folder.make(short)
    for _ in range(6):
        private_folder.make(short).release()
    last = private_folder.make(short)
    left = private_folder.existing(short)
    assert running.path in left
    assert {running.ray, last.ray} <= set(private_folder.running(short))
    assert last.path in left
    assert len([path for path in left if path.parent == Path(short["TMPDIR"])]) == 2 + 3
    running.release()
    last.release()
    assert not {running.ray, last.ray} & set(private_folder.running(short))


def test_a_place_where_others_can_replace_files_is_not_used(tmp_path: Path) -> None:
    """Without the sticky bit, all who may write in a folder may rename what others have there."""
    tmp_path.chmod(0o777)
    assert "no sticky bit" in private_folder.unfit(tmp_path.resolve()) or "bytes" in private_folder.unfit(
        tmp_path
    )


@pytest.mark.parametrize("place", ["/proc/self/environ", "/nowhere"])
def test_a_path_that_cannot_be_written_is_not_used(place: str) -> None:
    """The reason names the place."""
    assert place in private_folder.unfit(Path(place))


def test_the_error_gives_the_reasons_of_all_folders() -> None:
    """Every candidate is named, and the fix."""
    with pytest.raises(UsageError, match="/nowhere"):
        private_folder.make({"TMPDIR": "/nowhere"}, fallback="/proc")
