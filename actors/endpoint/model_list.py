"""The models that an endpoint lists (`GET /models`): the cheapest check of a key and an address."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.endpoint.faults import Fault, to_error, try_once
from actors.endpoint.openai_client import Connection, classify, json_object
from actors.endpoint.settings import EndpointSettings

_STOPS = frozenset({"bad_key", "no_access", "no_quota", "unreachable"})
"""Faults of this question that every other one would meet too. Others only say that there is no list here."""
_CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model of the list."""

    id: str
    ends: datetime.date | None = None
    """The day on which the provider shuts it down, where it says so."""
    context: int | None = None
    """Tokens of prompt and answer together, where the server says so."""


async def list_models(
    connection: Connection, settings: EndpointSettings, timeout_s: float
) -> tuple[ListedModel, ...] | None:
    """Return the models of an endpoint; None where it has no list, or gives none within `timeout_s`.

    Raises:
        EndpointStopError: If the key, the account or the way to the server is at fault.
        EndpointDownError: If nothing answers at the address.
    """

    async def send() -> tuple[ListedModel, ...] | None:
        raw = await connection.client.models.with_raw_response.list(extra_headers=connection.headers)
        return read_list(json_object(raw.http_response.content))

    outcome = await try_once(send, classify, timeout_s)
    if not isinstance(outcome, Fault):
        return outcome
    if not _stops(outcome):
        return None
    shown = outcome.redacted(connection.secrets.redact)
    raise to_error(shown, settings.host, settings.model, 1, 0, connection.proxy)


def _stops(fault: Fault) -> bool:
    return fault.kind in _STOPS and not (fault.kind == "unreachable" and fault.in_doubt)


def read_list(body: Mapping[str, Any]) -> tuple[ListedModel, ...] | None:
    """Return the models in the body of an answer; None if it holds no list of them."""
    items = body.get("data", body.get("models"))
    if not isinstance(items, list):
        return None
    models = (_read(item) for item in items if isinstance(item, dict))
    return tuple(model for model in models if model is not None)


def _read(item: Mapping[str, Any]) -> ListedModel | None:
    name = item.get("id") or item.get("name")
    if not isinstance(name, str):
        return None
    contexts = [item.get(field) for field in _CONTEXT_FIELDS]
    context = next((length for length in contexts if isinstance(length, int) and length > 0), None)
    # Gemini lists its models below a folder, and is asked for them without it.
    return ListedModel(name.removeprefix("models/")[:200], _date(item.get("shutdown_date")), context)


def _date(value: object) -> datetime.date | None:
    """Return a day that is written as ISO 8601 or as seconds since 1970; None for anything else."""
    try:
        if isinstance(value, str):
            return datetime.date.fromisoformat(value[:10])
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.datetime.fromtimestamp(value, datetime.UTC).date()
    except (ValueError, OverflowError, OSError):
        pass
    return None


def find(models: Sequence[ListedModel], name: str) -> ListedModel | None:
    """Return the model of that name; a provider's prefix or `:latest` may be left out."""
    wanted = name.removeprefix("models/")
    exact = [model for model in models if model.id == wanted]
    loose = [model for model in models if model.id in (f"{wanted}:latest", wanted.removesuffix(":latest"))]
    return next(iter([*exact, *loose]), None)


def nearest(models: Sequence[ListedModel], name: str, n: int = 3) -> list[str]:
    """Return the listed names that are most like `name`, the most like first."""
    plain = {model.id.lower(): model.id for model in models}
    return [plain[match] for match in difflib.get_close_matches(name.lower(), list(plain), n, 0.0)]
