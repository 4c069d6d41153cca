"""What a profile's endpoints answer, asked before anything else is started: key, address, model, images,
price.

`maia doctor --ask` shows all of it. Every command that uses an endpoint asks the same in its first seconds,
and ends where an endpoint can surely not work.
"""

from __future__ import annotations

import asyncio
import datetime
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.chat import probe as chat_probe
from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import EndpointDownError
from actors.endpoint.model_list import ListedModel, find, list_models, nearest
from actors.endpoint.openai_client import Connection, connect
from actors.endpoint.secrets import MissingKeyError
from actors.endpoint.settings import EndpointSettings
from actors.errors import MaiaError, UsageError
from actors.generation.probe import model_fault
from actors.generation.settings import OpenAIImages
from experiments.setup.config import Profile
from experiments.setup.console import counted, mark
from experiments.setup.spending import endpoints

QUICK_S = 3.0
"""Seconds that a command waits for endpoints before it continues without their answers."""
FRESH_S = 600.0
"""Seconds for which an endpoint that was asked by this process is not asked again."""
PATIENT_S = 60.0
"""Seconds that `maia doctor --ask` waits: a model that is being loaded takes its time."""


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """What one endpoint answered. `error` is None where nothing stands in the way of a run."""

    key: str
    """The setting that names it, such as `chat.interpreter`."""
    settings: EndpointSettings
    error: MaiaError | None = None
    found: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    suggested: dict[str, Any] = field(default_factory=dict)
    """Settings that save finding the same out again in every run."""

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "setting": self.key,
            "model": self.settings.model,
            "address": self.settings.base_url,
            "works": self.error is None,
            "error": None if self.error is None else {"message": self.error.message, "fix": self.error.fix},
            "found": list(self.found),
            "warnings": list(self.warnings),
            "suggested": self.suggested,
        }


async def check_endpoints(
    profile: Profile, within_s: float = PATIENT_S, environ: Mapping[str, str] = os.environ
) -> list[EndpointReport]:
    """Return what every endpoint of a profile answers within so many seconds, all asked at once."""
    asked = endpoints(profile)
    distinct = {_identity(part): part for part in asked.values()}
    answers = await asyncio.gather(*(_check(part, within_s, environ) for part in distinct.values()))
    by_identity = dict(zip(distinct, answers, strict=True))
    return [
        EndpointReport(
            key, part, answer.error, answer.found, answer.warnings + _price_warning(part), answer.suggested
        )
        for key, part in asked.items()
        for answer in [by_identity[_identity(part)]]
    ]


_asked_at: dict[int, float] = {}
"""Seconds of a monotonic clock at which this process asked endpoints and found no fault, by what they were
asked with."""


