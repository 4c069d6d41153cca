"""Keys: read from the environment where they are used, and taken out of every text that leaves."""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import UsageError

if TYPE_CHECKING:
    from actors.endpoint.settings import EndpointSettings


class MissingKeyError(UsageError):
    """An endpoint's key is not in the environment."""


PART = 8
"""Characters of a secret that already count as one: servers shorten the keys that they repeat."""
_CODED_PART = 12
"""The same of a secret in base64."""
_HEX_PART = 2 * PART
"""The same of a secret in hexadecimal."""
_ANCHOR = 4
_LONGEST_WORD = 12
_URL_SAFE = str.maketrans("+/", "-_")
_REDACTED = "[redacted]"


class Secrets:
    """Values that must never be shown, whole or in part. Its own text and pickle hold none of them."""

    __slots__ = ("_anchors", "_short", "_values")

    def __init__(self, values: Iterable[str] = ()) -> None:
        values = [value for value in values if value]
        forms = {form for value in values for form in _forms(value)}
        # Longest first, so that a secret that contains another leaves no remainder.
        self._values = sorted((form for form in forms if not _is_word(form)), key=len, reverse=True)
        # A placeholder ("EMPTY", "x") is part of ordinary words: it is taken out only where it stands alone.
        short = sorted((form for form in forms if _is_word(form)), key=len, reverse=True)
        words = "|".join(map(re.escape, short))
        self._short = re.compile(rf"(?<![\w-])(?:{words})(?![\w-])") if short else None
        long = [value for value in values if len(value) >= PART]
        coded = sorted({form for value in long for form in _coded(value)})
        digits = sorted({value.encode().hex() for value in long})
        # Every part holds one of these: looking for them alone is a fraction of the work.
        self._anchors = [
            (form, _folded(form), at, least)
            for forms, least in ((self._values, PART), (coded, _CODED_PART), (digits, _HEX_PART))
            for form in forms
            for at in range(0, len(form) - _ANCHOR + 1, least - _ANCHOR + 1)
        ]

    def redact(self, text: str) -> str:
        """Return `text` with every secret, and every part of one of at least `PART` characters, replaced.

        Also in letters of the other case, in base64, and in hexadecimal.

        A part that is an ordinary word stays: keys hold such words by way of placeholder.
        """
        text = self.redact_record(text)
        return text if self._short is None else self._short.sub(_REDACTED, text)

    def redact_record(self, text: str) -> str:
        """Do as `redact`, and leave values alone that are ordinary words: a record is full of those."""
        for value in self._values:
            text = text.replace(value, _REDACTED)
        spans = sorted(self._parts(text))
        if not spans:
            return text
        pieces, end = [], 0
        for start, stop in spans:
            if start >= end:
                pieces += [text[end:start], _REDACTED]
            end = max(end, stop)
        return "".join([*pieces, text[end:]])

    def _parts(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where parts of secrets stand in a text."""
        folded = _folded(text)
        for form, value, at, least in self._anchors:
            anchor = value[at : at + _ANCHOR]
            start = folded.find(anchor)
            while start >= 0:
                before, after = 0, _ANCHOR
                while before < min(at, start) and folded[start - before - 1] == value[at - before - 1]:
                    before += 1
                while (
                    at + after < len(value)
                    and start + after < len(text)
                    and folded[start + after] == value[at + after]
                ):
                    after += 1
                part = text[start - before : start + after]
                if len(part) >= least and not _is_word(part if part in form else part.lower()):
                    yield start - before, start + after
                start = folded.find(anchor, start + 1)

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)} hidden)"

    def __reduce__(self) -> tuple[type[Secrets], tuple[()]]:
        return Secrets, ()


def _folded(text: str) -> str:
    """Return a text in small letters, with as many characters as it has."""
    small = text.lower()
    return small if len(small) == len(text) else "".join(c.lower() if c.isascii() else c for c in text)


def _is_word(text: str) -> bool:
    """Return whether a text is too short for a secret, or looks like a word of a language."""
    return len(text) < PART or (len(text) < _LONGEST_WORD and text.isalpha() and text.islower())


def _forms(value: str) -> Iterator[str]:
    """Yield the spellings in which a value may come back: plain, in an address, in JSON, in HTML."""
    yield from (value, urllib.parse.quote(value, safe=""), json.dumps(value)[1:-1], html.escape(value))


def _coded(value: str) -> Iterator[str]:
    """Yield a value as it stands in base64 of a text that holds it: where it begins shifts its letters."""
    for before in range(3):
        coded = base64.b64encode(bytes(before) + value.encode()).decode()
        inside = coded[-(-before * 4 // 3) : len(coded) - 4 if (before + len(value.encode())) % 3 else None]
        yield from (inside, inside.translate(_URL_SAFE))


_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|SIGNATURE)$", re.I)
_read: set[str] = set()
"""Values that this process has read for use: whatever their variables are called, they are secrets."""


def is_key_name(name: str) -> bool:
    """Return whether a variable or parameter of that name holds a key: its name ends as keys' do."""
    return _NAMES.search(name) is not None


def without_secrets(data: bytes, environ: Mapping[str, str] = os.environ) -> bytes:
    """Return what is about to be kept without any secret that this process knows; binary data are as they
    were.

    Known are the values that were read for use (`read_secret`), and those of variables whose names end as
    keys' do.
    """
    named = {value for name, value in environ.items() if is_key_name(name) and not _is_a_file(value)}
    values = frozenset(value.strip() for value in named | _read if len(value.strip()) >= PART)
    if not values:
        return data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    clean = _secrets(values).redact_record(text)
    return data if clean == text else clean.encode()


def _is_a_file(value: str) -> bool:
    """Return whether the variable names a file in place of the key itself; keys may begin with "/" too."""
    try:
        return value.startswith(("/", "~")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False  # too long for a path, of an unknown user, or with a null byte


@functools.lru_cache(maxsize=4)
def _secrets(values: frozenset[str]) -> Secrets:
    return Secrets(values)


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
    _read.add(value)
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
