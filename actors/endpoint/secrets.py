"""Keys: read from the environment where they are used, and taken out of every text that leaves."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping

from actors.endpoint.settings import EndpointSettings
from actors.errors import UsageError


class MissingKeyError(UsageError):
    """An endpoint's key is not in the environment."""


class Secrets:
    """Values that must never be shown. Its own text and pickle hold none of them."""

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {form for value in values if value for form in (value, urllib.parse.quote(value, safe=""))}
        # Longest first, so that a secret that contains another leaves no remainder.
        self._values = sorted(forms, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return `text` with every secret replaced by `[redacted]`."""
        for value in self._values:
            text = text.replace(value, "[redacted]")
        return text

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)} hidden)"

    def __reduce__(self) -> tuple[type[Secrets], tuple[()]]:
        return Secrets, ()


def read_secret(variable: str, environ: Mapping[str, str], used_for: str) -> str:
    """Return the value of an environment variable that holds a key.

    Raises:
        MissingKeyError: If it is unset or blank, or could not be sent in a header; the value is not shown.
    """
    value = environ.get(variable, "").strip()
    if not value:
        raise MissingKeyError(
            f"{used_for} needs a key, and the environment variable {variable} is not set.",
            f"Set it (export {variable}=...), name another variable in `api_key_env`, "
            "or write `api_key_env: null` for an endpoint without keys.",
        )
    if not (value.isascii() and value.isprintable()):
        raise MissingKeyError(
            f"the key in the environment variable {variable} holds characters that no key has.",
            "Copy it again, without line breaks or quotation marks around it.",
        )
    return value


def read_secrets(settings: EndpointSettings, environ: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
    """Return the bearer key, if one is configured, and the headers that hold secrets.

    Raises:
        MissingKeyError: Naming the variable that is not set.
    """
    used_for = f"the endpoint {settings.host} (model {settings.model})"
    key = read_secret(settings.api_key_env, environ, used_for) if settings.api_key_env else None
    headers = {name: read_secret(var, environ, used_for) for name, var in settings.headers_env.items()}
    return key, headers
