"""Checks whether an images endpoint knows its model, without making an image."""

from __future__ import annotations

from actors.endpoint.faults import to_error, try_once
from actors.endpoint.openai_client import Connection, classify
from actors.endpoint.settings import EndpointSettings
from actors.errors import MaiaError

_STOPS = frozenset({"bad_key", "no_access", "no_quota", "no_model", "unreachable"})


async def model_fault(
    connection: Connection, settings: EndpointSettings, timeout_s: float
) -> MaiaError | None:
    """Return why no image can be made; None where images can, as far as can be checked for free.

    A request without a prompt is sent: a server that knows the model refuses it for that, and one that does
    not says so.
    """

    async def send() -> None:
        await connection.client.post(
            "/images/generations",
            body={"model": settings.model},
            cast_to=object,
            options={"headers": connection.headers},
        )

    fault = await try_once(send, classify, timeout_s)
    if fault is None:
        return None
    if fault.kind not in _STOPS or (fault.kind == "unreachable" and fault.in_doubt):
        return None
    shown = fault.redacted(connection.secrets.redact)
    return to_error(shown, settings.host, settings.model, 1, 0, connection.proxy)
