"""What an agent is asked: its first message, how its answer is read, and how a last word is demanded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from actors.chat.tasks import StudyTask
from actors.chat.thoughts import split_thoughts

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_MARKER = re.compile(
    r"^[\s>*_#`-]*\[(?P<name>[A-Z][A-Z ]*?)(?:[ _]?(?P<number>\d+))?\][*_`]*\s*:?[*_`]*[ \t]*",
    re.MULTILINE | re.IGNORECASE,
)
_PROGRAM_LANGUAGES = ("", "python", "py", "python3")


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """A final answer: short labels, a description, and what else the task asks for by marker."""

    labels: tuple[str, ...]
    description: str
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return " OR ".join(self.labels)


class Task(Protocol):
    """One kind of question about a unit."""

    name: str
    names_concept: bool
    """Whether the labels of its answer name what drives the unit: only such labels can be tested on images of
    them.
    """

    def opening(self) -> str:
        """Return the first message: what to find out, and in which format to work and to answer."""

    def read_answer(self, reply: str) -> FinalAnswer | None:
        """Return the final answer that `reply` holds, or None if it holds none."""

    def last_word(self) -> str:
        """Return the message that ends all experiments and demands the final answer."""


@runtime_checkable
class TypedTask(Protocol):
    """A task that states its question as data as well, for models that follow rules."""

    def chat_task(self, final: bool) -> StudyTask:
        """Return what is asked; `final`: the next reply must be the answer."""


def chat_task_of(task: Task, final: bool) -> StudyTask | None:
    """Return what a task asks as data, None if it has only words."""
    return task.chat_task(final) if isinstance(task, TypedTask) else None


def read_program(reply: str) -> str | None:
    """Return the Python in a reply, its blocks joined in order; None if there is none.

    Fences marked as another language are not programs, nor are drafts in the model's thoughts. An unclosed
    fence runs to the end of the reply.
    """
    reply, _ = split_thoughts(reply)
    blocks = [body for _, language, body in _FENCE.findall(reply) if language.lower() in _PROGRAM_LANGUAGES]
    program = "\n\n".join(block.rstrip() for block in blocks if block.strip())
    return program or None


def read_sections(reply: str) -> dict[str, list[str]]:
    """Return the text after each bracketed marker outside of fences, by upper-case name, in order.

    `[LABEL 1]` and `[LABEL 2]` are two sections named LABEL. Placeholders in angle brackets, which a
    model may have copied from the instructions, are not answers and are left out.
    """
    reply, _ = split_thoughts(reply)
    prose = _FENCE.sub("\n", reply)
    marks = list(_MARKER.finditer(prose))
    sections: dict[str, list[str]] = {}
    ends = [mark.start() for mark in marks[1:]] + [len(prose)]
    for mark, end in zip(marks, ends, strict=False):
        text = prose[mark.end() : end].strip()
        text = text.strip("*_` \n")
        if text and not re.fullmatch(r"<[^<>]*>\.?", text):
            sections.setdefault(" ".join(mark["name"].upper().split()), []).append(text)
    return sections


def read_hypotheses(reply: str) -> list[str]:
    """Return the hypotheses that a reply lists, without their numbering."""
    sections = read_sections(reply)
    text = "\n".join(sections.get("HYPOTHESIS LIST", []) + sections.get("HYPOTHESIS", []))
    lines = [
        re.sub(r"^[\s*_-]*(?:Hypothesis[ _]?)?\d*[\s*_]*[.:)]?[\s*_]*", "", line)
        for line in text.splitlines()
    ]
    return [line.strip() for line in lines if line.strip()]


def first_line(text: str) -> str:
    """Return the first line that is not empty, without quotes or list marks."""
    for line in text.splitlines():
        cleaned = line.strip().strip("*_`\"' ").removeprefix("- ").strip()
        if cleaned:
            return cleaned
    return ""
