"""The part of the configuration that every HTTP endpoint has."""

from __future__ import annotations

import urllib.parse
from typing import Any

from pydantic import Field, field_validator

from actors.endpoint.proxies import is_loopback
from actors.endpoint.secrets import is_key_name
from actors.settings import Settings

_OWN_HEADERS = {"authorization", "content-type", "content-length", "host"}


class EndpointSettings(Settings):
    """Where an endpoint is, how it is paid for, and how hard it may be driven."""

    model: str = Field(min_length=1)
    """The model's name as the endpoint spells it."""
    base_url: str = "https://api.openai.com/v1"
    """The address below which the API lies, as its documentation gives it; no key in it."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key, read where the endpoint is called. null: no key is sent."""
    headers_env: dict[str, str] = Field(default_factory=dict)
    """Header name to environment variable, for endpoints that want a secret in a header of their own."""
    extra_headers: dict[str, str] = Field(default_factory=dict)
    """Further headers of every request. Not for secrets: these are shown and stored."""
    extra_query: dict[str, str] = Field(default_factory=dict)
    """Further query parameters, such as an `api-version`."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's JSON body, for what only this endpoint understands."""

    proxy: str = "env"
    """env: the proxy that http_proxy, https_proxy and no_proxy name; none: no proxy; or a proxy's address. A
    server on this machine is never asked through a proxy."""

    max_concurrent: int = Field(default=32, ge=1, le=4096)
    """Requests in flight at most; halved while the endpoint is overloaded, and restored as it recovers."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Held across all agents; null leaves it to the endpoint's own refusals."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Prompt and completion tokens, held across all agents: reserved before a request, settled after it."""

    connect_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds to open a connection."""
    attempt_timeout_s: float = Field(default=180.0, gt=0)
    """Seconds for one attempt, from sending to the last byte, however the bytes trickle in."""
    deadline_s: float = Field(default=900.0, gt=0)
    """Seconds from the first attempt until there must be an answer, retries and pauses included."""
    max_attempts: int = Field(default=6, ge=1, le=100)
    """Attempts for one request; each may be billed and each is counted."""
    backoff_s: float = Field(default=1.0, gt=0)
    """Mean wait before the second attempt is half of this; it doubles with each attempt (full jitter)."""
    backoff_max_s: float = Field(default=60.0, gt=0)
    """Longest wait between two attempts that is this program's own choice."""
    breaker_failures: int = Field(default=8, ge=1)
    """Failures in a row, over all agents, after which the endpoint is left alone for `breaker_pause_s`."""
    breaker_pause_s: float = Field(default=15.0, gt=0)
    """Length of that pause; afterwards one request probes the endpoint before the others follow."""
    outage_patience_s: float = Field(default=600.0, gt=0)
    """An outage longer than this fails every waiting request instead of keeping it waiting."""

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        url = urllib.parse.urlsplit(value)
        # The value is not repeated where it may hold a secret.
        if "@" in value:
            raise ValueError("must not hold a user name or password; use api_key_env or headers_env")
        if any(is_key_name(name) for name, _ in urllib.parse.parse_qsl(f"{url.query}&{url.fragment}")):
            raise ValueError("must not hold a key; use api_key_env or headers_env")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"must be an http:// or https:// address, got {value!r}")
        return value.rstrip("/")

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, value: str) -> str:
        if value in ("env", "none"):
            return value
        url = urllib.parse.urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must be env, none, or an http:// or https:// address")
        if url.username or url.password:
            raise ValueError("must not hold a user name or password; set https_proxy, and `proxy: env`")
        return value

    @field_validator("extra_headers", "headers_env")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"{name} is set by the program; use api_key_env for a bearer key")
        return value

    @property
    def host(self) -> str:
        """The host and port of the address, for messages."""
        return urllib.parse.urlsplit(self.base_url).netloc

    @property
    def charges(self) -> bool:
        """Whether a call may cost money: it takes a key, and is not on this machine."""
        if self.api_key_env is None and not self.headers_env:
            return False
        return not is_loopback(urllib.parse.urlsplit(self.base_url).hostname or "")
