"""What an intervention did, as programs and people see it; the host fills in the same records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

KINDS = ("ablate", "scale", "clamp", "add", "set")
MOST_ASKED = 20
"""Outputs that may be asked for by name."""
_SHOWN = 20
"""Images of an answer that its text lists."""


@dataclass(frozen=True, repr=False)
class OutputChange:
    """A class's or another unit's value `before` and `after`; `change` is their difference.

    Of a class whose scores go through a softmax they are logits centered over all classes, since a softmax
    ignores what all have in common. `probabilities` are before and after; empty of what has none.
    """

    name: str
    before: float
    after: float
    change: float
    probabilities: list[float]

    def __repr__(self) -> str:
        shown = " to ".join(f"{value:.3f}" for value in self.probabilities)
        return f"{self.name} {self.change:+.3g}" + (f" (probability {shown})" if shown else "")


@dataclass(frozen=True, repr=False)
class ImageEffect:
    """What the intervention did to one image: the unit's `activation` without it and `edited` with it, and
    the outputs that it raised and lowered most, strongest first; `asked` are those that were asked for.

    `top` names the first output before and after, of a network with classes. `distance` is the length of the
    change of all outputs together, `cosine` that between before and after; None where one is all zeros.
    """

    image: Any
    activation: float
    edited: float
    raised: list[OutputChange]
    lowered: list[OutputChange]
    asked: list[OutputChange]
    top: list[str]
    distance: float
    cosine: float | None

    def __repr__(self) -> str:
        parts = [f"unit {self.activation:.3g} to {self.edited:.3g}"]
        parts += _words(self.raised, self.lowered, self.asked)
        if len(set(self.top)) > 1:
            parts.append(f"first output {self.top[0]}, then {self.top[1]}")
        cosine = "" if self.cosine is None else f", cosine {self.cosine:.4f}"
        return "; ".join([*parts, f"outputs moved by {self.distance:.3g}{cosine}"])


@dataclass(frozen=True, repr=False)
class Effects:
    """What an intervention did to images; `raised`, `lowered` and `asked` are means over them.

    `floor` is the largest change of an output when the unit is given its own value: smaller changes are none.
    `exact` says whether such a pass gave the same outputs to the bit.
    """

    about: str
    images: list[ImageEffect]
    raised: list[OutputChange]
    lowered: list[OutputChange]
    asked: list[OutputChange]
    floor: float
    exact: bool

    @property
    def summary(self) -> str:
        """The means over images, and the floor, in a line."""
        changes = _words(self.raised, self.lowered) or ["no output changed"]
        changes += _words([], [], self.asked)
        floor = "reproduced exactly" if self.exact else f"reproduced to {self.floor:.2g}"
        return f"{self.about}; mean of {len(self.images)}: {'; '.join(changes)}; pass without it {floor}"

    def __repr__(self) -> str:
        lines = [f"{number}: {effect!r}" for number, effect in enumerate(self.images[:_SHOWN], 1)]
        more = [f"and {len(self.images) - _SHOWN} more images"] if len(self.images) > _SHOWN else []
        return "\n".join([self.summary, *lines, *more])


RECORDS = (OutputChange, ImageEffect, Effects)


def values_of(record: OutputChange | ImageEffect | Effects) -> dict[str, Any]:
    """Return a record's fields by name, and those of the records in it: the form in which it crosses."""
    return {each.name: _crossing(getattr(record, each.name)) for each in fields(record)}


def effects_of(answer: dict[str, Any]) -> Effects:
    """Return the record of an answer, images as they are in it."""
    changes = {name: _changes(answer[name]) for name in ("raised", "lowered", "asked")}
    images = [
        ImageEffect(**each | {name: _changes(each[name]) for name in ("raised", "lowered", "asked")})
        for each in answer["images"]
    ]
    return Effects(**answer | changes | {"images": images})


def _changes(answers: Sequence[dict[str, Any]]) -> list[OutputChange]:
    return [OutputChange(**each) for each in answers]


def _crossing(value: Any) -> Any:
    if isinstance(value, list):
        return [_crossing(each) for each in value]
    return values_of(value) if isinstance(value, RECORDS) else value


def _words(
    raised: Sequence[OutputChange], lowered: Sequence[OutputChange], asked: Sequence[OutputChange] = ()
) -> list[str]:
    return [
        f"{what} {', '.join(map(repr, changes))}"
        for what, changes in (("raised", raised), ("lowered", lowered), ("asked for", asked))
        if changes
    ]
