"""What the scientist reads out of a conversation: every measurement made so far.

Nothing is remembered between calls: the messages are the whole state. Observations may be cut off, mixed with
notes of the tools, or hold nothing but an error; whatever line is whole counts, the rest is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.chat.base import Message
from actors.embedded.language.words import Words
from actors.embedded.reasoning.stimuli import Stimulus, parse_code
from actors.images import Image

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RESULT = re.compile(rf"^RESULT \| ({_NUMBER}) \| (.*?) ;\s*$", re.M)
_CHANGE = re.compile(rf"^CHANGE \| ({_NUMBER}) -> ({_NUMBER}) \| (.*?) => (.*?) ;\s*$", re.M)
_EXEMPLAR = re.compile(rf"^EXEMPLAR (\d+) \| ({_NUMBER}) ;\s*$", re.M)
_CONTRAST = re.compile(rf"^CONTRAST (\d+) \| ({_NUMBER}) ;\s*$", re.M)
_UNEXPLAINED = re.compile(
    rf"^UNEXPLAINED \| {_NUMBER} \| (?:exemplar (?P<rank>\d+)|made: \"(?P<prompt>.*)\")\s*$", re.M
)
_SUMMARY = re.compile(r"^SUMMARY BEGINS\n(.*?)^SUMMARY ENDS", re.M | re.S)
_SEEN = re.compile(r"^DESCRIPTIONS BEGIN\n(.*?)(?:^DESCRIPTIONS END|\Z)", re.M | re.S)
_TITLE = re.compile(r"\bexemplar (\d+)\b")
_ANSWER = re.compile(r"\[(DESCRIPTION|BIAS|REASONING|LABEL(?: \d+)?)\]")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured image. `before` is set when it was made by an edit: what it was made from."""

    round: int
    stimulus: Stimulus
    activation: float
    before: Stimulus | None = None
    before_activation: float = 0.0


@dataclass(frozen=True, slots=True)
class ViewedExemplar:
    """One of the unit's strongest images: `text` is a blind description of its highlighted part."""

    activation: float
    text: str = ""
    image: Image | None = None


@dataclass(slots=True)
class StudyState:
    """A conversation, as evidence. Rounds count the scientist's own turns, from 0."""

    rounds: int = 0
    exemplars: list[ViewedExemplar] = field(default_factory=list)
    contrast: list[ViewedExemplar] = field(default_factory=list)
    """Further real images, from across the unit's range."""
    summary: str = ""
    rows: list[Row] = field(default_factory=list)
    failed_rounds: list[int] = field(default_factory=list)
    """Rounds whose program ended without any measurement."""
    rejected: list[int] = field(default_factory=list)
    """Rounds whose final answer was not accepted."""
    unexplained: list[int | str] = field(default_factory=list)
    """What the latest objection says no label explains: ranks of exemplars, and prompts of images that were
    made.
    """
    final: bool = False
    """Whether the next turn must be the answer."""

    @property
    def failures_in_a_row(self) -> int:
        count = 0
        while self.rounds - 1 - count in self.failed_rounds:
            count += 1
        return count

    @property
    def measured_rounds(self) -> list[int]:
        return sorted({row.round for row in self.rows})


def read_study(messages: Sequence[Message], words: Words, final: bool = False) -> StudyState:
    """Return the evidence in a conversation. Never raises: what can't be understood is left out."""
    state = StudyState(final=final)
    for message in messages:
        if message.role == "assistant":
            state.rounds += 1
            if _is_final(message.text):
                state.rejected.append(state.rounds - 1)
        elif message.role == "user" and state.rounds:
            _observe(state, message, words)
    return state


def _is_final(text: str) -> bool:
    return "```" not in text and bool(_ANSWER.search(text))


def _observe(state: StudyState, message: Message, words: Words) -> None:
    # Each part is read by itself: a note of a tool may stand between two printed lines.
    text = message.text.replace("\r\n", "\n")
    this_round = state.rounds - 1
    before = len(state.rows) + len(state.exemplars) + len(state.contrast)
    for value, code in _RESULT.findall(text):
        stimulus = parse_code(code, words)
        if stimulus is not None:
            state.rows.append(Row(this_round, stimulus, float(value)))
    for old, new, source, target in _CHANGE.findall(text):
        made_from, stimulus = parse_code(source, words), parse_code(target, words)
        if made_from is not None and stimulus is not None:
            state.rows.append(Row(this_round, stimulus, float(new), made_from, float(old)))
    activations = {int(number): float(value) for number, value in _EXEMPLAR.findall(text)}
    if activations:
        _take_exemplars(state, activations, text, message.images)
    others = [float(value) for _, value in _CONTRAST.findall(text)]
    if others and len(others) == len(message.images):
        state.contrast = [
            ViewedExemplar(value, image=image) for value, image in zip(others, message.images, strict=True)
        ]
    known = len(state.rows) + len(state.exemplars) + len(state.contrast)
    if this_round in state.rejected:
        state.unexplained = [
            int(match["rank"]) if match["rank"] else match["prompt"] for match in _UNEXPLAINED.finditer(text)
        ]
    if this_round not in state.rejected and known == before:
        state.failed_rounds.append(this_round)


def _take_exemplars(
    state: StudyState, activations: dict[int, float], text: str, images: Sequence[Image]
) -> None:
    if summary := _SUMMARY.search(text):
        state.summary = summary[1]
    described: dict[int, str] = {}
    if seen := _SEEN.search(text):
        pieces = _TITLE.split(seen[1])
        for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            described[int(number)] = described.get(int(number), "") + piece
    pictured = len(images) == len(activations)
    state.exemplars = [
        ViewedExemplar(activations[number], described.get(number, ""), images[position] if pictured else None)
        for position, number in enumerate(sorted(activations))
    ]
