"""Turns a plain synchronous model into a `Backend`: its work runs in one thread, off the event loop."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from actors.errors import BackendError, DeviceLostError, MaiaError
from actors.hub import is_out_of_memory
from actors.runtime import devices_work, empty_cache
from actors.serving.backend import Backend, BackendFacts, RequestT, ResultT

P = ParamSpec("P")
T = TypeVar("T")


WORK_TIMEOUT_S = 6 * 3600.0
"""How long one call may take: longer than a batch of pictures or long answers takes on a machine without a
GPU, and not for ever, as on a device that hangs.
"""


class DeviceThread:
    """The one thread in which a device's blocking work runs, in order, without recording gradients."""

    def __init__(
        self,
        name: str,
        timeout_s: float = WORK_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        devices_work: Callable[[], bool] = devices_work,
    ) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._timeout_s, self._clock, self._devices_work = timeout_s, clock, devices_work
        self._last_end = clock()
        """When the thread last finished a call."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(*args, **kwargs)`, called in the thread; the event loop runs on meanwhile.

        Raises:
            DeviceLostError: If it failed and no GPU of this process answers any more, or if it hangs: a
                thread cannot be ended, but its process can.
            BackendError: If it tried to end the process: what is not an Exception would end the event loop.
        """
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(self._executor, lambda: self._work(function, *args, **kwargs))
        submitted = self._clock()
        try:
            # A call that is queued behind a slow one is not hanging: the timeout starts anew whenever one
            # ends.
            while (left := max(submitted, self._last_end) + self._timeout_s - self._clock()) > 0:
                await asyncio.wait([working], timeout=left)
                if working.done():
                    return await working
        finally:
            working.cancel()
        raise DeviceLostError(
            f"a call of the model has not returned for {self._timeout_s / 60:.0f} minutes.",
            "Check its process and its device.",
        )

    def _work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return _without_gradients(function, *args, **kwargs)
        except MaiaError:
            raise
        except Exception as error:
            if not self._devices_work():
                raise DeviceLostError(
                    f"the GPU no longer works for this process: {type(error).__name__}: {str(error)[:300]}",
                    "Check `nvidia-smi` and the kernel's log.",
                ) from error
            if isinstance(error, StopIteration):  # no future takes one
                raise BackendError(f"a model raised {error!r}") from error
            raise
        except BaseException as error:  # no signal arrives in this thread: it is the model's own
            raise BackendError(f"a model raised {error!r}, which would end the process.") from error
        finally:
            self._last_end = self._clock()

    def close(self) -> None:
        """Let the running call finish and drop those that have not started."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _without_gradients(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "inference_mode"):  # not used here, or still being imported
        return function(*args, **kwargs)
    with torch.inference_mode():  # a property of the thread, so it is entered inside it
        result: T = function(*args, **kwargs)
        return result


def run_in_halves(
    batch: Sequence[RequestT],
    run: Callable[[Sequence[RequestT]], Sequence[ResultT | MaiaError]],
    failure: Callable[[RequestT, Exception], MaiaError],
) -> list[ResultT | MaiaError]:
    """Return the results of a batch; one that fails is halved, down to single requests.

    So as many as fit are in memory at once, and a request that fails alone fails no other. `failure` returns
    the typed failure of such a request.

    Raises:
        Exception: What `run` raised, if no GPU of this process answers any more: no request is to blame.
    """
    try:
        return list(run(batch))
    except Exception as error:
        if not isinstance(error, MaiaError) and not devices_work():
            raise
        # Without its traceback, which would keep what the failed call had computed.
        caught = error.with_traceback(None)
    if is_out_of_memory(caught):
        empty_cache()
    if len(batch) == 1:
        return [caught if isinstance(caught, MaiaError) else failure(batch[0], caught)]
    middle = len(batch) // 2
    return [*run_in_halves(batch[:middle], run, failure), *run_in_halves(batch[middle:], run, failure)]


class BlockingBackend(Backend[RequestT, ResultT]):
    """A synchronous function over batches as a backend.

    `run_batch` is called in the backend's own thread. Requests of one `key` are the same work: the first
    result answers all.
    """

    def __init__(
        self,
        name: str,
        run_batch: Callable[[Sequence[RequestT]], Sequence[ResultT | MaiaError]],
        *,
        max_batch: int = 1,
        key: Callable[[RequestT], Hashable | None] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.max_batch = max_batch
        self._run_batch = run_batch
        self._key = key
        self._facts = dict(facts or {})
        self._thread = DeviceThread(name)

    def key(self, request: RequestT) -> Hashable | None:
        return None if self._key is None else self._key(request)

    async def run(self, batch: Sequence[RequestT]) -> Sequence[ResultT | MaiaError]:
        return await self._thread.run(self._run_batch, batch)

    def describe(self) -> BackendFacts:
        return {"name": self.name, "max_batch": self.max_batch, **self._facts}

    async def close(self) -> None:
        self._thread.close()
