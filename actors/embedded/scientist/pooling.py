"""The answer from several studies' measurements: the concepts that drive the unit most and are not one
another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from actors.chat.base import Message
from actors.embedded.scientist.answers import NOT_INTERPRETABLE, final_description

_ASKED = re.compile(r"^CONCEPTS PROPOSED: \d+$", re.M)
_CONCEPT = re.compile(
    r"^CONCEPT (\d+) \| (.+?) \| mean (-?[\d.]+) on (\d+) fresh images of it \| mean (-?[\d.]+) on \d+ of other things$",
    re.M,
)
_SEEN = re.compile(r"^SEEN \| concept (\d+) in (\d+) of (\d+) images of concept (\d+)$", re.M)
_STRONG = 0.5
"""Part of the strongest concept's effect that a further one must reach."""
_SAME = 0.5
"""Share of a concept's images that show another, from which it says nothing new."""


@dataclass(frozen=True, slots=True)
class _Concept:
    label: str
    mean: float
    n: int
    others: float

    @property
    def effect(self) -> float:
        return self.mean - self.others


def is_pooling(messages: Sequence[Message]) -> bool:
    """Say whether a conversation asks for one answer from what several studies measured."""
    return any(message.role == "user" and _ASKED.search(message.text) for message in messages[:2])


def pooled_answer(messages: Sequence[Message]) -> str:
    """Return the final turn: labels, strongest first, or "not interpretable" where no concept drives the
    unit.
    """
    text = next(message.text for message in messages if message.role == "user")
    found = {
        number: _Concept(label, float(mean), int(n), float(others))
        for number, label, mean, n, others in _CONCEPT.findall(text)
    }
    seen = {
        (label, of): int(hits) / int(total) for label, hits, total, of in _SEEN.findall(text) if int(total)
    }
    order = sorted(found, key=lambda number: -found[number].effect)
    if not order or found[order[0]].effect <= 0:
        return final_description(
            "No concept that was proposed explains the measurements.", [NOT_INTERPRETABLE]
        )
    chosen: list[str] = []
    for number in order:
        strong = found[number].effect >= _STRONG * found[order[0]].effect
        if strong and all(seen.get((other, number), 0.0) < _SAME for other in chosen):
            chosen.append(number)
    told = "; ".join(
        f'"{each.label}": mean {each.mean:.2f} on {each.n} fresh images, {each.others:.2f} on other things'
        for each in map(found.__getitem__, chosen)
    )
    return final_description(
        f"What several studies measured: {told}.", [found[number].label for number in chosen]
    )
