"""Which study a log entry is about: many of them run at once in a process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_study: ContextVar[str] = ContextVar("study", default="")


@contextmanager
def logged_study(run: str, unit: str) -> Iterator[None]:
    """Have `name_study` say of all log entries inside which run and unit they are about."""
    token = _study.set(f"[{run} {unit}] ")
    try:
        yield
    finally:
        _study.reset(token)


def name_study(record: logging.LogRecord) -> bool:
    """Give a log entry `study`: "[RUN UNIT] ", or "" outside of studies. A filter that keeps all entries."""
    record.study = _study.get()
    return True
