"""Signs of careless reasoning in a study's journal, recognized by rules from the rounds alone.

Nothing here asks a model. A rule compares words, so that it errs on the side of saying nothing: an image
counts as one of a label as soon as the words that it was made of share one with it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.critic.stimuli import content_words, share_words
from agents.evidence.statistics import wilson_interval
from agents.tasks.base import first_line, read_sections
from agents.tasks.describe_unit import NOT_INTERPRETABLE

SIGNS = {
    "widened": "every change of the leading hypothesis made it wider",
    "single_image": "a label of which one image was tried",
    "untried": "no image was made, edited or cut out",
    "afterwards": "a label whose images were all tried before any hypothesis named it",
}
"""The signs in words."""

_LEAST_CHANGES = 2
"""Changes of the leading hypothesis from which their direction says something."""
_ALTERNATIVES = re.compile(r",? or |;", re.I)
"""Between words with one space each: of text as a model wrote it, long blanks would be tried in every way."""


@dataclass(frozen=True, slots=True)
class Tried:
    """An image that the unit was shown for the first time. `words`: its prompt and edits, none of other
    images.

    `made` says whether the agent generated, edited or computed from an image of the data set.
    """

    words: str
    made: bool


@dataclass(frozen=True, slots=True)
class ScannedRound:
    """A round as far as the rules read it. `labels` are those of an answer."""

    hypotheses: tuple[str, ...]
    tried: tuple[Tried, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignRate:
    """How many studies show a sign, of those where it can be decided, with Wilson's 95% interval."""

    sign: str
    n: int
    of: int
    low: float
    high: float

    @property
    def words(self) -> str:
        return SIGNS[self.sign]


def read_rounds(records: Iterable[Mapping[str, Any]]) -> list[ScannedRound]:
    """Return the rounds of a journal, as their records hold them; fields that are missing or damaged are
    passed over.
    """
    rounds, seen = [], set[str]()
    for record in records:
        toolbox = _mapping(record.get("toolbox"))
        origins, shown = _mapping(toolbox.get("provenance")), toolbox.get("measured")
        # Only what is new is read: each round records all images so far.
        new = {
            key: _mapping(_parsed(origins.get(key)))
            for key in (shown if isinstance(shown, dict) else origins)
            if key not in seen
        }
        seen.update(new)
        if not isinstance(shown, dict):
            # Records of old versions do not say what was measured: then whatever was made counts.
            new = {key: origin for key, origin in new.items() if origin.get("source") != "masked"}
        hypotheses = tuple(
            hypothesis for hypothesis in _list(record.get("hypotheses")) if isinstance(hypothesis, str)
        )
        rounds.append(ScannedRound(hypotheses, tuple(map(_tried, new.values())), _labels(record)))
    return rounds


def scan(rounds: Sequence[ScannedRound]) -> dict[str, bool | None]:
    """Return for each of `SIGNS` whether a study that answered shows it; None where it is undecided."""
    answers = [round_.labels for round_ in rounds if round_.labels]
    if not answers:
        return dict.fromkeys(SIGNS)
    named = [label for label in answers[-1] if label.lower() != NOT_INTERPRETABLE]
    return {
        "widened": only_widened(rounds),
        "single_image": any(len(_rounds_of(label, rounds)) == 1 for label in named) if named else None,
        "untried": not any(image.made for round_ in rounds for image in round_.tried),
        "afterwards": _afterwards(named, rounds),
    }


def only_widened(rounds: Sequence[ScannedRound]) -> bool | None:
    """Return whether each change of the leading hypothesis kept all it said and added to it; None after fewer
    than two.
    """
    leading = [round_.hypotheses[0] for round_ in rounds if round_.hypotheses]
    changes = [
        (old, new)
        for old, new in itertools.pairwise(leading)
        if not (_covers(old, new) and _covers(new, old))
    ]
    if len(changes) < _LEAST_CHANGES:
        return None
    return all(_covers(new, old) for old, new in changes)


def rates(scans: Iterable[Mapping[str, bool | None]]) -> list[SignRate]:
    """Return how often each sign is seen, without those that can be decided of no study."""
    scans = list(scans)
    rates = []
    for sign in SIGNS:
        known = [signs[sign] for signs in scans if signs.get(sign) is not None]
        if known:
            rates.append(
                SignRate(
                    sign,
                    sum(map(bool, known)),
                    len(known),
                    *wilson_interval(sum(map(bool, known)), len(known)),
                )
            )
    return rates


def _afterwards(labels: Sequence[str], rounds: Sequence[ScannedRound]) -> bool | None:
    """Return whether a label's images were all tried before a round whose hypotheses name it: these come
    before its images.
    """
    if not any(round_.hypotheses for round_ in rounds):
        return None
    tried = {label: where for label in labels if (where := _rounds_of(label, rounds))}
    if not tried:
        return None
    return any(max(where) < _first_named(label, rounds) for label, where in tried.items())


def _first_named(label: str, rounds: Sequence[ScannedRound]) -> int:
    named = (i for i, round_ in enumerate(rounds) if any(share_words(label, h) for h in round_.hypotheses))
    return next(named, len(rounds))


def _rounds_of(label: str, rounds: Sequence[ScannedRound]) -> list[int]:
    """Return, for each image that may be one of the label, the round in which it was tried.

    An image that was computed says nothing of what it is: it may be one of any label.
    """
    return [
        i
        for i, round_ in enumerate(rounds)
        for image in round_.tried
        if image.made and (not image.words or share_words(label, image.words))
    ]


def _covers(wide: str, narrow: str) -> bool:
    """Return whether each alternative of one hypothesis says no more than the other's, by their words."""
    kinds = [content_words(alternative) for alternative in _alternatives(wide)]
    return all(
        any(kind and kind <= content_words(alternative) for kind in kinds)
        for alternative in _alternatives(narrow)
        if content_words(alternative)
    )


def _alternatives(hypothesis: str) -> list[str]:
    return _ALTERNATIVES.split(" ".join(hypothesis.split()))


def _tried(provenance: Mapping[str, Any]) -> Tried:
    parts = [provenance.get("prompt"), *_list(provenance.get("edits"))]
    words = " ".join(part for part in parts if isinstance(part, str))
    return Tried(words, provenance.get("source") in ("generated", "edited", "program"))


def _labels(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of a round that answered, none of one that did not."""
    if not record.get("answered") and not record.get("verdict"):
        return ()
    text = _mapping(record.get("reply")).get("text")
    sections = read_sections(text).get("LABEL", []) if isinstance(text, str) else []
    return tuple(label for section in sections if (label := first_line(section)))


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
