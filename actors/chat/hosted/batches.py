"""Asks in batches: OpenAI's batch API, which answers within a day at half the price.

Requests that come within a few seconds of each other are written into one file, a batch is made of it, and
each line of its result is the answer to one of them. For work that may take a day, such as an evaluation, and
not for a loop of rounds.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from actors.chat.settings import BatchSettings
from actors.endpoint.faults import Fault, FaultyAnswerError, from_status
from actors.endpoint.openai_client import Connection, classify

_ENDED = ("completed", "failed", "expired", "cancelled")
_CALL_S = 120.0
"""Seconds for one call about a batch, whose answer is small or a file."""
_MAX_LINES = 50_000
"""Requests that OpenAI takes in one batch."""
_MAX_FAILED_READS = 60
"""Failures to read a batch before its requests fail: an hour's outage at the default `poll_s`."""

T = TypeVar("T")

log = structlog.get_logger(__name__)

BatchLine = tuple[dict[str, Any], "asyncio.Future[bytes]"]


class Batches:
    """Collects requests to one endpoint and asks them together. `sleep` is passed in by tests."""

    def __init__(
        self,
        connection: Connection,
        settings: BatchSettings,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connection, self._settings, self._sleep = connection, settings, sleep
        self._client = connection.client.with_options(timeout=_CALL_S)
        self._pending: list[BatchLine] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._collecting = False

    async def ask(self, body: dict[str, Any]) -> bytes:
        """Return the body of the answer to one request.

        Raises:
            FaultyAnswerError: If the batch could not be made or read, ended without it, or its line is an
                error.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending.append((body, answer))
        if not self._collecting:
            self._collecting = True
            self._start(self._collect())
        return await answer

    def close(self) -> None:
        """Wait for no batch any longer; those that were made are answered, and billed, all the same."""
        for task in self._tasks:
            task.cancel()
        for _, answer in self._pending:
            answer.cancel()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _collect(self) -> None:
        await self._sleep(self._settings.collect_s)
        self._collecting = False
        waiting = [(body, answer) for body, answer in self._pending if not answer.done()]
        self._pending = []
        for start in range(0, len(waiting), _MAX_LINES):
            self._start(self._answer(waiting[start : start + _MAX_LINES]))

    async def _answer(self, lines: list[BatchLine]) -> None:
        """Make a batch of the lines, wait for its end, and give each its answer or fault."""
        try:
            results = await self._results([body for body, _ in lines])
        except asyncio.CancelledError:
            for _, answer in lines:
                answer.cancel()
            raise
        except Exception as error:
            fault = error.fault if isinstance(error, FaultyAnswerError) else classify(error)
            for _, answer in lines:
                if not answer.done():
                    # One error object for each: those who wait add to the traceback of the one that they get.
                    answer.set_exception(FaultyAnswerError(fault) if fault else _failure(error))
            return
        for (_, answer), result in zip(lines, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, Fault):
                answer.set_exception(FaultyAnswerError(result))
            else:
                answer.set_result(result)

    async def _results(self, bodies: list[dict[str, Any]]) -> list[bytes | Fault]:
        headers = self._connection.headers
        url = "/v1/chat/completions"
        lines = [
            {"custom_id": str(n), "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)
        ]
        data = "\n".join(json.dumps(line) for line in lines).encode()
        file = await self._client.files.create(
            file=("batch.jsonl", data), purpose="batch", extra_headers=headers
        )
        batch = await self._client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window=self._settings.window,  # type: ignore[arg-type]
            extra_headers=headers,
        )
        log.info("batch_sent", batch=batch.id, requests=len(bodies))
        while batch.status not in _ENDED:
            await self._sleep(self._settings.poll_s)
            batch = await self._read_again(
                functools.partial(self._client.batches.retrieve, batch.id, extra_headers=headers)
            )
        lacking = Fault("overloaded", f"the batch {batch.id} ended as {batch.status} without this answer")
        results: list[bytes | Fault] = [lacking] * len(bodies)
        for name in (batch.output_file_id, batch.error_file_id):
            if name:
                content = await self._read_again(
                    functools.partial(self._client.files.content, name, extra_headers=headers)
                )
                self._read(content.content, results)
        log.info("batch_ended", batch=batch.id, status=batch.status)
        return results

    async def _read_again(self, read: Callable[[], Awaitable[T]]) -> T:
        """Return what `read` returns, after transient faults if need be: the batch is billed all the same."""
        for _ in range(_MAX_FAILED_READS):
            try:
                return await read()
            except Exception as error:
                fault = classify(error)
                if fault is None or not fault.transient:
                    raise
                log.warning("batch_not_read", fault=fault.kind, wait_s=self._settings.poll_s)
            await self._sleep(self._settings.poll_s)
        return await read()

    @staticmethod
    def _read(data: bytes, results: list[bytes | Fault]) -> None:
        """Put each line of a result file to its request; lines that are none are passed over."""
        for line in data.splitlines():
            try:
                entry = json.loads(line)
                at, response = int(entry["custom_id"]), entry.get("response") or {}
                status, body = int(response.get("status_code") or 502), response.get("body")
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            if not 0 <= at < len(results):
                continue
            failed = status >= 400 or body is None
            results[at] = (
                from_status(max(status, 400), body or {"error": entry.get("error")}, {})
                if failed
                else json.dumps(body).encode()
            )


def _failure(error: Exception) -> RuntimeError:
    """Return an error of one request's own for one of all of them."""
    failure = RuntimeError(f"the batch failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
