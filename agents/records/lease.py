"""Who may write to a run directory: one process at a time, decided by objects that are put if absent.

Each run takes the next generation, so two that start together cannot both have it. The owner sends a
heartbeat: it counts a number up. The next process takes over if the owner has released the lease, if its
process is known to have ended on this very machine, or if the number stood still while the next one watched.
The watcher's own monotonic clock decides, so that neither a jumping clock nor two machines that disagree can
end a live run.

    leases/0003/claim.json      who holds generation 3, written once
    leases/0003/beat            a number, replaced every few seconds
    leases/0003/cancel          this generation was asked to stop
    leases/0003/released.json   it has stopped
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from actors.errors import MaiaError, UsageError
from agents.records.record_types import LeaseClaim
from agents.records.run_files import RecordError, parse_json
from agents.records.store import Objects, StoreError

BEAT_S = 2.0
STALE_S = 20.0
"""How long the number must stand still: ten beats."""


_CLAIM = re.compile(r"leases/([0-9]{1,9})/claim\.json")
_BEAT = re.compile(rb"[0-9]{1,12}")


class LeaseLostError(MaiaError):
    """Another process took the run directory over while this one was out of reach."""


class Lease:
    """The right to write to a run directory; use it with `async with`."""

    def __init__(self, store: Objects, generation: int, *, beat_s: float = BEAT_S) -> None:
        self._store, self.generation, self._beat_s = store, generation, beat_s
        self._folder = _folder(generation)
        self._beating: asyncio.Task[None] | None = None
        self._count = 0
        self._gone: asyncio.Event = asyncio.Event()

    @classmethod
    async def take(
        cls,
        store: Objects,
        *,
        beat_s: float = BEAT_S,
        stale_s: float = STALE_S,
        notify: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Return the lease of the next generation.

        Waits up to `stale_s` where the last owner did not release it and cannot be looked up.

        Raises:
            UsageError: If another process works on the directory.
        """
        last = newest(store)
        if last and not _released(store, last) and not _known_dead(_claim(store, last)):
            notify("another process had this run: checking whether it still works on it")
            await _watch(store, last, stale_s, sleep, clock)
        generation = last + 1
        if not store.put(f"{_folder(generation)}/claim.json", json.dumps(_own_claim().to_json()).encode()):
            raise _taken(store, generation)
        return cls(store, generation, beat_s=beat_s)

    async def __aenter__(self) -> Self:
        self._beat()
        self._beating = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._beating is not None
        self._beating.cancel()
        await asyncio.wait([self._beating])
        # A full disk must not hide why the run ended; the next run then waits for the number to stand still.
        with contextlib.suppress(StoreError):
            self._store.put(f"{self._folder}/released.json", b"{}")

    def cancelled(self) -> bool:
        """Return whether this run was asked to stop."""
        return self._store.has(f"{self._folder}/cancel")

    def check(self) -> None:
        """Raise LeaseLostError if another process has taken over."""
        if newest(self._store) > self.generation:
            raise LeaseLostError(
                f"another process has taken over {self._store.name}.",
                "This one stops; nothing is lost, since both only add what is not there.",
            )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            await asyncio.to_thread(self._beat)

    def _beat(self) -> None:
        self._count += 1
        # A disk that is full for a moment ends a run only if it stays so: the writes that count say it.
        with contextlib.suppress(StoreError):
            self._store.replace(f"{self._folder}/beat", str(self._count).encode())


def newest(store: Objects) -> int:
    """Return the generation claimed last, 0 if none was."""
    claims = map(_CLAIM.fullmatch, store.keys("leases"))
    return max((int(claim[1]) for claim in claims if claim), default=0)


def worked_s(store: Objects) -> float:
    """Return about how many seconds all generations have worked, from their beats."""
    beats = [store.get(key) or b"" for key in store.keys("leases") if key.endswith("/beat")]
    return BEAT_S * sum(int(beat) for beat in beats if _BEAT.fullmatch(beat))


def owner(store: Objects) -> LeaseClaim | None:
    """Return which process holds the directory as far as is known at once, None if none does."""
    last = newest(store)
    if not last or _released(store, last):
        return None
    claim = _claim(store, last)
    return None if _known_dead(claim) else claim


def works_here(store: Objects) -> bool:
    """Return whether a process of this machine works on the directory."""
    claim = owner(store)
    return claim is not None and bool(_machine()) and claim.machine == _machine()


def cancel(store: Objects) -> bool:
    """Ask the process that works on the directory to stop gracefully; False if none does."""
    if owner(store) is None:
        return False
    store.put(f"{_folder(newest(store))}/cancel", b"")
    return True


def _folder(generation: int) -> str:
    return f"leases/{generation:04d}"


def _claim(store: Objects, generation: int) -> LeaseClaim:
    key = f"{_folder(generation)}/claim.json"
    try:
        return LeaseClaim.model_validate(parse_json(store.get(key) or b"{}", Path(key)))
    except (RecordError, ValidationError):  # the process is unknown; that there was one is not
        return LeaseClaim()


def _released(store: Objects, generation: int) -> bool:
    return store.has(f"{_folder(generation)}/released.json")


async def _watch(
    store: Objects,
    generation: int,
    stale_s: float,
    sleep: Callable[[float], Awaitable[None]],
    clock: Callable[[], float],
) -> None:
    first = store.get(f"{_folder(generation)}/beat")
    end = clock() + stale_s
    while clock() < end:
        await sleep(min(1.0, stale_s / 10))
        if _released(store, generation):
            return
        if store.get(f"{_folder(generation)}/beat") != first or newest(store) != generation:
            raise _taken(store, newest(store))


def _taken(store: Objects, generation: int) -> UsageError:
    claim = _claim(store, generation)
    return UsageError(
        f"process {claim.pid or '?'} on {claim.host or '?'} is working on {store.name}.",
        f"Watch it with `maia status {store.name}`, stop it with `maia cancel {store.name}`, or use "
        f"another --out.",
    )


def _own_claim() -> LeaseClaim:
    pid = os.getpid()
    return LeaseClaim(host=socket.gethostname(), pid=pid, machine=_machine(), started=_start_time(pid))


def _known_dead(claim: LeaseClaim) -> bool:
    """Return whether the claim's process ran here and has ended; False where that is unknown."""
    if not claim.machine or claim.machine != _machine() or claim.pid is None:
        return False
    return _start_time(claim.pid) != claim.started


def _machine() -> str:
    """Return what names this boot of this machine and its view of processes; "" where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Return when a process started, in the kernel's ticks: a number used again is another process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
