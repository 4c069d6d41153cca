"""Reads a server's error body, in any shape that is in use.

Servers answer with OpenAI's `{"error": {...}}`, a list of one, a plain string, FastAPI's `detail`, problem
details (RFC 7807), AWS's `__type` and `Message`, another server's body as JSON inside a string, or a proxy's
page. All of them come down to codes (for programs) and words (for people), which are gathered from any depth.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_CODE_FIELDS = ("code", "type", "status", "reason")
_WORD_FIELDS = (
    "message",
    "msg",
    "detail",
    "details",
    "title",
    "error",
    "errors",
    "raw",
    "description",
    "text",
    "reason",
)
"""Names of fields, or their ends: `error_code`, `status_msg`."""
_FIELD_NAMES = {"param", "loc", "field"}
_ECHOES = {"input", "request", "messages", "prompt", "headers", "ctx", "traceback", "stack"}
"""Fields that repeat the request: what is in them was said by us."""
_MAX_NODES = 2000
_MAX_DEPTH = 16
_MAX_CHARS = 1 << 16
"""Characters of a body that are read: no server needs more for its reason."""
_PAGE = re.compile(r"^\s*(<!doctype html|<html|<head|<body|<title|<center)", re.I)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.I | re.S)
_URL = re.compile(r"\bhttps?://\S+", re.I)
_NAME = re.compile(r"(?<![\w./-])(?=[\w./-]*\d)[a-z][\w.]*[-/][\w./-]*\w", re.I)
"""A name with digits, such as a model's: `gpt-image-1` says nothing about images."""
_QUOTED = re.compile(r"[`'\"“‘\[]([A-Za-z_][\w.\-]*)[`'\"”’\]]")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What a body says: `codes` in lower case, `words` as shown to people, `fields` of the request that it
    names."""

    codes: frozenset[str] = frozenset()
    words: str = ""
    fields: frozenset[str] = frozenset()
    wordless: bool = False
    """No field of it is for people: its words are the whole of it."""
    page: bool = False
    """The body is a web page: a proxy's or a load balancer's, not the API's."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Scalars by lower-case name, the first of each: `retrydelay`, `n_ctx`, `x-ratelimit-reset`."""

    @property
    def plain(self) -> str:
        """The words without addresses and names: a link to a billing page is no word about money."""
        return _NAME.sub("x", _URL.sub(" ", self.words))


def read_body(body: object) -> ErrorBody:
    """Return what a decoded or raw body says; any value is read, and none raises."""
    if isinstance(body, bytes | bytearray):
        body = bytes(body[: 4 * _MAX_CHARS]).decode("utf-8", "replace")
    if isinstance(body, str):
        if _PAGE.match(body):
            return ErrorBody(words=_page_words(body[:_MAX_CHARS]), page=True)
        if (text := _json_text(body)) is not None:
            return read_body(text)
        body = _json_in(body, whole=True)[0] or body[:_MAX_CHARS]
    walk = _Walk()
    walk.read(body, "error", 0)
    words = "; ".join(dict.fromkeys(walk.words))
    wordless = not words
    if wordless and body not in (None, "", {}, []):
        words = _as_text(body)
    names = walk.fields | {name.lower() for name in _QUOTED.findall(words)}
    return ErrorBody(
        frozenset(walk.codes), words[:_MAX_CHARS], frozenset(names), wordless, values=walk.values
    )


class _Walk:
    """One walk through a body."""

    def __init__(self) -> None:
        self.codes: set[str] = set()
        self.words: list[str] = []
        self.fields: set[str] = set()
        self.values: dict[str, str] = {}
        self._nodes = 0

    def read(self, value: Any, name: str, depth: int) -> None:
        self._nodes += 1
        if self._nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return
        match value:
            case dict():
                # Words of the body itself before those that it quotes.
                for key, item in sorted(value.items(), key=lambda item: isinstance(item[1], dict | list)):
                    if (lowered := str(key).lower()) not in _ECHOES or _is_rate_header(lowered, item):
                        self.read(item, lowered, depth + 1)
            case list():
                if name == "loc" and value:
                    self.fields.add(str(value[-1]).lower())
                    self.words.append(f"at {'.'.join(str(step) for step in value[:_MAX_DEPTH])}")
                for item in value if name != "loc" else []:
                    self.read(item, name, depth + 1)
            case str() | int() | float() if not isinstance(value, bool):
                self._scalar(value, name, depth)
            case _:
                pass

    def _scalar(self, value: str | float, name: str, depth: int) -> None:
        self.values.setdefault(name, str(value)[:200])
        if name.endswith(_CODE_FIELDS) and not _is_status(value):
            self.codes.add(str(value).rpartition("#")[2].lower()[:200])
        if not isinstance(value, str):
            return
        if name in _FIELD_NAMES and value:
            self.fields.add(re.split(r"[.\]\[ ]|->", value.strip(".] "))[-1].lower() or value.lower())
        if name.endswith(_WORD_FIELDS) and value.strip():
            inner, end = _json_in(value)
            if inner is not None:
                self._quoted(value, inner, end, name, depth)
            elif name != "reason" or " " in value:
                self.words.append(value.strip())

    def _quoted(self, value: str, inner: Any, end: int, name: str, depth: int) -> None:
        """Read a text with JSON in it: another server's body, or a value that the text is about."""
        before = len(self.words)
        self.read(inner, name, depth + 1)
        if len(self.words) == before:
            self.words.append(value.strip())
            return
        lead, rest = (text.strip(" -:'`\"") for text in (value[: _json_start(value)], value[end:]))
        self.words[before:before] = [lead] if lead else []
        self.words += [rest] if rest else []


def _is_rate_header(name: str, value: object) -> bool:
    return name == "headers" and isinstance(value, dict)


def _is_status(value: object) -> bool:
    return bool(re.fullmatch(r"\d{3}", str(value)))


def _json_start(text: str) -> int:
    starts = [at for at in (text.find("{"), text.find("[{")) if at >= 0]
    return min(starts) if starts else -1


def _json_in(text: str, whole: bool = False) -> tuple[Any, int]:
    """Return the JSON object or list in a text (with `whole`, that is the text), None if there is none; and
    about where it ends.
    """
    start = _json_start(text)
    if start < 0 or (whole and text[:start].strip()):
        return None, 0
    for candidate in _spellings(text[start:]):
        try:
            value, end = json.JSONDecoder().raw_decode(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list) and value:
            return value, start + end
    return None, 0


def _json_text(text: str) -> str | None:
    """Return the text that a body is in JSON, as some frameworks send a plain text or a page."""
    if not text.lstrip().startswith('"'):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _spellings(text: str) -> Iterator[str]:
    yield text
    if text.startswith(("{'", "[{'")):  # Python's spelling, which gateways in Python pass on
        yield text.replace("'", '"').replace("None", "null")


def _page_words(text: str) -> str:
    title = _TITLE.search(text)
    # A page's own words, without its scripts and styles.
    body = re.sub(r"<(script|style|title)\b.*?</\1>", " ", text, flags=re.I | re.S)
    said = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())[:300]
    name = " ".join(html.unescape(title.group(1)).split()) if title else ""
    return ": ".join(
        part for part in ("a web page", "; ".join(part for part in (name, said) if part)) if part
    )


def _as_text(body: object) -> str:
    try:
        return body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)[:_MAX_CHARS]
    except (TypeError, ValueError, RecursionError):
        return repr(type(body).__name__)