async def require_endpoints(
    profile: Profile,
    notify: Callable[[str], None],
    within_s: float = QUICK_S,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Make sure that no endpoint of the profile is known to fail; what is not answered in time is left to the
    run. Endpoints that this process asked less than `FRESH_S` seconds ago are not asked again.

    Raises:
        UsageError: If a key, an address or a model cannot work.
    """
    parts = endpoints(profile)
    asked_with = hash(tuple((_identity(part), _keys(part, environ)) for part in parts.values()))
    if not parts or time.monotonic() < _asked_at.get(asked_with, -math.inf) + FRESH_S:
        return
    for report in await check_endpoints(profile, within_s, environ):
        if isinstance(report.error, MissingKeyError) and not profile.ray.on_this_machine:
            continue  # the key is where the replica runs
        if isinstance(report.error, UsageError | EndpointDownError):
            raise UsageError(f"{report.key}: {report.error.message}", report.error.fix)
        if report.error is not None:
            notify(f"warning: {report.key}: {report.error}")
        for warning in report.warnings:
            notify(f"warning: {report.key}: {warning}")
    _asked_at[asked_with] = time.monotonic()


def _identity(part: EndpointSettings) -> tuple[object, ...]:
    # An editor is asked like the maker of the same endpoint; prices and histories are no part of the
    # question.
    kind = "chat" if isinstance(part, OpenAIChat) else "images"
    return kind, part.model_dump_json(exclude={"backend", "price", "history", "editor", "placement", "store"})


def _keys(part: EndpointSettings, environ: Mapping[str, str]) -> tuple[str | None, ...]:
    return tuple(environ.get(name) for name in (part.api_key_env or "", *part.headers_env.values()))


def _price_warning(part: EndpointSettings) -> tuple[str, ...]:
    assert isinstance(part, OpenAIChat | OpenAIImages)
    return () if part.known_price else ("its price is unknown: set `price` to have costs counted",)


@dataclass(slots=True)
class _Answer:
    error: MaiaError | None = None
    found: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    suggested: dict[str, Any] = field(default_factory=dict)


async def _check(part: EndpointSettings, within_s: float, environ: Mapping[str, str]) -> _Answer:
    try:
        connection = connect(part, environ)
    except MaiaError as error:
        return _Answer(error)
    try:
        if isinstance(part, OpenAIChat):
            return await _check_chat(part, connection, within_s, environ)
        assert isinstance(part, OpenAIImages)
        return await _check_images(part, connection, within_s)
    finally:
        await connection.client.close()


async def _check_chat(
    part: OpenAIChat, connection: Connection, within_s: float, environ: Mapping[str, str]
) -> _Answer:
    listing, asking = (
        asyncio.create_task(work)
        for work in (
            list_models(connection, part, within_s),
            chat_probe.ask(part, within_s=within_s, environ=environ),
        )
    )
    try:
        await asyncio.wait((listing, asking), timeout=within_s)
    finally:
        for task in (listing, asking):
            task.cancel()
        await asyncio.wait((listing, asking))
    models, error = _outcome(listing)
    probe, failed = _outcome(asking)
    error = error or failed
    answer = _Answer(error and _with_nearest(error, models, part.model))
    if not isinstance(error, EndpointDownError):  # else it was not asked for its list
        answer.found, answer.warnings = _listed(models, part.model)
    if probe is not None:
        usage = probe.reply.usage
        counted = (
            "the server does not say how many tokens"
            if usage.estimated
            else f"{usage.prompt_tokens} tokens in"
        )
        answer.found += (f"answered in {probe.seconds:.1f} s ({counted})",)
        if part.sees_images and probe.named_colors:
            answer.found += ("sees images",)
        elif part.sees_images:
            reply = " ".join(probe.reply.text.split())[:80]
            answer.warnings += (
                f"it was shown a red and a blue image and did not name both colors (it said {reply!r}): it "
                "may not see images",
            )
        answer.suggested = dict(probe.suggested)
    elif answer.error is None:
        answer.warnings += (f"no answer within {within_s:g} s",)
    return answer


async def _check_images(part: OpenAIImages, connection: Connection, within_s: float) -> _Answer:
    try:
        models = await list_models(connection, part, within_s)
    except MaiaError as error:
        return _Answer(error)
    lines, warnings = _listed(models, part.model)
    answer = _Answer(found=lines, warnings=warnings)
    if models is None or find(models, part.model) is None:
        fault = await model_fault(connection, part, within_s)
        answer.error = fault and _with_nearest(fault, models, part.model)
    return answer


def _outcome(task: asyncio.Task[Any]) -> tuple[Any, MaiaError | None]:
    """Return the result of a task, or the typed failure that ended it; neither if it was not done in time."""
    if task.cancelled():
        return None, None
    error = task.exception()
    if error is None:
        return task.result(), None
    if isinstance(error, MaiaError):
        return None, error
    raise error


def _listed(models: tuple[ListedModel, ...] | None, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the server's list says of a model, and what about it deserves a warning."""
    if models is None:
        return ("the server has no list of models",), ()
    model = find(models, name)
    if model is None:
        like = nearest(models, name)
        text = f"{name} is not in the server's list of {counted(len(models), 'model')}"
        return (), (f"{text}; nearest: {', '.join(like)}" if like else text,)
    lines = [f"in the server's list of {counted(len(models), 'model')}"]
    if model.context is not None:
        lines.append(f"context of {model.context:,} tokens")
    if model.ends is None:
        return tuple(lines), ()
    when = "was shut down" if model.ends <= datetime.date.today() else "will be shut down"
    return tuple(lines), (f"by the server's list {name} {when} on {model.ends.isoformat()}",)


def _with_nearest(error: MaiaError, models: tuple[ListedModel, ...] | None, name: str) -> MaiaError:
    """Return the error; if the server's list lacks the model, with the names on it that are most like."""
    if not models or find(models, name) is not None or not (like := nearest(models, name)):
        return error
    error.fix = f"{error.fix} Nearest that it lists: {', '.join(like)}."
    return error


def suggestions(reports: Sequence[EndpointReport]) -> dict[str, Any]:
    """Return the suggested settings of all endpoints as a part of a profile."""
    changes: dict[str, Any] = {}
    for report in reports:
        part = changes
        for key in report.key.split(".") if report.suggested else ():
            part = part.setdefault(key, {})
        part |= report.suggested
    return changes


def table(reports: Sequence[EndpointReport]) -> Any:
    """Return the reports for a terminal."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title="endpoints", title_justify="left", box=None)
    for column in ("", "setting", "what it answered"):
        shown.add_column(column)
    for report in reports:
        lines = [Text(f"{report.settings.model} at {report.settings.base_url}")]
        if report.error is not None:
            lines += [Text(report.error.message), Text(report.error.fix, "dim")]
        lines += [Text(line) for line in report.found]
        lines += [Text(f"warning: {warning}", "yellow") for warning in report.warnings]
        if report.suggested:
            known = ", ".join(f"{key}: {value}" for key, value in report.suggested.items())
            lines.append(Text(f"settings that say so from the start: {known}"))
        shown.add_row(
            mark("ready" if report.error is None else "missing"), report.key, Text("\n").join(lines)
        )
    return shown
