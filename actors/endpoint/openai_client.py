"""The `openai` client as this program uses it: no retries of its own, and only the configured key.

Left to itself the client would take keys, organisation and address from the environment; a key meant
for one provider must not travel to another, nor to a local server that needs none.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from actors.endpoint.error_body import read_body
from actors.endpoint.faults import Fault, FaultyAnswerError, from_status
from actors.endpoint.proxies import login_of, proxy_for, without_login
from actors.endpoint.rules import OTHER
from actors.endpoint.secrets import Secrets, read_secrets
from actors.endpoint.settings import EndpointSettings

if TYPE_CHECKING:
    import openai


_STATUSES = ("code", "status", "status_code", "statusCode")
MAX_BYTES = 256 << 20
"""Of an answer: more than the largest pictures in base64 take."""


@dataclass(frozen=True)
class Connection:
    """A client, what it sends that must not be shown, and the `extra_headers` of every request."""

    client: openai.AsyncOpenAI
    secrets: Secrets
    headers: dict[str, Any] = field(repr=False)
    proxy: str = ""
    """The proxy on the way, as it may be shown; "" for none."""


def connect(settings: EndpointSettings, environ: Mapping[str, str]) -> Connection:
    """Return a connection to the endpoint; nothing is sent yet.

    Raises:
        MissingKeyError: If a configured environment variable is not set.
    """
    import httpx2
    import openai

    key, secret_headers = read_secrets(settings, environ)
    headers: dict[str, Any] = {
        "OpenAI-Organization": openai.Omit(),
        "OpenAI-Project": openai.Omit(),
        **settings.extra_headers,
        **secret_headers,
    }
    if key is None:
        headers["Authorization"] = openai.Omit()
    proxy = proxy_for(settings.base_url, settings.proxy, environ)
    client = openai.AsyncOpenAI(
        api_key=key or "no-key",  # None would make the client look in the environment
        base_url=settings.base_url,
        max_retries=0,
        timeout=openai.Timeout(settings.attempt_timeout_s, connect=settings.connect_timeout_s),
        default_query=settings.extra_query or None,
        # Over aiohttp: the usual transport walks through all connections for every request, and with hundreds
        # in flight that takes longer than everything else which a request costs.
        http_client=openai.DefaultAioHttpClient(
            event_hooks={"response": [_bound]},
            # The client's own reading of the environment knows neither loopback nor address ranges.
            # Certificates that a variable names are still taken.
            proxy=proxy,
            trust_env=False,
            verify=httpx2.create_ssl_context(),
            limits=httpx2.Limits(
                max_connections=settings.max_concurrent, max_keepalive_connections=settings.max_concurrent
            ),
        ),
    )
    hidden = [key or "", *secret_headers.values(), login_of(proxy) if proxy else ""]
    return Connection(client, Secrets(hidden), headers, without_login(proxy) if proxy else "")


async def _bound(response: Any) -> None:
    """Have a body that does not end be given up, before it fills the memory of all who use this process."""
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            n_bytes = 0
            async for chunk in self._stream:
                n_bytes += len(chunk)
                if n_bytes > MAX_BYTES:
                    detail = f"an answer of more than {MAX_BYTES >> 20} MiB"
                    raise FaultyAnswerError(Fault("garbled", detail, in_doubt=True))
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    response.stream = Bounded(response.stream)


def classify(error: Exception) -> Fault | None:
    """Return the fault in an exception of the `openai` client; None if it is not one of its."""
    import openai

    match error:
        case openai.APIStatusError():
            # Not `error.body`: of some shapes the client keeps a part only, such as the words without the
            # code.
            return from_status(error.status_code, error.response.text, error.response.headers)
        case openai.APIConnectionError():
            return _connection_fault(error)
        case openai.OpenAIError():
            return Fault("garbled", f"{type(error).__name__}: {error}", in_doubt=True)
        case _:
            return None


def _connection_fault(error: Exception) -> Fault:
    import aiohttp

    causes, cause = [], error.__cause__
    while cause is not None:
        causes.append(cause)
        if isinstance(cause, FaultyAnswerError):
            return cause.fault
        cause = cause.__cause__
    # The transport's own words: the client calls every broken connection a timeout.
    own = next((cause for cause in causes if isinstance(cause, aiohttp.ClientError)), None)
    if isinstance(own, TimeoutError) or (
        own is None and any(isinstance(cause, TimeoutError) for cause in causes)
    ):
        return Fault("timeout", "the connection timed out", in_doubt=True)
    if isinstance(own, aiohttp.ClientHttpProxyError):
        return from_status(own.status, f"the proxy answered: {own.message}", own.headers or {})
    origin = own or (causes[0] if causes else error)
    # A connection that never opened carried nothing; one that broke may have carried the request.
    in_doubt = not isinstance(own, aiohttp.ClientConnectorError)
    return Fault("unreachable", _why_unreachable(origin), in_doubt=in_doubt)


def _why_unreachable(error: BaseException) -> str:
    """Return why there is no connection, without the library's words for where it was opened."""
    import aiohttp

    plain = (aiohttp.ClientConnectorError, aiohttp.ClientConnectorDNSError)
    if type(error) not in plain or not isinstance(error, aiohttp.ClientConnectorError):
        return f"{type(error).__name__}: {error}"
    cause, number = error.os_error, error.os_error.errno or 0
    why = os.strerror(number) if number in errno.errorcode else cause.strerror or str(cause)
    return f"no connection to {error.host}:{error.port}: {why}"


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in the body of a successful response.

    Raises:
        FaultyAnswerError: If the body is no JSON object (a proxy's page, a cut or damaged body), or is an
            error in spite of its status 200.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        start = read_body(data).words
        raise FaultyAnswerError(
            Fault("garbled", f"not JSON ({type(error).__name__}): {start!r}", in_doubt=True)
        ) from None
    if not isinstance(body, dict):
        raise FaultyAnswerError(
            Fault("garbled", f"JSON of the wrong kind: {type(body).__name__}", in_doubt=True)
        )
    raise_error_in(body)
    return body


def raise_error_in(body: dict[str, Any]) -> None:
    """Raise the error that a body of status 200 holds in place of an answer, or beside an empty one.

    Raises:
        FaultyAnswerError: If `error` is there, at the top or in the first choice.
    """
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if error := body.get("error") or first.get("error"):
        raise FaultyAnswerError(
            fault_in({"error": error}) or _with_200(from_status(502, {"error": error}, {}))
        )


def fault_in(body: Mapping[str, Any]) -> Fault | None:
    """Return the fault that a body of status 200 speaks of, by the status that it names or else by its words;
    None if it speaks of none."""
    inner = body.get("error")
    named = (part.get(name) for part in (inner, body) if isinstance(part, dict) for name in _STATUSES)
    status = next((int(str(code)) for code in named if re.fullmatch(r"[45]\d\d", str(code))), None)
    fault = from_status(status or 400, body, {})
    if status is None:
        fault = replace(fault, detail=fault.detail.removeprefix("HTTP 400: "))
    silent = status is None and (fault.why == OTHER or fault.body.wordless)
    return None if silent else _with_200(fault)


def _with_200(fault: Fault) -> Fault:
    # Billed or not: a server that began to answer may have done the work.
    return replace(fault, detail=f"{fault.detail} (sent with status 200)", in_doubt=True)
