"""Reads the body of a chat completion, whole or streamed: text, thoughts, and how the answer ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from actors.chat.base import FinishReason
from actors.chat.encoding import as_utf8
from actors.chat.thoughts import split_thoughts, thoughts_beside
from actors.endpoint.faults import Fault, FaultyAnswerError
from actors.endpoint.openai_client import json_object, raise_error_in
from actors.endpoint.rules import FaultKind

_FINISH: dict[str, FinishReason] = {
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens"), "length"),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "safety",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
            "image_safety",
            "image_prohibited_content",
            "image_recitation",
            "sensitive",
            "guardrail_intervened",
            "guardrail",
            "moderation",
            "language",
        ),
        "filtered",
    ),
    "refusal": "refused",
}
"""How servers spell the end of an answer, in lower case. All others are "stop"."""

_BROKEN = ("error", "network_error", "abort", "aborted", "insufficient_system_resource")
"""Ends of an answer that broke off: as good as none."""
_BROKEN_IF_EMPTY = ("other", "unknown", "malformed_function_call", "finish_reason_unspecified")
_OVERFLOW = ("model_context_window_exceeded", "context_length_exceeded")


@dataclass(frozen=True, slots=True)
class Answer:
    """The first choice of a completion."""

    text: str
    finish: FinishReason
    thoughts: str = ""


def read_completion(data: bytes) -> dict[str, Any]:
    """Return the body of a chat completion whose first choice has a message; a stream is put together.

    Raises:
        FaultyAnswerError: If there is none: an error in spite of status 200, another kind of body, a cut
            stream, or an
            answer that broke off.
    """
    body = (
        _joined(data)
        if data[:64].lstrip().startswith((b"data:", b"event:", b":", b"id:"))
        else json_object(data)
    )
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _faulty("garbled", f"choices is {choices!r}")
    choice = choices[0]
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise _faulty("garbled", "the first choice has no message")
    finish = str(choice.get("finish_reason") or "").lower()
    empty = not read_answer(body).text.strip()
    if finish in _BROKEN or (finish in _BROKEN_IF_EMPTY and empty):
        raise _faulty("overloaded", f"the answer ended with {finish!r} (sent with status 200)")
    if finish in _OVERFLOW and empty:
        raise _faulty("too_long", f"the answer ended with {finish!r}")
    return body


def read_answer(body: dict[str, Any]) -> Answer:
    """Return what a completion says. An empty, cut off, filtered or refused answer is an answer."""
    choice = body["choices"][0]
    message = choice["message"]
    content = message.get("content")
    if isinstance(content, list):  # some endpoints answer in parts
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    text, within = split_thoughts(as_utf8(content) if isinstance(content, str) else "")
    thoughts = "\n\n".join(part for part in (as_utf8(thoughts_beside(message)), within) if part)
    if refusal := _refusal(message):
        return Answer(text or as_utf8(refusal), "refused", thoughts)
    finish = str(choice.get("finish_reason") or "").lower()
    if finish in _OVERFLOW:
        return Answer(text, "length", thoughts)
    return Answer(text, _FINISH.get(finish, "stop"), thoughts)


def _refusal(message: dict[str, Any]) -> str:
    own = message.get("provider_specific_fields")
    for holder in (message, own if isinstance(own, dict) else {}):
        if isinstance(refusal := holder.get("refusal"), str) and refusal:
            return refusal
    return ""


def _joined(data: bytes) -> dict[str, Any]:
    """Return a stream of server-sent events as the completion that it would have been in one piece."""
    message: dict[str, Any] = {}
    body: dict[str, Any] = {"choices": []}
    finish, done = None, False
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
        body |= {
            key: each
            for key, each in chunk.items()
            if key in ("model", "usage", "id", "service_tier") and each
        }
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        for part in (choice.get("delta"), choice.get("message")):
            _add(message, part if isinstance(part, dict) else {})
        finish = choice.get("finish_reason") or finish
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
