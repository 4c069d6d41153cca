"""Something that takes long to start, such as models: started when first asked for, held to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from actors.errors import MaiaError

T = TypeVar("T")
Note = Callable[[str], None]


class OnDemand(Generic[T]):
    """Enters a context once it is asked for; a start that failed is tried again by the next that asks."""

    def __init__(self, open: Callable[[Note], AbstractAsyncContextManager[T]]) -> None:
        """`open` gets a function that hears a sentence on each step."""
        self._open = open
        self.doing = "nothing has been started yet"
        """What is being done, in words."""
        self._started: asyncio.Future[T] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def get(self, note: Note) -> T:
        """Return what the context yields; `note` hears what is being done meanwhile.

        Raises:
            MaiaError: If it cannot be started.
        """
        if self._started is None or (self._started.done() and self._started.exception() is not None):
            self._started = asyncio.get_running_loop().create_future()
            self.doing = "starting"
            self._keeper = asyncio.create_task(self._keep(self._started))
        waiting = self._started
        while not waiting.done():
            note(self.doing)
            await asyncio.wait([waiting], timeout=1)
        return waiting.result()

    async def close(self) -> None:
        """Leave the context; a start that goes on is cancelled."""
        self._closing.set()
        if self._keeper is not None:
            if self._started is not None and not self._started.done():
                self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _keep(self, started: asyncio.Future[T]) -> None:
        try:
            async with self._open(self._note) as resource:
                self.doing = "ready"
                started.set_result(resource)
                await self._closing.wait()
        except BaseException as error:
            if started.done():
                raise
            failure = error if isinstance(error, MaiaError) else MaiaError(f"the models: {error!r}")
            started.set_exception(failure)
            # Who asked may be gone, and ask for it no more.
            started.exception()

    def _note(self, sentence: str) -> None:
        self.doing = sentence
