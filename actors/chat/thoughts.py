"""Takes the thoughts of a reasoning model out of what it answers.

A server with a reasoning parser puts thoughts into fields of their own; without one, or when the parser
fails, they stand in the text between tags. Thoughts hold drafts: programs that must not run, and labels that
nobody gives.
"""

from __future__ import annotations

import re
from typing import Any

_NAMES = r"(?:think(?:ing)?|thoughts?|reasoning|seed:think)"
_OPEN = rf"(?:<{_NAMES}>|\[THINK\]|◁think▷|<\|channel\|?>(?:analysis|thought)(?:<\|message\|>)?)"
_CLOSE = rf"(?:</{_NAMES}>|\[/THINK\]|◁/think▷|<channel\|>|<\|end\|>(?:<\|start\|>assistant)?)"
# An opening tag counts at the start of a line only: a program may print one.
_BLOCK = re.compile(rf"^[ \t]*{_OPEN}(.*?)(?:{_CLOSE}|\Z)", re.S | re.M | re.I)
_STRAY = re.compile(_CLOSE, re.I)
_ANSWER = re.compile(r"^\s*<\|channel\|>final<\|message\|>|<\|(?:return|end)\|>\s*$", re.I)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.M)
_FIELDS = ("reasoning_content", "reasoning", "thinking")


def split_thoughts(text: str) -> tuple[str, str]:
    """Return (answer, thoughts) of a text in which thoughts stand between tags.

    A block that is not closed runs to the end. A closing tag without an opening one, whose opening the prompt
    held, ends thoughts that began with the text.
    """
    thoughts: list[str] = []

    def take(block: re.Match[str]) -> str:
        thoughts.append(block.group(1).strip())
        return "\n"

    answer, left = text, 1
    while left:  # a block may follow another on the same line
        answer, left = _BLOCK.subn(take, answer)
    if (stray := _last_stray(answer)) is not None:
        thoughts.insert(0, answer[: stray.start()].strip())
        answer = answer[stray.end() :]
    if thoughts:
        answer = answer.strip()
    return _ANSWER.sub("", answer), "\n\n".join(thought for thought in thoughts if thought)


def _last_stray(text: str) -> re.Match[str] | None:
    """Return the last closing tag that is none of a program's texts: outside of fenced code, or first on its
    line."""
    stray = None
    for tag in _STRAY.finditer(text):
        before = text[: tag.start()]
        fenced = len(_FENCE.findall(before)) % 2 == 1
        if not fenced or not before.rpartition("\n")[2].strip():
            stray = tag
    return stray


def separate_thoughts(message: dict[str, Any]) -> str:
    """Return the thoughts in a message's own fields: one of them where servers send two with the same
    words."""
    for name in _FIELDS:
        value = message.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    details = message.get("reasoning_details")
    parts = [*_texts(details, ("text", "summary")), *_texts(message.get("content"), ("thinking",))]
    return "\n".join(parts).strip()


def _texts(parts: Any, names: tuple[str, ...]) -> list[str]:
    """Return the text of a list's parts under the given names; Mistral's `thinking` is itself a list of
    parts."""
    texts: list[str] = []
    for part in parts if isinstance(parts, list) else []:
        for name in names:
            value = part.get(name) if isinstance(part, dict) else None
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, list):
                texts += _texts(value, ("text",))
    return texts
