"""What a request without a task asks for, by the words of its prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from actors.chat.base import Message
from actors.chat.tasks import (
    AuditClassTask,
    CheckLabelTask,
    DescribeImagesTask,
    DescribeUnitTask,
    ImageTask,
    JudgeSelectivityTask,
    StudyTask,
    SummarizeImagesTask,
)
from actors.embedded.language.words import WordKind, Words

_YES_NO = re.compile(r"\byes or no\b", re.I)
_SHOWS = re.compile(
    r"\b(?:show|shows|contain|contains|depict|depicts|have|include)\s+(?P<label>[^?\n]+)\?", re.I
)
_SUMMARIZE = re.compile(r"\s*you summari[sz]e images", re.I)
_ANSWER = re.compile(r"\[(DESCRIPTION|BIAS|REASONING|LABEL(?: \d+)?)\]")
_LAST_CALL = re.compile(
    r"\b(final (answer|description|label|reply|round)|last round|no (more|further)|not? (run|write)"
    r"|now answer|must (now )?(conclude|answer|give)|out of rounds|conclude)\b",
    re.I,
)
_QUOTED = re.compile(r"\b(?:class|label)\b[^\"'“‘\n]{0,60}[\"“‘']([^\"”’'\n]+)[\"”’']", re.I)
_STATED = re.compile(r"\bclass(?: label| name)?(?:\s+is)?\s*[:=]\s*([^\n.;]+)", re.I)
_CLASSES = ("class", "classes", "breeds", "animals", "objects")
_ENVIRONMENTS = ("environments", "backgrounds", "settings", "places", "locations")


def image_task(messages: Sequence[Message]) -> ImageTask:
    """Return what a conversation asks of images: yes or no, a summary, or else descriptions."""
    role = "\n".join(message.text for message in messages if message.role == "system")
    question = next((message.text for message in reversed(messages) if message.role == "user"), "")
    match = _SHOWS.search(question)
    if match and _YES_NO.search(question):
        return CheckLabelTask(match["label"])
    return SummarizeImagesTask() if _SUMMARIZE.match(role) else DescribeImagesTask()


def study_task(messages: Sequence[Message], words: Words) -> StudyTask:
    """Return what a conversation asks of a unit; the markers of its answer say which kind of study it is."""
    turns = [message for message in messages if message.role != "system"]
    replies = [place for place, message in enumerate(turns) if message.role == "assistant"]
    text = "".join(f"{message.text}\n" for message in turns[: replies[0] if replies else None])
    final = bool(replies) and turns[-1].role == "user" and _demands_answer(turns[-1].text)
    if "[BIAS]" in text:
        return AuditClassTask(class_in(text, words), final)
    if "SELECTIVE" in text and "SPURIOUS" in text:
        classes = names_in(text, _CLASSES, "concept", words)
        return JudgeSelectivityTask(classes, names_in(text, _ENVIRONMENTS, "background", words), final)
    return DescribeUnitTask(final)


def _demands_answer(text: str) -> bool:
    return bool(_ANSWER.search(text)) and bool(_LAST_CALL.search(text))


def class_in(text: str, words: Words) -> str:
    """Return the class that a text is about: what is quoted after "class", or stated after "class:", else the
    first thing of the vocabulary that the text names; "" if there is none."""
    for pattern in (_QUOTED, _STATED):
        if match := pattern.search(text):
            return match[1]
    return next((term.name for term in words.find(text) if term.kind == "concept"), "")


def names_in(text: str, headings: Sequence[str], kind: WordKind, words: Words) -> tuple[str, ...]:
    """Return the names that a text lists after one of the headings and a colon; else those of its kind in the
    text.
    """
    if match := re.search(rf"\b(?:{'|'.join(headings)})\b[^:\n]{{0,60}}:\s*([^\n]+)", text, re.I):
        listed = re.split(r",|;|/|\band\b|\bor\b", re.split(r"\.\s|\.$", match[1])[0])
        names = [re.sub(r"^(a|an|the)\s+", "", name.strip(" .\"'`*()"), flags=re.I) for name in listed]
        names = [name for name in names if name and len(name.split()) <= 4]
        if len(names) >= 2:
            return tuple(names)
    return tuple(term.name for term in words.find(text) if term.kind == kind)
