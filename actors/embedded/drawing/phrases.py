"""Which concepts and backgrounds of the embedded world a phrase names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from actors.embedded.drawing.lexicon import Token, read
from actors.embedded.drawing.vocabulary import vocabulary
from actors.errors import UsageError


class UnknownConceptError(UsageError):
    """The embedded world has no such concept: nothing can be said about its presence."""


@dataclass(frozen=True, slots=True)
class DetectionTarget:
    """What a phrase asks for: any of these concepts and backgrounds, of this color if one is named."""

    classes: tuple[str, ...]
    color: str | None = None


@lru_cache(maxsize=4096)
def understand(phrase: str) -> DetectionTarget:
    """Return what to look for. Of several nouns ("school bus stop") the last is meant.

    Raises:
        UnknownConceptError: If a word is unknown; it names the nearest known ones.
    """
    tokens = [
        token for token in read(phrase) if token.kind not in ("article", "filler", "comma", "count", "size")
    ]
    unknown = [word for token in tokens if token.kind in ("unknown", "action") for word in token.words]
    nouns = [token for token in tokens if token.kind in ("thing", "background")]
    colors = [token.value for token in tokens if token.kind == "color"]
    if unknown or not (nouns or colors):
        near = vocabulary().nearest(" ".join(unknown) or phrase, 5)
        raise UnknownConceptError(
            f"the embedded world has no {phrase!r}.",
            f"The nearest words it knows: {', '.join(near)}."
            if near
            else "See actors/embedded/drawing/assets/concepts.txt.",
        )
    if not nouns:
        return DetectionTarget((), colors[-1])
    # "an orange": the fruit, and not the color; "orange car": the color.
    before = nouns[-2] if len(nouns) > 1 else None
    if before is not None and before.also.startswith("color:"):
        colors.append(before.also.partition(":")[2])
    return DetectionTarget(_classes(nouns[-1]), colors[-1] if colors else None)


def _classes(noun: Token) -> tuple[str, ...]:
    if noun.kind == "background":
        return (noun.value,)
    members = tuple(concept.name for concept in vocabulary().members(noun.value))
    kind, _, place = noun.also.partition(":")
    return (*members, place) if kind == "background" else members
