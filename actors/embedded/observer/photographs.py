"""How the built-in observer speaks of photographs: descriptions, summaries, and yes, no or "cannot tell"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.photographs.look import PhotoSighting
from actors.embedded.photographs.taxonomy import Taxonomy, TaxonomyNode

_OR = re.compile(r"[,;/]|\bor\b", re.I)
_WITHOUT = re.compile(r"\b(?:without|but not|except|rather than)\b", re.I)
_FILLERS = """
a an the some any kind sort type of with and in on at by beside near next to is are photo photograph
picture image its their several many two three one single
"""
"""Words that add no thing."""
_MAX_KINDS = 3


def describe(sighting: PhotoSighting) -> str:
    """Return one sentence: what is seen with its kind and how sure that is, or that nothing is known."""
    seen = sighting.seen()
    if not seen:
        return "A photograph of nothing that I know."
    named = [f"{with_article(node.name)}{_kind(node, sighting.taxonomy)} ({sure:.2f})" for node, sure in seen]
    return f"A photograph with {', '.join(named)}."


def summarize(sightings: Sequence[PhotoSighting]) -> str:
    """Return how many of the photographs show what, the most frequent first, kinds after particular
    things.
    """
    total = len(sightings)
    if total == 1:
        return describe(sightings[0])
    said = []
    counts = common(sightings)
    least = max(2, round(0.12 * total))
    things = [(node, n) for node, n in counts if len(node.classes) == 1 and n >= least]
    kinds = [(node, n) for node, n in counts if len(node.classes) > 1 and n >= least]
    for group in (sorted(things, key=lambda entry: -entry[1])[:5], _informative(kinds)):
        if group:
            said.append(
                "; ".join(f"{n} of {total} show {with_article(node.name)}" for node, n in group) + "."
            )
    blank = sum(not entry.seen(1) for entry in sightings)
    if not said:
        said.append("No single thing is common to these photographs.")
    if blank:
        said.append(f"In {blank} of {total} photographs I know nothing.")
    return " ".join(said)


def common(sightings: Sequence[PhotoSighting]) -> list[tuple[TaxonomyNode, int]]:
    """Return all that may be said of any of the photographs, with in how many it is seen."""
    counts = Counter(node for entry in sightings for node, _ in entry.all_seen())
    return sorted(counts.items(), key=lambda entry: (-entry[1], len(entry[0].classes), entry[0].offset))


def _informative(kinds: Sequence[tuple[TaxonomyNode, int]]) -> list[tuple[TaxonomyNode, int]]:
    """Return, of kinds that hold for the same number of photographs one within the other, the smallest."""
    kept: list[tuple[TaxonomyNode, int]] = []
    for node, n in kinds:
        if not any(n == other_n and other.classes <= node.classes for other, other_n in kept):
            kept.append((node, n))
    return kept[:_MAX_KINDS]


def shows(sighting: PhotoSighting, phrase: str) -> bool | None:
    """Return whether the photograph shows what a phrase names; None where that is undecided.

    Of alternatives ("tabby, tabby cat", "dog or cat") one is enough; everything else that is named must be
    there, and what stands after "without" must not. A word that is not known leaves a yes in doubt, and not a
    no.
    """
    wanted, *unwanted = _WITHOUT.split(phrase)
    answers = [_any(sighting, wanted), *(_not(_any(sighting, part)) for part in unwanted)]
    return _all(answers)


def _any(sighting: PhotoSighting, phrase: str) -> bool | None:
    answers = [_together(sighting, part) for part in _OR.split(phrase) if part.strip()]
    if True in answers:
        return True
    return None if None in answers or not answers else False


def _together(sighting: PhotoSighting, phrase: str) -> bool | None:
    answers: list[bool | None] = []
    for meaning in sighting.taxonomy.find(phrase):
        if isinstance(meaning, str):
            answers += [] if meaning in _FILLERS.split() else [None]
        else:
            answers.append(sighting.shows(meaning))
    return _all(answers) if answers else None


def _all(answers: Sequence[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


def _not(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _kind(node: TaxonomyNode, taxonomy: Taxonomy) -> str:
    above = taxonomy.kind_of(node)
    return f", a kind of {above.name}" if above is not None else ""
