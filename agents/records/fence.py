"""What keeps a host that was given up for dead from going on when it wakes.

A host that is stopped, or whose event loop hangs, looks like a dead one, and its work goes to
others. Should it wake, each of its writes first checks for the fence, and a call that is paid for begins with
a write: so it ends at the next thing it does. A write that was under way when it stopped may still land; that
is harmless, because records are put if absent. So may an answer that is received after all: it has been paid
for, and the host that has the work now uses it, or has one of its own already.

    hosts/<name>.fenced   the work of this host has been given to others
"""

from __future__ import annotations

from pathlib import Path

from actors.errors import MaiaError
from agents.records.store import Objects, Store


class FencedError(MaiaError):
    """This host was silent for so long that others have its work."""


def fence(store: Objects, host: str) -> None:
    """Keep `host` from writing, for good."""
    store.put(_key(host), b"")


class FencedStore(Store):
    """A store as one host sees it."""

    def __init__(self, root: Path, host: str) -> None:
        super().__init__(root)
        self._host = host

    def put(self, key: str, data: bytes) -> bool:
        """Write as `Store.put`.

        Raises:
            FencedError: If the host has been given up, and this is no answer that was paid for.
        """
        if not key.endswith(".answer"):
            self._check()
        return super().put(key, data)

    def replace(self, key: str, data: bytes, *, synced: bool = False) -> None:
        self._check()
        super().replace(key, data, synced=synced)

    def _check(self) -> None:
        if self.has(_key(self._host)):
            raise FencedError(
                "this host was silent for too long, and its work has been given to others.",
                "Nothing is lost: another host resumes it from the last round.",
            )


def _key(host: str) -> str:
    return f"hosts/{host}.fenced"
