"""Many things at once whose failures keep their type.

`asyncio.TaskGroup` raises a group of exceptions, which no `except` for one of them catches: a lost replica or
a revoked key would then be a fault of the program like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a task group in which the first failure cancels the other tasks and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # in the order in which they came


async def all_of(asked: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results in order. A failure is raised only when all have ended: all are paid for."""
    results: list[T] = []
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
