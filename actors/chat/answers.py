"""Reads the body of a chat completion, whole or streamed: text, thoughts, and how the answer ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from actors.chat.encoding import as_utf8
from actors.chat.reply import FinishReason
from actors.chat.thoughts import separate_thoughts, split_thoughts
from actors.endpoint.faults import Fault, FaultyAnswerError
from actors.endpoint.openai_client import fault_in, json_object, raise_error_in
from actors.endpoint.rules import FaultKind

_ENDS: tuple[tuple[str, FinishReason], ...] = (
    ("refus", "refused"),
    (
        "filter|safety|recitation|blocklist|prohibited|spii|sensitive|guardrail|moderat|violation|language",
        "filtered",
    ),
    ("length|max_?tokens|max_?(output|completion)_?tokens|token_?limit", "length"),
)
"""How servers spell the end of an answer, in lower case with underscores. All others are "stop"."""

_BROKEN = re.compile("(?<!no_)(error|abort|insufficient|cancel|timed?_?out|interrupt|disconnect)")
"""Ends of an answer that broke off: as good as none."""
_BROKEN_IF_EMPTY = ("other", "unknown", "malformed_function_call", "finish_reason_unspecified")
_OVERFLOW = re.compile("context")


@dataclass(frozen=True, slots=True)
class Completion:
    """The first choice of a chat completion; the model's name and `usage` are as they were sent."""

    text: str
    finish: FinishReason
    thoughts: str = ""
    model: str = ""
    """"" where the response names none."""
    usage: Any = None


def read_completion(data: bytes) -> Completion:
    """Return the chat completion in the body of a response; a stream is put together.

    An empty, cut off, filtered or refused answer is a completion.

    Raises:
        FaultyAnswerError: If its first choice has no message: an error in spite of status 200, another kind
            of body, a cut stream, or an answer that broke off.
    """
    streamed = data[:64].lstrip().startswith((b"data:", b"event:", b":", b"id:"))
    body = _joined(data) if streamed else json_object(data)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        said = fault_in(body)
        raise FaultyAnswerError(said) if said else _faulty("garbled", f"choices is {choices!r}")
    choice = choices[0]
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise _faulty("garbled", "the first choice has no message")
    completion = _read(choice, body)
    reason = _reason(choice)
    empty = not completion.text.strip()
    if _OVERFLOW.search(reason):
        if empty:
            raise _faulty("too_long", f"the answer ended with {reason!r}")
    elif _BROKEN.search(reason) or (reason in _BROKEN_IF_EMPTY and empty):
        raise _faulty("overloaded", f"the answer ended with {reason!r} (sent with status 200)")
    return completion


def _reason(choice: Mapping[str, Any]) -> str:
    """Return the finish reason in lower case, its words joined by underscores, however it is spelled."""
    reason = re.sub(r"(?<=[a-z])(?=[A-Z])|\W+", "_", str(choice.get("finish_reason") or ""))
    return reason.lower()


def _read(choice: Mapping[str, Any], body: Mapping[str, Any]) -> Completion:
    message = choice["message"]
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    if isinstance(content, list):  # some endpoints answer in parts
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    text, within = split_thoughts(as_utf8(content) if isinstance(content, str) else "")
    thoughts = "\n\n".join(part for part in (as_utf8(separate_thoughts(message)), within) if part)
    reason = _reason(choice)
    ends: Iterable[tuple[str, FinishReason]] = ((_OVERFLOW.pattern, "length"), *_ENDS)
    finish: FinishReason = next((finish for words, finish in ends if re.search(words, reason)), "stop")
    if refusal := _refusal(message, *parts):
        text, finish = text or as_utf8(refusal), "refused"
    model = body.get("model")
    name = as_utf8(model) if isinstance(model, str) else ""
    return Completion(text, finish, thoughts, name, body.get("usage"))


def _refusal(message: Mapping[str, Any], *parts: Mapping[str, Any]) -> str:
    own = message.get("provider_specific_fields")
    for holder in (message, own if isinstance(own, dict) else {}, *parts):
        if isinstance(refusal := holder.get("refusal"), str) and refusal:
            return refusal
    return ""


def _joined(data: bytes) -> dict[str, Any]:
    """Return a stream of server-sent events as the completion that it would have been in one piece."""
    message: dict[str, Any] = {}
    body: dict[str, Any] = {"choices": []}
    finish, done = None, False
    said: Fault | None = None
    for line in data.splitlines():
        name, _, value = line.partition(b":")
        if name.strip() != b"data":
            continue
        if value.strip() == b"[DONE]":
            done = True
            continue
        try:
            chunk = json.loads(value)
        except (ValueError, RecursionError):
            raise _faulty("garbled", f"a stream with an event that is not JSON: {value[:80]!r}") from None
        if not isinstance(chunk, dict):
            continue
        raise_error_in(chunk)
        if chunk.get("choices") is None:
            said = said or fault_in(chunk)
        body |= {
            key: value
            for key, value in chunk.items()
            if key in ("model", "usage", "id", "service_tier") and value
        }
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        for part in (choice.get("delta"), choice.get("message")):
            _add(message, part if isinstance(part, dict) else {})
        finish = choice.get("finish_reason") or finish
    if said is not None and finish is None:  # else it spoke of the wait for an answer
        raise FaultyAnswerError(said)
    if not done and finish is None:
        raise _faulty("garbled", "the stream ended before the answer did")
    body["choices"] = [{"message": message, "finish_reason": finish}]
    return body


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        held = message.get(name)
        match held, value:
            case (str(), str()) if name != "role":
                message[name] = f"{held}{value}"
            case list(), list():
                message[name] = [*held, *value]
            case _, None:
                pass
            case _:
                message[name] = value


def _faulty(kind: FaultKind, detail: str) -> FaultyAnswerError:
    return FaultyAnswerError(Fault(kind, detail, in_doubt=True))
